"""The Pareto k diagnostic: how heavy the tail of importance weights is, for many data at once."""

import warnings
from math import ceil, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "MAX_PARETO_K",
    "USELESS_PARETO_K",
    "HeavyTailWarning",
    "describe_heavy_tails",
    "pareto_k",
    "warn_of_heavy_tails",
]

MAX_PARETO_K = 0.5
"""The Pareto k above which a standard error is too small, since weights have no finite variance."""

USELESS_PARETO_K = 0.7
"""The Pareto k above which the mean of the weights is too small as well, for any number of samples
that one can draw (Vehtari et al. 2024)."""

_MIN_TAIL = 10
"""Fewest weights in a tail to fit a shape to."""

_ROUND_OFF = 1000
"""Round-off of a log weight, a sum of many terms, in units of the machine epsilon."""


def pareto_k(log_weights: Float[Tensor, "data samples"]) -> Float[Tensor, "data"]:
    """The shape k of a generalised Pareto distribution fitted to the largest weights.

    Moments of the weights up to order 1/k exist. For k up to 0.5 you can trust the mean of the
    weights and its standard error. From 0.5 to 0.7 the standard error is too small, and intervals
    that should hold 95 percent hold fewer, down to some 85 percent; more samples still help. Above
    0.7 you can trust neither, for any number of samples (Vehtari et al. 2024, Pareto smoothed
    importance sampling). The tail is the
    min(S / 5, 3 sqrt(S)) largest of S weights. The fit is that of Zhang and Stephens (2009), shrunk
    towards 1/2 as in Vehtari et al.

    Arguments:
        log_weights: log w for each datum and sample.

    Returns:
        k for each datum; -inf if the largest weights are all equal up to round-off, and NaN if
        there are too few weights, or one is NaN.

    Example:
        >>> weights = torch.distributions.Pareto(1.0, 2.0).icdf(torch.linspace(0, 0.9999, 10_000))
        >>> round(pareto_k(weights.log()[None]).item(), 1)  # the true shape is 1 / 2
        0.5
    """
    num = log_weights.shape[1]
    num_tail = ceil(min(0.2 * num, 3 * sqrt(num)))
    if num_tail < _MIN_TAIL or num_tail >= num:
        return log_weights.new_full(log_weights.shape[:1], torch.nan)
    largest, _ = log_weights.double().topk(num_tail + 1)
    size = largest[:, 0].abs().clamp_min(1.0)
    eps = torch.finfo(log_weights.dtype).eps
    are_equal = largest[:, 0] - largest[:, -1] <= _ROUND_OFF * eps * size
    weights = (largest - largest[:, :1]).exp()
    excess = (weights[:, :-1] - weights[:, -1:]).flip(1)  # from the smallest to the largest
    k = _fit_shape(excess / excess[:, -1:])
    k = torch.where(are_equal, -torch.inf, k)
    has_nan = log_weights.isnan().any(1)
    return torch.where(has_nan, torch.nan, k).to(log_weights.dtype)


class HeavyTailWarning(RuntimeWarning):
    """Importance weights have a heavy tail, so that a stated standard error is too small."""


def describe_heavy_tails(num: int, num_heavy: int, num_useless: int) -> str:
    """A sentence on the data whose standard errors cannot be trusted; empty if there are none.

    Arguments:
        num: number of data.
        num_heavy: how many of these have a k above :data:`MAX_PARETO_K`.
        num_useless: how many have one above :data:`USELESS_PARETO_K`.

    >>> describe_heavy_tails(9, 2, 0)[-76:]
    'importance weights (Pareto k above 0.5): their standard errors are too small'
    """
    if not num_heavy:
        return ""
    useless = (
        f", and for {num_useless:,} of them (k above {USELESS_PARETO_K}) log p(x) itself is too "
        "low, however many samples are drawn"
    )
    return (
        f"{num_heavy:,} of {num:,} data have heavy-tailed importance weights (Pareto k above "
        f"{MAX_PARETO_K}): their standard errors are too small{useless if num_useless else ''}"
    )


def warn_of_heavy_tails(k: Float[Tensor, "data"], advice: str, stacklevel: int) -> None:
    """Warn of data whose standard errors cannot be trusted."""
    num_heavy, num_useless = ((k > limit).sum() for limit in (MAX_PARETO_K, USELESS_PARETO_K))
    sentence = describe_heavy_tails(len(k), int(num_heavy), int(num_useless))
    if sentence:
        warnings.warn(f"{sentence}; {advice}", HeavyTailWarning, stacklevel=stacklevel)


def _fit_shape(x: Float[Tensor, "data tail"]) -> Float[Tensor, "data"]:
    """Fit k to sorted excesses, the largest of which is 1."""
    n = x.shape[1]
    m = 30 + int(sqrt(n))
    grid = 1 - (m / (torch.arange(1, m + 1, device=x.device) - 0.5)).sqrt()
    quartile = x[:, int(n / 4 + 0.5) - 1].clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    b = 1 + grid / (3 * quartile[:, None])
    k = torch.log1p(-b[:, :, None] * x[:, None]).mean(-1)
    log_profile = n * (torch.log(-b / k) - k)  # up to a constant
    best = (log_profile.softmax(1) * b).sum(1)
    k = torch.log1p(-best[:, None] * x).mean(-1)
    return (k * n + 5) / (n + 10)
