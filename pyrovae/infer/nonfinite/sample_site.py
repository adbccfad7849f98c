"""A sample site of a step, its parts, and which of them are not finite."""

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
    """A sample site as a program passes it, within the handlers that it runs under.

    Arguments:
        msg: Pyro's message, once its distribution is known.
        plate: name of the plate over data.
        batch: the data of the step.
    """

    def __init__(self, msg: Any, plate: str, batch: StepBatch) -> None:
        self._msg = msg
        self._fn = msg["fn"]
        self._batch = batch
        frames = (frame for frame in msg["cond_indep_stack"] if frame.name == plate)
        self._frame = next(frames, None)
        is_replayed = any(isinstance(each, ReplayMessenger) for each in _PYRO_STACK)
        self._name = f"site {msg['name']!r} of the {'model' if is_replayed else 'guide'}"

    def first(self) -> NonFiniteTensor | None:
        """Of a site that is not finite, the first part that is not; None of one that is."""
        try:
            log_density = self._log_density()
        except LOG_PROB_ERRORS:  # that of a flow, or of what is no matrix of a covariance
            log_density, has_density = None, False
        else:
            has_density = True
        value = self.value()
        drawn = None if self._msg["is_observed"] else value
        effects = [each for each in (drawn, log_density) if each is not None]
        if effects or not has_density:
            has_nan = log_density is None or not log_density.how.startswith("infinite")
            for cause in (*self._arguments(), value if has_nan else None):
                if cause is not None and _may_explain(cause, effects):
                    return cause
        return log_density

    def argument(self) -> NonFiniteTensor | None:
        """The first argument that is not finite; also where no value could be drawn."""
        return next((each for each in self._arguments() if each is not None), None)

    def value(self) -> NonFiniteTensor | None:
        """What is not finite in its value."""
        role = "observed" if self._msg["is_observed"] else "drawn"
        if self._msg["infer"].get("_deterministic"):
            role = "computed"
        return self._part(f"value {role} at", self._msg["value"], self._fn.event_dim)

    def on_gradient(self, note: Callable[[NonFiniteTensor], None]) -> None:
        """Call with each gradient in its value or arguments that is not finite, as it comes."""
        parts = [("value", self._msg["value"], self._fn.event_dim)]
        parts += [
            (_what(each), each.value, self._behind(each)) for each in tensor_arguments(self._fn)
        ]
        for what, tensor, behind in parts:
            if isinstance(tensor, Tensor) and tensor.requires_grad:

                def look(gradient: Tensor, what: str = what, behind: int = behind) -> None:
                    wrong = self._part(f"gradient in the {what} at", gradient, behind)
                    if wrong is not None:
                        note(self._with_figures(wrong))

                tensor.register_hook(look)

    def _arguments(self) -> Iterator[NonFiniteTensor | None]:
        for each in tensor_arguments(self._fn):
            value = each.value
            if each.name.endswith("logits"):
                value = value.masked_fill(value == -torch.inf, 0.0)  # a probability of 0 is fine
            yield self._part(f"{_what(each)} at", value, self._behind(each))

    def _log_density(self) -> NonFiniteTensor | None:
        msg = self._msg
        # With gradients, since distributions may keep what they compute.
        log_prob = self._fn.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        log_prob = scale_and_mask(log_prob, msg["scale"], msg["mask"])
        wrong = self._part(f"log density of {_family(self._fn)} at", log_prob, 0)
        return None if wrong is None else self._with_figures(wrong)

    def _with_figures(self, wrong: NonFiniteTensor) -> NonFiniteTensor:
        """With the extremes of what is finite in the arguments and the value."""
        tensors = [(each.name, each.value) for each in tensor_arguments(self._fn)]
        if isinstance(self._msg["value"], Tensor):
            tensors.append(("value", self._msg["value"]))
        known = [(name, tensor[tensor.isfinite()]) for name, tensor in tensors]
        figures = [f"{name} {_range(tensor)}" for name, tensor in known if tensor.numel()]
        return replace(wrong, how=f"{wrong.how} ({', '.join(figures)})") if figures else wrong

    def _part(self, what: str, tensor: Any, behind: int) -> NonFiniteTensor | None:
        """What is not finite in a tensor with so many dimensions behind those of the batch shape"""
        if not isinstance(tensor, Tensor):
            return None
        wrong = ~tensor.detach().isfinite()
        dim = getattr(self._frame, "dim", None) or 0
        rows = self._batch.rows(wrong, dim - behind, self._frame)
        return NonFiniteTensor.of(f"{what} {self._name}", tensor, rows)

    def _behind(self, argument: Argument) -> int:
        inner = argument.num_batch_dims - len(self._fn.batch_shape)
        return max(0, inner) + argument.event_dim


def _what(argument: Argument) -> str:
    return f"{argument.name} of {argument.family}"


def _family(fn: Any) -> str:
    """The class of a distribution within its wrappers."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return type(fn).__name__


def _range(tensor: Tensor) -> str:
    low, high = tensor.detach().aminmax()
    return f"{low:.3g}" if low == high else f"from {low:.3g} to {high:.3g}"


def _may_explain(cause: NonFiniteTensor, effects: list[NonFiniteTensor]) -> bool:
    """Whether the data of one are among those of the others, as far as is known."""
    return not effects or any(
        cause.rows is None or effect.rows is None or bool(cause.rows & effect.rows)
        for effect in effects
    )
