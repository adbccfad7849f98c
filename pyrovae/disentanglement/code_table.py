"""Scores from a table of codes and factors: MIG, DCI and SAP."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..arguments import TensorLike, as_flag, as_tensor, as_whole
from ..errors import InputError
from ..progress import LateProgress

__all__ = [
    "DCI",
    "MAX_SEED",
    "MIN_DATA",
    "dci",
    "forest_scores",
    "is_dead",
    "mutual_information",
    "mutual_information_gap",
    "prepare_table",
    "sap",
]

MIN_DATA = 10
"""Minimum number of data, of votes per factor, or of points per factor."""

MAX_SEED = 2**32 - 1
"""The largest seed that scikit-learn takes."""

MAX_BINS = 1_000_000
"""The largest number of bins."""

_TEST_FRACTION = 1 / 3

_NUM_TREES = 100

_MIN_LEAF_FRACTION = 0.01
"""Minimum fraction of the data in a leaf."""

_ROUND_OFF = 1e-6


@dataclass(frozen=True)
class DCI:
    """Scores of Eastwood and Williams (2018), from 0 to 1; higher is better.

    Attributes:
        disentanglement: how far each latent is important for only one factor.
        completeness: how far each factor needs only one latent.
        informativeness: accuracy of predicting factors of test data from the codes.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def mutual_information(
    codes: TensorLike, factors: TensorLike, num_bins: int = 20
) -> Float[Tensor, "latents factors"]:
    """Mutual information I(z_i; v_j) of each latent z_i and factor v_j in nats, from counts.

        I(z; v) = sum_{b, v} p(b, v) log p(b, v) / (p(b) p(v)),   b the bin of z

    Each latent is divided into bins of equal width between its minimum and maximum, as in
    Locatello et al. (2019); p are fractions of the data. The estimate is biased upwards by about
    (bins - 1) (values - 1) / (2 data). A dead latent has mutual information 0.

    Raises:
        InputError: if codes and factors differ in length, there are fewer than two latents or
            factors, a code is not finite, a factor has only one value, or there are fewer than two
            bins.
    """
    codes, factors = prepare_table(codes, factors)
    num_bins = as_whole("num_bins", num_bins, 2, MAX_BINS)
    bins = _bin_codes(codes, num_bins)
    start = num_bins * torch.arange(bins.shape[1])
    columns = []
    for factor in factors.unbind(1):
        values, value = factor.unique(return_inverse=True)
        cell = (bins + start) * len(values) + value[:, None]
        counts = torch.bincount(cell.flatten(), minlength=codes.shape[1] * num_bins * len(values))
        p = counts.double().view(-1, num_bins, len(values)) / len(codes)
        product = p.sum(2, keepdim=True) * p.sum(1, keepdim=True)
        columns.append((torch.xlogy(p, p) - torch.xlogy(p, product)).sum((1, 2)).clamp_min(0))
    return torch.stack(columns, 1)


def mutual_information_gap(codes: TensorLike, factors: TensorLike, num_bins: int = 20) -> float:
    """The mutual information gap, MIG, of Chen et al. (2018), from 0 to 1.

        MIG = 1/F sum_j (I(z_(1); v_j) - I(z_(2); v_j)) / H(v_j)

    where z_(1) and z_(2) are the two latents with the largest mutual information with factor v_j.
    The paper leaves the estimator open; this one uses :func:`mutual_information` of binned codes,
    and the entropy H of the values in the data. A factor with more values than bins scores less
    than 1 even if one latent determines it.

    Raises:
        InputError: as :func:`mutual_information` does.
    """
    most = mutual_information(codes, factors, num_bins).topk(2, 0).values
    _, factors = prepare_table(codes, factors)
    return ((most[0] - most[1]) / _entropies(factors)).mean().item()


