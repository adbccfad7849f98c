"""What every family of models can be asked, whatever its latents are."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from .generative import Generative, Layer
from .recognition import Recognition

__all__ = ["Body", "LatentVariableModel", "network"]

Body = nn.Module | Callable[[Sequence[int], Sequence[int]], nn.Module]
"""A network, or what makes one from the shapes of its input and its output."""


def network(body: Body, in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
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

    event_shape: tuple[int, ...]
    model: Generative
    guide: Recognition

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
