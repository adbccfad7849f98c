"""Terms of log-densities with gamma functions that keep their digits for arguments of any size.

Such a log-density is a small difference of large numbers: log Gamma(10^7) is 1.5 10^8, of which
single precision keeps one digit before the point. The saddle-point expansion of Loader (2000),
"Fast and accurate computation of binomial probabilities", has no such differences. With

    D(x, m) = x log(x / m) - x + m >= 0          (half the deviance of a Poisson)
    R(x) = log Gamma(x + 1) - x log x + x >= 0   (what Stirling's leading terms leave)

a Poisson with mean m has the log-mass -D(x, m) - R(x), and the other families are sums of the same
terms. Nothing here branches on data, so that steps can be recorded and compiled.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "as_real",
    "deviance",
    "log_half_rise",
    "log_of",
    "log_power_of_ratio",
    "log_rise",
    "stirling_remainder",
]

_LARGE = 10.0
"""From here on the asymptotic series are exact in double precision."""

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_HALF_RISE = (
    -1 / 8,
    1 / 192,
    -1 / 640,
    17 / 14336,
    -31 / 18432,
    691 / 180224,
    -5461 / 425984,
)
_NUM_TERMS_SINGLE = 3
_NEAR, _FAR = 0.1, 0.9
"""Bounds on |v|, v = (x - m) / (x + m): series below the first, logarithms above the second."""


def as_real(value: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    """The value and the arguments of a distribution, broadcast, in their widest floating type,
    which is single precision at least.
    """
    dtype = torch.float32
    tensors = torch.broadcast_tensors(value, *arguments)
    for tensor in tensors:
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def log_of(x: Tensor) -> Tensor:
    """log x, from the smallest normal number on, so that no gradient is infinite at 0."""
    return x.clamp_min(torch.finfo(x.dtype).tiny).log()


def deviance(x: Tensor, log_m: Tensor, excess: Tensor) -> Tensor:
    """D(x, m) = x log(x / m) - x + m, to the relative accuracy of its arguments.

    Where x is close to m, it is computed from x - m, which the caller may know more precisely than
    the difference of the two. The gradients are log(x / m) in x and m - x in log m.

    Arguments:
        x: at least 0.
        log_m: log m.
        excess: x - m; no gradient passes through it.
    """
    return _Deviance.apply(*torch.broadcast_tensors(x, log_m, excess))  # type: ignore[no-any-return]


def stirling_remainder(x: Tensor) -> Tensor:
    """R(x) = log Gamma(x + 1) - x log x + x, which is about log(2 pi x) / 2 for large x."""
    is_small = x < _LARGE
    small, large = torch.where(is_small, x, 1.0), torch.where(is_small, _LARGE, x)
    direct = torch.lgamma(small + 1) - torch.xlogy(small, small) + small
    series = 0.5 * torch.log(2 * torch.pi * large) + _odd_powers(1 / large, _STIRLING)
    return torch.where(is_small, direct, series)


def log_half_rise(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a) - log(a) / 2, which is about -1 / (8 a) for large a."""
    is_small = a < _LARGE
    small, large = torch.where(is_small, a, 1.0), torch.where(is_small, _LARGE, a)
    direct = torch.lgamma(small + 0.5) - torch.lgamma(small) - 0.5 * log_of(small)
    return torch.where(is_small, direct, _odd_powers(1 / large, _HALF_RISE))


def log_power_of_ratio(a: Tensor, w: Tensor) -> Tensor:
    """a log(1 + w / a), which is about w - w^2 / (2 a) for large a.

    Unlike those of the formula, gradients in a keep their digits for large a.

    Arguments:
        a: above 0.
        w: at least 0.
    """
    t = w / a
    is_near = t < _NEAR
    t_near = torch.where(is_near, t, 0.0)
    v = t_near / (2 + t_near)
    square = v.square()
    # t - log(1 + t) = 2 v / (1 - v) - 2 atanh(v)
    rest = 2 * square * (1 / (1 - v) - v * _atanh_tail(square))
    return torch.where(is_near, w - a * rest, a * torch.log1p(torch.where(is_near, 1.0, t)))


def log_rise(a: Tensor, b: Tensor) -> Tensor:
    """log Gamma(a + b) - log Gamma(a) - b log a, for b above 0."""
    rest = stirling_remainder(a + b) - stirling_remainder(a) - torch.log1p(b / a)
    return rest + deviance(a + b, log_of(a), b)


class _Deviance(torch.autograd.Function):
    """D(x, m), with gradients that are exact where those of its formula are not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, log_m: Tensor, excess: Tensor) -> Tensor:
        v = _contrast(x, excess)
        square = v.square()
        # atanh(v) = v + v^3 (1/3 + v^2 / 5 + ...)
        near = excess * v + 2 * x * v * square * _atanh_tail(square)
        away = x * _log_ratio(v, x, log_m) - excess
        away = torch.where(x == 0, -excess, away)
        return torch.where(v.abs() < _NEAR, near, away)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        needs_x, needs_log_m, _ = ctx.needs_input_grad
        in_x = grad * _slope_in_x(*ctx.saved_tensors) if needs_x else None
        in_log_m = grad * _slope_in_log_m(*ctx.saved_tensors) if needs_log_m else None
        return in_x, in_log_m, None

    @staticmethod
    def jvp(ctx: Any, of_x: Tensor, of_log_m: Tensor, of_excess: Tensor) -> Tensor:
        inputs = ctx.saved_tensors
        return of_x * _slope_in_x(*inputs) + of_log_m * _slope_in_log_m(*inputs)


def _slope_in_x(x: Tensor, log_m: Tensor, excess: Tensor) -> Tensor:
    """log(x / m)."""
    return _differentiable(_log_ratio(_contrast(x, excess), x, log_m), x.log() - log_m)


def _slope_in_log_m(x: Tensor, log_m: Tensor, excess: Tensor) -> Tensor:
    """m - x."""
    return _differentiable(-excess, log_m.exp() - x)


def _contrast(x: Tensor, excess: Tensor) -> Tensor:
    """(x - m) / (x + m)."""
    return excess / (2 * x - excess).clamp_min(torch.finfo(x.dtype).tiny)


def _log_ratio(v: Tensor, x: Tensor, log_m: Tensor) -> Tensor:
    """log(x / m)."""
    return torch.where(v.abs() < _FAR, 2 * torch.atanh(v), x.log() - log_m)


def _differentiable(value: Tensor, formula: Tensor) -> Tensor:
    """The value, with the gradient of the formula; needed only for second derivatives."""
    if not torch.is_grad_enabled():
        return value
    return value.detach() + (formula - formula.detach())


def _atanh_tail(square: Tensor) -> Tensor:
    """1/3 + s/5 + s^2/7 + ..., for s below 0.01."""
    num = _num_terms(square, 7)
    total = torch.full_like(square, 1 / (2 * num + 1))
    for k in range(num - 1, 0, -1):
        total = total * square + 1 / (2 * k + 1)
    return total


def _odd_powers(u: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """c_0 u + c_1 u^3 + c_2 u^5 + ..."""
    square = u.square()
    num = _num_terms(u, len(coefficients))
    total = torch.full_like(u, coefficients[num - 1])
    for coefficient in coefficients[num - 2 :: -1]:
        total = total * square + coefficient
    return total * u


def _num_terms(x: Tensor, num: int) -> int:
    return num if x.dtype == torch.float64 else _NUM_TERMS_SINGLE
