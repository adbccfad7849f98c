"""How well clusters that were found without labels agree with labels."""

from jaxtyping import Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import InputError

__all__ = ["clustering_accuracy"]


def clustering_accuracy(assigned: Int[Tensor, "data"], labels: Int[Tensor, "labels"]) -> float:
    """The share of data whose cluster stands for their class.

        max_m (1/N) sum_n [labels_n = m(assigned_n)]

    m maps the clusters that occur to the classes that occur: one to one, by the Hungarian method,
    which is the unsupervised clustering accuracy of Xie et al. (2016) and Jiang et al. (2017), data
    of clusters without a class being wrong. Where there are more clusters than classes, m may give
    one class to several clusters, so that each stands for its most frequent class (purity).
    Compare figures of the same number of clusters only: purity rises with it.

    Arguments:
        assigned: number of each datum's cluster; any whole numbers.
        labels: number of each datum's class, likewise.

    Raises:
        InputError: if there are not as many of both, or none.

    Example:
        >>> import torch
        >>> clustering_accuracy(torch.tensor([1, 1, 0, 0]), torch.tensor([7, 7, 9, 7]))
        0.75
    """
    if len(assigned) != len(labels) or len(labels) == 0:
        raise InputError(
            f"there are {len(assigned)} assigned clusters and {len(labels)} labels; give one of "
            "each for each datum"
        )
    (clusters, classes) = (
        one_hot(each.unique(return_inverse=True)[1]).double().cpu() for each in (assigned, labels)
    )
    counts = clusters.T @ classes
    if len(counts) > len(counts.T):
        right = counts.amax(1).sum()
    else:
        right = counts[linear_sum_assignment(counts.numpy(), maximize=True)].sum()
    return right.item() / len(labels)
