"""Guides that fit q(z | x) to each datum by gradient steps, with or without an encoder.

The steps ascend the ELBO of each datum in h, the parameters of q(z | x):

    h <- h + Adam(d/dh (1/S) sum_s [log p(x, z_s) - log q(z_s; h)]),   z_s = z(h, eps_ts),

with a learning rate that falls linearly to zero. The noise eps_ts differs for each step t, but the
guide draws it only once, when you make it. So q(z | x) is a function of x, and the ELBO with fresh
samples from it is a valid bound. This does not hold if the decoder has dropout or batch
normalisation, as the steps run them too.
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

from ...arguments import as_real, as_whole
from ...data.memory import check_num_parameters
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
"""How to find q(z | x) of a datum: a name, or settings with a name."""

_NUM_SAMPLES = 8
"""Draws of z in an estimate of the ELBO, in pairs of opposite noise."""

_MAX_STEPS = 1000
"""The largest number of steps for each datum."""

_BETA1, _BETA2 = 0.9, 0.99
"""Adam's decay rates. There are few steps, so its averages forget faster than in training."""


class Refinement(nn.Module):
    """Steps of Adam on the parameters of q(z | x) of each datum.

    Arguments:
        model: p(x, z).
        posterior: module from h to q(z | x), a normal distribution.
        num_steps: number of steps.
        lr: initial learning rate, in units of h.

    Raises:
        InputError: if q is not a normal distribution, or num_steps or lr is not positive.
    """

    noise: Float[Tensor, "steps samples latent"]

    def __init__(
        self, model: DeepLatentModel, posterior: nn.Module, num_steps: int, lr: float
    ) -> None:
        super().__init__()
        num_steps = as_whole("num_steps", num_steps, 1, _MAX_STEPS)
        lr = as_real("lr", lr, above=0)
        self._parts = (model, posterior)  # in a tuple, so that they are not registered here too
        self.num_steps, self.lr = num_steps, lr
        in_shape: Any = posterior.in_shape
        with torch.no_grad():
            q = posterior(torch.zeros(in_shape))
            size = num_steps * _NUM_SAMPLES * prod(q.event_shape)
            check_num_parameters(size, "the noise of num_steps steps")
            half = torch.randn(num_steps, _NUM_SAMPLES // 2, *q.event_shape)
            _reparameterise(q, half[0])  # raises if q is not normal
        self.register_buffer("noise", torch.cat([half, -half], 1))

    def forward(
        self, h: Float[Tensor, "..."], x: Num[Tensor, "..."], *given: Tensor
    ) -> Float[Tensor, "..."]:
        """Return the refined h, without gradients.

        Arguments:
            h: where the steps start.
            x: data.
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.
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
                z = _reparameterise(q, noise.reshape(_NUM_SAMPLES, *dims, -1))
                elbo = model.log_joint(z, x, *given) - q.log_prob(z)
                (gradient,) = torch.autograd.grad(elbo.mean(0).sum(), at)
            mean = torch.lerp(gradient, mean, _BETA1)
            square = torch.lerp(gradient.square(), square, _BETA2)
            first = mean / (1 - _BETA1**step)
            second = square / (1 - _BETA2**step)
            lr = self.lr * (1 - (step - 1) / self.num_steps)
            h = at.detach() + lr * first / (second.sqrt() + 1e-8)
        return h


class SemiAmortisedGuide(AmortisedGuide):
    """q(z | x) with the parameters that a few gradient steps from the encoder's output reach.

    The encoder gets the gradient of the ELBO at the refined parameters, as if the steps were a
    constant shift. (Kim et al. 2018, Semi-amortized variational autoencoders, differentiate
    through the steps as well.)

    Arguments:
        model: p(x, z), for the ELBO that the steps ascend.
        encoder: network from x to h, where the steps start.
        posterior: module from h to q(z | x), a normal distribution.
        event_shape: shape of one datum.
        missing: whether entries may be missing.
        num_steps: number of steps for each datum.
        lr: initial learning rate of the steps, in units of h.
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
    """q(z | x_i) with separate parameters for each of N training data: VI without amortisation.

    You pass training data with their indices, ``guide(x, *given, index)``; a table holds the
    learned parameters of each index. Data without indices, such as validation data, are new:
    gradient steps from q(z; h = 0) find their q.

    Arguments:
        model: p(x, z), for the ELBO that the steps for new data ascend.
        num_data: number of training data N.
        num_steps: number of steps for new data.
        lr: initial learning rate of these steps, in units of h.
        posterior: module from h to q(z | x), a normal distribution.
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
        num_data = as_whole("num_data", num_data, 1)
        check_num_parameters(num_data * prod(in_shape), "a table of num_data rows")
        start = torch.zeros(num_data, prod(in_shape))
        table = nn.Sequential(
            nn.Embedding.from_pretrained(start, freeze=False), nn.Unflatten(-1, tuple(in_shape))
        )
        super().__init__(table, posterior, event_shape, missing)
        self.refinement = Refinement(model, posterior, num_steps, lr)
        self._num_given = len(model.likelihood.likelihood.given)

    def h(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """The parameters of q(z | x): from the table, or by gradient steps for new data."""
        if len(given) > self._num_given:
            if is_validation_enabled():
                self._check_index(given[-1])
            from_table: Tensor = self.encoder(given[-1])
            return from_table
        in_shape: Any = self.posterior.in_shape
        batch = x.shape[: x.ndim - len(self.event_shape)]
        start = torch.zeros(*batch, *in_shape, dtype=self.standardise.loc.dtype, device=x.device)
        refined: Tensor = self.refinement(start, x, *given)
        return refined

    def _check_index(self, index: Tensor) -> None:
        num_data = len(self.get_parameter("encoder.0.weight"))
        if index.is_floating_point() or bool(((index < 0) | (index >= num_data)).any()):
            raise InputError(
                f"the indices of training data must be integers from 0 to {num_data - 1}, as in "
                f"torch.arange({num_data}); leave them out for new data"
            )

    def q_of_standard(self, standard: Float[Tensor, "..."]) -> TorchDistributionMixin:
        """Raise InputError, as there is no encoder."""
        raise InputError(
            "free inference has no encoder, but a VampPrior needs one for its pseudo-inputs; use "
            "another prior, or amortised inference"
        )


class IndexedModel(DeepLatentModel):
    """p(z) p(x | z) for data that may come with their indices, which the model ignores."""

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """As :class:`DeepLatentModel`, without the tensors that the likelihood does not take."""
        return super().forward(x, *given[: len(self.likelihood.likelihood.given)])


INFERENCES: dict[str, Callable[..., AmortisedGuide]] = {
    "amortised": AmortisedGuide,
    "semi_amortised": SemiAmortisedGuide,
    "free": FreeGuide,
}
"""Guides by the name of their inference."""


def _reparameterise(q: TorchDistributionMixin, noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return z(h, eps), the sample of a normal q for noise eps ~ Normal(0, I)."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        diagonal: Tensor = q.mean + q.stddev * noise
        return diagonal
    if not hasattr(q, "scale_tril"):
        raise InputError(
            f"gradient steps refine a normal q(z | x) only; got {type(q).__name__}; use another "
            "posterior"
        )
    full: Tensor = q.loc + (q.scale_tril @ noise[..., None]).squeeze(-1)
    return full
