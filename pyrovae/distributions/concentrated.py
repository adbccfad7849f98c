"""Gamma, beta and related families, and Student's t, accurate for large concentrations.

Pyro's are not in single precision; :mod:`pyrovae.distributions.lgamma` explains why, and defines
D (:func:`deviance`) and R (:func:`stirling_remainder`).
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from .lgamma import (
    as_real,
    deviance,
    log_half_rise,
    log_of,
    log_power_of_ratio,
    log_rise,
    stirling_remainder,
)

__all__ = [
    "AffineBeta",
    "Beta",
    "Chi2",
    "FisherSnedecor",
    "Gamma",
    "InverseGamma",
    "Kumaraswamy",
    "StudentT",
]


class Gamma(dist.Gamma):
    """p(x) = b^a x^(a - 1) exp(-b x) / G(a), with concentration a, rate b and the gamma function G.

    log p = log a - log x - D(a, b x) - R(a).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        value = torch.as_tensor(value, device=self.rate.device)
        if self._validate_args:
            self._validate_sample(value)
        return _log_gamma(*as_real(value, self.concentration, self.rate))


class Chi2(dist.Chi2):  # type: ignore[misc]
    """The sum of the squares of df standard normals: Gamma(df / 2, 1 / 2)."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return _log_gamma(*as_real(value, self.concentration, self.rate))


class InverseGamma(dist.InverseGamma):
    """1 / x ~ Gamma(a, b): log p = log a - log x - D(a, b / x) - R(a)."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, a, b = as_real(value, self.concentration, self.rate)
        log_x = log_of(x)
        divergence = deviance(a, log_of(b) - log_x, a - b / x)
        return log_of(a) - log_x - divergence - stirling_remainder(a)


class Beta(dist.Beta):
    """p(x) = x^(a - 1) (1 - x)^(b - 1) / B(a, b).

    log p = R(a + b) - R(a) - R(b) - D(a, (a + b) x) - D(b, (a + b) (1 - x))
    + log(a b / (a + b)) - log x - log(1 - x).
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, a, b = as_real(value, self.concentration1, self.concentration0)
        y = 1 - x
        tiny = torch.finfo(x.dtype).tiny
        log_x = log_of(x)
        log_y = torch.where(y > tiny, torch.log1p(-torch.where(y > tiny, x, 0.5)), log_of(y))
        at_ends = _beyond_tiny(a, x) + _beyond_tiny(b, y)
        return _log_beta_of(a, b, a * y - b * x, log_x, log_y) - log_x - log_y + at_ends


class AffineBeta(dist.AffineBeta):
    """loc + scale u with u ~ Beta(concentration1, concentration0)."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        u = Beta(self.concentration1, self.concentration0, validate_args=False)
        scale: Tensor = self.scale
        return u.log_prob((value - self.loc) / scale) - scale.log()


class Kumaraswamy(dist.Kumaraswamy):  # type: ignore[misc]
    """p(x) = a b x^(a - 1) (1 - x^a)^(b - 1) on [0, 1], of mean b B(1 + 1 / a, b).

    torch computes it from the logarithms of powers of x, which round to 0 near the ends.
    """

    @property
    def mean(self) -> Tensor:
        a, b = as_real(self.concentration1, self.concentration0)
        rise = 1 / a
        # b B(1 + r, b) = G(1 + r) G(b + 1) / G(b + 1 + r)
        log_b = torch.log(b + 1)
        return (torch.lgamma(1 + rise) - log_rise(b + 1, rise) - rise * log_b).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, a, b = as_real(value, self.concentration1, self.concentration0)
        log_x = log_of(x)
        log_rest = log_of(-torch.expm1(a * log_x))
        return log_of(a) + log_of(b) + (a - 1) * log_x + (b - 1) * log_rest + _beyond_tiny(a, x)


class FisherSnedecor(dist.FisherSnedecor):  # type: ignore[misc]
    """The ratio of Chi2(m) / m and Chi2(n) / n: u = m x / (m x + n) is Beta(m / 2, n / 2)."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, m, n = as_real(value, self.df1, self.df2)
        ratio = m / n * x
        a, b = m / 2, n / 2
        log_u, log_rest = -torch.log1p(1 / ratio), -torch.log1p(ratio)
        return _log_beta_of(a, b, a * (1 - x) / (1 + ratio), log_u, log_rest) - log_of(x)


class StudentT(dist.StudentT):  # type: ignore[misc]
    """p(x) of Student's t with df, loc and scale.

    With y = (x - loc) / scale and a = df / 2,
    log p = -(a + 1/2) log(1 + y^2 / (2 a)) - log scale - log(2 pi) / 2
    + log G(a + 1/2) - log G(a) - log(a) / 2. As df grows, it becomes the normal.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, df, loc, scale = as_real(value, self.df, self.loc, self.scale)
        a, w = df / 2, ((x - loc) / scale).square() / 2
        tail = log_power_of_ratio(a, w) + 0.5 * torch.log1p(w / a)
        return log_half_rise(a) - tail - scale.log() - 0.5 * math.log(2 * math.pi)


def _log_gamma(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    log_x = log_of(x)
    divergence = deviance(a, log_of(b) + log_x, a - b * x)
    return log_of(a) - log_x - divergence - stirling_remainder(a) + _beyond_tiny(a, x)


def _log_beta_of(a: Tensor, b: Tensor, excess: Tensor, log_x: Tensor, log_y: Tensor) -> Tensor:
    """a log x + b log y - log B(a, b) for x + y = 1.

    Arguments:
        a: the first concentration.
        b: the second one.
        excess: a y - b x.
        log_x: log x.
        log_y: log y.
    """
    total = a + b
    log_total = log_of(total)
    divergence = deviance(a, log_total + log_x, excess) + deviance(b, log_total + log_y, -excess)
    rest = stirling_remainder(total) - stirling_remainder(a) - stirling_remainder(b)
    return rest - divergence + log_of(a) + log_of(b) - log_total


def _beyond_tiny(a: Tensor, x: Tensor) -> Tensor:
    """(a - 1) log x for an x below the smallest normal number m, where :func:`log_of` has log m."""
    return torch.xlogy(a - 1, x / x.clamp_min(torch.finfo(x.dtype).tiny))