def dci(
    codes: TensorLike,
    factors: TensorLike,
    *,
    seed: int = 0,
    progress: bool = True,
) -> DCI:
    """Disentanglement, completeness and informativeness (Eastwood and Williams 2018).

    A classifier predicts each factor j from all latents; R_ij is the importance of latent i.

        disentanglement = sum_i r_i (1 - H(R_i. / sum_j R_ij) / log F),   r_i = sum_j R_ij / sum R
        completeness    = 1/F sum_j (1 - H(R_.j) / log D)

    for F factors and D latents, where H is the entropy of fractions. The paper leaves the
    classifier and the importance open. This implementation uses scikit-learn's random forest of 100
    trees, with all latents considered at each split and at least 1 percent of the data in each
    leaf; its decrease of the Gini impurity, normalised to sum 1 for each factor, as importance; and
    the accuracy on a random third of the data, held out, as informativeness instead of an error.
    If no latent is important, both scores are 0.

    Arguments:
        codes: z of each datum.
        factors: v of each datum.
        seed: seed of the held-out data and the trees.
        progress: show a progress bar if the work takes more than two seconds.

    Raises:
        InputError: as :func:`mutual_information` does, or if there are fewer than 10 data.
    """
    codes, factors = prepare_table(codes, factors)
    seed, progress = as_whole("seed", seed, 0, MAX_SEED), as_flag("progress", progress)
    with LateProgress("DCI", factors.shape[1]) as bar:
        return forest_scores(codes, factors, seed, bar.advance if progress else lambda: None)


def sap(codes: TensorLike, factors: TensorLike, *, seed: int = 0) -> float:
    """Separated attribute predictability, SAP, of Kumar et al. (2018), from 0 to 1.

        SAP = 1/F sum_j (S_(1)j - S_(2)j)

    where S_ij is the balanced accuracy, the mean over values of factor j, of predicting it from
    latent i alone, and S_(1), S_(2) are the two largest. A dead latent has accuracy 0. The paper
    leaves open how to find thresholds. This implementation uses scikit-learn's decision tree with
    as many leaves as the factor has values, all values weighted equally, fitted to two thirds of
    the data; a random third, held out, gives the accuracy. Others, such as Locatello et al. (2019),
    use linear classifiers, which cannot identify the middle values of an ordered factor from one
    latent.

    A factor of n values scores at most about 1 - 1/n if a second latent is alive, because that
    latent is right by chance for one value in n.

    Arguments:
        codes: z of each datum.
        factors: v of each datum.
        seed: seed of the held-out data and the trees.

    Raises:
        InputError: as :func:`mutual_information` does, or if there are fewer than 10 data.
    """
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.utils.class_weight import compute_sample_weight

    codes, factors = prepare_table(codes, factors)
    seed = as_whole("seed", seed, 0, MAX_SEED)
    alive = (~is_dead(codes)).nonzero()[:, 0].tolist()
    z, z_test, v, v_test = _split_data(codes, factors, seed)
    accuracy = np.zeros((codes.shape[1], factors.shape[1]))
    for j in range(factors.shape[1]):
        weight = compute_sample_weight("balanced", v_test[:, j])
        num_leaves = len(factors[:, j].unique())
        for i in alive:
            tree = DecisionTreeClassifier(
                max_leaf_nodes=num_leaves, class_weight="balanced", random_state=seed
            )
            tree.fit(z[:, [i]], v[:, j])
            accuracy[i, j] = tree.score(z_test[:, [i]], v_test[:, j], weight)
    accuracy.sort(0)
    return float((accuracy[-1] - accuracy[-2]).mean())


