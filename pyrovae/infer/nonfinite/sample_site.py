"""Find the parts of a sample site that are not finite: arguments, value, density, gradients."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor
from torch.distributions import Independent

from ..pair.latents import LOG_PROB_ERRORS
from .arguments import Argument, tensor_arguments
from .non_finite_tensor import NonFiniteTensor, StepBatch

__all__ = ["SampleSite"]


class SampleSite:
    """A sample site of a running program; use it within the effect handlers that apply to the site.

    Arguments:
        msg: Pyro's message, which holds the distribution already.
        plate: name of the plate over data.
        batch: the batch of the step.
    """

    def __init__(self, msg: Any, plate: str, batch: StepBatch) -> None:
        self._msg = msg
        self._fn = msg["fn"]
        self._batch = batch
        frames = (frame for frame in msg["cond_indep_stack"] if frame.name == plate)
        self._frame = next(frames, None)
        is_replayed = any(isinstance(each, ReplayMessenger) for each in _PYRO_STACK)
        self._name = f"site {msg['name']!r} of the {'model' if is_replayed else 'guide'}"

    def find_first(self) -> NonFiniteTensor | None:
        """The first part that is not finite; None if the drawn value and the density are finite."""
        try:
            log_density = self._check_log_density()
        except LOG_PROB_ERRORS:  # a flow without one, or a covariance that is not positive definite
            log_density, has_density = None, False
        else:
            has_density = True
        value = self.check_value()
        drawn = None if self._msg["is_observed"] else value
        effects = [each for each in (drawn, log_density) if each is not None]
        if effects or not has_density:
            has_nan = log_density is None or not log_density.problem.startswith("infinite")
            for cause in (*self._check_arguments(), value if has_nan else None):
                if cause is not None and _may_explain(cause, effects):
                    return cause
        return log_density

    def find_argument(self) -> NonFiniteTensor | None:
        """The first argument that is not finite; works also if no value could be drawn."""
        return next((each for each in self._check_arguments() if each is not None), None)

    def check_value(self) -> NonFiniteTensor | None:
        """The value, if it is not finite."""
        role = "observed" if self._msg["is_observed"] else "drawn"
        if self._msg["infer"].get("_deterministic"):
            role = "computed"
        return self._check(f"value {role} at", self._msg["value"], self._fn.event_dim)

    def watch_gradients(self, callback: Callable[[NonFiniteTensor], None]) -> None:
        """In the backward pass, call back with each gradient of a part that is not finite."""
        parts = [("value", self._msg["value"], self._fn.event_dim)]
        parts += [
            (_describe(each), each.value, self._num_event_dims(each))
            for each in tensor_arguments(self._fn)
        ]
        for name, tensor, event_dim in parts:
            if isinstance(tensor, Tensor) and tensor.requires_grad:

                def check(gradient: Tensor, name: str = name, event_dim: int = event_dim) -> None:
                    found = self._check(f"gradient in the {name} at", gradient, event_dim)
                    if found is not None:
                        callback(self._with_ranges(found))

                tensor.register_hook(check)

    def _check_arguments(self) -> Iterator[NonFiniteTensor | None]:
        for each in tensor_arguments(self._fn):
            value = each.value
            if each.name.endswith("logits"):
                value = value.masked_fill(value == -torch.inf, 0.0)  # a probability of 0 is allowed
            yield self._check(f"{_describe(each)} at", value, self._num_event_dims(each))

    def _check_log_density(self) -> NonFiniteTensor | None:
        msg = self._msg
        # With gradients, since distributions may cache what they compute.
        log_prob = self._fn.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        log_prob = scale_and_mask(log_prob, msg["scale"], msg["mask"])
        found = self._check(f"log density of {_base_family(self._fn)} at", log_prob, 0)
        return None if found is None else self._with_ranges(found)

    def _with_ranges(self, found: NonFiniteTensor) -> NonFiniteTensor:
        """Add the ranges of the finite entries in the arguments and the value."""
        tensors = [(each.name, each.value) for each in tensor_arguments(self._fn)]
        if isinstance(self._msg["value"], Tensor):
            tensors.append(("value", self._msg["value"]))
        finite = [(name, tensor[tensor.isfinite()]) for name, tensor in tensors]
        ranges = [f"{name} {_range(tensor)}" for name, tensor in finite if tensor.numel()]
        if not ranges:
            return found
        return replace(found, problem=f"{found.problem} ({', '.join(ranges)})")

    def _check(self, name: str, tensor: Any, event_dim: int) -> NonFiniteTensor | None:
        """A tensor of this site, if it is not finite.

        Arguments:
            name: what it is, in words.
            tensor: the tensor; other objects pass.
            event_dim: number of dimensions to the right of the site's batch shape.
        """
        if not isinstance(tensor, Tensor):
            return None
        bad = ~tensor.detach().isfinite()
        dim = getattr(self._frame, "dim", None) or 0
        rows = self._batch.find_rows(bad, dim - event_dim, self._frame)
        return NonFiniteTensor.find(f"{name} {self._name}", tensor, rows)

    def _num_event_dims(self, argument: Argument) -> int:
        """Number of an argument's dimensions to the right of the site's batch shape."""
        inner = argument.num_batch_dims - len(self._fn.batch_shape)
        return max(0, inner) + argument.event_dim


def _describe(argument: Argument) -> str:
    return f"{argument.name} of {argument.family}"


def _base_family(fn: Any) -> str:
    """Name of the class inside the wrappers of a distribution."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return type(fn).__name__


def _range(tensor: Tensor) -> str:
    low, high = tensor.detach().aminmax()
    return f"{low:.3g}" if low == high else f"from {low:.3g} to {high:.3g}"


def _may_explain(cause: NonFiniteTensor, effects: list[NonFiniteTensor]) -> bool:
    """Whether a cause and one of the effects share data, or may do so."""
    return not effects or any(
        cause.rows is None or effect.rows is None or bool(cause.rows & effect.rows)
        for effect in effects
    )
