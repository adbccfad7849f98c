"""The variational autoencoder (Kingma and Welling 2014; Rezende et al. 2014)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP
from ..posteriors import DiagonalNormal
from .base import Body, LatentVariableModel, network
from .generative import Generative, Layer
from .recognition import Recognition, seen_shape

__all__ = ["VAE", "AmortisedGuide", "DeepLatentModel"]


class DeepLatentModel(Generative):
    """The Pyro model p(z) p(x | z): z ~ prior, x ~ likelihood(decoder(z)), for each datum."""

    def __init__(
        self, prior: nn.Module, decoder: nn.Module, likelihood: Layer, missing: bool
    ) -> None:
        super().__init__(decoder, likelihood, missing)
        self.prior = prior

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample site ``z``, and site ``x`` observed, in the plate ``data``.

        Arguments:
            x: data.
            given: what comes with each datum, as ``likelihood.given`` lists it.

        Raises:
            InputError: if x lies outside the support of the likelihood (under Pyro's validation).
        """
        beside = self.begin(x, *given)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior())
            eta = self.decoder(z).to(z.dtype)  # densities are not summed in half precision
            return self.observe(x, eta, beside)


class AmortisedGuide(Recognition):
    """The Pyro guide q(z | x) = posterior(encoder(x)), one network for all data."""

    def __init__(
        self, encoder: nn.Module, posterior: nn.Module, event_shape: Sequence[int], missing: bool
    ) -> None:
        super().__init__(encoder, event_shape, missing)
        self.posterior = posterior

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample site ``z`` in the plate ``data``.

        Raises:
            InputError: if x has another shape or is not finite (under Pyro's validation).
        """
        self.begin(x)
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.q(x))
            return z

    def h(self, x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What the encoder puts out for x: the parameters of q(z | x)."""
        seen = self.see(x)
        h: Tensor = self.encoder(seen).to(seen.dtype)
        return h

    def q(self, x: Num[Tensor, "..."]) -> TorchDistributionMixin:
        """The distribution q(z | x) itself."""
        q: TorchDistributionMixin = self.posterior(self.h(x))
        return q


class VAE(LatentVariableModel):
    """p(z) p(x | z) and q(z | x), with deep networks on both sides.

    ``vae.model`` and ``vae.guide`` train as :class:`LatentVariableModel` says.

    Arguments:
        event_shape: shape of one datum, such as ``(1, 28, 28)`` or ``(13,)``.
        latent_dim: number of latent dimensions.
        likelihood: p(x | z) as a :class:`~pyrovae.Likelihood`, a :class:`~pyrovae.Mixed`, a name
            or a dict.
        prior: module returning p(z); the posterior's own ``prior()``, such as a standard normal,
            unless given.
        posterior: module from h to q(z | x), as those in :mod:`pyrovae.posteriors` are; a diagonal
            normal unless given.
        encoder: network from x to h, or a callable that makes one from (in_shape, out_shape).
        decoder: network from z to eta, or a callable that makes one from (in_shape, out_shape).
        missing: whether entries of x may be missing (NaN); the encoder then takes x and the mask of
            what is present, side by side along the first dimension of a datum.

    Raises:
        InputError: if the parts do not fit together.

    Example:
        >>> vae = VAE((1, 8, 8), latent_dim=2, likelihood="Bernoulli")
        >>> vae.sample(5).shape
        torch.Size([5, 1, 8, 8])
    """

    model: DeepLatentModel
    guide: AmortisedGuide

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        likelihood: Likelihood | Mixed | str | Mapping[str, Any] = "Bernoulli",
        prior: nn.Module | None = None,
        posterior: nn.Module | None = None,
        encoder: Body = MLP,
        decoder: Body = MLP,
        missing: bool = False,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise InputError(f"latent_dim is {latent_dim}; it must be 1 or more")
        self.event_shape = tuple(event_shape)
        self.latent_dim = latent_dim
        layer = Likelihood.of(likelihood).build(self.event_shape)
        q: Any = DiagonalNormal(latent_dim) if posterior is None else posterior
        standard = q.prior()
        with torch.no_grad():
            latent_shape = standard().event_shape
        self.model = DeepLatentModel(
            standard if prior is None else prior,
            network(decoder, latent_shape, layer.in_shape),
            layer,
            missing,
        )
        seen = seen_shape(self.event_shape, missing)
        self.guide = AmortisedGuide(
            network(encoder, seen, q.in_shape), q, self.event_shape, missing
        )

    def encode(self, x: Num[Tensor, "..."]) -> TorchDistributionMixin:
        """q(z | x), of event shape ``(latent_dim,)``, or that of the posterior's prior."""
        return self.guide.q(x)

    def decode(
        self, z: Float[Tensor, "*batch latent"], given: Mapping[str, Tensor] | None = None
    ) -> TorchDistributionMixin:
        """p(x | z), of event shape ``event_shape``."""
        p: TorchDistributionMixin = self.likelihood(self.model.decoder(z), given)
        return p

    def decode_mean(
        self, z: Float[Tensor, "*batch latent"], given: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "..."]:
        """E[x | z], of shape ``(*batch, *event_shape)``."""
        return self.likelihood.mean(self.model.decoder(z), given)

    @torch.no_grad()
    def reconstruct(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """E[x' | z] at ``z = embed(x)``, without gradients."""
        return self.decode_mean(self.embed(x), self.likelihood.given_with(x, *given))

    def embed(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "*batch latent"]:
        """The centre of q(z | x), which is its mean where that is known."""
        posterior: Any = self.guide.posterior
        centre: Tensor = posterior.centre(self.guide.h(x))
        return centre

    def draw(
        self, num: int, *given: Tensor
    ) -> tuple[Float[Tensor, "num *latent"], Float[Tensor, "..."]]:
        """z from the prior, and what the decoder puts out for it."""
        z: Tensor = self.model.prior().sample((num,))
        return z, self.model.decoder(z)

    @torch.no_grad()
    def interpolate(
        self, start: Num[Tensor, "*event"], end: Num[Tensor, "*event"], num_steps: int = 10
    ) -> Float[Tensor, "steps *event"]:
        """E[x | z] for z on the straight line between the embeddings of two data."""
        z_start, z_end = self.embed(torch.stack([start, end]))
        weight = torch.linspace(0, 1, num_steps, dtype=z_start.dtype, device=z_start.device)
        weight = weight.reshape(-1, *[1] * z_start.ndim)
        return self.decode_mean(torch.lerp(z_start, z_end, weight))
