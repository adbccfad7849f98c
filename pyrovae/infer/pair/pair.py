"""A model and a guide trained together: their parameters, their store, their mode."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy
from typing import Any
from weakref import WeakSet

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ...errors import InputError
from ..compiler.watch import Watch
from .bound import Bound, PyroFunction, evaluate_bound
from .store import ProgramParameters, Trainer

__all__ = ["Pair"]


class Pair:
    """A model and a guide with their parameters.

    ``pyro.param`` and ``pyro.module`` of a pair in training read and write Pyro's global store, as
    in Pyro itself, by the rules of :class:`~pyrovae.infer.pair.store.ProgramParameters`. A pair
    that is not in training reads the parameters that are in the store when it first runs, and
    keeps them whatever happens to the store; it leaves the store as it is. Networks are trained in
    place.

    Arguments:
        model: a function with ``pyro.param`` and ``pyro.module``, a ``PyroModule`` or another
            module.
        guide: likewise.
        trainer: the SVI that trains the pair, if one does.

    Attributes:
        parameters: the parameters in Pyro's store that the pair has met in training.
        put_back: a handler under which the pair runs, if its parameters came from a file.
        scaled: names of the sites that the pair itself scales from a batch to all data.

    Raises:
        InputError: if Pyro would silently give one tensor to two parameters of the pair.
    """

    def __init__(
        self, model: PyroFunction, guide: PyroFunction, trainer: Trainer | None = None
    ) -> None:
        _check_names(model, guide)
        self._model = model
        self._guide = guide
        self._kept: Any = None
        self._networks: WeakSet[nn.Module] | None = None
        self._is_trained = trainer is not None
        self.put_back: Any = None
        self.scaled: frozenset[str] = frozenset()
        self.parameters = ProgramParameters(
            tuple(map(_unwrap, (model, guide))), Watch(model, guide).objects, trainer
        )

    @contextmanager
    def store(self) -> Iterator[None]:
        """Use the parameters of this pair within the context, which may be entered again."""
        if self._is_trained and self._kept is None:
            with nullcontext() if self.parameters.is_active else self.parameters:
                yield
            return
        store = pyro.get_param_store()
        if self._kept is None:
            self._kept = store.get_state()
        with store.scope(self._kept), self.put_back or nullcontext():
            yield

    def start_from(self, state: Any, put_back: Any) -> None:
        """Begin with parameters from elsewhere in place of those in Pyro's store.

        Arguments:
            state: a state of Pyro's store.
            put_back: a handler under which the pair runs, which sets parameters of networks.
        """
        self._kept, self.put_back = state, put_back

    def kept_state(self) -> Any:
        """A state of Pyro's store with the parameters of the pair."""
        return self._kept or self.parameters.kept_state()

    @property
    def owners(self) -> tuple[nn.Module | None, nn.Module | None]:
        """The modules that model and guide are, or are methods of; None for functions."""
        model, guide = (
            owner if isinstance(owner, nn.Module) else None
            for owner in map(_unwrap, (self._model, self._guide))
        )
        return model, guide

    def reachable_modules(self) -> list[nn.Module]:
        """All modules that the programs can reach."""
        return [each for each in self.parameters.reachable() if isinstance(each, nn.Module)]

    def keep(self) -> "Pair":
        """The same pair with its present parameters, whatever happens to Pyro's store."""
        kept = copy(self)
        kept._kept = self.parameters.kept_state()
        return kept

    def params(self) -> dict[str, Tensor]:
        """The values of all parameters in the store that the pair has met, by name, detached."""
        with pyro.get_param_store().scope(self.kept_state()):
            return {name: p.detach().clone() for name, p in pyro.get_param_store().items()}

    @contextmanager
    def throwaway_store(self) -> Iterator[None]:
        """Use a copy of the store, which is discarded at the end; handlers outside see nothing."""
        state = pyro.get_param_store().get_state()
        with poutine.block(), pyro.get_param_store().scope(state), self.parameters.looking():
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
        return evaluate_bound(
            self._model, self._guide, *args, size=size, plate=plate, scaled=self.scaled
        )

    def check(self, *args: Any, size: int, plate: str, sums_out: bool) -> None:
        """Evaluate the bound on a batch under Pyro's validation, and check that it is a bound.

        Raises:
            InputError: if it is no bound, or two networks have the same name.
        """
        with torch.no_grad(), pyro.validation_enabled():
            self.bound(*args, size=size, plate=plate).check(sums_out=sums_out)

    @property
    def functions(self) -> tuple[PyroFunction, PyroFunction]:
        """Model and guide as given, without the store; call them within :meth:`store`."""
        return self._model, self._guide

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


def _unwrap(function: Any) -> Any:
    """The function, or the object whose method it is, within wrappers such as handlers."""
    while True:
        owner = getattr(function, "__self__", function)
        if isinstance(owner, nn.Module | Pair):
            return owner
        inner = getattr(function, "__wrapped__", getattr(function, "func", None))
        if inner is None:
            return owner
        function = inner


def _find_owner(function: Any) -> nn.Module | Pair | None:
    """The module or pair that a model or guide is, is a method of, or wraps."""
    owner = _unwrap(function)
    return owner if isinstance(owner, nn.Module | Pair) else None


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
