"""What you can ask a trained model about new data: encode, score, reconstruct, predict, impute."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ...arguments import TensorLike, as_flag, as_whole
from ...data.batches import Batches
from ...errors import InputError
from ...infer.estimators.importance import ImportanceEstimate, importance_sample
from ...inverse import Mask, Operator, Posterior, posterior
from ...progress import LateProgress
from .fill import impute
from .reading import Data, ReadsData
from .results import Encoding, Prediction

__all__ = ["NewData"]

Latents = tuple[Tensor, ...]

_CHUNK = 1000
"""The largest number of data at a time."""

_NUMBERS = 2**24
"""The largest number of values of x in the draws of a chunk."""

_DRAWS_OF_MOMENTS = 1000
"""Number of draws for the moments of q(z | x) where these have no closed form."""

_FROM_GUIDE = {"name": "importance", "proposal": "amortised"}
"""How to draw from p(z | y) if latents are discrete, so that no gradient can improve q(z | x)."""

_MAX_SEED = 2**62 - 1


class NewData(ReadsData):
    """The part of a model family that answers questions about data."""

    has_prior: ClassVar[bool]

    # What each family defines.

    def _q(self, x: Tensor, given: tuple[Tensor, ...]) -> TorchDistributionMixin | None:
        """q(z | x) of the code, if it is a distribution of torch."""
        raise NotImplementedError

    @abstractmethod
    def _draw_latents(self, num: int | None, x: Tensor, given: tuple[Tensor, ...]) -> Latents:
        """Draws of the latents, of shape (num, data, ...); the centre of q(z | x) for None."""

    @abstractmethod
    def _decode(
        self, latents: Latents, x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the likelihood takes for these latents: the decoder's output, and what is given."""

    @property
    def _is_discrete(self) -> bool:
        """Whether any latent is discrete."""
        return False

    @property
    def _is_exact_at_centre(self) -> bool:
        """Whether E[x' | z] at the centre of q(z | x) is its mean over q(z | x)."""
        return False

    def _code(self, latents: Latents) -> Tensor:
        """The latent that represents a datum."""
        return latents[0]

    def _moments(self, x: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the code under q(z | x); None if they are not known."""
        q: Any = self._q(x, given)
        if q is None:
            return None
        try:
            return q.mean, q.stddev
        except NotImplementedError:
            return None

    def _probabilities(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        """Probabilities of the classes or clusters of x."""
        raise InputError(
            f"{type(self).__name__} has neither classes nor clusters to predict; train a "
            "semi_supervised model for classes, or a mixture for clusters"
        )

    def decode_draws(
        self, num: int | None, x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The decoder's output, and what the likelihood takes with it, at draws from q(z | x).

        Arguments:
            num: number of draws, along the first dimension; None for the centre of q(z | x).
            x: data, as :meth:`read` returns them.
            given: what comes with each datum.
        """
        return self._decode(self._draw_latents(num, x, given), x, given)

    # What every family can be asked.

    @torch.no_grad()
    def encode(
        self,
        x: Data,
        *given: TensorLike,
        num_draws: int = 0,
        seed: int = 0,
        progress: bool = True,
    ) -> Encoding:
        """The mean and the standard deviation of q(z | x) of each datum, and draws from it.

        Moments without a closed form, such as those of flows, are estimated from 1,000 draws. The
        code of a hierarchical model is its top layer. Where a label is missing, q(z | x) is the
        mixture over labels.

        Arguments:
            x: data.
            given: what comes with each datum, as the model takes it after x; by default, columns of
                the data with the names that these had in training.
            num_draws: number of draws.
            seed: seed of the draws.
            progress: show a progress bar if it takes more than two seconds.

        Raises:
            InputError: if the data are not such as the model was trained on.

        Example:
            >>> from pyrovae import VAE
            >>> encoding = VAE((3,), latent_dim=2).encode(torch.zeros(5, 3), num_draws=10)
            >>> encoding.mean.shape, encoding.sd.shape, encoding.draws.shape
            (torch.Size([5, 2]), torch.Size([5, 2]), torch.Size([10, 5, 2]))
        """
        num_draws = as_whole("num_draws", num_draws, 0)
        x, given = self.read(x, given)

        def encode(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            moments = self._moments(x, given)
            draws = None
            if num_draws:
                draws = self._code(self._draw_latents(num_draws, x, given))
            if moments is None:
                many = self._code(self._draw_latents(_DRAWS_OF_MOMENTS, x, given))
                moments = many.mean(0), many.std(0)
            return (*moments, *(() if draws is None else (draws.movedim(0, 1),)))

        size = max(num_draws, 1)
        parts = self.map(encode, x, given, size, seed, "encoding", progress)
        mean, sd, *draws = (torch.cat(part) for part in zip(*parts, strict=True))
        return Encoding(mean, sd, draws[0].movedim(1, 0) if draws else None)

    def score(
        self,
        x: Data,
        *given: TensorLike,
        num_samples: int = 100,
        seed: int = 0,
        progress: bool = True,
    ) -> ImportanceEstimate:
        """log p(x) of each datum by importance sampling, with its error, Pareto k and ELBO.

        A datum with a low log p(x) is unlike the training data. See
        :func:`~pyrovae.importance_sample`. With a condition, this is log p(x | y); with a label
        that is known, log p(x, y).

        Arguments:
            x: data.
            given: as for :meth:`encode`.
            num_samples: number of samples of z for each datum.
            seed: seed of the samples.
            progress: show a progress bar if it takes more than two seconds.

        Raises:
            InputError: if the data are not such as the model was trained on, or the model has no
                p(z).

        Example:
            >>> from pyrovae import VAE
            >>> scores = VAE((3,), latent_dim=2).score(torch.zeros(5, 3))
            >>> scores.log_likelihood.shape, scores.pareto_k.shape
            (torch.Size([5]), torch.Size([5]))
        """
        num_samples = as_whole("num_samples", num_samples, 2)
        seed = as_whole("seed", seed, 0, _MAX_SEED)
        if not self.has_prior:
            raise InputError(
                f"{type(self).__name__} has no p(z), so there is no p(x); train a vae, or compare "
                "data with their reconstructions"
            )
        x, given = self.read(x, given)
        return importance_sample(
            self.model,
            self.guide,
            Batches((x, *given), _CHUNK, shuffle=False, device=self._device),
            num_samples=num_samples,
            seed=seed,
            progress=as_flag("progress", progress),
        )

    @torch.no_grad()
    def reconstruct(
        self,
        x: Data,
        *given: TensorLike,
        num_samples: int = 50,
        seed: int = 0,
        progress: bool = True,
    ) -> Float[Tensor, "..."]:
        """E[x' | x], the mean of E[x' | z] over q(z | x), without gradients.

        ``num_samples=0`` decodes the centre of q(z | x) instead. This is faster, but is not the
        expectation: with an exponential link it is too low by a factor that grows with the variance
        of q(z | x).

        Arguments:
            x: data; a tensor may have any number of dimensions before those of a datum.
            given: as for :meth:`encode`.
            num_samples: number of draws from q(z | x) to average over; 0 for its centre.
            seed: seed of the draws.
            progress: show a progress bar if it takes more than two seconds.

        Raises:
            InputError: if the data are not such as the model was trained on.
        """
        num_samples = as_whole("num_samples", num_samples, 0)
        if self._is_exact_at_centre:
            num_samples = 0
        x, given, batch = self.flatten_batch(x, given)
        x, given = self.read(x, given)

        def reconstruct(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            means = self.likelihood.mean(*self.decode_draws(num_samples or None, x, given))
            return (means.mean(0) if num_samples else means,)

        size = max(num_samples, 1) * prod(self.event_shape)
        parts = self.map(reconstruct, x, given, size, seed, "reconstructing", progress)
        return torch.cat([part for (part,) in parts]).reshape(*batch, *self.event_shape)

    @torch.no_grad()
    def predict(self, x: Data, *given: TensorLike, progress: bool = True) -> Prediction:
        """The most probable class or cluster of each datum, and the probabilities of all.

        Classes are those of a semi-supervised model; clusters are the components of a mixture
        prior.

        Raises:
            InputError: if the model has neither, or the data are not such as it was trained on.
        """
        x, given = self.read(x, given)

        def predict(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            return (self._probabilities(x, given),)

        parts = self.map(predict, x, given, 1, 0, "predicting", progress)
        probabilities = torch.cat([part for (part,) in parts])
        names = self.about.classes if self.about is not None and self.num_conditions else None
        return Prediction(probabilities.argmax(-1), probabilities, names)

    def posterior(
        self,
        y: Data,
        *given: TensorLike,
        operator: Operator | None = None,
        method: str | Mapping[str, Any] | None = None,
        num_samples: int = 200,
        batch_size: int = 100,
        seed: int = 0,
        progress: bool = True,
    ) -> Posterior:
        """Draw from p(z, x | y) for a degraded observation y of each datum.

        The trained model stays the same. An operator turns its likelihood p(x | z) into p(y | z),
        so you can restore data that are incomplete, noisy or of low resolution. See
        :func:`pyrovae.inverse.posterior`.

        Arguments:
            y: observations, with NaN where nothing was observed.
            given: the tensors that come with each datum, as the model takes them after x.
            operator: how y comes from x, from :mod:`pyrovae.inverse`; by default some entries of x
                are missing, and the others are observed exactly.
            method: how to draw z: ``amortised``, ``refined``, ``importance``, ``pseudo_gibbs``,
                ``metropolis_within_gibbs`` or ``nuts``, as a name or as settings with the name; by
                default importance sampling, from q(z | x) itself if a latent is discrete.
            num_samples: number of draws for each datum.
            batch_size: number of observations at a time.
            seed: seed of all random numbers.
            progress: show a progress bar if it takes more than two seconds.

        Raises:
            InputError: before any draw, if an argument is invalid, or the operator has no p(y | z)
                for this likelihood.

        Example:
            >>> from pyrovae import VAE
            >>> y = torch.tensor([[1.0, torch.nan, 0.0]])
            >>> result = VAE((3,), 2).posterior(y, method="amortised")
            >>> result.x.shape, result.mean[0, 0].item()
            (torch.Size([200, 1, 3]), 1.0)
        """
        if not self.has_prior:
            raise InputError(
                f"{type(self).__name__} has no prior p(z) to infer the missing information from; "
                "use a vae"
            )
        is_masked = operator is None or isinstance(operator, Mask)
        observed, given = self.read_observations(y, given, is_masked)
        return posterior(
            self.model,
            self.guide,
            observed,
            *given,
            operator=operator,
            method=method or ("importance" if not self._is_discrete else _FROM_GUIDE),
            num_samples=num_samples,
            batch_size=batch_size,
            seed=seed,
            event_shape=self.event_shape,
            centre=self.guide.standardise.loc,
            fill=self.likelihood.fill,
            missing=self.guide.missing,
            progress=progress,
        )

    def impute(
        self,
        x: Data,
        *given: TensorLike,
        num_samples: int = 200,
        seed: int = 0,
        progress: bool = True,
    ) -> Any:
        """Fill missing entries (NaN) from p(x | what is observed); the others stay as they are.

        Real numbers get the mean, whole numbers the median, words the most probable word. See
        :meth:`posterior` for draws and intervals.

        Arguments:
            x: data.
            given: as for :meth:`encode`.
            num_samples: number of draws for each datum.
            seed: seed of the draws.
            progress: show a progress bar if it takes more than two seconds.

        Returns:
            What you gave, filled: a tensor, an array or a data frame; a data frame of pandas for a
            file with a table, a tensor for a file with arrays.

        Raises:
            InputError: if the data are not such as the model was trained on, or they are binarised
                or dequantised first, which would change entries that are there.
        """
        num_samples = as_whole("num_samples", num_samples, 1)
        seed = as_whole("seed", seed, 0, _MAX_SEED)
        return impute(self, x, given, num_samples, seed, as_flag("progress", progress))

    def map(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        x: Tensor,
        given: tuple[Tensor, ...],
        size: int,
        seed: int,
        name: str,
        progress: bool,
    ) -> list[tuple[Tensor, ...]]:
        """Apply a function to the data in chunks, in eval mode.

        Arguments:
            function: function of a chunk.
            x: data.
            given: what comes with each datum.
            size: numbers that the function makes of each datum.
            seed: seed of all random numbers.
            name: what to call the work on the progress bar.
            progress: whether to show one.
        """
        seed = as_whole("seed", seed, 0, _MAX_SEED)
        progress = as_flag("progress", progress)
        chunk = max(1, min(_CHUNK, _NUMBERS // size))
        parts = list(zip(*(each.split(chunk) for each in (x, *given)), strict=True))
        was_training = self.training
        self.eval()
        try:
            with torch.random.fork_rng(), LateProgress(name, len(parts)) as bar:
                torch.manual_seed(seed)
                results = []
                for part in parts:
                    results.append(function(*part))
                    if progress:
                        bar.advance()
                return results
        finally:
            self.train(was_training)
