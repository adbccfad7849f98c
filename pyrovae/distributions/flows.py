"""Normalising flows as Pyro distributions."""

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..data.memory import check_num_parameters

__all__ = [
    "MAX_HIDDEN",
    "MAX_TRANSFORMS",
    "NUM_BINS",
    "FlowDistribution",
    "check_flow",
    "import_zuko",
]

MAX_TRANSFORMS = 100
"""The largest number of transforms in a flow."""

MAX_HIDDEN = 100
"""The largest number of hidden layers in each network of a flow."""

NUM_BINS = 8
"""Pieces of a spline unless given."""


def check_flow(
    latent_dim: int, num_transforms: int, hidden: Sequence[int], outputs: int, context: int = 0
) -> None:
    """Refuse a flow whose networks would not fit into memory.

    Arguments:
        latent_dim: number of dimensions.
        num_transforms: number of transforms, each with a network.
        hidden: widths of the hidden layers of each network.
        outputs: numbers that a network returns for each dimension.
        context: numbers that a network takes besides z.

    Raises:
        InputError: if they do not fit.
    """
    widths = [latent_dim + context, *hidden, outputs * latent_dim]
    num = num_transforms * sum(a * b for a, b in pairwise(widths))
    check_num_parameters(2 * num, "a flow")  # each weight comes with a mask


def import_zuko() -> Any:
    """Import the package ``zuko`` without its side effects on torch.

    The first import of zuko (up to 1.6 at least) switches off the argument checks of torch and Pyro
    distributions for the whole process. This function restores them.
    """
    is_checked, constraints_of_all = Distribution._validate_args, Distribution.arg_constraints
    try:
        return import_module("zuko")
    finally:
        Distribution._validate_args = is_checked
        Distribution.arg_constraints = constraints_of_all  # type: ignore[method-assign]


class FlowDistribution(TorchDistribution):
    """The distribution of z = f(e), where e ~ base.

    log p(z) = log base(e) - log |det df/de|, with e = f^-1(z) (Rezende and Mohamed 2015). For its
    own latest sample, the density is known from sampling, which evaluates only f; for all other
    values f is inverted. Which of the two takes one pass depends on f: sampling for an
    autoregressive f, the density for its inverse (``transform.inv``). The density of its own sample
    is a function of the parameters, not of the sample; for a gradient in z, pass ``z.detach()``.

    Arguments:
        transform: f, a transform of zuko between vectors of equal length.
        base: distribution of e, over vectors.

    Example:
        >>> from torch.distributions import AffineTransform
        >>> _ = import_zuko()
        >>> base = torch.distributions.Normal(torch.zeros(3), 1.0)
        >>> base = torch.distributions.Independent(base, 1)
        >>> shifted = FlowDistribution(AffineTransform(2.0, 1.0, event_dim=1), base)
        >>> bool(shifted.log_prob(torch.full((3,), 2.0)) == base.log_prob(torch.zeros(3)))
        True
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, transform: Any, base: Any, validate_args: bool | None = None) -> None:
        self.transform = transform
        self.base = base
        self._last_sample: tuple[Tensor, int, Tensor, bool] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        return self.transform.codomain

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        return FlowDistribution(self.transform, self.base.expand(batch_shape), False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        e = self.base.rsample(sample_shape)
        # In half precision, log_jacobian would not belong to exactly this sample.
        with torch.autocast(e.device.type, enabled=False):
            z, log_jacobian = self.transform.call_and_ladj(e)
        log_prob = self.base.log_prob(e) - log_jacobian
        self._last_sample = z, z._version, log_prob, torch.is_grad_enabled()
        sample: Tensor = z
        return sample

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._last_sample is not None:
            sample, version, log_prob, has_gradient = self._last_sample
            is_own = value is sample and value._version == version
            wants_gradient_in_value = value.is_leaf and value.requires_grad
            if (
                is_own
                and not wants_gradient_in_value
                and (has_gradient or not torch.is_grad_enabled())
            ):
                return log_prob
        with torch.autocast(value.device.type, enabled=False):
            e, log_jacobian = self.transform.inv.call_and_ladj(value)
        density: Tensor = self.base.log_prob(e) + log_jacobian
        return density
