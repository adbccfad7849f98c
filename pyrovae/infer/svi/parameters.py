"""The parameters that a pair trains, and what updates them: an optimiser and a schedule."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.optim import LBFGS, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ...errors import InputError
from ..compiler.compiled import compile_recording
from ..compiler.record import Recording
from ..nonfinite.guard import Guard
from ..parallel.fsdp import is_split, shard_like, total_norm
from .state import State
from .update import AdamUpdate, clipped

__all__ = ["MakeOptimiser", "Meeting", "Parameters"]

MakeOptimiser = Callable[[list[Tensor]], Optimizer]
"""Makes an optimiser of the list of parameters, once they are known."""

Gradients = list[Tensor | None]


class Parameters:
    """Parameters as they are met, with their optimiser, which is made once there is one.

    Arguments:
        optimiser: makes it.
        schedule: makes that of the learning rate, from the optimiser.
        clip_norm: largest global norm of a gradient.
        accumulate: steps whose mean gradient makes one update.

    Attributes:
        optimiser: None before there are parameters.
        schedule: None where there is none.
        places: type and device of each parameter, as it was met.
    """

    def __init__(
        self,
        optimiser: MakeOptimiser | PyroOptim,
        schedule: Callable[[Optimizer], LRScheduler] | None,
        clip_norm: float | None,
        accumulate: int,
    ) -> None:
        if accumulate < 1:
            raise InputError(f"accumulate is {accumulate}; it must be 1 or more")
        self._make_optimiser = _maker(optimiser)
        self._make_schedule = schedule
        self._clip_norm = clip_norm
        self._accumulate = accumulate
        self._met: dict[int, Tensor] = {}
        self._num_known = 0
        self._sums: dict[int, Tensor] = {}
        self._num_summed = torch.zeros((), dtype=torch.long)
        self._update: AdamUpdate | None = None
        self.optimiser: Optimizer | None = None
        self.schedule: LRScheduler | None = None
        self.places: list[tuple[torch.dtype, torch.device]] = []

    def __len__(self) -> int:
        return len(self._met)

    @property
    def tensors(self) -> list[Tensor]:
        """Those met so far, unconstrained."""
        return list(self._met.values())

    def meet(self, parameter: Tensor) -> None:
        """Take in a parameter; gradients that are not of this step are dropped."""
        if id(parameter) not in self._met and parameter.requires_grad:
            parameter.grad = None
            self._met[id(parameter)] = parameter

    def take_gradients(self) -> Gradients:
        """The gradient in each parameter, which is no longer held there."""
        gradients = [parameter.grad for parameter in self._met.values()]
        self.drop_gradients()
        return gradients

    def drop_gradients(self) -> None:
        """Hold none."""
        for parameter in self._met.values():
            parameter.grad = None

    def train_new(self) -> None:
        """Give the optimiser those that it does not have.

        Raises:
            InputError: if there are none at all, or the optimiser or schedule is none.
        """
        if not self._met:
            raise InputError(
                "model and guide have nothing to train: declare parameters with pyro.param, "
                "networks with pyro.module, or pass modules"
            )
        new = self.tensors[self._num_known :]
        if not new:
            return
        if self.optimiser is None:
            self._make(new)
        else:
            self.optimiser.param_groups[0]["params"].extend(new)
        self._num_known += len(new)
        self.places += map(_place, new)

    def key(self) -> Hashable:
        """What a compiled update depends on.

        Raises:
            InputError: if parameters are no longer what the optimiser was made for.
        """
        if list(map(_place, self._met.values())) != self.places:
            raise InputError(
                "parameters changed their type or device after the optimiser was made; convert or "
                "move the model first, or make a new SVI"
            )
        assert self.optimiser is not None
        return AdamUpdate.key(self.optimiser), tuple(map(_is_trained, self._met.values()))

    def is_due(self, num_steps: int) -> bool:
        """Whether an update follows the step of this number."""
        return num_steps % self._accumulate == 0

    @property
    def learning_rate(self) -> float:
        """That of the next update, in the first group."""
        assert self.optimiser is not None
        return float(self.optimiser.param_groups[0]["lr"])

    @torch.no_grad()
    def follow(self, gradients: Gradients, guard: Guard, num_steps: int) -> None:
        """What a step is followed by: an update by torch's optimiser, unless the guard blocks it.

        Fused Adam and AdamW see for themselves whether it does; for others this waits for the
        device.
        """
        assert self.optimiser is not None
        blocked, tensors = guard.blocked, self.tensors
        if self._accumulate > 1:
            for place, gradient in enumerate(gradients):
                if gradient is not None:
                    share = torch.where(blocked, 0.0, gradient / self._accumulate)
                    total = self._sums.get(place)
                    self._sums[place] = share if total is None else total + share
            self._num_summed = self._num_summed.to(blocked.device) + ~blocked
            if not self.is_due(num_steps):
                return
            # Of the mean over all steps it makes that over those that count.
            factor = self._accumulate / self._num_summed.clamp_min(1)
            gradients = [
                None if total is None else total * factor.to(total.dtype)
                for total in map(self._sums.get, range(len(tensors)))
            ]
            if not guard.stops:
                blocked = self._num_summed == 0
            self._sums.clear()
            self._num_summed = torch.zeros_like(self._num_summed)
        are_split = any(map(is_split, tensors))
        # Others than Adam's may start from what is not there yet, where the first is blocked.
        sees = (
            isinstance(self.optimiser, Adam | AdamW)
            and getattr(self.optimiser, "_step_supports_amp_scaling", False)
            and not are_split
        )
        if not sees and bool(blocked):
            return
        for parameter, gradient in zip(tensors, gradients, strict=True):
            parameter.grad = gradient
        self.settle()
        if self._clip_norm is not None and are_split:
            _clip([each for each in gradients if each is not None], self._clip_norm)
        elif self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, self._clip_norm)
        if sees:
            self.optimiser.found_inf = blocked.float()  # type: ignore[attr-defined]
            self.optimiser.grad_scale = None  # type: ignore[attr-defined]
        with _apart(self.optimiser) if are_split else nullcontext():
            self.optimiser.step()
        if sees:
            del self.optimiser.found_inf, self.optimiser.grad_scale  # type: ignore[attr-defined]
        self.drop_gradients()

    def compiled(
        self,
        recording: Recording,
        inputs: list[Tensor],
        num_losses: int,
        present: list[bool],
        guard: Guard,
    ) -> Callable[..., list[Tensor]] | None:
        """A recorded step with the update as one graph, which gives the losses.

        Arguments:
            recording: gives losses, then the gradients that there are.
            inputs: tensors like those that it will be given.
            num_losses: how many.
            present: whether each parameter has a gradient.
            guard: counts the step and may block the update.

        Returns:
            None where the update is not Adam's, or does not follow each step.
        """
        assert self.optimiser is not None
        if self._accumulate > 1 or AdamUpdate.key(self.optimiser) is None:
            return None
        live = [p for p, there in zip(self.tensors, present, strict=True) if there]
        places = {id(tensor): i for i, tensor in enumerate(recording.reads)}
        update = AdamUpdate(self.optimiser, live)
        own = [guard.counts, *update.own]

        def tail(tensors: list[Tensor], given: list[Tensor]) -> list[Tensor]:
            counts, *moments = tensors[: len(own)]
            reads = tensors[len(own) :]
            losses, gradients = given[:num_losses], given[num_losses:]
            blocked = guard.count_step(counts, [*losses, *gradients])
            trained = [reads[places[id(parameter)]] for parameter in live]
            update(moments, trained, clipped(gradients, self._clip_norm), blocked)
            return losses

        run = compile_recording(recording, inputs, tail, own)

        def step(*inputs: Tensor) -> list[Tensor]:
            if self._update is not update:
                self.settle()
                update.resume()
                self._update = update
            update.tick()
            return run(*inputs)

        return step

    def settle(self, *_: Any) -> None:
        """Bring what torch's optimiser knows of the number of steps up to date."""
        if self._update is not None:
            self._update.settle()
            self._update = None

    def settings(self) -> dict[str, Any]:
        """What updates depend on beside gradients, as plain values."""
        assert self.optimiser is not None
        plain = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.optimiser.defaults.items()
            if not isinstance(value, Tensor)
        }
        own = {"clip_norm": self._clip_norm, "accumulate": self._accumulate}
        return {"optimiser": type(self.optimiser).__name__, **plain, **own}

    def keep(self, state: State) -> None:
        """Add parameters, sums of gradients, optimiser and schedule to a state.

        Raises:
            InputError: if the optimiser, or the schedule, keeps what is no tensor or plain value.
        """
        self.settle()
        state.add("parameter", self.tensors)
        state.add("sum", [self._sums[place] for place in sorted(self._sums)])
        state.record["sums"] = sorted(self._sums)
        state.add("num_summed", [self._num_summed])
        state.add_tree("optimiser", self.optimiser)
        if self.schedule is not None:
            state.add_tree("schedule", self.schedule)

    def load(self, state: State) -> None:
        """Go on from a state.

        Raises:
            InputError: if it is of other parameters, or another optimiser.
        """
        self.settle()
        state.load("parameter", self.tensors)
        tensors, places = self.tensors, state.record["sums"]
        (self._num_summed,) = state.of("num_summed")
        self._sums = {
            place: shard_like(value, tensors[place])
            for place, value in zip(places, state.of("sum"), strict=True)
        }
        state.load_tree("optimiser", self.optimiser)
        self._split_moments()
        if self.schedule is not None:
            state.load_tree("schedule", self.schedule)

    def _split_moments(self) -> None:
        """Hold a part alone of what an optimiser keeps for each entry of a parameter."""
        assert self.optimiser is not None
        for parameter in filter(is_split, self.tensors):
            kept = self.optimiser.state.get(parameter, {})
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[name] = shard_like(value, parameter)

    def _make(self, new: list[Tensor]) -> None:
        self.optimiser = self._make_optimiser(new)
        if not isinstance(self.optimiser, Optimizer) or isinstance(self.optimiser, LBFGS):
            raise InputError(
                "optimiser makes a torch.optim optimiser of gradient steps from the list of "
                f"parameters; it gave {type(self.optimiser).__name__}"
            )
        if self._make_schedule is not None:
            self.schedule = self._make_schedule(self.optimiser)
            if not isinstance(self.schedule, LRScheduler) or isinstance(
                self.schedule, ReduceLROnPlateau
            ):
                raise InputError(
                    "schedule makes a torch schedule that is stepped at each update, without "
                    "a loss, from the optimiser, such as functools.partial(LinearLR, "
                    f"total_iters=1000); it gave {type(self.schedule).__name__}"
                )
        self.optimiser.register_step_pre_hook(self.settle)
        self.optimiser.register_state_dict_pre_hook(self.settle)


