"""Measure how well clusters agree with labels."""

from scipy.optimize import linear_sum_assignment
from torch.nn.functional import one_hot

from ..arguments import TensorLike, as_tensor
from ..errors import InputError

__all__ = ["clustering_accuracy"]


def clustering_accuracy(assigned: TensorLike, labels: TensorLike) -> float:
    """The share of data in a cluster that is matched to their class.

        max_m (1/N) sum_n [labels_n = m(assigned_n)]

    m maps the clusters that occur to the classes that occur. The Hungarian method finds the best
    one-to-one map, which gives the unsupervised clustering accuracy of Xie et al. (2016) and Jiang
    et al. (2017); data in clusters without a class count as wrong. If there are more clusters than
    classes, m may map several clusters to one class, so each cluster gets its most frequent class
    (purity). Compare results for the same number of clusters only, as purity rises with it.

    Arguments:
        assigned: cluster of each datum; any integers.
        labels: class of each datum; any integers.

    Raises:
        InputError: if ``assigned`` and ``labels`` differ in length, or are empty.

    Example:
        >>> import torch
        >>> clustering_accuracy(torch.tensor([1, 1, 0, 0]), torch.tensor([7, 7, 9, 7]))
        0.75
    """
    assigned, labels = as_tensor("assigned", assigned), as_tensor("labels", labels)
    for name, each in (("assigned", assigned), ("labels", labels)):
        if each.ndim != 1 or each.is_floating_point():
            raise InputError(
                f"{name} has shape {tuple(each.shape)} and type {each.dtype}; give a row of "
                "integers"
            )
    if len(assigned) != len(labels) or len(labels) == 0:
        raise InputError(
            f"there are {len(assigned)} assigned clusters and {len(labels)} labels; give one "
            "cluster and one label for each datum"
        )
    (clusters, classes) = (
        one_hot(each.unique(return_inverse=True)[1]).double().cpu() for each in (assigned, labels)
    )
    counts = clusters.T @ classes
    if len(counts) > len(counts.T):
        num_correct = counts.amax(1).sum()
    else:
        num_correct = counts[linear_sum_assignment(counts.numpy(), maximize=True)].sum()
    return num_correct.item() / len(labels)
