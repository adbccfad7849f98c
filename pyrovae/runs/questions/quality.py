"""Metrics of restored images: PSNR and calibration error."""

from math import log10

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["calibration_error", "psnr"]

_BINS = 10


def psnr(
    x: Float[Tensor, "data *event"],
    restored: Float[Tensor, "data *event"],
    peak: float = 1.0,
    where: Bool[Tensor, "data *event"] | None = None,
) -> Float[Tensor, "data"]:
    """Compute the peak signal-to-noise ratio (PSNR) of each datum, in dB:

        10 log10(peak^2 / mean (x - restored)^2)

    Arguments:
        x: originals.
        restored: their restorations.
        peak: the full range of x.
        where: entries over which to take the mean; all by default.

    Example:
        >>> psnr(torch.zeros(1, 4), torch.full((1, 4), 0.1))
        tensor([20.])
    """
    weight = torch.ones_like(x) if where is None else where.to(x.dtype)
    squares = ((x - restored).square() * weight).flatten(1).sum(1)
    error = squares / weight.flatten(1).sum(1)
    return 20 * log10(peak) - 10 * error.clamp_min(torch.finfo(x.dtype).tiny).log10()


def calibration_error(x: Float[Tensor, "values"], probability: Float[Tensor, "values"]) -> float:
    """Compute the expected calibration error of probabilities of x = 1 (Naeini et al. 2015).

    In each of ten bins of equal width, this is the absolute difference between the mean probability
    and the share of ones; it is averaged over values.

    Arguments:
        x: values, 0 or 1.
        probability: the probability of 1 for each value.

    Example:
        >>> round(calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([0.1, 0.9])), 6)
        0.1
    """
    bins = (probability * _BINS).long().clamp(0, _BINS - 1)
    gap = torch.zeros(_BINS, dtype=torch.double)
    gap.index_add_(0, bins.cpu(), (x - probability).double().cpu())
    return gap.abs().sum().item() / len(x)
