"""The variational autoencoder (Kingma and Welling 2014; Rezende et al. 2014)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ..arguments import TensorLike, as_data, as_flag, as_shape, as_whole
from ..declared import build_part, parse_declaration
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP
from ..priors import NormalMixture, VampPrior
from .base import (
    AmortisedGuide,
    Body,
    DeepLatentModel,
    LatentVariableModel,
    Part,
    build_decoder,
    build_encoder,
    build_posterior,
    build_prior,
    encoder_input_shape,
)
from .base.model import Given
from .base.parts import trial_of
from .base.refinement import INFERENCES, IndexedModel, Inference

__all__ = ["VAE"]

_GUIDE_CONTEXT = ("model", "encoder", "posterior", "event_shape", "missing")
"""Arguments of guides that the VAE gives, so they are not settings of the inference."""


class VAE(LatentVariableModel):
    """p(z) p(x | z) and q(z | x), with deep networks on both sides.

    Train ``vae.model`` and ``vae.guide`` as :class:`LatentVariableModel` describes.

    Arguments:
        event_shape: shape of one datum, such as ``(1, 28, 28)`` or ``(13,)``.
        latent_dim: number of latent dimensions.
        likelihood: p(x | z) as a :class:`~pyrovae.Likelihood`, a :class:`~pyrovae.Mixed`, a name
            or a dict.
        prior: p(z), as a name (``"mixture"``), settings (``{"name": "mixture", "num_components":
            5}``) or a module that returns p(z), such as those in :mod:`pyrovae.priors`; by default
            the posterior's ``prior()``, such as a standard normal.
        posterior: q(z | x), as a name (``"full_rank"``), settings or a module from h to q(z | x),
            such as those in :mod:`pyrovae.posteriors`, with the shape of h as ``in_shape``, and a
            method ``prior()`` if you give no prior; by default a diagonal normal.
        inference: how to find q(z | x) of a datum: ``"amortised"``, by the encoder;
            ``"semi_amortised"``, by gradient steps from the encoder's output; ``"free"``, with
            separate parameters for each datum; or settings, as in ``{"name": "semi_amortised",
            "num_steps": 10}``.
        encoder: network from x to h; a callable that makes one from (in_shape, out_shape); or a
            name, ``"mlp"``, ``"conv"``, ``"residual"`` or ``"residual_mlp"``, or settings with one,
            such as ``{"name": "mlp", "hidden": [400, 200]}``.
        decoder: network from z to eta, likewise.
        missing: whether entries of x may be missing (NaN); the encoder then takes x and the mask of
            present entries, concatenated along the first dimension of a datum.

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
        prior: Part | None = None,
        posterior: Part | None = None,
        inference: Inference = "amortised",
        encoder: Body = MLP,
        decoder: Body = MLP,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape("event_shape", event_shape)
        self.latent_dim = latent_dim = as_whole("latent_dim", latent_dim, 1)
        missing = as_flag("missing", missing)
        inference_name, _ = parse_declaration("inference", INFERENCES, inference, *_GUIDE_CONTEXT)
        layer = Likelihood.of(likelihood).build(self.event_shape)
        shape = {"latent_dim": latent_dim, "event_shape": self.event_shape}
        q, trial = build_posterior(posterior, **shape)
        p = build_prior(prior, q, **shape)
        self.latent_shape = latent_shape = tuple(trial.event_shape)
        model_class = IndexedModel if inference_name == "free" else DeepLatentModel
        network = build_decoder(decoder, latent_shape, layer.in_shape)
        self.model = model_class(p, network, layer, missing)
        in_shape = encoder_input_shape(self.event_shape, missing)
        self.guide = build_part(
            "inference",
            INFERENCES,
            inference,
            model=self.model,
            encoder=build_encoder(encoder, in_shape, q.in_shape),
            posterior=q,
            event_shape=self.event_shape,
            missing=missing,
        )
        if isinstance(p, VampPrior):
            p.bind(self.guide)  # its latents are those of q, so the checks below would pass
            return
        prior_trial = trial_of(p, "prior")
        if prior_trial.support.is_discrete != trial.support.is_discrete:
            raise InputError(
                "prior and posterior must both be discrete or both continuous; leave the prior out "
                "to use the default prior of the posterior"
            )
        if tuple(prior_trial.event_shape) != latent_shape:
            raise InputError(
                f"the prior has latents of shape {tuple(prior_trial.event_shape)}, but the "
                f"posterior has latents of shape {latent_shape}; give both the same latent_dim"
            )

    def standardise(self, x: TensorLike, *given: TensorLike) -> None:
        """Learn the units of the data, as :class:`LatentVariableModel` describes.

        It also sets the pseudo-inputs of a :class:`~pyrovae.priors.VampPrior` to random data.
        """
        x = as_data("x", x, self.event_shape, like=self.guide.standardise.loc, batch_dims=1)
        super().standardise(x, *given)
        prior = self.model.prior
        if isinstance(prior, VampPrior):
            device = self.guide.standardise.loc.device
            prior.start_at(self.guide.standardise(x.to(device)))

    def q(self, x: TensorLike, *given: TensorLike) -> TorchDistributionMixin:
        """q(z | x), of event shape ``(latent_dim,)``, or the event shape of the posterior."""
        x = self.as_data(x)
        given = self.as_given(given, x)
        return self.guide.q(x, *given)

    def decode(self, z: TensorLike, given: Given = None) -> TorchDistributionMixin:
        """p(x | z), of event shape ``event_shape``."""
        z = self.as_latent(z, self.latent_shape)
        self.check_given(given)
        p: TorchDistributionMixin = self.likelihood(self.model.decoder(z), given)
        return p

    def decode_mean(self, z: TensorLike, given: Given = None) -> Float[Tensor, "..."]:
        """E[x | z], of shape ``(*batch, *event_shape)``."""
        z = self.as_latent(z, self.latent_shape)
        self.check_given(given)
        return self.likelihood.mean(self.model.decoder(z), given)

    def embed(self, x: TensorLike, *given: TensorLike) -> Float[Tensor, "..."]:
        """The centre of q(z | x), which is its mean if it is known."""
        x = self.as_data(x)
        given = self.as_given(given, x)
        return self.guide.centre(x, *given)

    def draw(
        self, num: int, *given: TensorLike
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Draw z from the prior; return z and the decoder's output for it."""
        num = self.as_number(num)
        z: Tensor = self.model.prior().sample((num,))
        return z, self.model.decoder(z)

    @torch.no_grad()
    def interpolate(
        self, start: TensorLike, end: TensorLike, num_steps: int = 10
    ) -> Float[Tensor, "steps *event"]:
        """E[x | z] for z on the straight line between the embeddings of two data."""
        num_steps = self.as_number(num_steps, "num_steps")
        start, end = self.as_data(start, "start", 0), self.as_data(end, "end", 0)
        z_start, z_end = self.embed(torch.stack([start, end]))
        weight = torch.linspace(0, 1, num_steps, dtype=z_start.dtype, device=z_start.device)
        weight = weight.reshape(-1, *[1] * z_start.ndim)
        return self.decode_mean(torch.lerp(z_start, z_end, weight))

    def _q(self, x: Tensor, given: tuple[Tensor, ...]) -> TorchDistributionMixin:
        return self.guide.q(x, *given)

    @property
    def _is_discrete(self) -> bool:
        prior: Any = self.model.prior()
        return bool(prior.support.is_discrete)

    def _draw_latents(
        self, num: int | None, x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        if num is None:
            return (self.guide.centre(x, *given),)
        return (self.guide.q(x, *given).sample((num,)),)

    def _decode(
        self, latents: tuple[Tensor, ...], x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        # With free inference, the indices of the data may follow what the likelihood takes.
        likelihood_given = given[: len(self.likelihood.likelihood.given)]
        return self.model.decoder(latents[0]), self.likelihood.given_with(x, *likelihood_given)

    def _probabilities(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        prior = self.model.prior
        if not isinstance(prior, NormalMixture):
            return super()._probabilities(x, given)
        probabilities: Tensor = prior.posterior(self.guide.centre(x, *given)).probs
        return probabilities
