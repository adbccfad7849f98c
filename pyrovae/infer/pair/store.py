"""The parameters of a program in Pyro's store: which it takes up, and which it replaces.

Programs keep parameters in Pyro's global store, as with ``pyro.infer.SVI``, with one exception:
a program never takes up what a finished training of another program left under the same name. All
uses of private attributes of Pyro's store and modules are in this file.
"""

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ...errors import InputError

__all__ = ["ProgramParameters", "Trainer", "name_parameter"]

_UNCONSTRAINED = "_unconstrained"
"""What Pyro adds to the name of a PyroModule's parameter."""


_MOST_SWAPS = 2
"""How often a program may replace a network; more often means that it makes a new one each time."""


class Trainer:
    """Stands for an ``SVI``, which holds it: training ends when it is dropped, or when it says so.

    Attributes:
        is_training: whether it has not ended.
    """

    def __init__(self) -> None:
        self.is_training = True


@dataclass(frozen=True)
class _Claim:
    """Who trains a parameter.

    Attributes:
        trainer: the SVI that met it first.
        owners: the functions, or the module, that declare it.
    """

    trainer: weakref.ref[Trainer]
    owners: tuple[weakref.ref[Any], ...]

    @property
    def is_training(self) -> bool:
        """Whether its SVI is still there, and has not ended."""
        trainer = self.trainer()
        return trainer is not None and trainer.is_training

    def is_of(self, objects: Iterable[Any]) -> bool:
        """Whether one of these objects declares the parameter."""
        living = {id(owner) for owner in (ref() for ref in self.owners) if owner is not None}
        return any(id(each) in living for each in objects)


_claims = WeakTensorKeyDictionary()
"""The claim on each unconstrained parameter; a claim goes with its parameter."""


