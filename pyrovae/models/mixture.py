"""A VAE that clusters data: its prior is a mixture of normals (VaDE, Jiang et al. 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Int, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..arguments import TensorLike, as_flag, as_shape, as_whole
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP
from ..posteriors import DiagonalNormal
from ..priors import NormalMixture
from .base import (
    AmortisedGuide,
    Body,
    DeepLatentModel,
    LatentVariableModel,
    build_decoder,
    build_encoder,
    encoder_input_shape,
)

__all__ = ["MixtureGuide", "MixtureModel", "MixtureVAE"]


class MixtureModel(DeepLatentModel):
    """The Pyro model p(y) p(z | y) p(x | z), with x ~ likelihood(decoder(z)), for each datum."""

    prior: NormalMixture

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample sites ``y`` and ``z``, and site ``x`` observed, in the plate ``data``.

        Arguments:
            x: data.
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.

        Raises:
            InputError: if x lies outside the support of the likelihood (under Pyro's validation).
        """
        named_given = self.begin(x, *given)
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", self.prior.weights())
            z = pyro.sample("z", self.prior.component(y))
            return self.observe(x, self.eta(z), named_given)


class MixtureGuide(AmortisedGuide):
    """The Pyro guide q(z | x) p(y | z), where p(y | z) is the model's own posterior of y."""

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        prior: NormalMixture,
        event_shape: Sequence[int],
        missing: bool,
    ) -> None:
        super().__init__(encoder, posterior, event_shape, missing)
        self._prior = (prior,)  # in a tuple, so that the model's prior is not registered here too

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample sites ``z`` and ``y`` in the plate ``data``; ``y`` is marked for enumeration.

        Raises:
            InputError: if x has another shape or is not finite (under Pyro's validation).
        """
        self.begin(x)
        (prior,) = self._prior
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.q(x))
            pyro.sample("y", prior.posterior(z), infer={"enumerate": "parallel"})
            return z


class MixtureVAE(LatentVariableModel):
    """A discrete latent above a continuous one: y is the cluster of a datum (Jiang et al. 2017).

        y ~ Categorical(pi),  z ~ Normal(mu_y, diag(s_y)^2),  x ~ likelihood(decoder(z))

    The guide is q(z | x) p(y | z) with the model's own p(y | z), so log p(y, z) - log p(y | z) =
    log p(z) for every y. Every bound and every estimate of log p(x) equals that of a VAE with the
    mixture as its prior. Train it with ``objective="enumerated"``, which sums over y. If you sample
    y instead, its score function adds noise of mean zero to the gradient.

    Training finds clusters sooner if the components start at clusters of useful embeddings: train
    with a small weight of the KL, then call :meth:`initialise`, then train again.

        fit(m.model, m.guide, x, objective={"name": "beta", "beta": 0.01})
        m.initialise(x)
        fit(m.model, m.guide, x, objective="enumerated")

    Arguments:
        event_shape: shape of one datum, such as ``(1, 28, 28)`` or ``(13,)``.
        latent_dim: number of dimensions of z.
        num_components: number of clusters, the values of y.
        likelihood: p(x | z) as a :class:`~pyrovae.Likelihood`, a :class:`~pyrovae.Mixed`, a name
            or a dict.
        encoder: network from x to h, or a callable that makes one from (in_shape, out_shape).
        decoder: network from z to eta, or a callable that makes one from (in_shape, out_shape).
        missing: whether entries of x may be missing (NaN).

    Raises:
        InputError: if the parts do not fit together.

    Example:
        >>> m = MixtureVAE((1, 8, 8), latent_dim=2, num_components=3)
        >>> m.component_probabilities(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 3])
    """

    objective = "enumerated"

    model: MixtureModel
    guide: MixtureGuide

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        num_components: int = 10,
        likelihood: Likelihood | Mixed | str | Mapping[str, Any] = "Bernoulli",
        encoder: Body = MLP,
        decoder: Body = MLP,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape("event_shape", event_shape)
        self.latent_dim = latent_dim = as_whole("latent_dim", latent_dim, 1)
        self.num_components = num_components = as_whole("num_components", num_components, 1)
        missing = as_flag("missing", missing)
        layer = Likelihood.of(likelihood).build(self.event_shape)
        q = DiagonalNormal(latent_dim)
        prior = NormalMixture(latent_dim, num_components)
        self.model = MixtureModel(
            prior, build_decoder(decoder, (latent_dim,), layer.in_shape), layer, missing
        )
        in_shape = encoder_input_shape(self.event_shape, missing)
        self.guide = MixtureGuide(
            build_encoder(encoder, in_shape, q.in_shape), q, prior, self.event_shape, missing
        )

    def embed(self, x: TensorLike, *given: TensorLike) -> Float[Tensor, "*batch latent"]:
        """The mean z of q(z | x)."""
        x = self.as_data(x)
        mean: Tensor = self.guide.q(x).mean
        return mean

    def draw(
        self, num: int, *given: TensorLike
    ) -> tuple[Float[Tensor, "num latent"], Float[Tensor, "..."]]:
        """Draw z from p(y) p(z | y); return z and the decoder's output for it."""
        num = self.as_number(num)
        prior = self.model.prior
        z: Tensor = prior.component(prior.weights().sample((num,))).sample()
        return z, self.model.decoder(z)

    def component_probabilities(
        self, x: TensorLike, *given: TensorLike
    ) -> Float[Tensor, "*batch components"]:
        """p(y | z) at the mean z of q(z | x): a stand-in for E_q[p(y | z)] without noise."""
        probabilities: Tensor = self.model.prior.posterior(self.embed(x)).probs
        return probabilities

    @torch.no_grad()
    def cluster(self, x: TensorLike, *given: TensorLike) -> Int[Tensor, "*batch"]:
        """The most probable component of each datum, from 0."""
        return self.component_probabilities(x, *given).argmax(-1)

    @torch.no_grad()
    def initialise(self, x: TensorLike, *given: TensorLike, seed: int = 0) -> None:
        """Set the components to those of a normal mixture fitted to the embeddings of x.

        scikit-learn's EM fits the mixture and keeps the best of ten k-means starts (Jiang et al.
        2017 do the same after training an autoencoder). Train before you call it, so that the
        embeddings are useful.

        Arguments:
            x: training data, or a large enough part of them.
            given: ignored, as the embedding does not need it.
            seed: seed of the starts.

        Raises:
            InputError: if there are fewer data than components.
        """
        x = self.as_data(x, batch_dims=1)
        seed = as_whole("seed", seed, 0)
        if len(x) < self.num_components:
            raise InputError(
                f"there are {len(x)} data for {self.num_components} components; give at least "
                f"{self.num_components} data"
            )
        from sklearn.mixture import GaussianMixture

        z = self.embed(x)
        mixture = GaussianMixture(
            self.num_components, covariance_type="diag", n_init=10, random_state=seed
        ).fit(z.double().cpu().numpy())
        weights, loc, variance = (
            torch.as_tensor(each).to(z)
            for each in (mixture.weights_, mixture.means_, mixture.covariances_)
        )
        self.model.prior.set(weights, loc, variance.sqrt())

    def _q(self, x: Tensor, given: tuple[Tensor, ...]) -> TorchDistributionMixin:
        return self.guide.q(x)

    @property
    def _is_discrete(self) -> bool:
        return True

    def _draw_latents(
        self, num: int | None, x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        return (self.embed(x) if num is None else self.guide.q(x).sample((num,)),)

    def _decode(
        self, latents: tuple[Tensor, ...], x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.model.decoder(latents[0]), self.likelihood.given_with(x, *given)

    def _probabilities(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        return self.component_probabilities(x)
