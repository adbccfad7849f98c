"""What every family of models can be asked, whatever its latents are."""

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
"""A network, or what makes one from the shapes of its input and its output."""


def build_network(body: Body, in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    """The network itself."""
    return body if isinstance(body, nn.Module) else body(in_shape, out_shape)


class LatentVariableModel(nn.Module):
    """A generative model p(x, z) and an amortised guide q(z | x), assembled from parts.

    ``model`` and ``guide`` are ordinary Pyro functions of the data (and ``nn.Module``s, whose
    parameters belong to this pair alone). They train with :func:`pyrovae.fit`, with
    ``pyro.infer.SVI(m.model, m.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())``, or with a
    ``torch.optim`` optimiser on the parameters of ``Trace_ELBO()(m.model, m.guide)``.

    Attributes:
        event_shape: shape of one datum.
        model: p(x, z).
        guide: q(z | x).
    """

    has_prior: ClassVar[bool] = True
    """Whether latents can be drawn."""
    objective: ClassVar[str] = "elbo"
    """The objective that it is trained on, where there is no other."""

    num_conditions: ClassVar[int] = 0
    """How many tensors stand between x and what the likelihood takes."""

    event_shape: tuple[int, ...]
    model: GenerativeModel
    guide: RecognitionModel

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

    def embed(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "*batch code"]:
        """A point of the latent space that stands for x: the mean of q(z | x) where it is known."""
        raise NotImplementedError

    def reconstruct(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """E[x' | z] at ``z = embed(x)``, without gradients."""
        raise NotImplementedError

    def draw(
        self, num: int, *given: Tensor
    ) -> tuple[Float[Tensor, "num code"], Float[Tensor, "..."]]:
        """Latents drawn from the prior, and what the decoder puts out for them."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, num_samples: int, *given: Tensor, mean: bool = False) -> Num[Tensor, "..."]:
        """Draws from p(x), of shape ``(num_samples, *event_shape)``: z from the prior, then x from
        p(x | z), or its mean if asked.
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

        The model is kept, and its likelihood p(x | z) becomes p(y | z) by an operator, so that what
        is missing, noisy or too small is asked of the same p(z). See
        :func:`pyrovae.inverse.posterior`.

        Arguments:
            y: observations, with NaN where nothing was observed.
            given: what comes with each datum, as the model takes it after x.
            operator: how y comes from x, of :mod:`pyrovae.inverse`; some entries of x are missing,
                and the others observed as they are, unless given.
            method: how z is drawn: ``amortised``, ``refined``, ``importance``, ``pseudo_gibbs``,
                ``metropolis_within_gibbs`` or ``nuts``, by name or settings with the name.
            num_samples: draws for each datum.
            batch_size: observations at a time.
            seed: of all random numbers.
            progress: show a bar where it takes more than two seconds.

        Raises:
            InputError: if an argument cannot be used, or the operator does not know p(y | z) under
                this likelihood; before anything is drawn.

        Example:
            >>> from pyrovae import VAE
            >>> y = torch.tensor([[1.0, torch.nan, 0.0]])
            >>> result = VAE((3,), 2).posterior(y, method="amortised")
            >>> result.x.shape, result.mean[0, 0].item()
            (torch.Size([200, 1, 3]), 1.0)
        """
        if not self.has_prior:
            raise InputError(
                f"{type(self).__name__} has no p(z), so that nothing is known of what is missing; "
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
