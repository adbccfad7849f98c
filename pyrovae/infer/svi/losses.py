"""The losses that SVI takes: objects with Pyro's methods of a loss, and functions."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...errors import InputError
from ..objectives.elbo import ELBO
from ..objectives.objective import Objective
from ..pair.bound import PyroFunction
from ..trees import map_leaves

__all__ = ["FunctionLoss", "as_loss", "as_numbers", "is_own"]


class FunctionLoss:
    """A function as a loss, as in ``pyro.infer.SVI(..., loss=function)``.

    Arguments:
        function: maps model, guide and the arguments of a step to a loss, which can be
            differentiated unless ``loss_and_grads`` is given.
        loss_and_grads: computes the loss and adds its gradients to the parameters; the backward
            pass of ``function`` unless given.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        loss_and_grads: Callable[..., Any] | None = None,
    ) -> None:
        self._function = function
        self._loss_and_grads = loss_and_grads

    def loss(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> Any:
        """The loss."""
        return self._function(model, guide, *args, **kwargs)

    def loss_and_grads(
        self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any
    ) -> Any:
        """Compute the loss, and add its gradient to the ``grad`` of each parameter."""
        if self._loss_and_grads is not None:
            return self._loss_and_grads(model, guide, *args, **kwargs)
        loss = self._function(model, guide, *args, **kwargs)
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
        return loss


def as_loss(loss: Any, loss_and_grads: Callable[..., Any] | None) -> Any:
    """An object with the methods ``loss`` and ``loss_and_grads``.

    Raises:
        InputError: if the loss is neither such an object nor a function.
    """
    if loss is None:
        loss = ELBO()
    is_object = hasattr(loss, "loss_and_grads")
    if loss_and_grads is not None and (is_object or not callable(loss_and_grads)):
        raise InputError(
            "loss_and_grads must be a function, given together with a loss that is a function; "
            f"got {type(loss_and_grads).__name__} with the loss {type(loss).__name__}"
        )
    if is_object and not isinstance(loss, type):
        return loss
    if callable(loss) and not isinstance(loss, type):
        return FunctionLoss(loss, loss_and_grads)
    given = loss.__name__ if isinstance(loss, type) else type(loss).__name__
    raise InputError(
        "loss must be an ELBO of this package or of pyro.infer, such as Trace_ELBO(), or a "
        f"function of model, guide and data; got {given}"
    )


def is_own(loss: Any) -> bool:
    """Whether a loss is one of this package, whose values are tensors on their device."""
    return isinstance(loss, ELBO | Objective)


def as_numbers(loss: Any) -> Any:
    """The loss, or each of several, as a Python number, as ``pyro.infer.SVI`` returns it."""
    return map_leaves(lambda each: each.item() if isinstance(each, Tensor) else each, loss)
