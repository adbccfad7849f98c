"""Stochastic variational inference, for any Pyro model and guide, at the speed of compiled code."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import nan
from operator import itemgetter
from typing import Any, cast

import torch
from optree import is_namedtuple_class
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...errors import Agreed, InputError, NotFinite
from ..compiler.captured import (
    HALF_PRECISION,
    Captured,
    Compile,
    Results,
    compile_results,
    without_trace,
)
from ..compiler.compiled import stored
from ..compiler.record import Recording
from ..compiler.watch import Watch
from ..nonfinite.guard import Guard, NonFinite, StepRecord
from ..nonfinite.locate import locate_non_finite
from ..objectives.elbo import ELBO
from ..pair.bound import PyroFunction
from ..pair.pair import Pair
from ..parallel.fsdp import check_split
from ..parallel.shards import Shards
from ..trees import TreeSpec, flatten, leaves_of, map_leaves, unflatten
from .parameters import MakeOptimiser, Meeting, Parameters
from .state import State

__all__ = ["SVI"]

_LONGEST_RUN = 100
"""Steps in a row that may be left out."""

_NOTHING = (
    "as plain Python, with the parameters of now, all is finite; the step came before others, or "
    "its numbers are at the edge of what their type holds, where a compiled step rounds otherwise"
)


class SVI:
    """Maximise an objective of a model and a guide (Hoffman et al. 2013), step by step.

    The interface is that of ``pyro.infer.SVI``; losses stay tensors on their device. A step is
    Pyro's own at first. Where enough steps are to come (``compile="auto"``) its tensor operations,
    backward pass and all, are recorded once and replayed without Pyro and Python, and then compiled
    together with the update of Adam or AdamW. What cannot be recorded is named in a warning, and
    runs as it is. The noise, and so the result, is the same in each case, to round-off.

    What a program reads is watched: numbers of Python, tensors replaced by others, ``train()`` and
    ``eval()``, frozen parameters. A change is followed, by another recording where need be. Numbers
    that change all the time should be tensors, or arguments of :meth:`step`, where a float is made
    one. From time to time a step is compared with the program itself, on the same noise.

    Parameters of ``pyro.param`` and ``pyro.module`` are in ``svi.pair``, not in Pyro's global
    store.

    Arguments:
        model: p(x, z).
        guide: q(z | x).
        optimiser: makes a torch optimiser of the list of parameters, once they are known, such as
            ``functools.partial(torch.optim.Adam, lr=1e-3, fused=True)``; or one of ``pyro.optim``
            whose options are a dict. Adam and AdamW are compiled with the step; others follow it.
        loss: our :class:`ELBO`, which it is unless given, or a Pyro ``ELBO``.
        compile: ``"auto"``, True (from the second step on; what cannot be recorded is an error) or
            False.
        num_steps: how many steps there will be, by which ``"auto"`` decides; unless given, as many
            are expected to come as have been.
        clip_norm: largest global norm of the gradient of the loss; None for no limit.
        schedule: makes a learning-rate schedule, stepped once an update, from the optimiser.
        accumulate: steps whose mean gradient makes one update; where it is more than one, the
            update follows the graph.
        autocast: floating-point type of matrix products and convolutions, such as
            ``torch.bfloat16``; None for that of the parameters.
        transform: makes the arguments of model and guide from those of a step, within the step.
        on_compile: called before the compiler is, which takes some seconds.
        non_finite: what becomes of a step whose loss or gradient is not finite. ``"stop"``: it is
            the last, and parameters stay what they were before it; ``"skip"``: its update is left
            out. Either way it is noticed where it is computed, and told within a hundred steps, or
            fewer where the arguments of so many take more than 64 MiB; the batch, the site and the
            tensor are named. On a GPU, all optimisers but fused Adam and AdamW wait for it at each
            step.
        shards: parts of each batch that processes share out; None for the batch as it is.
        repeatable: whether the same steps shall give the same bits on the same machine, also where
            they are continued in another process: no clock then decides what is compiled. Call
            :meth:`prepare` before the first step.

    Attributes:
        pair: the model and the guide with their parameters.
        learning_rate: that of the last update, in the first parameter group; NaN before.
        num_skipped: steps that were left out, as far as was looked.
        is_split: whether parameters are split over processes, which then do together all that uses
            them: states, evaluations and draws.

    Raises:
        InputError: if an option cannot be used.
    """

    def __init__(
        self,
        model: PyroFunction,
        guide: PyroFunction,
        optimiser: MakeOptimiser | PyroOptim,
        loss: Any = None,
        *,
        compile: Compile = "auto",
        num_steps: int | None = None,
        clip_norm: float | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        transform: Callable[..., Any] | None = None,
        on_compile: Callable[[], None] | None = None,
        non_finite: NonFinite = "stop",
        shards: Shards | None = None,
        repeatable: bool = False,
    ) -> None:
        if compile not in ("auto", True, False):
            raise InputError(f"compile is {compile!r}; it may be 'auto', True or False")
        if non_finite not in ("stop", "skip"):
            raise InputError(f"non_finite is {non_finite!r}; it may be 'stop' or 'skip'")
        self.loss = ELBO() if loss is None else loss
        if not hasattr(self.loss, "loss_and_grads"):
            raise InputError(
                "loss is an ELBO of this package or of pyro.infer, such as Trace_ELBO(); got "
                f"{type(loss).__name__}"
            )
        self.pair = Pair(model, guide)
        self.learning_rate = nan
        self.num_skipped = 0
        self._parameters = Parameters(optimiser, schedule, clip_norm, accumulate)
        self._autocast = autocast
        self._transform = transform
        self._num_steps = 0
        self._policy = non_finite
        self._guard: Guard | None = None
        self._moving: list[Tensor] = []
        self._is_whole = False
        self._shards = shards
        self._loss_spec: TreeSpec | None = None
        watched = (model, guide, self.loss, transform)
        modules = [each for each in Watch(model, guide).objects() if isinstance(each, nn.Module)]
        processes = None if shards is None else shards.processes
        self.is_split = check_split(modules, processes, 0 if shards is None else shards.num)
        if self.is_split:
            if compile is True:
                raise InputError(
                    "compile is True, but steps of parameters that are split over processes "
                    "(fully_shard) cannot be recorded; give 'auto' or False"
                )
            compile = False
        tolerance = None if autocast is None else HALF_PRECISION
        self._gradients = Captured(
            self._gradients_of,
            watched,
            compile=compile,
            num_calls=num_steps
            if shards is None
            else (num_steps or 0) * len(shards.local_shards) or None,
            tolerance=tolerance,
            compiler=self._compile,
            on_compile=on_compile,
            repeatable=repeatable,
        )
        self._losses = Captured(
            self._loss_of,
            watched,
            compile=False if repeatable else compile,
            tolerance=tolerance,
        )

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters found so far, unconstrained."""
        return self._parameters.tensors

    @property
    def optimiser(self) -> Optimizer | None:
        """The torch optimiser, its state that after the last step; None before the first."""
        self._parameters.settle()
        return self._parameters.optimiser

    @property
    def num_steps(self) -> int:
        """Steps taken, those that were left out included."""
        return self._num_steps

    @property
    def num_graphs(self) -> tuple[int, int]:
        """How many kinds of step were recorded, and how many of these compiled."""
        return self._gradients.num_graphs

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """One gradient step; the loss is that before the step, as the objective returns it.

        Parameters that first appear in a later step are trained from then on.

        Raises:
            InputError: if the pair has no bound, or nothing to train; or, where compile is True,
                if the step cannot be recorded.
            NotFinite: at each hundredth step, if the loss or a gradient was not finite in one of
                the last hundred; where such steps are skipped, if that goes for the last hundred.
            Separated: if another process ended, with which steps are shared.
        """
        taken = StepRecord.at_start(self._num_steps + 1, args, kwargs)
        moving = self._moving if self._is_whole else self._floating_buffers()
        before = [buffer.clone() for buffer in moving]
        self._num_steps += 1
        try:
            loss, gradients = self._of_batch(args, kwargs)
        except BaseException:
            self._num_steps -= 1
            raise
        guard = self._guard
        assert guard is not None
        guard.record(taken)
        if gradients is not None:  # else the update was part of the step
            there = [gradient for gradient in gradients if gradient is not None]
            guard.count_step(guard.counts, [*leaves_of(loss), *there])
            self._parameters.follow(gradients, guard, self._num_steps)
        if gradients is None and not self._is_whole:  # the first of a graph: what does it move?
            pairs = zip(moving, before, strict=True)
            self._moving = [buffer for buffer, value in pairs if not torch.equal(buffer, value)]
        self._is_whole = gradients is None
        with torch.no_grad():  # running means and the like; also those that were replaced
            now = moving if self._is_whole else self._floating_buffers()
            for buffer, value in zip(now, before, strict=False):
                if buffer.shape == value.shape:
                    buffer.copy_(torch.where(guard.blocked, value, buffer))
        if self._parameters.is_due(self._num_steps):
            self.learning_rate = self._parameters.learning_rate
            if self._parameters.schedule is not None:
                self._parameters.schedule.step()
        if guard.is_due:
            self.check_finite()
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss in eval mode and without a step; args are those of model and guide.

        They are not transformed, as those of :meth:`step` are.
        """
        return self._losses(args, kwargs, lambda: tuple(self._parameters.places))

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Meet all parameters and make the optimiser, as the first step does, without a step.

        Where steps are repeatable, those like this one are compiled.

        Random numbers, and buffers such as running means, are left as they were.

        Raises:
            InputError: if the pair has no bound, or nothing to train.
        """
        if self._shards is not None:
            _, args = self._shards.split(args)[0]
        with without_trace(self._gradients.buffers()):
            self._gradients_of(*args, **kwargs)
        self._gradients.expect(args)

    def state(self) -> State:
        """All that the next step depends on, but for the random numbers.

        Raises:
            InputError: if the optimiser, or the schedule, keeps what is no tensor or plain value.
        """
        if self._parameters.optimiser is None:
            raise InputError("there is no state before prepare() or a first step")
        state = State()
        self._parameters.keep(state)
        state.add("buffer", self.buffers())
        state.record |= {
            "num_steps": self._num_steps,
            "num_skipped": self.num_skipped,
            "learning_rate": self.learning_rate,
            "settings": self._settings(),
            "seed": None if self._shards is None else self._shards.seed,
        }
        return state

    def load_state(self, state: State) -> None:
        """Go on from a state, after :meth:`prepare`.

        Raises:
            InputError: if it is of other parameters, or of steps with other settings.
        """
        if self._parameters.optimiser is None:
            raise InputError("call prepare() before load_state()")
        settings, kept = self._settings(), state.record["settings"]
        for name in settings | kept:
            if kept.get(name) != settings.get(name):
                raise InputError(
                    f"the fit had {name} {kept.get(name)}, and now has {settings.get(name)}: give "
                    "what it had, or begin a new one"
                )
        self._parameters.load(state)
        state.load("buffer", self.buffers())
        self._num_steps = state.record["num_steps"]
        self.num_skipped = state.record["num_skipped"]
        self.learning_rate = state.record["learning_rate"]
        if self._shards is not None:
            self._shards.seed = state.record["seed"]

    def buffers(self) -> list[Tensor]:
        """The buffers of the networks, and of the objective, such as its count of steps."""
        return self._gradients.buffers()

    def steady(self) -> AbstractContextManager[None]:
        """Within, nothing changes between steps but their arguments and values of tensors.

        Programs, modes, parameters and options of the optimiser, but for its learning rate and
        betas, are then looked at once in a run of compiled steps, not before each::

            with svi.steady():
                for x in batches:
                    svi.step(x)
        """
        return self._gradients.steady()

    def check_finite(self) -> None:
        """Wait for the device, and see whether all steps since the last such look were finite.

        Raises:
            NotFinite: if one was not, and is not to be skipped; or none of the last hundred was.
        """
        if self._guard is None:
            return
        seen, taken = self._guard.report()
        if taken is None:
            return
        step = taken.step
        culprit = f"the loss or a gradient was not finite: {self._culprit(taken)}"
        if self._policy == "stop":
            raise NotFinite(f"{culprit}; parameters are as before that step", step)
        if seen.run_length >= _LONGEST_RUN:
            raise NotFinite(f"{culprit}; so it was in the last {seen.run_length} steps", step)
        if not self.num_skipped:
            warnings.warn(f"step {step} is left out: {culprit}", RuntimeWarning, stacklevel=3)
        self.num_skipped += seen.num_bad

    def _floating_buffers(self) -> list[Tensor]:
        return [buffer for buffer in self.buffers() if buffer.is_floating_point()]

    def _settings(self) -> dict[str, Any]:
        """What steps depend on that is neither data nor learned, as plain values."""
        return {
            **self._parameters.settings(),
            "objective": f"{type(self.loss).__name__} {_plain(vars(self.loss))}",
            "autocast": str(self._autocast),
            "shards": None if self._shards is None else self._shards.num,
        }

    def _culprit(self, taken: StepRecord) -> str:
        """What is not finite in a step, which is run again, in whichever process it was."""
        with without_trace(()):
            torch.set_rng_state(taken.random[0])
            if len(taken.random) > 1:
                torch.cuda.set_rng_state_all(taken.random[1:])
            if self._shards is None:
                return self._found(taken.args, taken.kwargs) or _NOTHING
            clause = ""
            for _, part in self._shards.iterate_local(taken.args, taken.step):
                clause = clause or self._found(part, {}) or ""
            return self._shards.processes.first_nonempty_text(clause) or _NOTHING

    def _found(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        numbers = None  # of data, where batches are cut from those on the device
        if self._transform is not None and len(args) == 1 and isinstance(args[0], Tensor):
            numbers = args[0].tolist() if args[0].dtype == torch.long else None
        with self._context():
            try:
                prepared = self._prepared(args)
                return locate_non_finite(self.pair, self.loss, prepared, kwargs, numbers)
            except Exception as error:
                line = (str(error).splitlines() or [""])[0]
                return f"run again, it stopped with {type(error).__name__}: {line}"

    def _of_batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if self._shards is None:
            result: tuple[Any, Any] = self._gradients(args, kwargs, self._key)
            return result
        if kwargs:
            raise InputError("arguments by name cannot be split into shards; give them by place")
        if self._loss_spec is None:
            self.prepare(*args)
        assert self._loss_spec is not None
        buffers = self.buffers()
        mean = self._shards.average(
            lambda part: self._gradients(part, {}, self._key),
            args,
            self._num_steps,
            self.parameters,
            buffers,
            self._loss_spec,
        )
        if list(map(id, self.buffers())) != list(map(id, buffers)):
            raise Agreed(
                "a step puts another tensor in place of a buffer, whose mean over shards is then "
                "not known; write into it, as with buffer.copy_(...)"
            )
        return mean

    def _key(self) -> Hashable:
        """What a compiled step depends on, beside its arguments and the program."""
        if self._parameters.optimiser is None:
            return None
        return self._parameters.key(), self.pair.stored()

    def _gradients_of(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor | None]]:
        """The loss, and the gradient in each parameter; no other trace is left."""
        self._parameters.drop_gradients()
        for parameter in self.pair.module_parameters():
            self._parameters.meet(parameter)
        with self._context(), torch.enable_grad(), Meeting(self._parameters):
            loss = self.loss.loss_and_grads(*self.pair.functions, *self._prepared(args), **kwargs)
        self._parameters.train_new()
        if self._guard is None:
            self._guard = Guard(self._policy, self.parameters[0].device)
        gradients = self._parameters.take_gradients()
        loss = _as_tensors(loss, self.parameters)
        self._loss_spec = flatten(loss)[1]
        return loss, gradients

    def _loss_of(self, *args: Any, **kwargs: Any) -> Any:
        with self._context(), torch.no_grad(), self.pair.eval_mode():
            loss = self.loss.loss(*self.pair.functions, *args, **kwargs)
        return _as_tensors(loss, self.parameters)

    @contextmanager
    def _context(self) -> Iterator[None]:
        device = self.parameters[0].device.type if self._parameters else "cpu"
        cast: Any = nullcontext()
        if self._autocast is not None:
            cast = torch.autocast(device, self._autocast, cache_enabled=False)
        with self.pair.store(), cast:
            yield

    def _prepared(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._transform is None:
            return args
        parts = self._transform(*args)
        parts = tuple(parts) if isinstance(parts, tuple | list) else (parts,)
        return tuple(stored(each) if isinstance(each, Tensor) else each for each in parts)

    def _compile(
        self, recording: Recording, results: Results, inputs: list[Tensor]
    ) -> Callable[..., tuple[Any, list[Tensor | None] | None]]:
        """The step as one graph: loss, gradient and, where it can be, the update."""
        num_losses = len(results.present) - len(self._parameters)
        present = results.present[num_losses:]
        run = None
        if self._shards is None and self._guard is not None:
            run = self._parameters.compiled(recording, inputs, num_losses, present, self._guard)
        if run is None:
            return compile_results(recording, results, inputs)
        assert self._loss_spec is not None
        as_loss, whole = _rebuilder(self._loss_spec), run
        return lambda *inputs: (as_loss(whole(*inputs)), None)


def _rebuilder(spec: TreeSpec) -> Callable[[list[Tensor]], Any]:
    """What puts tensors into a tree; without a walk where it is a tensor or a named tuple."""
    if spec.is_leaf():
        return itemgetter(0)
    if is_namedtuple_class(spec.type) and all(child.is_leaf() for child in spec.children()):
        make: Any = spec.type
        return cast(Callable[[list[Tensor]], Any], make._make)
    return partial(unflatten, spec)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are public numbers and words."""
    return {
        name: value
        for name, value in sorted(values.items())
        if not name.startswith("_") and isinstance(value, bool | int | float | str | None)
    }


def _as_tensors(loss: Any, parameters: list[Tensor]) -> Any:
    """The loss, or each of several, as a tensor beside the parameters, without a gradient."""
    device = parameters[0].device if parameters else None

    def as_tensor(value: Any) -> Tensor:
        return value.detach() if isinstance(value, Tensor) else torch.tensor(value, device=device)

    return map_leaves(as_tensor, loss)
