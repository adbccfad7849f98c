"""The Pyro programs of hierarchical models: a chain z_L -> ... -> z_1 -> x, and two guides.

Layers are numbered from the data: site ``z1`` is next to x, site ``zL`` is the top.
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
    "PickValue",
    "TopDownGuide",
    "precision_weighted",
]

PickValue = Callable[[int, TorchDistributionMixin], Tensor]
"""Picks the value of layer l to pass on from its distribution, such as a sample or the mean."""


class HierarchicalModel(GenerativeModel):
    """The Pyro model p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) p(x | z_1), for each datum.

    Arguments:
        conditionals: p(z_1 | z_2), ..., p(z_{L-1} | z_L); none if there is one layer.
        top_dim: number of dimensions of z_L ~ Normal(0, I).
        decoder: network from z_1 to eta.
        likelihood: layer from eta to p(x | z_1).
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
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.

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

    def chain(self, pick: PickValue) -> list[Float[Tensor, "..."]]:
        """Pick the values of z_L, ..., z_1 in this order; return z_1, ..., z_L."""
        top = len(self.conditionals) + 1
        z = [pick(top, self.prior())]
        for layer in range(top - 1, 0, -1):
            z.append(pick(layer, self.below(layer, z[-1])))
        return z[::-1]


class BottomUpGuide(RecognitionModel):
    """The Pyro guide q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}), all of them diagonal normals.

    It is the guide of Rezende et al. (2014), and of the two-layer model of Burda et al. (2016).

    Arguments:
        encoder: network from the encoder's input to numbers of shape ``(2, latent_dim)``.
        latent_dim: number of dimensions of z_1.
        conditionals: q(z_2 | z_1), ..., q(z_L | z_{L-1}).
        event_shape: shape of one datum.
        missing: whether entries of x may be missing.
    """

    follows_model = False
    """Whether the guide draws latents in the same order as the model."""

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

    def chain(self, x: Num[Tensor, "..."], pick: PickValue) -> list[Float[Tensor, "..."]]:
        """Pick the values of z_1, ..., z_L in this order, and return them."""
        inputs = self.encoder_input(x)
        z = [pick(1, self._normal(self.encoder(inputs).to(inputs.dtype)))]
        for layer, conditional in enumerate(self.conditionals, start=2):
            z.append(pick(layer, conditional(z[-1])))
        return z


class TopDownGuide(RecognitionModel):
    """The Pyro guide q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x) of Sønderby et al. (2016).

    A deterministic upward pass computes from x a normal for each layer, l_l(z_l) = Normal(z_l; m_l,
    diag(s_l^2)). The top one is q(z_L | x). Below the top, q is the product of this normal and the
    model's conditional, by :func:`precision_weighted`:

        q(z_l | z_{l+1}, x) = l_l(z_l) p(z_l | z_{l+1}) / (the integral over z_l)

    So q is exact if l_l is p(x | z_l) up to a factor. The guide shares the parameters of p with the
    model, so their gradient has a part through the guide too.

    Arguments:
        encoder: network from the encoder's input to the ``2 * latent_dims[0]`` numbers of the first
            normal, followed by the features for the first upward network.
        upward: networks from the features of one layer to the numbers and features of the next; the
            last one outputs no features.
        latent_dims: numbers of dimensions of z_1, ..., z_L.
        model: the model, which the guide uses but does not own.
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
        self._model = (model,)  # in a tuple, so that it is not registered and saved twice

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> list[Tensor]:
        """Sample sites ``zL`` to ``z1`` in the plate ``data``.

        Raises:
            InputError: if x has another shape or is not finite (under Pyro's validation).
        """
        self.begin(x)
        with pyro.plate("data", x.shape[0]):
            return self.chain(x, _sample_site)

    def chain(self, x: Num[Tensor, "..."], pick: PickValue) -> list[Float[Tensor, "..."]]:
        """Pick the values of z_L, ..., z_1 in this order; return z_1, ..., z_L."""
        (model,) = self._model
        *lower, top = self.evidence(x)
        z = [pick(len(lower) + 1, top)]
        for layer in range(len(lower), 0, -1):
            p = model.below(layer, z[-1])
            z.append(pick(layer, precision_weighted(p, lower[layer - 1])))
        return z[::-1]

    def evidence(self, x: Num[Tensor, "..."]) -> list[TorchDistributionMixin]:
        """The normals l_1, ..., l_L of the upward pass, which depend on x alone."""
        inputs = self.encoder_input(x)
        out: Tensor = self.encoder(inputs).to(inputs.dtype)
        normals = []
        for layer, normal in enumerate(self._normals):
            num = 2 * normal.in_shape[1]
            normals.append(normal(out[..., :num].unflatten(-1, normal.in_shape)))
            if layer < len(self.upward):
                out = self.upward[layer](out[..., num:].relu()).to(inputs.dtype)
        return normals


def precision_weighted(
    p: TorchDistributionMixin, q: TorchDistributionMixin
) -> TorchDistributionMixin:
    """The normalised product of the densities of two diagonal normals, again a diagonal normal.

        1 / s^2 = 1 / s_p^2 + 1 / s_q^2,    m = s^2 (m_p / s_p^2 + m_q / s_q^2)

    (Sønderby et al. 2016). The computation avoids squares of small scales.

    Arguments:
        p: a diagonal normal.
        q: a diagonal normal of the same event shape; batch shapes broadcast.

    Example:
        >>> p = Normal(torch.zeros(1), torch.ones(1)).to_event(1)
        >>> q = Normal(torch.ones(1), torch.ones(1)).to_event(1)
        >>> product = precision_weighted(p, q)
        >>> product.mean, product.variance
        (tensor([0.5000]), tensor([0.5000]))
    """
    normal_p: Normal = p.base_dist
    normal_q: Normal = q.base_dist
    ratio = normal_p.scale / torch.hypot(normal_p.scale, normal_q.scale)
    loc = normal_p.loc + ratio.square() * (normal_q.loc - normal_p.loc)
    product: TorchDistributionMixin = Normal(loc, ratio * normal_q.scale).to_event(1)
    return product


def _sample_site(layer: int, p: TorchDistributionMixin) -> Tensor:
    z: Tensor = pyro.sample(f"z{layer}", p)
    return z
