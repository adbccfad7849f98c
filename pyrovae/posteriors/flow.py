"""Posteriors by normalising flows, for which one pass gives a sample and its density."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import AffineTransform, constraints

from ..distributions.flows import FlowDistribution, import_zuko
from ..errors import InputError
from ..links import link_to
from ..priors import StandardNormal

__all__ = ["InverseAutoregressive", "SplineFlow"]


class _Autoregressive(nn.Module):
    """What both flows have: h = (loc, unlinked scale, context) and a stack of transforms.

    The transforms start as the identity, since the last layer of each of their networks is zero.
    """

    def __init__(self, latent_dim: int, num_transforms: int, context: int) -> None:
        super().__init__()
        if num_transforms < 1:
            raise InputError(
                f"num_transforms is {num_transforms}; it must be 1 or more: use DiagonalNormal for "
                "none"
            )
        if context < 1:
            raise InputError(f"context is {context}; it must be 1 or more")
        self.latent_dim = latent_dim
        self.in_shape = (2 * latent_dim + context,)
        self._positive = link_to(constraints.positive)

    def _take(self, flow: Any) -> None:
        """Own the transforms of a flow of zuko."""
        self.transform: nn.Module = flow.transform
        for each in flow.transform.transforms:
            last = each.hyper[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _parts(self, h: Tensor) -> tuple[Tensor, Tensor, Any]:
        """loc, scale, and the transform for this context."""
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

    with h = (loc, unlinked scale, context), and the order of dimensions turned round from one
    transform to the next. A sample and its density take one pass; the density of any other value
    takes as many as there are dimensions. At the start of training all a = 1 and b = 0, so that q
    is the diagonal normal.

    Arguments:
        latent_dim: number of latent dimensions D.
        num_transforms: T.
        hidden: widths of the hidden layers of each network.
        context: numbers that the encoder gives to the networks.

    Attributes:
        in_shape: shape of h for one datum, ``(2 D + context,)``.

    Raises:
        InputError: if there are no transforms, or no context.

    Example:
        >>> q = InverseAutoregressive(3, context=4)(torch.zeros(5, 10))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        num_transforms: int = 2,
        hidden: Sequence[int] = (64,),
        context: int = 32,
    ) -> None:
        super().__init__(latent_dim, num_transforms, context)
        flows = import_zuko().flows
        self._take(flows.MAF(latent_dim, context, num_transforms, hidden_features=hidden))

    def forward(self, h: Float[Tensor, "*batch h"]) -> TorchDistributionMixin:
        loc, scale, transform = self._parts(h)
        return FlowDistribution(transform, Normal(loc, scale).to_event(1))

    def centre(self, h: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch latent"]:
        """The image of loc."""
        loc, _, transform = self._parts(h)
        centre: Tensor = transform(loc)
        return centre


class SplineFlow(_Autoregressive):
    """q(z | x) by monotone rational-quadratic splines (Durkan et al. 2019), autoregressively.

    e^0 ~ Normal(0, I), then e^t_d = spline(e^{t-1}_d; network(e^{t-1}_1..d-1, context)) for
    t = 1, ..., T, and z = loc + scale * e^T, so that

        log q(z | x) = log Normal(e^0; 0, I) - sum_d [log scale_d + sum_t log de^t_d / de^{t-1}_d],

    with h = (loc, unlinked scale, context). Splines act on [-5, 5] and are the identity beyond. The
    order of dimensions is turned round from one transform to the next. A sample and its density
    take one pass; the density of any other value takes as many as there are dimensions. At the
    start of training the splines are the identity, so that q is the diagonal normal.

    Arguments:
        latent_dim: number of latent dimensions D.
        num_transforms: T.
        num_bins: pieces of each spline.
        hidden: widths of the hidden layers of each network.
        context: numbers that the encoder gives to the networks.

    Attributes:
        in_shape: shape of h for one datum, ``(2 D + context,)``.

    Raises:
        InputError: if there are no transforms, fewer than two bins, or no context.

    Example:
        >>> q = SplineFlow(3, context=4)(torch.zeros(5, 10))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_dim: int,
        num_transforms: int = 2,
        num_bins: int = 8,
        hidden: Sequence[int] = (64,),
        context: int = 32,
    ) -> None:
        super().__init__(latent_dim, num_transforms, context)
        if num_bins < 2:
            raise InputError(f"num_bins is {num_bins}; it must be 2 or more")
        flow = import_zuko().flows.NSF(
            latent_dim, context, num_bins, transforms=num_transforms, hidden_features=hidden
        )
        self._take(flow)

    def forward(self, h: Float[Tensor, "*batch h"]) -> TorchDistributionMixin:
        loc, scale, transform = self._parts(h)
        base = Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        affine = AffineTransform(loc, scale, event_dim=1)
        whole = import_zuko().transforms.ComposedTransform(transform, affine)
        return FlowDistribution(whole, base)

    def centre(self, h: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch latent"]:
        """The image of 0."""
        loc, scale, transform = self._parts(h)
        centre: Tensor = loc + scale * transform(torch.zeros_like(loc))
        return centre