class ProgramParameters(Messenger):
    """A handler of effects that decides which of the store's values a program takes up.

    A name in the store belongs to this program if it was loaded or set by the user, or left by
    Pyro itself; if a function of this program declares it; or if another ``SVI`` is training it. A
    parameter of a module belongs to that module. Else the store holds what a finished training of
    another program left: the program begins with its own initial value, which replaces the entry,
    and a warning says so.

    Arguments:
        owners: the functions that the model and the guide are, or the objects whose methods they
            are.
        reachable: lists all objects that the program can reach.
        trainer: the SVI that trains the program; None for a program that only looks.

    Attributes:
        met: the unconstrained parameters in the store that the program has met, by name.
    """

    def __init__(
        self,
        owners: tuple[Any, ...],
        reachable: Callable[[], list[Any]],
        trainer: Trainer | None,
    ) -> None:
        super().__init__()
        self._owners = owners
        self.reachable = reachable
        self._trainer = None if trainer is None else weakref.ref(trainer)
        self.met: dict[str, Tensor] = {}
        self._in_network: set[str] = set()
        self._from_store: list[str] | None = None
        self._num_swaps: dict[str, int] = {}
        self._given: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._met_now: set[str] = set()
        self._claimed: dict[str, Tensor] = {}
        self._report: Callable[[str, Tensor], None] | None = None

    def __enter__(self) -> Any:
        self._given, self._from_store, self._met_now = {}, None, set()
        self._put_modules_in_store()
        return super().__enter__()

    @property
    def is_active(self) -> bool:
        """Whether its context has been entered."""
        return self in _PYRO_STACK

    def looking(self) -> "ProgramParameters":
        """The same decisions without a trace here, for a run in a copy of the store."""
        return ProgramParameters(self._owners, self.reachable, None)

    @contextmanager
    def reporting(self, report: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Within, report each ``pyro.param`` by its name and its unconstrained value."""
        self._report = report
        try:
            yield
        finally:
            self._report = None

    def key(self) -> tuple[int, ...]:
        """The identities (``id``) of the store's tensors that a recorded step may read."""
        if self._from_store is None:
            self._from_store = [name for name in self.met if name not in self._in_network]
        return tuple(map(id, map(_store()._params.get, self._from_store)))

    def claim(self) -> None:
        """Note that the trainer trains the parameters met so far."""
        assert self._trainer is not None
        for name, tensor in self.met.items():
            if self._claimed.get(name) is tensor:
                continue
            known = _find_claim(tensor)
            if known is not None and known.trainer is self._trainer:
                self._claimed[name] = tensor
            elif known is None or not (known.is_training or known.is_of(self._owners)):
                owners = self._owners if (module := self._module_of(name)) is None else (module,)
                _claims[tensor] = _Claim(self._trainer, _as_refs(owners))
                self._claimed[name] = tensor

    def settle_networks(self) -> list[tuple[str, Tensor, Tensor]]:
        """After a backward pass: put networks into the store where it holds other values.

        ``pyro.module`` and ``PyroModule`` leave a network unchanged if the store has other values
        under its name, and Pyro would train these values, which nobody uses. The network is what
        the program computes with, so it is trained, and replaces the values.

        Returns:
            The name, the network's parameter, and the value that it replaced.

        Raises:
            InputError: if the replaced values were loaded into the store, or come from elsewhere.
        """
        replaced = []
        for name, (given, before) in self._given.items():
            entry = self.met.get(name)
            if entry is None or entry is given or given.grad is None or entry.grad is not None:
                continue
            if before is entry and _find_claim(entry) is None:
                raise InputError(
                    f"Pyro's store has values for {_plain(name)!r} that the network of that name "
                    "does not use: take them up with pyro.module(..., update_module_params=True), "
                    "or drop them with pyro.clear_param_store()"
                )
            self._count_swap(name, entry)
            _replace(name, given)
            self.met[name] = given
            self._in_network.add(name)
            replaced.append((name, given, entry))
        return replaced

    def settle_assignments(self) -> None:
        """After a run: keep what it assigned to names of the store in the tensors that it had met.

        Pyro assigns the decaying averages of baselines so. A recorded step can write to a tensor,
        but not replace one.
        """
        for name in self._met_now - self._in_network:
            met, now = self.met[name], _store()._params.get(name)
            if now is None or now is met or now.shape != met.shape or now.dtype != met.dtype:
                continue
            with torch.no_grad():
                met.copy_(now)
            _replace(name, met)

    def kept_state(self) -> Any:
        """A state of Pyro's store with the parameters met, as ``store.scope`` takes it."""
        constraints = _store()._constraints
        real = torch.distributions.constraints.real
        return {
            "params": dict(self.met),
            "constraints": {name: constraints.get(name, real) for name in self.met},
        }

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "param":
            self._pyro_param(msg)

    def _postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "param":
            self._pyro_post_param(msg)

    def _pyro_param(self, msg: Any) -> None:
        name, args = msg["name"], msg["args"]
        entry = _store()._params.get(name)
        given = args[1] if len(args) > 1 else None
        if isinstance(given, nn.Parameter):
            self._note_given(name, given, entry)
        elif (
            entry is not None
            and given is not None
            and self.met.get(name) is not entry
            and not self._takes(name, entry)
        ):
            del _store()[name]

    def _pyro_post_param(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        if hasattr(value, "unconstrained"):
            value = value.unconstrained()
        if self._report is not None:
            self._report(name, value)
        entry = _store()._params.get(name)
        if entry is None or entry is not value:
            return  # a parameter that does not come from the store
        self.met[name] = entry
        self._met_now.add(name)
        given = self._given.get(name)
        if given is not None and given[0] is entry:
            self._in_network.add(name)
        else:
            self._in_network.discard(name)

    def _note_given(self, name: str, given: Tensor, entry: Tensor | None) -> None:
        known = self._given.get(name)
        if known is not None and known[0] is not given:
            raise _two_networks(name)
        if known is None:
            self._given[name] = given, entry
            given.grad = None if self._trainer is not None else given.grad

    def _count_swap(self, name: str, entry: Tensor) -> None:
        """Count how often the program itself replaced a network by another."""
        claim = _find_claim(entry)
        if claim is not None and claim.trainer is self._trainer:
            self._num_swaps[name] = self._num_swaps.get(name, 0) + 1
            if self._num_swaps[name] > _MOST_SWAPS:
                raise _two_networks(name)

    def _takes(self, name: str, entry: Tensor) -> bool:
        """Whether the program takes up a value of the store that it has not met before."""
        claim = _find_claim(entry)
        if claim is None:
            return True
        module = self._module_of(name)
        if module is not None:
            if claim.is_of((module,)):
                return True
        elif claim.is_training or claim.is_of((*self._owners, *self.reachable())):
            return True
        _warn_of_start(name, claim)
        return False

    def _put_modules_in_store(self) -> None:
        """Put the parameters of PyroModules into the store in the place of those of others.

        A PyroModule takes up the store's value at any access, before a handler can see it.
        """
        for root in self._owners:
            for name, own in _constrained_parameters(root):
                entry = _store()._params.get(name)
                if entry is None or entry is own:
                    continue
                claim = _find_claim(entry)
                if claim is not None and not claim.is_of((root,)):
                    _warn_of_start(name, claim)
                    _replace(name, own)

    def _module_of(self, name: str) -> PyroModule | None:
        """The PyroModule of this program that has a parameter of this name, if one does."""
        if pyro.settings.get("module_local_params"):
            return None
        path = _plain(name)
        for owner in self._owners:
            if not isinstance(owner, PyroModule):
                continue
            root = owner._pyro_name
            if root and path.startswith(f"{root}."):
                return owner
            paths = (each for each, _ in owner.named_parameters())
            if not root and path in (each.removesuffix(_UNCONSTRAINED) for each in paths):
                return owner
        return None


@contextmanager
def name_parameter(parameter: Tensor, name: str) -> Iterator[None]:
    """Within, Pyro's store knows a parameter by this name, if it knows no other."""
    names = _store()._param_to_name
    is_new = parameter not in names
    if is_new:
        names[parameter] = name
    try:
        yield
    finally:
        if is_new:
            names.pop(parameter, None)


_store: Any = pyro.get_param_store


def _replace(name: str, tensor: Tensor) -> None:
    """Put an unconstrained parameter into the store in the place of another."""
    store = _store()
    store._param_to_name.pop(store._params.get(name), None)
    store._params[name] = tensor
    store._param_to_name[tensor] = name


def _constrained_parameters(root: Any) -> Iterator[tuple[str, Tensor]]:
    """The full names and unconstrained values of the ``PyroParam``s of a PyroModule."""
    if not isinstance(root, PyroModule) or pyro.settings.get("module_local_params"):
        return
    for module in root.modules():
        if isinstance(module, PyroModule):
            for name, parameter in module.named_parameters(recurse=False):
                if name.endswith(_UNCONSTRAINED):
                    parts = (module._pyro_name, name.removesuffix(_UNCONSTRAINED))
                    yield ".".join(filter(None, parts)), parameter


def _find_claim(tensor: Tensor) -> _Claim | None:
    claim: _Claim | None = _claims.get(tensor)
    return claim


def _as_refs(owners: Iterable[Any]) -> tuple[Any, ...]:
    refs: list[Any] = []
    for owner in owners:
        try:
            refs.append(weakref.ref(owner))
        except TypeError:  # an object with slots: kept, as its id must not be used again
            refs.append(lambda owner=owner: owner)
    return tuple(refs)


def _two_networks(name: str) -> InputError:
    network, _, parameter = name.rpartition("$$$")
    return InputError(
        f"pyro.module({network!r}, ...) registered another network of that name before, so "
        f"{parameter} of this one would not be trained: give each network a name of its own, and "
        "create it outside of the function"
    )


def _warn_of_start(name: str, claim: _Claim) -> None:
    trained = "is being trained" if claim.is_training else "was trained"
    warnings.warn(
        f"the parameter {_plain(name)!r} in Pyro's store {trained} by another program; this "
        "program starts from its own initial value, which replaces it there, so that Pyro's own "
        "tools find the last one for both. Give parameters of different programs different names, "
        "or call pyro.clear_param_store() between trainings",
        UserWarning,
        stacklevel=2,
    )


def _plain(name: str) -> str:
    return name.replace("$$$", ".")
