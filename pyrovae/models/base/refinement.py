"""Posteriors of each datum that gradient steps find: from the encoder's on, or without an encoder.

What is refined is h, the parameters of q(z | x), by ascent on the ELBO of each datum:

    h <- h + Adam(d/dh (1/S) sum_s [log p(x, z_s) - log q(z_s; h)]),   z_s = z(h, eps_ts),

with a learning rate that falls linearly to zero. The noise eps_ts is another for each step t, but
drawn once, when the guide is made, so that q(z | x) is a function of x, and the ELBO with fresh
samples from it is a bound as ever; unless the decoder has dropout or batch normalisation, which see
the steps, too.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ...errors import InputError
from .generative import DeepLatentModel
from .recognition import AmortisedGuide

__all__ = [
    "INFERENCES",
    "FreeGuide",
    "IndexedModel",
    "Inference",
    "Refinement",
    "SemiAmortisedGuide",
]

Inference = str | Mapping[str, Any]
"""How q(z | x) of a datum is found: a name, or settings with a name."""

_SAMPLES = 8
"""Draws of z in an estimate of the ELBO, in pairs of opposite noise."""

_MOMENTUM, _SQUARES = 0.9, 0.99
"""Decay of Adam's averages: of few steps, so that it forgets faster than in training."""


class Refinement(nn.Module):
    """Steps of Adam on the parameters of q(z | x) of each datum.

    Arguments:
        model: p(x, z).
        posterior: from h to q(z | x), a normal distribution.
        num_steps: number of steps.
        lr: first learning rate, in units of h.

    Raises:
        InputError: if q is no normal, or a number is not positive.
    """

    noise: Float[Tensor, "steps samples latent"]

    def __init__(
        self, model: DeepLatentModel, posterior: nn.Module, num_steps: int, lr: float
    ) -> None:
        super().__init__()
        if num_steps < 1 or not lr > 0:
            raise InputError(f"refining takes num_steps and lr above 0; got {num_steps} and {lr:g}")
        self._parts = (model, posterior)  # of others: in no state of this module
        self.num_steps, self.lr = num_steps, lr
        in_shape: Any = posterior.in_shape
        with torch.no_grad():
            q = posterior(torch.zeros(in_shape))
            half = torch.randn(num_steps, _SAMPLES // 2, *q.event_shape)
            _reparameterised(q, half[0])
        self.register_buffer("noise", torch.cat([half, -half], 1))

    def forward(
        self, h: Float[Tensor, "..."], x: Num[Tensor, "..."], *given: Tensor
    ) -> Float[Tensor, "..."]:
        """The refined h, without gradients.

        Arguments:
            h: where to start from.
            x: data.
            given: what comes with each datum, as ``likelihood.given`` lists it.
        """
        model, posterior = self._parts
        in_shape: Any = posterior.in_shape
        h = h.detach()
        mean, square = torch.zeros_like(h), torch.zeros_like(h)
        dims = [1] * (h.ndim - len(in_shape))
        for step, noise in enumerate(self.noise.unbind(), start=1):
            with torch.enable_grad():
                at = h.requires_grad_()
                q = posterior(at)
                z = _reparameterised(q, noise.reshape(_SAMPLES, *dims, -1))
                elbo = model.log_joint(z, x, *given) - q.log_prob(z)
                (gradient,) = torch.autograd.grad(elbo.mean(0).sum(), at)
            mean = torch.lerp(gradient, mean, _MOMENTUM)
            square = torch.lerp(gradient.square(), square, _SQUARES)
            first = mean / (1 - _MOMENTUM**step)
            second = square / (1 - _SQUARES**step)
            lr = self.lr * (1 - (step - 1) / self.num_steps)
            h = at.detach() + lr * first / (second.sqrt() + 1e-8)
        return h


class SemiAmortisedGuide(AmortisedGuide):
    """q(z | x) with parameters a few gradient steps from what the encoder puts out.

    The encoder gets the gradient of the ELBO at the refined parameters, as if the steps were a
    constant shift. (Kim et al. 2018, Semi-amortized variational autoencoders, differentiate
    through the steps as well.)

    Arguments:
        model: p(x, z), which the steps climb.
        encoder: network from what is seen of x to h, where the steps start.
        posterior: from h to q(z | x), a normal distribution.
        event_shape: shape of one datum.
        missing: whether entries may be missing.
        num_steps: number of steps for each datum.
        lr: learning rate of the steps, in units of h.
    """

    def __init__(
        self,
        model: DeepLatentModel,
        encoder: nn.Module,
        posterior: nn.Module,
        event_shape: Sequence[int],
        missing: bool,
        num_steps: int = 5,
        lr: float = 0.1,
    ) -> None:
        super().__init__(encoder, posterior, event_shape, missing)
        self.refinement = Refinement(model, posterior, num_steps, lr)

    def h(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """The refined parameters of q(z | x)."""
        start = super().h(x, *given)
        refined: Tensor = self.refinement(start, x, *given)
        return start + (refined - start).detach()


class FreeGuide(AmortisedGuide):
    """q(z | x_i) with parameters of its own for each of N training data: VI that is not amortised.

    Training data come with their numbers, ``guide(x, *given, index)``, whose parameters are
    learned in a table. Data without numbers, such as those that validate, are new: their q is
    refined from q(z; h = 0).

    Arguments:
        model: p(x, z), which the steps for new data climb.
        num_data: N.
        num_steps: number of steps for new data.
        lr: learning rate of these, in units of h.
        posterior: from h to q(z | x), a normal distribution.
        event_shape: shape of one datum.
        missing: whether entries may be missing.
    """

    def __init__(
        self,
        model: DeepLatentModel,
        num_data: int,
        posterior: nn.Module,
        event_shape: Sequence[int],
        missing: bool,
        num_steps: int = 50,
        lr: float = 0.2,
    ) -> None:
        in_shape: Any = posterior.in_shape
        start = torch.zeros(num_data, prod(in_shape))
        table = nn.Sequential(
            nn.Embedding.from_pretrained(start, freeze=False), nn.Unflatten(-1, tuple(in_shape))
        )
        super().__init__(table, posterior, event_shape, missing)
        self.refinement = Refinement(model, posterior, num_steps, lr)
        self._num_given = len(model.likelihood.likelihood.given)

    def h(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """The parameters of q(z | x): those in the table, or refined ones of new data."""
        if len(given) > self._num_given:
            if is_validation_enabled():
                self._check(given[-1])
            found: Tensor = self.encoder(given[-1])
            return found
        in_shape: Any = self.posterior.in_shape
        batch = x.shape[: x.ndim - len(self.event_shape)]
        start = torch.zeros(*batch, *in_shape, dtype=self.standardise.loc.dtype, device=x.device)
        refined: Tensor = self.refinement(start, x, *given)
        return refined

    def _check(self, numbers: Tensor) -> None:
        num_data = len(self.get_parameter("encoder.0.weight"))
        if numbers.is_floating_point() or bool(((numbers < 0) | (numbers >= num_data)).any()):
            raise InputError(
                f"the numbers of data go from 0 to {num_data - 1}, as in torch.arange({num_data}); "
                "leave them out for data that are new"
            )

    def q_of_standard(self, standard: Float[Tensor, "..."]) -> TorchDistributionMixin:
        """Refused: there is no encoder."""
        raise InputError(
            "a free posterior has no encoder, which a VampPrior needs for its pseudo-inputs; use "
            "another prior, or amortised inference"
        )


class IndexedModel(DeepLatentModel):
    """p(z) p(x | z) of data that may come with their numbers, which are no part of it."""

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """As :class:`DeepLatentModel`, whatever comes after what the likelihood takes."""
        return super().forward(x, *given[: len(self.likelihood.likelihood.given)])


INFERENCES: dict[str, Callable[..., AmortisedGuide]] = {
    "amortised": AmortisedGuide,
    "semi_amortised": SemiAmortisedGuide,
    "free": FreeGuide,
}
"""Guides by how they find q(z | x)."""


def _reparameterised(
    q: TorchDistributionMixin, noise: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """z(h, eps): the sample of a normal that noise Normal(0, I) makes."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        diagonal: Tensor = q.mean + q.stddev * noise
        return diagonal
    if not hasattr(q, "scale_tril"):
        raise InputError(
            f"q(z | x) is refined where it is normal; got {type(q).__name__}: use another posterior"
        )
    full: Tensor = q.loc + (q.scale_tril @ noise[..., None]).squeeze(-1)
    return full