class Meeting(Messenger):
    """Notes the unconstrained parameters that a program meets."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        self._parameters = parameters

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        self._parameters.meet(value.unconstrained() if hasattr(value, "unconstrained") else value)


_place = attrgetter("dtype", "device")
_is_trained = attrgetter("requires_grad")


@contextmanager
def _apart(optimiser: Optimizer) -> Iterator[None]:
    """Within, parameters that are split are in groups of their own, as fused kernels need."""
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


def _clip(gradients: list[Tensor], clip_norm: float) -> None:
    factor = (clip_norm / (total_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.dtype))


def _maker(optimiser: Any) -> MakeOptimiser:
    """What makes the optimiser, also from one of Pyro's."""
    if isinstance(optimiser, PyroOptim):
        options, clip = optimiser.pt_optim_args, optimiser.pt_clip_args
        if isinstance(optimiser, PyroLRScheduler) or not isinstance(options, dict) or clip:
            raise InputError(
                "of pyro.optim, optimisers with a dict of options can be used; give schedules as "
                "schedule=, a limit on the gradient as clip_norm=, and options for each parameter "
                "as a function from the list of parameters to a torch optimiser"
            )
        constructor: Any = optimiser.pt_optim_constructor
        return partial(constructor, **options)
    if not callable(optimiser):
        raise InputError(
            "optimiser is a function from the list of parameters to an optimiser, such as "
            f"functools.partial(torch.optim.Adam, lr=1e-3); got {type(optimiser).__name__}"
        )
    make: MakeOptimiser = optimiser
    return make
