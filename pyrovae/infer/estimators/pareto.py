"""How heavy the tail of importance weights is, for many data at once."""

from math import ceil, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["pareto_k"]

_FEWEST = 10
"""Weights in a tail that a shape may be fitted to."""

_ALIKE = 1000
"""Of the round-off of a log weight, which is the sum of many terms."""


def pareto_k(log_weights: Float[Tensor, "data samples"]) -> Float[Tensor, "data"]:
    """The shape k of a generalised Pareto distribution fitted to the largest weights.

    Moments of the weights up to order 1/k exist. Below 0.5 their mean has a standard error that
    can be trusted; above 0.7 neither can be, however many samples there are (Vehtari et al. 2024,
    Pareto smoothed importance sampling). The tail is the min(S / 5, 3 sqrt(S)) largest of
    S weights, and the fit that of Zhang and Stephens (2009), drawn towards 1/2 as
    Vehtari et al. do it.

    Arguments:
        log_weights: log w for each datum and sample.

    Returns:
        k for each datum; -inf where the largest weights are all alike, to round-off, and NaN where
        there are too few, or one is not a number.

    Example:
        >>> weights = torch.distributions.Pareto(1.0, 2.0).icdf(torch.linspace(0, 0.9999, 10_000))
        >>> round(pareto_k(weights.log()[None]).item(), 1)  # whose true shape is 1 / 2
        0.5
    """
    num = log_weights.shape[1]
    num_tail = ceil(min(0.2 * num, 3 * sqrt(num)))
    if num_tail < _FEWEST or num_tail >= num:
        return log_weights.new_full(log_weights.shape[:1], torch.nan)
    largest, _ = log_weights.double().topk(num_tail + 1)
    size = largest[:, 0].abs().clamp_min(1.0)
    is_alike = largest[:, 0] - largest[:, -1] <= _ALIKE * torch.finfo(log_weights.dtype).eps * size
    weights = (largest - largest[:, :1]).exp()
    excess = (weights[:, :-1] - weights[:, -1:]).flip(1)  # from the smallest to the largest
    greatest = excess[:, -1:]
    k = _fitted(excess / greatest)
    k = torch.where(is_alike, -torch.inf, k)
    is_known = ~log_weights.isnan().any(1)
    return torch.where(is_known, k, torch.nan).to(log_weights.dtype)


def _fitted(x: Float[Tensor, "data tail"]) -> Float[Tensor, "data"]:
    """k of excesses that are sorted, the largest being one."""
    n = x.shape[1]
    m = 30 + int(sqrt(n))
    grid = 1 - (m / (torch.arange(1, m + 1, device=x.device) - 0.5)).sqrt()
    quartile = x[:, int(n / 4 + 0.5) - 1].clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    b = 1 + grid / (3 * quartile[:, None])
    k = torch.log1p(-b[:, :, None] * x[:, None]).mean(-1)
    log_profile = n * (torch.log(-b / k) - k - 1)
    best = (log_profile.softmax(1) * b).sum(1)
    k = torch.log1p(-best[:, None] * x).mean(-1)
    return (k * n + 5) / (n + 10)
