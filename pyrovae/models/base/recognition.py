"""Recognition models q(z | x): guides that check and standardise x before an encoder takes it."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ...arguments import as_data, as_instance
from ...likelihoods.support import check_values
from ...nn import Standardise
from .parameters import declare_parameters

__all__ = ["AmortisedGuide", "RecognitionModel", "check_batch", "encoder_input_shape"]


def check_batch(x: Any, event_shape: tuple[int, ...]) -> None:
    """Check that x are data along the first dimension, as models and guides are called with.

    Raises:
        InputError: if not; it names both shapes.
    """
    as_data("x", as_instance("x", x, Tensor, "a tensor of data"), event_shape, batch_dims=1)


def encoder_input_shape(event_shape: Sequence[int], missing: bool) -> tuple[int, ...]:
    """Shape of an encoder's input for one datum, which includes the mask if entries may be missing.

    >>> encoder_input_shape((1, 8, 8), missing=True)
    (2, 8, 8)
    """
    first, *rest = event_shape
    return (2 * first if missing else first, *rest)


class RecognitionModel(nn.Module):
    """A guide q(z | x) with an encoder of standardised x (see :class:`Standardise`).

    If entries may be missing, they are filled with the mean, and the encoder also takes the mask of
    present entries.

    Arguments:
        encoder: network whose input has shape :func:`encoder_input_shape` for each datum.
        event_shape: shape of one datum.
        missing: whether entries of x may be missing.
    """

    def __init__(self, encoder: nn.Module, event_shape: Sequence[int], missing: bool) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.missing = missing
        self.standardise = Standardise(event_shape)
        self.encoder = encoder

    def begin(self, x: Num[Tensor, "batch *event"]) -> None:
        """Declare the parameters to Pyro and check x. Call it first in ``forward``, outside plates.

        Raises:
            InputError: if x has another shape or is not finite (under Pyro's validation).
        """
        declare_parameters(self)
        if is_validation_enabled():
            check_batch(x, self.event_shape)
            check_values(x, self.event_shape, missing=self.missing)

    def encoder_input(self, x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        """x as the encoder takes it, of the shape that :func:`encoder_input_shape` gives."""
        return self.add_mask(self.standardise(x))

    def add_mask(self, standard: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Fill missing entries with the mean and append the mask, if entries may be missing."""
        if not self.missing:
            return standard
        present = ~standard.isnan()
        filled = torch.where(present, standard, 0.0)
        return torch.cat([filled, present.to(filled.dtype)], -len(self.event_shape))


class AmortisedGuide(RecognitionModel):
    """The Pyro guide q(z | x) = posterior(encoder(x)), with one network for all data."""

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
            z: Tensor = pyro.sample("z", self.q(x, *given))
            return z

    def h(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """The output of the encoder for x: the parameters of q(z | x)."""
        return self._h_of_standard(self.standardise(x))

    def q(self, x: Num[Tensor, "..."], *given: Tensor) -> TorchDistributionMixin:
        """The distribution q(z | x)."""
        q: TorchDistributionMixin = self.posterior(self.h(x, *given))
        return q

    def q_of_standard(self, standard: Float[Tensor, "..."]) -> TorchDistributionMixin:
        """q(z | x) for x that is already standardised."""
        q: TorchDistributionMixin = self.posterior(self._h_of_standard(standard))
        return q

    def centre(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """A point that represents q(z | x): the posterior's centre, or its mean if it has none."""
        h: Tensor = self.h(x, *given)
        posterior: Any = self.posterior
        centre: Tensor = posterior.centre(h) if hasattr(posterior, "centre") else posterior(h).mean
        return centre

    def _h_of_standard(self, standard: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        inputs = self.add_mask(standard)
        h: Tensor = self.encoder(inputs).to(inputs.dtype)
        return h
