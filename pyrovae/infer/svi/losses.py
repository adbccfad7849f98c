"""The losses that SVI takes: objects with Pyro's methods of a loss, and functions."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...errors import InputError
from ..objectives.elbo import ELBO
from ..objectives.objective import Objective
from ..pair.bound import PyroFunction
from ..trees import map_leaves

__all__ = [
    "FunctionLoss",
    "as_loss",
    "as_numbers",
    "check_can_be_split",
    "describe_loss",
    "is_own",
]


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
    if isinstance(loss, Tensor):
        return loss.item()
    return map_leaves(lambda each: each.item() if isinstance(each, Tensor) else each, loss)


def check_can_be_split(loss: Any) -> None:
    """Check that the gradient of a batch is the mean of the gradients of its shards.

    Raises:
        InputError: if it is not.
    """
    if not is_own(loss):
        raise InputError(
            f"the loss {type(loss).__name__} cannot be computed in shards, since it is no mean "
            "over data; give an objective of this package, or no shards"
        )
    if not getattr(loss, "is_mean_over_data", True):
        raise InputError(
            f"{loss.name} cannot be computed in shards, since it compares the data of a batch with "
            "each other, so that it is no mean over data; train it in one process without shards"
        )


def describe_loss(objective: Any) -> str:
    """The class of a loss and its settings, which a resumed training must have again."""
    return f"{type(objective).__name__} {_select_plain(vars(objective))}"


def _select_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The public attributes that are numbers, strings or None."""
    return {
        name: value
        for name, value in sorted(values.items())
        if not name.startswith("_") and isinstance(value, bool | int | float | str | None)
    }
