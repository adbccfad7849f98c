"""The programs of hierarchical models: a chain of latents z_L -> ... -> z_1 -> x, and two guides.

Latents are counted from the data: site ``z1`` is next to x, site ``zL`` the top one.
"""

from collections.abc import Callable, Sequence

import pyro
import torch
from jaxtyping import Float, Num
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..posteriors import DiagonalNormal
from ..priors import StandardNormal
from .base import GenerativeModel, Layer, RecognitionModel

__all__ = [
    "BottomUpGuide",
    "HierarchicalModel",
    "Take",
    "TopDownGuide",
    "precision_weighted",
]

Take = Callable[[int, TorchDistributionMixin], Tensor]
"""Which point of the distribution of layer l is passed on: a sample, or its mean."""


class HierarchicalModel(GenerativeModel):
    """The Pyro model p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1), for each datum.

    Arguments:
        conditionals: p(z_1 | z_2), ..., p(z_{L-1} | z_L); none where there is one layer.
        top_dim: number of dimensions of z_L ~ Normal(0, I).
        decoder: network from z_1 to eta.
        likelihood: from eta to p(x | z_1).
        missing: whether entries of x may be missing.
    """

    def __init__(
        self,
        conditionals: Sequence[nn.Module],
        top_dim: int,
        decoder: nn.Module,
        likelihood: Layer,
        missing: bool,
    ) -> None:
        super().__init__(decoder, likelihood, missing)
        self.prior = StandardNormal(top_dim)
        self.conditionals = nn.ModuleList(conditionals)

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample sites ``zL`` to ``z1``, and site ``x`` observed, in the plate ``data``.

        Arguments:
            x: data.
            given: what comes with each datum, as ``likelihood.given`` lists it.

        Raises:
            InputError: if x lies outside the support of the likelihood (under Pyro's validation).
        """
        named_given = self.begin(x, *given)
        with pyro.plate("data", x.shape[0]):
            return self.observe(x, self.eta(self.chain(_sample_site)[0]), named_given)

    def below(self, layer: int, above: Float[Tensor, "..."]) -> TorchDistributionMixin:
        """p(z_l | z_{l+1}) for layer l = 1, ..., L - 1."""
        p: TorchDistributionMixin = self.conditionals[layer - 1](above)
        return p

    def chain(self, take: Take) -> list[Float[Tensor, "..."]]:
        """z_1, ..., z_L, as they are taken from the top down."""
        top = len(self.conditionals) + 1
        z = [take(top, self.prior())]
        for layer in range(top - 1, 0, -1):
            z.append(take(layer, self.below(layer, z[-1])))
        return z[::-1]


class BottomUpGuide(RecognitionModel):
    """The Pyro guide q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}), all of them diagonal normals.

    That of Rezende et al. (2014), and of the model of two layers of Burda et al. (2016).

    Arguments:
        encoder: network from what is seen of x to numbers of shape ``(2, latent_dim)``.
        latent_dim: number of dimensions of z_1.
        conditionals: q(z_2 | z_1), ..., q(z_L | z_{L-1}).
        event_shape: shape of one datum.
        missing: whether entries of x may be missing.
    """

    follows_model = False
    """Whether latents are drawn in the order of the model."""

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        conditionals: Sequence[nn.Module],
        event_shape: Sequence[int],
        missing: bool,
    ) -> None:
        super().__init__(encoder, event_shape, missing)
        self.conditionals = nn.ModuleList(conditionals)
        self._normal = DiagonalNormal(latent_dim)

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> list[Tensor]:
        """Sample sites ``z1`` to ``zL`` in the plate ``data``.

        Raises:
            InputError: if x has another shape or is not finite (under Pyro's validation).
        """
        self.begin(x)
        with pyro.plate("data", x.shape[0]):
            return self.chain(x, _sample_site)

    def chain(self, x: Num[Tensor, "..."], take: Take) -> list[Float[Tensor, "..."]]:
        """z_1, ..., z_L, as they are taken from the bottom up."""
        seen = self.encoder_input(x)
        z = [take(1, self._normal(self.encoder(seen).to(seen.dtype)))]
        for layer, conditional in enumerate(self.conditionals, start=2):
            z.append(take(layer, conditional(z[-1])))
        return z


class TopDownGuide(RecognitionModel):
    """The Pyro guide q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x) of Sønderby et al. (2016).

    A deterministic pass upward makes of x a normal for each layer, l_l(z_l) = Normal(z_l; m_l,
    diag(s_l^2)). The top one is q(z_L | x). Below, q is the product of that normal and of the one
    that the model has, as in :func:`precision_weighted`:

        q(z_l | z_{l+1}, x) = l_l(z_l) p(z_l | z_{l+1}) / (the integral over z_l)

    so that it is exact if l_l is p(x | z_l) up to a factor. The parameters of p are those of the
    model, which have a gradient through the guide, too.

    Arguments:
        encoder: network from what is seen of x to the ``2 * latent_dims[0]`` numbers of the first
            normal, and beside them the features that the first upward network reads.
        upward: networks from the features of one layer to the same of the next; the last one puts
            out no features.
        latent_dims: numbers of dimensions of z_1, ..., z_L.
        model: the model, which the guide uses and does not own.
        event_shape: shape of one datum.
        missing: whether entries of x may be missing.
    """

    follows_model = True

    def __init__(
        self,
        encoder: nn.Module,
        upward: Sequence[nn.Module],
        latent_dims: Sequence[int],
        model: HierarchicalModel,
        event_shape: Sequence[int],
        missing: bool,
    ) -> None:
        super().__init__(encoder, event_shape, missing)
        self.upward = nn.ModuleList(upward)
        self._normals = tuple(map(DiagonalNormal, latent_dims))
        self._of_model = (model,)  # not registered: it would be saved twice

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> list[Tensor]:
        """Sample sites ``zL`` to ``z1`` in the plate ``data``.

        Raises:
            InputError: if x has another shape or is not finite (under Pyro's validation).
        """
        self.begin(x)
        with pyro.plate("data", x.shape[0]):
            return self.chain(x, _sample_site)

    def chain(self, x: Num[Tensor, "..."], take: Take) -> list[Float[Tensor, "..."]]:
        """z_1, ..., z_L, as they are taken from the top down."""
        (model,) = self._of_model
        *lower, top = self.evidence(x)
        z = [take(len(lower) + 1, top)]
        for layer in range(len(lower), 0, -1):
            p = model.below(layer, z[-1])
            z.append(take(layer, precision_weighted(p, lower[layer - 1])))
        return z[::-1]

    def evidence(self, x: Num[Tensor, "..."]) -> list[TorchDistributionMixin]:
        """What x says of z_1, ..., z_L by itself: the normals of the upward pass."""
        seen = self.encoder_input(x)
        out: Tensor = self.encoder(seen).to(seen.dtype)
        found = []
        for layer, normal in enumerate(self._normals):
            num = 2 * normal.in_shape[1]
            found.append(normal(out[..., :num].unflatten(-1, normal.in_shape)))
            if layer < len(self.upward):
                out = self.upward[layer](out[..., num:].relu()).to(seen.dtype)
        return found


def precision_weighted(
    p: TorchDistributionMixin, q: TorchDistributionMixin
) -> TorchDistributionMixin:
    """The product of the densities of two diagonal normals, normalised; again a diagonal normal.

        1 / s^2 = 1 / s_p^2 + 1 / s_q^2,    m = s^2 (m_p / s_p^2 + m_q / s_q^2)

    (Sønderby et al. 2016), computed without squares of small scales.

    Arguments:
        p: a diagonal normal.
        q: another, of the same event shape; batch shapes broadcast.

    Example:
        >>> p = Normal(torch.zeros(1), torch.ones(1)).to_event(1)
        >>> q = Normal(torch.ones(1), torch.ones(1)).to_event(1)
        >>> product = precision_weighted(p, q)
        >>> product.mean, product.variance
        (tensor([0.5000]), tensor([0.5000]))
    """
    normal_p: Normal = p.base_dist
    normal_q: Normal = q.base_dist
    both = torch.hypot(normal_p.scale, normal_q.scale)
    share = normal_p.scale / both
    loc = normal_p.loc + share.square() * (normal_q.loc - normal_p.loc)
    product: TorchDistributionMixin = Normal(loc, share * normal_q.scale).to_event(1)
    return product


def _sample_site(layer: int, p: TorchDistributionMixin) -> Tensor:
    z: Tensor = pyro.sample(f"z{layer}", p)
    return z
