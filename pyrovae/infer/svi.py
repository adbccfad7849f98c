"""Stochastic variational inference, for any Pyro model and guide, at the speed of compiled code."""

from collections import namedtuple
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import nan
from operator import attrgetter, itemgetter
from typing import Any

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils._pytree import (
    TreeSpec,
    tree_leaves,
    tree_map,
    tree_structure,
    tree_unflatten,
)

from ..errors import InputError
from .bound import PyroFunction
from .captured import HALF_PRECISION, Captured, Compile, Results, compile_results, without_trace
from .compiled import compile_recording, stored
from .elbo import ELBO
from .pair import Pair
from .record import Recording
from .state import State
from .update import AdamUpdate, clipped

__all__ = ["SVI", "MakeOptimiser"]

MakeOptimiser = Callable[[list[Tensor]], Optimizer]
"""Makes an optimiser of the list of parameters, once they are known."""

_CHECK_EVERY = 100
"""Steps within which a loss that is not finite is noticed; each look waits for the device."""


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
        repeatable: whether the same steps shall give the same bits on the same machine, also where
            they are continued in another process: no clock then decides what is compiled. Call
            :meth:`prepare` before the first step.

    Attributes:
        pair: the model and the guide with their parameters.
        learning_rate: that of the last update, in the first parameter group; NaN before.

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
        repeatable: bool = False,
    ) -> None:
        if compile not in ("auto", True, False):
            raise InputError(f"compile is {compile!r}; it may be 'auto', True or False")
        if accumulate < 1:
            raise InputError(f"accumulate is {accumulate}; it must be 1 or more")
        self.loss = ELBO() if loss is None else loss
        if not hasattr(self.loss, "loss_and_grads"):
            raise InputError(
                "loss is an ELBO of this package or of pyro.infer, such as Trace_ELBO(); got "
                f"{type(loss).__name__}"
            )
        self.pair = Pair(model, guide)
        self.learning_rate = nan
        self._make_optimiser = _maker(optimiser)
        self._make_schedule = schedule
        self._clip_norm = clip_norm
        self._accumulate = accumulate
        self._autocast = autocast
        self._transform = transform
        self._optimiser: Optimizer | None = None
        self._schedule: LRScheduler | None = None
        self._parameters: dict[int, Tensor] = {}
        self._places: list[tuple[torch.dtype, torch.device]] = []
        self._sums: dict[int, Tensor] = {}
        self._num_steps = 0
        self._not_finite: Tensor | None = None
        self._update: AdamUpdate | None = None
        self._loss_spec: TreeSpec | None = None
        watched = (model, guide, self.loss, transform)
        tolerance = None if autocast is None else HALF_PRECISION
        self._gradients = Captured(
            self._gradients_of,
            watched,
            compile=compile,
            num_calls=num_steps,
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
        return list(self._parameters.values())

    @property
    def optimiser(self) -> Optimizer | None:
        """The torch optimiser, its state that after the last step; None before the first."""
        self._settle()
        return self._optimiser

    def _settle(self, *_: Any) -> None:
        """Bring what torch's optimiser knows of the number of steps up to date."""
        if self._update is not None:
            self._update.settle()
            self._update = None

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
            FloatingPointError: at each hundredth step, if the loss was not finite in one of the
                last hundred.
        """
        self._num_steps += 1
        try:
            loss, gradients = self._gradients(args, kwargs, self._key)
        except BaseException:
            self._num_steps -= 1
            raise
        if gradients is not None:  # else the update was part of the step
            self._follow(loss, gradients)
        if self._is_update_due():
            self.learning_rate = float(self._optimiser.param_groups[0]["lr"])  # type: ignore[union-attr]
            if self._schedule is not None:
                self._schedule.step()
        if self._num_steps % _CHECK_EVERY == 0:
            self.check_finite()
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss in eval mode and without a step; args are those of model and guide.

        They are not transformed, as those of :meth:`step` are.
        """
        return self._losses(args, kwargs, lambda: tuple(self._places))

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Meet all parameters and make the optimiser, as the first step does, without a step.

        Where steps are repeatable, those like this one are compiled.

        Random numbers, and buffers such as running means, are left as they were.

        Raises:
            InputError: if the pair has no bound, or nothing to train.
        """
        with without_trace(self._gradients.buffers()):
            self._gradients_of(*args, **kwargs)
        self._gradients.expect(args)

    def state(self) -> State:
        """All that the next step depends on, but for the random numbers.

        Raises:
            InputError: if the optimiser, or the schedule, keeps what is no tensor or plain value.
        """
        optimiser = self.optimiser
        if optimiser is None:
            raise InputError("there is no state before prepare() or a first step")
        state = State()
        state.add("parameter", self.parameters)
        state.add("buffer", self.buffers())
        state.add("sum", [self._sums[place] for place in sorted(self._sums)])
        state.record["sums"] = sorted(self._sums)
        state.add_tree("optimiser", optimiser)
        if self._schedule is not None:
            state.add_tree("schedule", self._schedule)
        state.record |= {"num_steps": self._num_steps, "learning_rate": self.learning_rate}
        return state

    def load_state(self, state: State) -> None:
        """Go on from a state, after :meth:`prepare`.

        Raises:
            InputError: if it is of other parameters, or another optimiser.
        """
        optimiser = self.optimiser
        if optimiser is None:
            raise InputError("call prepare() before load_state()")
        state.load("parameter", self.parameters)
        state.load("buffer", self.buffers())
        places = state.record["sums"]
        self._sums = dict(zip(places, state.of("sum"), strict=True))
        state.load_tree("optimiser", optimiser)
        if self._schedule is not None:
            state.load_tree("schedule", self._schedule)
        self._num_steps = state.record["num_steps"]
        self.learning_rate = state.record["learning_rate"]

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
        """Wait for the device, and see whether all losses since the last such look were finite.

        Raises:
            FloatingPointError: if one was not.
        """
        count = 0 if self._not_finite is None else int(self._not_finite)
        if count:
            assert self._not_finite is not None
            self._not_finite.zero_()
            raise FloatingPointError(
                f"the loss was not finite in {count} of the last {_CHECK_EVERY} steps"
            )

    def _key(self) -> Hashable:
        """What a compiled step depends on, beside its arguments and the program."""
        if self._optimiser is None:
            return None
        if list(map(_place, self._parameters.values())) != self._places:
            raise InputError(
                "parameters changed their type or device after the optimiser was made; convert or "
                "move the model first, or make a new SVI"
            )
        return (
            AdamUpdate.key(self._optimiser),
            tuple(map(_is_trained, self._parameters.values())),
            self.pair.stored(),
        )

    def _is_update_due(self) -> bool:
        return self._num_steps % self._accumulate == 0

    def _gradients_of(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor | None]]:
        """The loss, and the gradient in each parameter; no other trace is left."""
        known = len(self._parameters)
        for parameter in self._parameters.values():
            parameter.grad = None
        found = _Parameters(self._parameters)
        for parameter in self.pair.module_parameters():
            found.meet(parameter)
        with self._context(), torch.enable_grad(), found:
            loss = self.loss.loss_and_grads(*self.pair.functions, *self._prepared(args), **kwargs)
        if not self._parameters:
            raise InputError(
                "model and guide have nothing to train: declare parameters with pyro.param, "
                "networks with pyro.module, or pass modules"
            )
        if len(self._parameters) > known:
            self._train_too(self.parameters[known:])
        gradients = [parameter.grad for parameter in self._parameters.values()]
        for parameter in self._parameters.values():
            parameter.grad = None
        loss = _as_tensors(loss, self.parameters)
        self._loss_spec = tree_structure(loss)
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

    def _follow(self, loss: Any, gradients: list[Tensor | None]) -> None:
        """The update of a step that did not hold it: by torch's optimiser."""
        assert self._optimiser is not None
        assert self._not_finite is not None
        _count_not_finite(self._not_finite, tree_leaves(loss))
        parameters = self.parameters
        share = 1 / self._accumulate
        with torch.no_grad():
            if self._accumulate > 1:
                for place, gradient in enumerate(gradients):
                    if gradient is not None:
                        total = self._sums.get(place, 0.0)
                        self._sums[place] = total + share * gradient
                if not self._is_update_due():
                    return
                gradients = [self._sums.get(place) for place in range(len(parameters))]
                self._sums.clear()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self._settle()
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def _compile(
        self, recording: Recording, results: Results, inputs: list[Tensor]
    ) -> Callable[..., tuple[Any, list[Tensor | None] | None]]:
        """The step as one graph: loss, gradient and, where it is Adam's, the update."""
        assert self._optimiser is not None
        assert self._not_finite is not None
        num_losses = len(results.present) - len(self._parameters)
        has_gradient = results.present[num_losses:]
        live = [p for p, there in zip(self.parameters, has_gradient, strict=True) if there]
        places = {id(tensor): i for i, tensor in enumerate(recording.reads)}
        if self._accumulate > 1 or AdamUpdate.key(self._optimiser) is None:
            return compile_results(recording, results, inputs)
        update = AdamUpdate(self._optimiser, live)
        own = [self._not_finite, *update.own]

        def tail(tensors: list[Tensor], given: list[Tensor]) -> list[Tensor]:
            bad, *moments = tensors[: len(own)]
            reads = tensors[len(own) :]
            losses, gradients = given[:num_losses], given[num_losses:]
            _count_not_finite(bad, losses)
            trained = [reads[places[id(parameter)]] for parameter in live]
            update(moments, trained, clipped(gradients, self._clip_norm))
            return losses

        run = compile_recording(recording, inputs, tail, own)
        assert self._loss_spec is not None
        as_loss = _rebuilder(self._loss_spec)

        def step(*inputs: Tensor) -> tuple[Any, None]:
            if self._update is not update:
                self._settle()
                update.resume()
                self._update = update
            update.tick()
            return as_loss(run(*inputs)), None

        return step

    def _train_too(self, new: list[Tensor]) -> None:
        """Give the optimiser parameters that it does not have."""
        if self._optimiser is None:
            self._optimiser = self._make_optimiser(new)
            if not isinstance(self._optimiser, Optimizer) or isinstance(self._optimiser, LBFGS):
                raise InputError(
                    "optimiser makes a torch.optim optimiser of gradient steps from the list of "
                    f"parameters; it gave {type(self._optimiser).__name__}"
                )
            if self._make_schedule is not None:
                self._schedule = self._make_schedule(self._optimiser)
                if not isinstance(self._schedule, LRScheduler) or isinstance(
                    self._schedule, ReduceLROnPlateau
                ):
                    raise InputError(
                        "schedule makes a torch schedule that is stepped at each update, without "
                        "a loss, from the optimiser, such as functools.partial(LinearLR, "
                        f"total_iters=1000); it gave {type(self._schedule).__name__}"
                    )
            self._optimiser.register_step_pre_hook(self._settle)
            self._optimiser.register_state_dict_pre_hook(self._settle)
            self._not_finite = torch.zeros((), dtype=torch.long, device=new[0].device)
        else:
            self._optimiser.param_groups[0]["params"].extend(new)
        self._places += map(_place, new)


_place = attrgetter("dtype", "device")
_is_trained = attrgetter("requires_grad")


class _Parameters(Messenger):
    """Notes the unconstrained parameters that a program meets."""

    def __init__(self, parameters: dict[int, Tensor]) -> None:
        super().__init__()
        self._parameters = parameters

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        self.meet(value.unconstrained() if hasattr(value, "unconstrained") else value)

    def meet(self, parameter: Tensor) -> None:
        """Take in a parameter; gradients that are not of this step are dropped."""
        if id(parameter) not in self._parameters and parameter.requires_grad:
            parameter.grad = None
            self._parameters[id(parameter)] = parameter


def _rebuilder(spec: TreeSpec) -> Callable[[list[Tensor]], Any]:
    """What puts tensors into a tree; without a walk where it is a tensor or a named tuple."""
    if spec.is_leaf():
        return itemgetter(0)
    if spec.type is namedtuple and all(child.is_leaf() for child in spec.children()):
        make: Callable[[list[Tensor]], Any] = spec.context._make
        return make
    return partial(tree_unflatten, treespec=spec)


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


def _as_tensors(loss: Any, parameters: list[Tensor]) -> Any:
    """The loss, or each of several, as a tensor beside the parameters, without a gradient."""
    device = parameters[0].device if parameters else None

    def as_tensor(value: Any) -> Tensor:
        return value.detach() if isinstance(value, Tensor) else torch.tensor(value, device=device)

    return tree_map(as_tensor, loss)


def _count_not_finite(count: Tensor, losses: list[Tensor]) -> None:
    finite = torch.stack([loss.isfinite().all() for loss in losses]).all()
    count.add_(~finite)
