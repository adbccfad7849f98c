"""Normalising flows of zuko as distributions of Pyro."""

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["NormalisingFlow", "zuko_flows"]


def zuko_flows() -> Any:
    """``zuko.flows``, imported without the side effect that no distribution is validated any more.

    >>> zuko_flows().MAF(3)().event_shape
    torch.Size([3])
    """
    validates = Distribution._validate_args
    import zuko  # type: ignore[import-untyped]

    Distribution.set_default_validate_args(validates)
    return zuko.flows


class NormalisingFlow(TorchDistribution):
    """p(x) = p0(f(x)) |det df/dx| on R^n, with f and p0 those of a flow of zuko.

    A draw and its density come from one pass, and the density is kept for when that very draw is
    scored. Any other value is scored by f. Unlike ``pyro.contrib.zuko.ZukoToPyro`` it has
    ``sample`` and ``support``, without which a prior can neither be drawn from nor be used in HMC;
    and it keeps the last draw only, which it scores anew where gradients are wanted that were
    off when it was drawn.

    Arguments:
        flow: what a flow of zuko returns: a ``zuko.distributions.NormalizingFlow``, or any
            distribution over vectors with ``rsample_and_log_prob``.

    Example:
        >>> p = NormalisingFlow(zuko_flows().MAF(3)())
        >>> p.expand((5,)).sample((2,)).shape
        torch.Size([2, 5, 3])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: Distribution) -> None:
        self._flow: Any = flow
        self._drawn: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(flow.batch_shape, flow.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NormalisingFlow":
        return NormalisingFlow(self._flow.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        x, log_prob = self._flow.rsample_and_log_prob(torch.Size(sample_shape))
        self._drawn = x, log_prob, torch.is_grad_enabled()
        return torch.as_tensor(x)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None:
            x, log_prob, had_grad = self._drawn
            if value is x and (had_grad or not torch.is_grad_enabled()):
                return log_prob
        return torch.as_tensor(self._flow.log_prob(value))
