"""The loss of a batch and its gradients, computed by Pyro or by a compiled graph."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, cast

import torch
from optree import is_namedtuple_class
from pyro.infer import TraceTailAdaptive_ELBO
from torch import Tensor

from ...errors import Agreed, InputError
from ..compiler.audit import HALF_PRECISION
from ..compiler.preserve import preserve_state
from ..compiler.recording.record import Recording
from ..compiler.specialisations import Compiled, OutputSpec
from ..compiler.strides import materialise
from ..compiler.tiered import Compile, TieredFunction, compile_outputs
from ..nonfinite.guard import Guard, NonFinite, StepRecord
from ..nonfinite.locate import locate_non_finite
from ..pair.pair import Pair
from ..parallel.shards import Shards
from ..trees import TreeSpec, flatten, leaves_of, map_leaves, unflatten
from .optimisation import Optimisation
from .parameters import Gradients, Parameters
from .unregistered import UnregisteredNetworks

__all__ = ["LossAndGradients"]

_NOT_FOUND = (
    "run again as ordinary Python with the present parameters, the step is finite: it came before "
    "other steps, or its numbers are near the limit of their type, where a compiled step rounds "
    "differently"
)


class LossAndGradients:
    """Computes the loss of a batch and its gradients, and compiles the step where that pays.

    Arguments:
        pair: the model and the guide.
        loss: an ELBO of this package or of Pyro.
        parameters: where to add the parameters that the pair meets.
        optimisation: their updates, which are compiled with the step where possible.
        watched: what a step may read besides its arguments.
        compile: as in :class:`~pyrovae.SVI`.
        num_steps: number of steps to come, if it is known.
        autocast: type of matrix products and convolutions; None for that of the parameters.
        transform: makes the arguments of the pair from those of a step.
        on_compile: called before compiling.
        policy: what to do where a loss or gradient is not finite.
        shards: parts of each batch that processes share; None for the whole batch.
        repeatable: whether no clock may decide what is compiled.

    Attributes:
        tiered: computes the loss and the gradients of a batch or of a shard.
        guard: counts steps that are not finite; None before parameters are met.
    """

    def __init__(
        self,
        pair: Pair,
        loss: Any,
        parameters: Parameters,
        optimisation: Optimisation,
        *,
        watched: tuple[Any, ...],
        compile: Compile,
        num_steps: int | None,
        autocast: torch.dtype | None,
        transform: Callable[..., Any] | None,
        on_compile: Callable[[], None] | None,
        policy: NonFinite,
        shards: Shards | None,
        repeatable: bool,
    ) -> None:
        self._pair = pair
        self._loss = loss
        self._parameters = parameters
        self._optimisation = optimisation
        self._autocast = autocast
        self._transform = transform
        self._policy = policy
        self._shards = shards
        self._loss_spec: TreeSpec | None = None
        self._unregistered = UnregisteredNetworks(watched)
        self.guard: Guard | None = None
        tolerance = None if autocast is None else HALF_PRECISION
        num_calls = num_steps
        if shards is not None:
            num_calls = (num_steps or 0) * len(shards.local_shards) or None
        self.tiered = TieredFunction(
            self._compute,
            watched,
            compile=compile,
            num_calls=num_calls,
            tolerance=tolerance,
            compiler=self._compile,
            on_compile=on_compile,
            repeatable=repeatable,
        )
        self._evaluation = TieredFunction(
            self._evaluate,
            watched,
            compile=False if repeatable else compile,
            tolerance=tolerance,
        )

    def __call__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], step: int
    ) -> tuple[Any, Gradients | None]:
        """The loss and the gradients of a batch; None where the graph made the update, too.

        Raises:
            InputError: if the batch cannot be cut into shards, or the pair has no bound.
        """
        if self._shards is None:
            result: tuple[Any, Any] = self.tiered(args, kwargs, self._key)
            return result
        if kwargs:
            raise InputError("arguments by name cannot be split into shards; give them by position")
        if self._loss_spec is None:
            self.prepare(args, kwargs)
        assert self._loss_spec is not None
        buffers = self.tiered.buffers()
        mean = self._shards.average(
            lambda part: self.tiered(part, {}, self._key),
            args,
            step,
            self._parameters.tensors,
            buffers,
            self._loss_spec,
        )
        if list(map(id, self.tiered.buffers())) != list(map(id, buffers)):
            raise Agreed(
                "a step replaces a buffer by another tensor, so that its mean over shards is not "
                "known; write into the buffer, as with buffer.copy_(...)"
            )
        return mean

    def evaluate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The loss in eval mode, without gradients and without the transform."""
        return self._evaluation(
            args, kwargs, lambda: (tuple(self._optimisation.places), self._pair.parameters.key())
        )

    def prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Meet all parameters and make the optimiser, and leave random numbers and buffers alone.

        Calls like this one are the ones to compile.
        """
        if self._shards is not None:
            _, args = self._shards.split(args)[0]
        with preserve_state(self.tiered.buffers()):
            self._compute(*args, **kwargs)
        self.tiered.expect(args)

    def explain_non_finite(self, record: StepRecord) -> str:
        """Run a step again, in whichever process it was, and say what is not finite in it."""
        with preserve_state(()):
            torch.set_rng_state(record.random[0])
            if len(record.random) > 1:
                torch.cuda.set_rng_state_all(record.random[1:])
            if self._shards is None:
                return self._locate(record.args, record.kwargs) or _NOT_FOUND
            text = ""
            for _, part in self._shards.iterate_local(record.args, record.step):
                text = text or self._locate(part, {}) or ""
            return self._shards.processes.first_nonempty_text(text) or _NOT_FOUND

    def _locate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        numbers = None  # of the data, where the transform gathers a batch by number
        if self._transform is not None and len(args) == 1 and isinstance(args[0], Tensor):
            numbers = args[0].tolist() if args[0].dtype == torch.long else None
        with self._context():
            try:
                return locate_non_finite(
                    self._pair, self._loss, self._transformed(args), kwargs, numbers
                )
            except Exception as error:
                line = (str(error).splitlines() or [""])[0]
                return f"run again, it stopped with {type(error).__name__}: {line}"

    def _key(self) -> Hashable:
        """What a compiled step depends on, besides its arguments and the program."""
        if self._optimisation.optimiser is None:
            return None
        return self._optimisation.key(), self._pair.parameters.key(), self._parameters.num_trained

    def _compute(self, *args: Any, **kwargs: Any) -> tuple[Any, Gradients]:
        """The loss and the gradients by Pyro, without any other trace."""
        self._parameters.begin_run()
        with self._context(), torch.enable_grad():
            with self._pair.parameters.reporting(self._parameters.add):
                loss = self._loss.loss_and_grads(
                    *self._pair.functions, *self._transformed(args), **kwargs
                )
            for name, parameter, old in self._pair.parameters.settle_networks():
                self._parameters.replace(name, parameter, old)
            self._pair.parameters.settle_assignments()
            self._pair.parameters.claim()
            self._optimisation.add_new_parameters()
        self._unregistered.check(self._parameters)
        parameters = self._parameters.tensors
        if self.guard is None:
            is_infinite = isinstance(self._loss, TraceTailAdaptive_ELBO)
            device = parameters[0].device if parameters else torch.device("cpu")
            self.guard = Guard(self._policy, device, checks_loss=not is_infinite)
        gradients = self._parameters.take_gradients()
        loss = _as_tensors(loss, parameters)
        self._loss_spec = _LEAF if isinstance(loss, Tensor) else flatten(loss)[1]
        return loss, gradients

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self._context(), torch.no_grad(), self._pair.eval_mode():
            loss = self._loss.loss(*self._pair.functions, *args, **kwargs)
        return _as_tensors(loss, self._parameters.tensors)

    def _context(self) -> AbstractContextManager[None]:
        """Within, the pair has its own parameter store, and autocast is on if it was asked for."""
        return self._pair.store() if self._autocast is None else self._store_and_autocast()

    @contextmanager
    def _store_and_autocast(self) -> Iterator[None]:
        assert self._autocast is not None
        parameters = self._parameters.tensors
        device = parameters[0].device.type if parameters else "cpu"
        with self._pair.store(), torch.autocast(device, self._autocast, cache_enabled=False):
            yield

    def _transformed(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._transform is None:
            return args
        parts = self._transform(*args)
        parts = tuple(parts) if isinstance(parts, tuple | list) else (parts,)
        return tuple(materialise(each) if isinstance(each, Tensor) else each for each in parts)

    def _compile(self, recording: Recording, outputs: OutputSpec, inputs: list[Tensor]) -> Compiled:
        """Compile the step as one graph: loss, gradients and, where possible, the update."""
        num_losses = len(outputs.present) - len(self._parameters)
        has_gradient = outputs.present[num_losses:]
        update = None
        if self._shards is None and self.guard is not None:
            update = self._optimisation.compile_with_update(
                recording, inputs, num_losses, has_gradient, self.guard
            )
        if update is None:
            return compile_outputs(recording, outputs, inputs)
        assert self._loss_spec is not None
        as_loss, (step, writes) = _make_unflatten(self._loss_spec), update
        return Compiled(
            lambda *inputs: (as_loss(step(*inputs)), None),
            [*recording.writes, *writes],
            self._finish,
            self._optimisation.sync_shared,
        )

    def _finish(self, results: tuple[Any, Gradients]) -> tuple[Any, None]:
        """Count the step and make its update, as a compiled step does."""
        loss, gradients = results
        assert self.guard is not None
        self.guard.count_step(
            self.guard.counts, leaves_of(loss), [each for each in gradients if each is not None]
        )
        self._optimisation.update(gradients, self.guard, step=1)
        return loss, None


_LEAF = flatten(0)[1]


def _make_unflatten(spec: TreeSpec) -> Callable[[list[Tensor]], Any]:
    """A function from leaves to a tree, which is fast for a tensor or a named tuple."""
    if spec.is_leaf():
        return itemgetter(0)
    if is_namedtuple_class(spec.type) and all(child.is_leaf() for child in spec.children()):
        named: Any = spec.type
        return cast(Callable[[list[Tensor]], Any], named._make)
    return partial(unflatten, spec)


def _as_tensors(loss: Any, parameters: list[Tensor]) -> Any:
    """The loss, or each of several, as a detached tensor on the device of the parameters."""
    device = parameters[0].device if parameters else None

    def as_tensor(value: Any) -> Tensor:
        return value.detach() if isinstance(value, Tensor) else torch.tensor(value, device=device)

    return as_tensor(loss) if isinstance(loss, Tensor | float) else map_leaves(as_tensor, loss)
