"""The negative ELBO per datum, as a loss for :class:`pyrovae.SVI` or Pyro's SVI."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pyro.infer.util import torch_backward
from torch import Tensor

from ...arguments import as_text, as_whole
from ..pair.bound import Bound, PyroFunction, evaluate_bound
from ..pair.pair import Pair
from ..pair.scaling import find_scaled_sites

__all__ = ["ELBO", "Loss"]


class Loss(NamedTuple):
    """The negative ELBO per datum and its two terms, in nats; ``loss = reconstruction + kl``.

    Attributes:
        loss: -ELBO / N.
        reconstruction: -E_q[log p(x | z)] / N.
        kl: E_q[log q(z) - log p(z)] / N, estimated at the samples of z.
    """

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    kl: Float[Tensor, ""]

    def __float__(self) -> float:
        """The loss as a number; this waits for the device."""
        return float(self.loss)

    def __round__(self, ndigits: int | None = None) -> float:
        """The loss as a number, rounded."""
        return round(float(self.loss), ndigits)


class ELBO:
    """The ELBO of the whole data set, per datum, estimated from a minibatch.

    The loss scales a minibatch up within the plate over data, so latents shared by all data keep
    their right weight. Values and gradients equal those of ``pyro.infer.Trace_ELBO`` on the same
    noise, divided by N. It has the methods of a Pyro loss, so ``pyro.infer.SVI`` takes it too.

    Arguments:
        size: number of data N in the data set; the size of the plate by default.
        plate: name of the plate over data.
    """

    name = "elbo"

    def __init__(self, size: int | None = None, plate: str = "data") -> None:
        self.size = None if size is None else as_whole("size", size, 1, 2**53)
        self.plate = as_text("plate", plate)
        self._scaled: tuple[PyroFunction, PyroFunction, int, frozenset[str]] | None = None

    def loss(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> Loss:
        """The loss and its terms, detached.

        Raises:
            InputError: if the pair has no bound on these data.
        """
        with torch.no_grad():
            return self._loss(self._bound(model, guide, *args, **kwargs))

    def differentiable_loss(
        self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any
    ) -> Float[Tensor, ""]:
        """A function with the gradient of the loss, but not its value."""
        bound = self._bound(model, guide, *args, **kwargs)
        return -bound.surrogate() / bound.size

    def loss_and_grads(
        self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any
    ) -> Loss:
        """Compute the loss, and add its gradient to the ``grad`` of each parameter."""
        bound = self._bound(model, guide, *args, **kwargs)
        torch_backward(-bound.surrogate() / bound.size)
        return self._loss(bound)

    def _bound(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> Bound:
        scaled: frozenset[str] = frozenset()
        if self.size is not None:
            scaled = self._find_scaled_sites(model, guide, args, kwargs, self.size)
        bound = evaluate_bound(
            model, guide, *args, size=self.size, plate=self.plate, kwargs=kwargs, scaled=scaled
        )
        bound.check()
        return bound

    def _find_scaled_sites(
        self,
        model: PyroFunction,
        guide: PyroFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        size: int,
    ) -> frozenset[str]:
        """The sites that a pair scales itself, found on its first batch."""
        if self._scaled is None or self._scaled[:3] != (model, guide, size):
            pair = Pair(model, guide)
            scaled = find_scaled_sites(pair, args, kwargs, size=size, plate=self.plate)
            self._scaled = model, guide, size, scaled
        return self._scaled[3]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pair that it was last used with."""
        return vars(self) | {"_scaled": None}

    def _loss(self, bound: Bound) -> Loss:
        reconstruction = -bound.log_likelihood().detach() / bound.size
        kl = bound.kl().detach() / bound.size
        return Loss(reconstruction + kl, reconstruction, kl)
