"""The variational autoencoder (Kingma and Welling 2014; Rezende et al. 2014)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..errors import InputError
from ..likelihoods import Likelihood, LikelihoodLayer, Mixed, MixedLayer
from ..likelihoods.support import check_values
from ..nn import MLP, Standardise
from ..posteriors import DiagonalNormal
from ..priors import StandardNormal
from .parameters import declare_parameters

__all__ = ["VAE", "AmortisedGuide", "DeepLatentModel"]

Layer = LikelihoodLayer | MixedLayer

Body = nn.Module | Callable[[Sequence[int], Sequence[int]], nn.Module]
"""A network, or what makes one from the shapes of its input and its output."""


class DeepLatentModel(nn.Module):
    """The Pyro model p(z) p(x | z): z ~ prior, x ~ likelihood(decoder(z)), for each datum.

    Missing entries of x (NaN) contribute exactly nothing: the density is that of the others.
    """

    def __init__(
        self, prior: nn.Module, decoder: nn.Module, likelihood: Layer, missing: bool
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.missing = missing

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample site ``z``, and site ``x`` observed, in the plate ``data``.

        Under Pyro's validation (on by default) the data are checked against the support.

        Arguments:
            x: data.
            given: what comes with each datum, as ``likelihood.given`` lists it.

        Raises:
            InputError: if x lies outside the support of the likelihood.
        """
        declare_parameters(self)
        beside = self.likelihood.given_with(x, *given)
        if is_validation_enabled():
            self.likelihood.check(x, given=beside)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior())
            eta = self.decoder(z).to(z.dtype)  # densities are not summed in half precision
            x = x.to(eta.dtype)  # log-factorials of bytes would overflow
            present = None
            if self.missing:
                # Filled, then masked: a mask alone would leave NaN in the gradient.
                present = ~x.isnan()
                x = torch.where(present, x, self.likelihood.fill)
            observed: Tensor = pyro.sample("x", self.likelihood(eta, beside, present), obs=x)
            return observed


class AmortisedGuide(nn.Module):
    """The Pyro guide q(z | x) = posterior(encoder(x)), one network for all data.

    Where entries may be missing, the encoder sees them as the mean, and beside x the mask of what
    is present.
    """

    def __init__(
        self, encoder: nn.Module, posterior: nn.Module, event_shape: Sequence[int], missing: bool
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.missing = missing
        self.standardise = Standardise(event_shape)
        self.encoder = encoder
        self.posterior = posterior

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample site ``z`` in the plate ``data``.

        Raises:
            InputError: if x has another shape or is not finite (under Pyro's validation).
        """
        declare_parameters(self)
        if is_validation_enabled():
            check_values(x, self.event_shape, missing=self.missing)
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.q(x))
            return z

    def q(self, x: Num[Tensor, "..."]) -> TorchDistributionMixin:
        """The distribution q(z | x) itself."""
        standard = self.standardise(x)
        if self.missing:
            present = ~x.isnan()
            standard = torch.where(present, standard, 0.0)
            dim = -len(self.event_shape)
            standard = torch.cat([standard, present.to(standard.dtype)], dim)
        h = self.encoder(standard).to(standard.dtype)
        q: TorchDistributionMixin = self.posterior(h)
        return q


class VAE(nn.Module):
    """p(z) p(x | z) and q(z | x), with deep networks on both sides.

    ``vae.model`` and ``vae.guide`` are ordinary Pyro functions of x (and ``nn.Module``s, whose
    parameters belong to this model alone). They train with :func:`pyrovae.fit`, with
    ``pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())``, or with a
    ``torch.optim`` optimiser on the parameters of ``Trace_ELBO()(vae.model, vae.guide)``.

    Arguments:
        event_shape: shape of one datum, such as ``(1, 28, 28)`` or ``(13,)``.
        latent_dim: number of latent dimensions.
        likelihood: p(x | z) as a :class:`~pyrovae.Likelihood`, a :class:`~pyrovae.Mixed`, a name
            or a dict.
        prior: module returning p(z); the standard normal unless given.
        posterior: module from h to q(z | x), with ``in_shape`` the shape of h; a diagonal normal
            unless given.
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
        q = DiagonalNormal(latent_dim) if posterior is None else posterior
        h_shape: Any = q.in_shape
        self.model = DeepLatentModel(
            StandardNormal(latent_dim) if prior is None else prior,
            _network(decoder, (latent_dim,), layer.in_shape),
            layer,
            missing,
        )
        first, *rest = self.event_shape
        seen = (2 * first, *rest) if missing else self.event_shape
        self.guide = AmortisedGuide(_network(encoder, seen, h_shape), q, self.event_shape, missing)

    @property
    def likelihood(self) -> Layer:
        """p(x | z) as a function of what the decoder network puts out."""
        return self.model.likelihood

    def standardise(self, x: Num[Tensor, "data *event"], *given: Tensor) -> None:
        """Learn the units of the data, before training, from training data x.

        The encoder then sees numbers of order one, and learned locations and scales are measured
        in these units; log p(x | z) remains that of x as given. Tables are standardised column by
        column. Images and other arrays have one mean and one standard deviation for all features,
        lest pixels that hardly ever change be blown up. Binary data are of order one as they are.
        Missing entries are left out.
        """
        self.likelihood.set_typical(self.likelihood.given_with(x, *given))
        x = x.double()
        if bool(((x == 0) | (x == 1) | x.isnan()).all()):
            return
        features = 0 if len(self.event_shape) == 1 else tuple(range(x.ndim))
        loc = x.nanmean(features).nan_to_num(0.0)
        scale = (x - loc).square().nanmean(features).sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        self.guide.standardise.set(loc, scale)
        self.likelihood.set_units(loc, scale)

    def encode(self, x: Num[Tensor, "..."]) -> TorchDistributionMixin:
        """q(z | x), of event shape ``(latent_dim,)``."""
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
        """E[x' | z] at the mean z of q(z | x)."""
        return self.decode_mean(self.encode(x).mean, self.likelihood.given_with(x, *given))

    @torch.no_grad()
    def sample(self, num_samples: int, *, mean: bool = False) -> Num[Tensor, "num *event"]:
        """Draws from p(x): z from the prior, then x from p(x | z), or its mean if asked."""
        z = self.model.prior().sample((num_samples,))
        return self.decode_mean(z) if mean else self.decode(z).sample()

    @torch.no_grad()
    def interpolate(
        self, start: Num[Tensor, "*event"], end: Num[Tensor, "*event"], num_steps: int = 10
    ) -> Float[Tensor, "steps *event"]:
        """E[x | z] for z on the straight line between the posterior means of two data."""
        z_start, z_end = self.encode(torch.stack([start, end])).mean
        weight = torch.linspace(0, 1, num_steps, dtype=z_start.dtype, device=z_start.device)
        return self.decode_mean(torch.lerp(z_start, z_end, weight[:, None]))


def _network(body: Body, in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    return body if isinstance(body, nn.Module) else body(in_shape, out_shape)