def forest_scores(
    codes: Float[Tensor, "data latents"],
    factors: Int[Tensor, "data factors"],
    seed: int,
    advance: Callable[[], None],
) -> DCI:
    """The scores of :func:`dci` for a prepared table; calls advance after each factor."""
    from sklearn.ensemble import RandomForestClassifier

    z, z_test, v, v_test = _split_data(codes, factors, seed)
    importance, accuracy = [], []
    for value, value_test in zip(v.T, v_test.T, strict=True):
        forest = RandomForestClassifier(
            _NUM_TREES, min_samples_leaf=_MIN_LEAF_FRACTION, max_features=None, random_state=seed
        )
        forest.fit(z, value)
        importance.append(torch.from_numpy(forest.feature_importances_))
        accuracy.append(forest.score(z_test, value_test))
        advance()
    table = torch.stack(importance, 1)
    return DCI(_concentration(table), _concentration(table.T), float(np.mean(accuracy)))


def _concentration(table: Float[Tensor, "rows columns"]) -> float:
    """1 - H / log(columns) of the fractions in each row, averaged with the row sums as weights."""
    total = table.sum(1, keepdim=True)
    if not total.any():
        return 0.0
    entropy = torch.special.entr(table / total.where(total > 0, 1)).sum(1) / log(table.shape[1])
    return float(((1 - entropy) * total[:, 0]).sum() / total.sum())


def _split_data(codes: Tensor, factors: Tensor, seed: int) -> Any:
    """Training codes, test codes, training factors and test factors, as arrays."""
    from sklearn.model_selection import train_test_split

    if len(codes) < MIN_DATA:
        raise InputError(
            f"{len(codes)} data are too few to fit classifiers; give at least {MIN_DATA}"
        )
    arrays = (codes.numpy(), factors.numpy())
    return train_test_split(*arrays, test_size=_TEST_FRACTION, random_state=seed)


def _bin_codes(codes: Float[Tensor, "data latents"], num: int) -> Int[Tensor, "data latents"]:
    lowest = codes.amin(0)
    width = (codes.amax(0) - lowest) / num
    return ((codes - lowest) / width.where(width > 0, 1)).long().clamp_max(num - 1)


def _entropies(factors: Int[Tensor, "data factors"]) -> Float[Tensor, "factors"]:
    counts = [factor.unique(return_counts=True)[1].double() for factor in factors.T]
    return torch.stack([torch.special.entr(count / len(factors)).sum() for count in counts])


def is_dead(codes: Float[Tensor, "data latents"]) -> Bool[Tensor, "latents"]:
    """Whether each latent varies by no more than rounding errors."""
    return codes.amax(0) - codes.amin(0) <= _ROUND_OFF * codes.abs().amax(0)


def prepare_table(codes: TensorLike, factors: TensorLike) -> tuple[Tensor, Tensor]:
    """Check codes and factors, and move them to the CPU.

    Returned codes are in double precision, with zeros for dead latents.

    Raises:
        InputError: as :func:`mutual_information` does.
    """
    codes, factors = as_tensor("codes", codes), as_tensor("factors", factors)
    for what, table in (("codes", codes), ("factors", factors)):
        if table.ndim != 2:
            raise InputError(
                f"{what} have shape {tuple(table.shape)}; give a row for each datum, of shape "
                "(num, size)"
            )
    if factors.is_floating_point():
        raise InputError(f"factors have type {factors.dtype}; give integers, as in factors.long()")
    if len(codes) == 0:
        raise InputError("codes and factors are empty; give one datum or more")
    if len(codes) != len(factors):
        raise InputError(f"there are {len(codes)} codes for factors of {len(factors)} data")
    for what, table in (("latents", codes), ("factors", factors)):
        if table.shape[1] < 2:
            raise InputError(f"there are {table.shape[1]} {what}; scores need at least 2")
    if not bool(codes.isfinite().all()):
        raise InputError("codes must be finite, but some are NaN or infinite")
    codes, factors = codes.detach().cpu().double(), factors.cpu()
    for j, factor in enumerate(factors.T):
        if len(factor.unique()) < 2:
            raise InputError(f"factor {j} has the same value in all data; leave it out")
    return codes.masked_fill(is_dead(codes), 0), factors
