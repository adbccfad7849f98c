"""The optimiser of the parameters, its schedule, and the updates that they make."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from math import nan
from operator import attrgetter
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ...errors import InputError
from ..compiler.inductor import compile_recording
from ..compiler.recording.record import Recording
from ..nonfinite.guard import Guard
from ..parallel.fsdp import is_split, shard_like, total_norm
from ..private_torch import can_skip_updates, skipping_update
from .accumulation import GradientAccumulator
from .adam import AdamUpdate, clip_gradients
from .parameters import Gradients, Parameters
from .pyro_optim import PyroOptimiser
from .state import State

__all__ = ["MakeOptimiser", "Optimisation"]

MakeOptimiser = Callable[[list[Tensor]], Optimizer]
"""Makes an optimiser from the list of parameters, once they are known."""


class Optimisation:
    """Updates parameters by an optimiser, which is made once there are parameters.

    Arguments:
        parameters: those that are trained.
        optimiser: makes the optimiser from the list of parameters.
        schedule: makes the learning-rate schedule from the optimiser.
        clip_norm: largest global norm of a gradient.
        accumulate: steps whose mean gradient makes one update.

    Attributes:
        optimiser: None before there are parameters.
        schedule: None where there is none.
        places: type and device of each parameter, as the optimiser got it.
    """

    def __init__(
        self,
        parameters: Parameters,
        optimiser: MakeOptimiser | PyroOptim,
        schedule: Callable[[Optimizer], LRScheduler] | None,
        clip_norm: float | None,
        accumulate: int,
    ) -> None:
        self._accumulator = GradientAccumulator(accumulate)
        self._pyro: PyroOptimiser | None = None
        if isinstance(optimiser, PyroOptim):
            self._pyro = PyroOptimiser(optimiser, self.sync)
        else:
            self._make_optimiser = _check_maker(optimiser)
        self._make_schedule = schedule
        self._clip_norm = clip_norm
        self._parameters = parameters
        self._compiled_update: AdamUpdate | None = None
        self.optimiser: Optimizer | None = None
        self.schedule: LRScheduler | None = None
        self.places: list[tuple[torch.dtype, torch.device]] = []

    def add_new_parameters(self) -> None:
        """Give the optimiser the parameters that it does not have.

        Raises:
            InputError: if the optimiser or the schedule is not valid.
        """
        if len(self._parameters) == len(self.places):
            return
        new = self._parameters.tensors[len(self.places) :]
        is_first = self.optimiser is None
        if self._pyro is not None:
            self.optimiser = self._pyro.add(list(map(self._parameters.name, new)), new)
        elif self.optimiser is None:
            self.optimiser = self._make_optimiser(new)
        else:
            self.optimiser.param_groups[0]["params"].extend(new)
        if is_first:
            self._start()
        self.places += map(_get_place, new)

    def key(self) -> Hashable:
        """What a compiled update depends on.

        Raises:
            InputError: if parameters have another type or device than the optimiser was made for.
        """
        tensors = self._parameters.tensors
        if list(map(_get_place, tensors)) != self.places:
            raise InputError(
                "parameters changed their type or device after the optimiser was made; convert or "
                "move the model first, or make a new SVI"
            )
        assert self.optimiser is not None
        return AdamUpdate.key(self.optimiser), tuple(map(_requires_grad, tensors))

    def is_due(self, step: int) -> bool:
        """Whether an update follows the step of this number, counted from 1."""
        return self._accumulator.is_due(step)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update, in the first group."""
        if self.optimiser is None:
            return nan
        return float(self.optimiser.param_groups[0].get("lr", nan))

    def update(self, gradients: Gradients, guard: Guard, step: int) -> None:
        """Update the parameters after a step, unless the guard blocks it.

        Fused Adam and AdamW read on the device whether it does. Other optimisers wait for the
        device.
        """
        if self.optimiser is None:  # there is nothing to train
            return
        if self._pyro is not None:
            self._pyro.take_turn()
        tensors = self._parameters.tensors
        are_split = any(map(is_split, tensors))
        on_device = can_skip_updates(self.optimiser) and not are_split
        blocked: Tensor | None = None
        if self._accumulator.num_steps > 1:
            blocked = guard.blocked
            self._accumulator.add(gradients, blocked)
            if not self.is_due(step):
                return
            gradients, is_empty = self._accumulator.take_mean(len(tensors))
            if not guard.stops:
                blocked = is_empty
        elif on_device:
            blocked = guard.blocked
        if not on_device and (guard.was_blocked() if blocked is None else bool(blocked)):
            return
        for parameter, gradient in zip(tensors, gradients, strict=True):
            parameter.grad = gradient
        self.sync()
        if self._clip_norm is not None and are_split:
            _clip_split([each for each in gradients if each is not None], self._clip_norm)
        elif self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, self._clip_norm)
        context: Any = nullcontext()
        if on_device:
            assert blocked is not None
            context = skipping_update(self.optimiser, blocked)
        elif are_split:
            context = _separate_groups(self.optimiser)
        with torch.no_grad(), context:
            self.optimiser.step()
        self._parameters.clear_gradients()

    def compile_with_update(
        self,
        recording: Recording,
        inputs: list[Tensor],
        num_losses: int,
        has_gradient: list[bool],
        guard: Guard,
    ) -> tuple[Callable[..., list[Tensor]], list[Tensor]] | None:
        """Compile a recorded step and its update as one graph.

        Arguments:
            recording: returns losses, then the gradients that there are.
            inputs: tensors like those that the graph will be given.
            num_losses: number of losses.
            has_gradient: for each parameter whether it has a gradient.
            guard: counts the step and may block the update.

        Returns:
            The graph, which returns the losses, and the tensors that the update changes; None where
            the optimiser is not Adam or AdamW, or does not update after each step.
        """
        if self.optimiser is None:
            return None
        if self._accumulator.num_steps > 1 or AdamUpdate.key(self.optimiser) is None:
            return None
        parameters = self._parameters.tensors
        trained = [p for p, there in zip(parameters, has_gradient, strict=True) if there]
        place_of = {id(tensor): i for i, tensor in enumerate(recording.reads)}
        update = AdamUpdate(self.optimiser, trained)
        own = [guard.counts, *update.tensors]

        def tail(tensors: list[Tensor], results: list[Tensor]) -> list[Tensor]:
            counts, *moments = tensors[: len(own)]
            reads = tensors[len(own) :]
            losses, gradients = results[:num_losses], results[num_losses:]
            blocked = guard.count_step(counts, losses, gradients)
            inner = [reads[place_of[id(parameter)]] for parameter in trained]
            update(moments, inner, clip_gradients(gradients, self._clip_norm), blocked)
            return losses

        run = compile_recording(recording, inputs, tail, own)

        def step(*inputs: Tensor) -> list[Tensor]:
            if self._pyro is not None:
                self._pyro.take_turn()
            if self._compiled_update is not update:
                self.sync()
                update.load_step_counts()
                self._compiled_update = update
            update.refresh_rates()
            return run(*inputs)

        return step, [guard.counts, *trained, *update.moments, *update.counts]

    def sync_shared(self) -> None:
        """Bring the states of the optimiser up to date, whichever SVI has stepped it last."""
        if self._pyro is not None:
            self._pyro.take_turn()
        self.sync()

    def sync(self, *_: Any) -> None:
        """Write the number of steps taken in a graph into torch's optimiser."""
        if self._compiled_update is not None:
            self._compiled_update.save_step_counts()
            self._compiled_update = None

    def settings(self) -> dict[str, Any]:
        """What updates depend on besides gradients, as plain values."""
        assert self.optimiser is not None
        plain = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.optimiser.defaults.items()
            if not isinstance(value, Tensor)
        }
        own = {"clip_norm": self._clip_norm, "accumulate": self._accumulator.num_steps}
        return {"optimiser": type(self.optimiser).__name__, **plain, **own}

    def save(self, state: State) -> None:
        """Add parameters, accumulated gradients, optimiser and schedule to a state.

        Raises:
            InputError: if the optimiser or the schedule holds other than tensors and plain values.
        """
        self.sync()
        state.add("parameter", self._parameters.tensors)
        self._accumulator.save(state)
        state.add_state_dict("optimiser", self.optimiser)
        if self.schedule is not None:
            state.add_state_dict("schedule", self.schedule)

    def load(self, state: State) -> None:
        """Go on from a state.

        Raises:
            InputError: if its parameters or its optimiser are others.
        """
        self.sync()
        tensors = self._parameters.tensors
        state.load("parameter", tensors)
        self._accumulator.load(state, tensors)
        state.load_state_dict("optimiser", self.optimiser)
        if self._pyro is not None:
            self._pyro.share_again()
        self._split_moments()
        if self.schedule is not None:
            state.load_state_dict("schedule", self.schedule)

    def _split_moments(self) -> None:
        """Of what the optimiser holds for each entry of a split parameter, keep the local part."""
        assert self.optimiser is not None
        for parameter in filter(is_split, self._parameters.tensors):
            moments = self.optimiser.state.get(parameter, {})
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = shard_like(value, parameter)

    def _start(self) -> None:
        """Check the optimiser just made, and make its schedule."""
        if not isinstance(self.optimiser, Optimizer) or isinstance(self.optimiser, LBFGS):
            raise InputError(
                "optimiser must make a torch.optim optimiser of gradient steps from the list of "
                f"parameters; it returned {type(self.optimiser).__name__}"
            )
        if self._make_schedule is not None:
            self.schedule = self._make_schedule(self.optimiser)
            if not isinstance(self.schedule, LRScheduler) or isinstance(
                self.schedule, ReduceLROnPlateau
            ):
                raise InputError(
                    "schedule must make a torch schedule that is stepped at each update, without "
                    "a loss, from the optimiser, such as functools.partial(LinearLR, "
                    f"total_iters=1000); it returned {type(self.schedule).__name__}"
                )
        self.optimiser.register_step_pre_hook(self.sync)
        self.optimiser.register_state_dict_pre_hook(self.sync)


_get_place = attrgetter("dtype", "device")
_requires_grad = attrgetter("requires_grad")


@contextmanager
def _separate_groups(optimiser: Optimizer) -> Iterator[None]:
    """Within, split parameters are in groups of their own, as fused kernels need."""
    groups = optimiser.param_groups
    parts = (
        group | {"params": [p for p in group["params"] if is_split(p) == are_split]}
        for group in groups
        for are_split in (False, True)
    )
    optimiser.param_groups = [part for part in parts if part["params"]]
    try:
        yield
    finally:
        optimiser.param_groups = groups


def _clip_split(gradients: list[Tensor], clip_norm: float) -> None:
    """``torch.nn.utils.clip_grad_norm_`` for gradients of which some are split."""
    factor = (clip_norm / (total_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.dtype))


def _check_maker(optimiser: Any) -> MakeOptimiser:
    if not callable(optimiser):
        raise InputError(
            "optimiser must be a function from the list of parameters to an optimiser, such as "
            f"functools.partial(torch.optim.Adam, lr=1e-3); got {type(optimiser).__name__}"
        )
    make: MakeOptimiser = optimiser
    return make
