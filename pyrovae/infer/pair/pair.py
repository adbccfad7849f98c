"""A model and a guide as one thing to train: their parameters, their store, their mode."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ...errors import InputError
from .bound import Bound, PyroFunction, evaluate_bound

__all__ = ["Pair"]


class Pair:
    """A model and a guide with a Pyro parameter store of their own.

    Whatever the pair registers with ``pyro.param`` and ``pyro.module`` goes to this store, so
    that no other program shares it and the global store is left alone. Networks are trained in
    place.

    Arguments:
        model: a function with ``pyro.param`` and ``pyro.module``, a ``PyroModule`` or another
            module.
        guide: likewise.

    Raises:
        InputError: if Pyro would silently give one tensor to two parameters of the pair.
    """

    def __init__(self, model: PyroFunction, guide: PyroFunction) -> None:
        _check_names(model, guide)
        self._model = model
        self._guide = guide
        self._store: Any = {"params": {}, "constraints": {}}
        self._networks: WeakSet[nn.Module] | None = None

    @contextmanager
    def store(self) -> Iterator[None]:
        """Work in the pair's own parameter store."""
        with pyro.get_param_store().scope(self._store):
            yield

    def stored(self) -> tuple[int, ...]:
        """Which tensors are in the store, by identity."""
        return tuple(map(id, self._store["params"].values()))

    def params(self) -> dict[str, Tensor]:
        """The values of all parameters in the store, by name, detached."""
        with self.store():
            return {name: p.detach().clone() for name, p in pyro.get_param_store().items()}

    @contextmanager
    def throwaway_store(self) -> Iterator[None]:
        """Work in a store that starts empty and is forgotten."""
        with pyro.get_param_store().scope():
            yield

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """The model, with the parameters of this pair."""
        with self.store():
            return self._model(*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """The guide, with the parameters of this pair."""
        with self.store():
            return self._guide(*args, **kwargs)

    def bound(self, *args: Any, size: int, plate: str = "data") -> Bound:
        """Evaluate the bound on a batch; to be called within :meth:`store`."""
        return evaluate_bound(self._model, self._guide, *args, size=size, plate=plate)

    def check(self, *args: Any, size: int, plate: str = "data") -> None:
        """Evaluate the bound on a batch under Pyro's validation, and make sure that it is one.

        Raises:
            InputError: if it is no bound, or two networks have one name.
        """
        with torch.no_grad(), pyro.validation_enabled(), _OneTensorAName():
            self.bound(*args, size=size, plate=plate).check()

    @property
    def functions(self) -> tuple[PyroFunction, PyroFunction]:
        """Model and guide as they were given; to be called within :meth:`store`."""
        return self._model, self._guide

    def module_parameters(self) -> Iterator[Tensor]:
        """The parameters of the modules that model and guide are, are methods of, or wrap."""
        for owner in self._owners():
            yield from owner.parameters()

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Dropout, batch normalisation and the like as at test time, then back as they were.

        Networks that a function merely refers to are met when they are called: the first time a
        global hook, in place for as long as this lasts, switches each one before it runs.
        """
        with ExitStack() as restore:
            met = WeakSet[nn.Module](self._owners()) if self._networks is None else self._networks

            def to_eval(network: nn.Module, _: Any = None) -> None:
                met.add(network)
                if network.training:
                    for part in network.modules():
                        restore.callback(setattr, part, "training", part.training)
                        part.training = False

            for network in list(met):
                to_eval(network)
            if self._networks is None:
                restore.callback(register_module_forward_pre_hook(to_eval).remove)
            yield
            self._networks = met

    def buffers(self) -> list[Tensor]:
        """The buffers, such as running means, of the networks that eval mode has met."""
        found = {id(b): b for network in self._networks or () for b in network.buffers()}
        return list(found.values())

    def _owners(self) -> Iterator[nn.Module]:
        for function in (self._model, self._guide):
            owner = _owner(function)
            if isinstance(owner, Pair):
                yield from owner._owners()
            elif owner is not None:
                yield owner


def _owner(function: Any) -> nn.Module | Pair | None:
    """The module that a model or guide is, is a method of, or wraps."""
    while function is not None:
        owner = getattr(function, "__self__", function)
        if isinstance(owner, nn.Module | Pair):
            return owner
        function = getattr(function, "__wrapped__", getattr(function, "func", None))
    return None


class _OneTensorAName(Messenger):
    """Refuse a second network under a name that ``pyro.module`` has given to another."""

    def _pyro_post_param(self, msg: Any) -> None:
        if "$$$" not in msg["name"]:  # which pyro.module puts between network and parameter
            return
        _, given = msg["args"]
        if msg["value"].unconstrained() is not given:
            network, parameter = msg["name"].split("$$$")
            raise InputError(
                f"pyro.module({network!r}, ...) met another network of that name, so that "
                f"{parameter} of this one would not be trained: give each network a name of its "
                "own, and make it outside of the function"
            )


def _check_names(model: PyroFunction, guide: PyroFunction) -> None:
    if not (isinstance(model, PyroModule) and isinstance(guide, PyroModule)):
        return
    if pyro.settings.get("module_local_params"):
        return
    names = [
        {
            f"{module._pyro_name}.{name}".lstrip(".").removesuffix("_unconstrained"): parameter
            for name, parameter in module.named_parameters()
        }
        for module in (model, guide)
    ]
    shared = sorted(n for n in names[0].keys() & names[1].keys() if names[0][n] is not names[1][n])
    if shared:
        raise InputError(
            f"model and guide are PyroModules that both have a parameter {shared[0]!r}, which Pyro "
            "would silently make one tensor: name them apart, as in super().__init__('guide')"
        )
