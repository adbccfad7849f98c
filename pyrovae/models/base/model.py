"""The base class of all model families."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from ...errors import InputError
from ...inverse import Mask, Operator, Posterior, posterior
from ...inverse.posterior import check_given
from ...likelihoods.support import check_values
from .generative import GenerativeModel, Layer
from .recognition import RecognitionModel

__all__ = ["Body", "LatentVariableModel", "build_network"]

Body = nn.Module | Callable[[Sequence[int], Sequence[int]], nn.Module]
"""A network, or a callable that makes one from (in_shape, out_shape)."""


def build_network(body: Body, in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    """Return the network ``body``, or make it by calling ``body(in_shape, out_shape)``."""
    return body if isinstance(body, nn.Module) else body(in_shape, out_shape)


class LatentVariableModel(nn.Module):
    """A generative model p(x, z) and an amortised guide q(z | x), assembled from parts.

    ``model`` and ``guide`` are ordinary Pyro functions of the data. They are also ``nn.Module``s,
    with parameters that belong to this pair alone. Train them with :func:`pyrovae.fit`, with
    ``pyro.infer.SVI(m.model, m.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())``, or with a
    ``torch.optim`` optimiser on the parameters of ``Trace_ELBO()(m.model, m.guide)``.

    Attributes:
        event_shape: shape of one datum.
        model: p(x, z).
        guide: q(z | x).
    """

    has_prior: ClassVar[bool] = True
    """Whether you can draw latents from p(z)."""
    objective: ClassVar[str] = "elbo"
    """The default training objective."""

    num_conditions: ClassVar[int] = 0
    """Number of arguments of ``model`` between x and the tensors that the likelihood takes."""

    event_shape: tuple[int, ...]
    model: GenerativeModel
    guide: RecognitionModel

    @property
    def likelihood(self) -> Layer:
        """p(x | z) as a function of the decoder's output."""
        return self.model.likelihood

    def standardise(self, x: Num[Tensor, "data *event"], *given: Tensor) -> None:
        """Learn the units of the data from training data x. Call it before training.

        The encoder then takes numbers of order one, and learned locations and scales are in these
        units; log p(x | z) remains the density of x in its own units. Tables are standardised
        column by column. Images and other arrays get one mean and one standard deviation for all
        features; otherwise nearly constant pixels would dominate. Binary data are left unchanged.
        Missing entries are ignored.
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

    def embed(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "*batch code"]:
        """A point of the latent space that represents x: the mean of q(z | x) if it is known."""
        raise NotImplementedError

    def reconstruct(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """E[x' | z] at ``z = embed(x)``, without gradients."""
        raise NotImplementedError

    def draw(
        self, num: int, *given: Tensor
    ) -> tuple[Float[Tensor, "num code"], Float[Tensor, "..."]]:
        """Draw latents from the prior; return them and the decoder's output for them."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, num_samples: int, *given: Tensor, mean: bool = False) -> Num[Tensor, "..."]:
        """Draw from p(x): z from the prior, then x from p(x | z), or the mean of x if ``mean``.

        The samples have shape ``(num_samples, *event_shape)``.
        """
        _, eta = self.draw(num_samples, *given)
        return self.likelihood.mean(eta) if mean else self.likelihood(eta).sample()

    def posterior(
        self,
        y: Num[Tensor, "data *seen"],
        *given: Tensor,
        operator: Operator | None = None,
        method: str | Mapping[str, Any] = "importance",
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
                ``metropolis_within_gibbs`` or ``nuts``, as a name or as settings with the name.
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
        likelihood, guide = self.likelihood, self.guide
        if operator is None or isinstance(operator, Mask):
            check_values(y, self.event_shape, what="the observations", missing=True)
            check_given(given, len(y))
            first = self.num_conditions
            likelihood_given = given[first : first + len(likelihood.likelihood.given)]
            likelihood.check(
                y, what="the observations", given=likelihood.given_with(y, *likelihood_given)
            )
        return posterior(
            self.model,
            guide,
            y,
            *given,
            operator=operator,
            method=method,
            num_samples=num_samples,
            batch_size=batch_size,
            seed=seed,
            event_shape=self.event_shape,
            centre=guide.standardise.loc,
            fill=likelihood.fill,
            missing=guide.missing,
            progress=progress,
        )
