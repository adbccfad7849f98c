"""Stochastic variational inference for any Pyro model and guide, at the speed of compiled code."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import nan
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...errors import InputError, NotFinite
from ..compiler.tiered import Compile
from ..compiler.watch import Watch
from ..nonfinite.guard import NonFinite, StepRecord, is_finite
from ..pair.bound import PyroFunction
from ..pair.pair import Pair
from ..pair.store import Trainer
from ..parallel.fsdp import check_split
from ..parallel.shards import Shards
from ..trees import leaves_of
from .buffers import BufferGuard
from .gradients import LossAndGradients
from .losses import as_loss, as_numbers, check_can_be_split, describe_loss, is_own
from .optimisation import MakeOptimiser, Optimisation
from .options import check_functions, check_options
from .parameters import Parameters
from .state import State

__all__ = ["SVI"]

_MOST_SKIPPED = 100
"""Steps in a row that may be skipped."""


class SVI:
    """Maximise an objective of a model and a guide, step by step (Hoffman et al. 2013).

    The interface is that of ``pyro.infer.SVI``; losses stay tensors on their device. The first
    steps run as Pyro's own. If enough steps are to come (``compile="auto"``), the tensor operations
    of a step, with its backward pass, are recorded once and replayed without Pyro and Python, and
    then compiled together with the update of Adam or AdamW. Code that cannot be recorded runs as
    ordinary Python, and you get one warning that names it. The noise, and so the result, is the
    same in each case, to round-off.

    Changes of what a program reads are followed, by a new recording where necessary: Python
    numbers, replaced tensors, ``train()`` and ``eval()``, frozen parameters. Floats that change
    become inputs; make other numbers that change all the time tensors. The first calls of a graph,
    and later each thousandth at least, are compared with the program itself on the same noise,
    and undone where they differ.

    Parameters of ``pyro.param`` and ``pyro.module`` are in Pyro's store, as with
    ``pyro.infer.SVI``, but a program never takes up what a finished training of another program
    left there (:class:`~pyrovae.infer.pair.store.ProgramParameters`).

    Arguments:
        model: p(x, z).
        guide: q(z | x).
        optimiser: an optimiser of ``pyro.optim``; or makes a torch optimiser from the list of
            parameters, once they are known, such as
            ``functools.partial(torch.optim.Adam, lr=1e-3, fused=True)``. Adam and AdamW are
            compiled with the step; others follow it.
        loss: an :class:`ELBO` of this package, which is the default, a Pyro ``ELBO``, or a function
            of model, guide and the arguments of a step. Losses that are not of this package are
            returned as Python numbers, as in Pyro.
        loss_and_grads: for a function as loss, what computes it and its gradients.
        optim: another name of ``optimiser``, as in Pyro.
        compile: ``"auto"``; True to record from the second step on, where code that cannot be
            recorded is an error; or False.
        num_steps: number of steps to come, by which ``"auto"`` decides. Unless given, as many are
            expected as have been taken.
        clip_norm: largest global norm of the gradient of the loss; None for no limit.
        schedule: makes a learning-rate schedule from the optimiser; stepped once per update.
        accumulate: steps whose mean gradient makes one update. If it is more than one, the update
            follows the graph.
        autocast: floating-point type of matrix products and convolutions, such as
            ``torch.bfloat16``; None for that of the parameters.
        transform: makes the arguments of model and guide from those of a step, within the step.
        on_compile: called before compiling, which takes some seconds.
        non_finite: what to do at a step whose loss or gradient is not finite. ``"stop"`` ends the
            training with the parameters as before that step; ``"skip"`` leaves its update out. The
            step is detected on the device, and reported within a hundred steps, or fewer where the
            arguments of so many take more than 64 MiB. The report names the batch, the site and the
            tensor. On a GPU, all optimisers but fused Adam and AdamW wait for the device at each
            step.
        shards: parts of each batch that processes share; None for the whole batch.
        repeatable: whether the same steps shall give the same bits on the same machine, also where
            another process continues them. No clock then decides what is compiled. Call
            :meth:`prepare` before the first step.

    Attributes:
        pair: the model and the guide with their parameters.
        learning_rate: the learning rate of the last update, in the first parameter group; NaN
            before the first.
        num_skipped: skipped steps found so far.
        is_split: whether parameters are split over processes. All processes must then take part
            in whatever uses the parameters: states, evaluations and draws.

    Raises:
        InputError: if an option is not valid.
    """

    def __init__(
        self,
        model: PyroFunction,
        guide: PyroFunction,
        optimiser: MakeOptimiser | PyroOptim | None = None,
        loss: Any = None,
        loss_and_grads: Callable[..., Any] | None = None,
        *,
        optim: MakeOptimiser | PyroOptim | None = None,
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
        check_functions(model, guide, schedule, transform, on_compile, shards)
        plain = (compile, num_steps, clip_norm, accumulate, autocast, non_finite, repeatable)
        plain = check_options(*plain)
        compile, num_steps, clip_norm, accumulate, autocast, non_finite, repeatable = plain
        if (optim is None) == (optimiser is None):
            raise InputError(
                "give one optimiser, as the third argument, optimiser= or optim=, such as "
                "pyro.optim.Adam({'lr': 1e-3})"
            )
        given: Any = optimiser if optim is None else optim
        self.optim = given
        self.model, self.guide = model, guide
        self.objective = as_loss(loss, loss_and_grads)
        self._is_own = is_own(self.objective)
        self.loss, self.loss_and_grads = self.objective.loss, self.objective.loss_and_grads
        if shards is not None and shards.num > 1:
            check_can_be_split(self.objective)
        self._trainer = Trainer()
        self.pair = Pair(model, guide, self._trainer)
        self.learning_rate = nan
        self.num_skipped = 0
        self._parameters = Parameters()
        self._optimisation = Optimisation(
            self._parameters, self.optim, schedule, clip_norm, accumulate
        )
        self._autocast = autocast
        self._num_steps = 0
        self._policy = non_finite
        self._shards = shards
        self.is_split = self._check_split(model, guide, compile)
        self._gradients = LossAndGradients(
            self.pair,
            self.objective,
            self._parameters,
            self._optimisation,
            watched=(model, guide, self.objective, transform),
            compile=False if self.is_split else compile,
            num_steps=num_steps,
            autocast=autocast,
            transform=transform,
            on_compile=on_compile,
            policy=non_finite,
            shards=shards,
            repeatable=repeatable,
        )
        # Not self.buffers: nothing may refer back to this object, so that it goes once it is
        # dropped, and its training ends.
        self._buffer_guard = BufferGuard(self._gradients.tiered.buffers)

    def _check_split(self, model: PyroFunction, guide: PyroFunction, compile: Compile) -> bool:
        modules = [each for each in Watch(model, guide).objects() if isinstance(each, nn.Module)]
        shards = self._shards
        processes, num = (None, 0) if shards is None else (shards.processes, shards.num)
        is_split = check_split(modules, processes, num)
        if is_split and compile is True:
            raise InputError(
                "compile is True, but steps of parameters that are split over processes "
                "(fully_shard) cannot be recorded; give 'auto' or False"
            )
        return is_split

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters found so far, unconstrained."""
        return self._parameters.tensors

    @property
    def optimiser(self) -> Optimizer | None:
        """The torch optimiser, with its state after the last step; None before the first."""
        self._optimisation.sync()
        return self._optimisation.optimiser

    @property
    def num_steps(self) -> int:
        """Number of steps taken, skipped ones included."""
        return self._num_steps

    @property
    def num_graphs(self) -> tuple[int, int]:
        """How many kinds of step are recorded, and how many of these are compiled."""
        return self._gradients.tiered.num_graphs

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step; return the loss before the step, as the objective returns it.

        Parameters that first appear in a later step are trained from then on.

        Raises:
            InputError: if the pair has no bound; or, where compile is True, if the step cannot be
                recorded.
            NotFinite: at each hundredth step, if the loss or a gradient was not finite in one of
                the last hundred; where such steps are skipped, if that holds for all of them.
            Separated: if another process ended that shares the steps.
        """
        record = StepRecord.at_start(self._num_steps + 1, args, kwargs)
        self._buffer_guard.save()
        self._num_steps += 1
        try:
            loss, gradients = self._gradients(args, kwargs, self._num_steps)
        except BaseException:
            self._num_steps -= 1
            raise
        guard = self._gradients.guard
        assert guard is not None
        guard.record(record)
        if gradients is not None:  # otherwise the update was part of the step
            present = [gradient for gradient in gradients if gradient is not None]
            guard.count([loss] if isinstance(loss, Tensor) else leaves_of(loss), present)
            self._optimisation.update(gradients, guard, self._num_steps)
        self._buffer_guard.restore_if(lambda: guard.blocked, in_graph=gradients is None)
        if self._optimisation.is_due(self._num_steps):
            self.learning_rate = self._optimisation.learning_rate
            if self._optimisation.schedule is not None:
                self._optimisation.schedule.step()
        if guard.is_due:
            self.check_finite()
        return loss if self._is_own else as_numbers(loss)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss in eval mode and without a step.

        The arguments are those of model and guide: the transform is not applied.
        """
        loss = self._gradients.evaluate(args, kwargs)
        return loss if self._is_own else as_numbers(loss)

    def end(self) -> None:
        """End the training: another program no longer takes up the parameters of this one.

        It also ends when the SVI is deleted. Further steps are allowed.
        """
        self._trainer.is_training = False

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Meet all parameters and make the optimiser, as the first step does, without a step.

        Random numbers, and buffers such as running means, are left as they were. Where steps are
        repeatable, steps like this one are compiled.

        Raises:
            InputError: if the pair has no bound.
        """
        self._gradients.prepare(args, kwargs)

    def state(self) -> State:
        """All that the next step depends on, except the random numbers.

        Raises:
            InputError: if the optimiser or the schedule holds other than tensors and plain values.
        """
        if self._optimisation.optimiser is None:
            raise InputError("there is no state yet; call prepare() or take a step first")
        state = State()
        self._optimisation.save(state)
        state.add("buffer", self.buffers())
        state.record |= {
            "num_steps": self._num_steps,
            "num_skipped": self.num_skipped,
            "learning_rate": self.learning_rate,
            "settings": self._settings(),
            "kinds": [self._gradients.tiered.expected, *self._gradients.tiered.kinds],
            "seed": None if self._shards is None else self._shards.seed,
        }
        return state

    def load_state(self, state: State) -> None:
        """Go on from a state, after :meth:`prepare`.

        Raises:
            InputError: if its parameters or its settings differ.
        """
        if self._optimisation.optimiser is None:
            raise InputError("call prepare() before load_state()")
        settings, kept = self._settings(), state.record["settings"]
        for name in settings | kept:
            if kept.get(name) != settings.get(name):
                raise InputError(
                    f"the fit had {name} {kept.get(name)}, and now has {settings.get(name)}: give "
                    "the one it had, or begin a new fit"
                )
        self._optimisation.load(state)
        state.load("buffer", self.buffers())
        self._num_steps = state.record["num_steps"]
        self.num_skipped = state.record["num_skipped"]
        expected, *kinds = state.record["kinds"]
        self._gradients.tiered.expected, self._gradients.tiered.kinds = expected, kinds
        self.learning_rate = state.record["learning_rate"]
        if self._shards is not None:
            self._shards.seed = state.record["seed"]

    def buffers(self) -> list[Tensor]:
        """The buffers of the networks, and of the objective, such as its count of steps."""
        return self._gradients.tiered.buffers()

    def steady(self) -> AbstractContextManager[None]:
        """Within, only arguments of steps and values of tensors change from step to step.

        Programs, modes, parameters and options of the optimiser, except its learning rate and
        betas, are then checked once in a run of compiled steps rather than before each::

            with svi.steady():
                for x in batches:
                    svi.step(x)
        """
        return self._gradients.tiered.steady()

    def check_finite(self) -> None:
        """Wait for the device, and check that parameters, and all steps since the last such check,
        are finite.

        Raises:
            NotFinite: if one was not, and is not to be skipped; or none of the last hundred was; or
                if the last update made a parameter infinite or NaN.
        """
        if self._gradients.guard is None:
            return
        found, first_bad = self._gradients.guard.report()
        if first_bad is None:
            self._check_parameters()
            return
        step = first_bad.step
        reason = self._gradients.explain_non_finite(first_bad)
        text = f"the loss or a gradient was not finite: {reason}"
        if self._policy == "stop":
            raise NotFinite(f"{text}; parameters are as before that step", step)
        if found.run_length >= _MOST_SKIPPED:
            raise NotFinite(f"{text}; so it was in the last {found.run_length} steps", step)
        if not self.num_skipped:
            warnings.warn(f"step {step} is skipped: {text}", RuntimeWarning, stacklevel=3)
        self.num_skipped += found.num_bad

    def _check_parameters(self) -> None:
        tensors = self._parameters.tensors
        if bool(is_finite(tensors)):
            return
        bad = next((p for p in tensors if not bool(is_finite([p]))), tensors[0])
        name = self._parameters.name(bad).replace("$$$", ".").rpartition("@")[2]
        raise NotFinite(
            f"the update after step {self._num_steps} was too large, so that parameter {name!r} "
            "is infinite or not a number",
            self._num_steps,
        )

    def _settings(self) -> dict[str, Any]:
        """What steps depend on that is neither data nor learned, as plain values."""
        return {
            **self._optimisation.settings(),
            "objective": describe_loss(self.objective),
            "autocast": str(self._autocast),
            "shards": None if self._shards is None else self._shards.num,
        }
