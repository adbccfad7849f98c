"""Posteriors by normalising flows that give a sample and its density in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import AffineTransform, constraints

from ..arguments import as_whole, as_wholes
from ..described import Described
from ..distributions.flows import (
    MAX_HIDDEN,
    MAX_TRANSFORMS,
    FlowDistribution,
    check_flow,
    import_zuko,
)
from ..errors import InputError
from ..links import link_to
from ..priors import StandardNormal

__all__ = ["InverseAutoregressive", "SplineFlow"]


class _Autoregressive(Described, nn.Module):
    """Shared by both flows: h = (loc, unlinked scale, context) and a stack of transforms.

    The transforms start as the identity, as the last layer of each of their networks is zero.
    """

    def __init__(self, latent_dim: int, num_transforms: int, context: int) -> None:
        super().__init__()
        self.latent_dim = as_whole("latent_dim", latent_dim, 1)
        if as_whole("num_transforms", num_transforms, 0, MAX_TRANSFORMS) == 0:
            raise InputError(
                f"num_transforms is {num_transforms}; it must be 1 or more; for no transforms use "
                "DiagonalNormal"
            )
        self.num_transforms = int(num_transforms)
        self.context = as_whole("context", context, 1)
        self.in_shape = (2 * self.latent_dim + self.context,)
        self._positive = link_to(constraints.positive)

    def _register_transforms(self, flow: Any) -> None:
        """Take over the transforms of a zuko flow and make them start as the identity."""
        self.transform: nn.Module = flow.transform
        for each in flow.transform.transforms:
            last = each.hyper[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _split(self, h: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Return loc, scale and the transform for the context."""
        num = self.latent_dim
        loc, unlinked_scale, context = h.split([num, num, h.shape[-1] - 2 * num], -1)
        return loc, self._positive(unlinked_scale), self.transform(context)

    def prior(self) -> StandardNormal:
        """The standard normal."""
        return StandardNormal(self.latent_dim)


class InverseAutoregressive(_Autoregressive):
    """q(z | x) by an inverse autoregressive flow (Kingma et al. 2016).

    z^0 = loc + scale * eps with eps ~ Normal(0, I), then, for t = 1, ..., T,

        z^t_d = a^t_d z^{t-1}_d + b^t_d,   (a^t_d, b^t_d) = network(z^{t-1}_1..d-1, context),

        log q(z^T | x) = log Normal(eps; 0, I) - sum_d [log scale_d + sum_t log a^t_d],

    with h = (loc, unlinked scale, context). The order of dimensions is reversed from one transform
    to the next. A sample and its density take one pass; the density of any other value takes as
    many as there are dimensions. At the start of training all a = 1 and b = 0, so q is the diagonal
    normal.

    Arguments:
        latent_dim: number of latent dimensions D.
        num_transforms: number of transforms T.
        hidden: widths of the hidden layers of each network.
        context: how many numbers the encoder passes to the networks.

    Attributes:
        in_shape: shape of h for one datum, ``(2 D + context,)``.

    Raises:
        InputError: if num_transforms or context is below 1.

    Example:
        >>> q = InverseAutoregressive(3, context=4)(torch.zeros(5, 10))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    name = "iaf"

    def __init__(
        self,
        latent_dim: int,
        num_transforms: int = 2,
        hidden: Sequence[int] = (64,),
        context: int = 32,
    ) -> None:
        super().__init__(latent_dim, num_transforms, context)
        hidden = as_wholes("hidden", hidden, most=MAX_HIDDEN)
        sizes = (self.latent_dim, self.num_transforms)
        check_flow(*sizes, hidden, 2, self.context)
        flows = import_zuko().flows
        flow = flows.MAF(self.latent_dim, self.context, self.num_transforms, hidden_features=hidden)
        self._register_transforms(flow)

    def forward(self, h: Float[Tensor, "*batch h"]) -> TorchDistributionMixin:
        loc, scale, transform = self._split(h)
        return FlowDistribution(transform, Normal(loc, scale).to_event(1))

    def centre(self, h: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch latent"]:
        """The transformed loc."""
        loc, _, transform = self._split(h)
        centre: Tensor = transform(loc)
        return centre


class SplineFlow(_Autoregressive):
    """q(z | x) by autoregressive monotone rational-quadratic splines (Durkan et al. 2019).

    e^0 ~ Normal(0, I), then e^t_d = spline(e^{t-1}_d; network(e^{t-1}_1..d-1, context)) for
    t = 1, ..., T, and z = loc + scale * e^T, so that

        log q(z | x) = log Normal(e^0; 0, I) - sum_d [log scale_d + sum_t log de^t_d / de^{t-1}_d],

    with h = (loc, unlinked scale, context). Splines act on [-5, 5] and are the identity outside.
    The order of dimensions is reversed from one transform to the next. A sample and its density
    take one pass; the density of any other value takes as many as there are dimensions. At the
    start of training the splines are the identity, so q is the diagonal normal.

    Arguments:
        latent_dim: number of latent dimensions D.
        num_transforms: number of transforms T.
        num_bins: number of pieces of each spline.
        hidden: widths of the hidden layers of each network.
        context: how many numbers the encoder passes to the networks.

    Attributes:
        in_shape: shape of h for one datum, ``(2 D + context,)``.

    Raises:
        InputError: if num_transforms or context is below 1, or num_bins below 2.

    Example:
        >>> q = SplineFlow(3, context=4)(torch.zeros(5, 10))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    name = "spline"

    def __init__(
        self,
        latent_dim: int,
        num_transforms: int = 2,
        num_bins: int = 8,
        hidden: Sequence[int] = (64,),
        context: int = 32,
    ) -> None:
        super().__init__(latent_dim, num_transforms, context)
        num_bins = as_whole("num_bins", num_bins, 2)
        hidden = as_wholes("hidden", hidden, most=MAX_HIDDEN)
        sizes = (self.latent_dim, self.num_transforms)
        check_flow(*sizes, hidden, 3 * num_bins, self.context)
        flow = import_zuko().flows.NSF(
            self.latent_dim,
            self.context,
            num_bins,
            transforms=self.num_transforms,
            hidden_features=hidden,
        )
        self._register_transforms(flow)

    def forward(self, h: Float[Tensor, "*batch h"]) -> TorchDistributionMixin:
        loc, scale, transform = self._split(h)
        base = Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        affine = AffineTransform(loc, scale, event_dim=1)
        composed = import_zuko().transforms.ComposedTransform(transform, affine)
        return FlowDistribution(composed, base)

    def centre(self, h: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch latent"]:
        """The transformed 0."""
        loc, scale, transform = self._split(h)
        centre: Tensor = loc + scale * transform(torch.zeros_like(loc))
        return centre
