"""A model and a guide trained together: their parameters, their store, their mode."""

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

    All that the pair registers with ``pyro.param`` and ``pyro.module`` goes to this store, so no
    other program shares it, and Pyro's global store stays unchanged. Networks are trained in place.

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
        """Use the pair's own parameter store within the context."""
        with pyro.get_param_store().scope(self._store):
            yield

    def stored(self) -> tuple[int, ...]:
        """The identities (``id``) of the tensors in the store."""
        return tuple(map(id, self._store["params"].values()))

    def params(self) -> dict[str, Tensor]:
        """The values of all parameters in the store, by name, detached."""
        with self.store():
            return {name: p.detach().clone() for name, p in pyro.get_param_store().items()}

    @contextmanager
    def throwaway_store(self) -> Iterator[None]:
        """Use a store that starts empty and is discarded at the end of the context."""
        with pyro.get_param_store().scope():
            yield

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model with the parameters of this pair."""
        with self.store():
            return self._model(*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """Call the guide with the parameters of this pair."""
        with self.store():
            return self._guide(*args, **kwargs)

    def bound(self, *args: Any, size: int, plate: str = "data") -> Bound:
        """Evaluate the bound on a batch; call it within :meth:`store`."""
        return evaluate_bound(self._model, self._guide, *args, size=size, plate=plate)

    def check(self, *args: Any, size: int, plate: str = "data") -> None:
        """Evaluate the bound on a batch under Pyro's validation, and check that it is a bound.

        Raises:
            InputError: if it is no bound, or two networks have the same name.
        """
        with torch.no_grad(), pyro.validation_enabled(), _RefuseDuplicateNames():
            self.bound(*args, size=size, plate=plate).check()

    @property
    def functions(self) -> tuple[PyroFunction, PyroFunction]:
        """Model and guide as given, without the store; call them within :meth:`store`."""
        return self._model, self._guide

    def module_parameters(self) -> Iterator[Tensor]:
        """The parameters of the modules that model and guide are, are methods of, or wrap."""
        for module in self._modules():
            yield from module.parameters()

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Put all networks of the pair in eval mode, and restore their modes afterwards.

        A network that a function only refers to is found when it is called: the first time this
        context is entered, a global hook switches each network before it runs.
        """
        with ExitStack() as restore:
            known = (
                WeakSet[nn.Module](self._modules()) if self._networks is None else self._networks
            )

            def to_eval(network: nn.Module, _: Any = None) -> None:
                known.add(network)
                if network.training:
                    for part in network.modules():
                        restore.callback(setattr, part, "training", part.training)
                        part.training = False

            for network in list(known):
                to_eval(network)
            if self._networks is None:
                restore.callback(register_module_forward_pre_hook(to_eval).remove)
            yield
            self._networks = known

    def buffers(self) -> list[Tensor]:
        """The buffers, such as running means, of the networks that eval mode has found."""
        buffers = {id(b): b for network in self._networks or () for b in network.buffers()}
        return list(buffers.values())

    def _modules(self) -> Iterator[nn.Module]:
        for function in (self._model, self._guide):
            owner = _find_owner(function)
            if isinstance(owner, Pair):
                yield from owner._modules()
            elif owner is not None:
                yield owner


def _find_owner(function: Any) -> nn.Module | Pair | None:
    """The module or pair that a model or guide is, is a method of, or wraps."""
    while function is not None:
        owner = getattr(function, "__self__", function)
        if isinstance(owner, nn.Module | Pair):
            return owner
        function = getattr(function, "__wrapped__", getattr(function, "func", None))
    return None


class _RefuseDuplicateNames(Messenger):
    """Refuse a second network under a name that ``pyro.module`` has given to another."""

    def _pyro_post_param(self, msg: Any) -> None:
        if "$$$" not in msg["name"]:  # pyro.module puts it between network and parameter
            return
        _, given = msg["args"]
        if msg["value"].unconstrained() is not given:
            network, parameter = msg["name"].split("$$$")
            raise InputError(
                f"pyro.module({network!r}, ...) registered another network of that name before, so "
                f"{parameter} of this one would not be trained: give each network a name of its "
                "own, and create it outside of the function"
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
            f"model and guide are PyroModules that both have a parameter {shared[0]!r}, and Pyro "
            "would silently use one tensor for both: give them different names, as in "
            "super().__init__('guide')"
        )
