"""Optimisers of ``pyro.optim``, which have a torch optimiser for each parameter.

Their own torch optimisers are used, and share their groups and moments with one optimiser over all
parameters. So options by parameter, clipping, schedules, ``get_state()`` and ``load()`` work as in
Pyro, and two SVIs may share an optimiser. All uses of private attributes of ``PyroOptim`` are here.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro.optim import PyroLRScheduler, PyroOptim
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from ...errors import InputError
from ..pair.store import name_parameter
from ..private_torch import mark_as_stepped

__all__ = ["PyroOptimiser"]


class PyroOptimiser:
    """One torch optimiser over the parameters of an optimiser of ``pyro.optim``.

    Arguments:
        optim: Pyro's optimiser.
        sync: called before anyone reads or steps the optimiser of a parameter.

    Attributes:
        joint: the torch optimiser; None before there are parameters. It is an Adam or AdamW
            where Pyro's optimiser is one and does not clip.
    """

    def __init__(self, optim: PyroOptim, sync: Callable[[], None]) -> None:
        self._optim: Any = optim
        self._sync = sync
        self.joint: Optimizer | None = None

    def add(self, names: list[str], parameters: list[Tensor]) -> Optimizer:
        """Give the optimiser further parameters, and return it.

        Raises:
            InputError: if Pyro's optimiser cannot be made for one of them.
        """
        for name, parameter in zip(names, parameters, strict=True):
            own = self._find_or_make(name, parameter)
            if self.joint is None:
                self.joint = self._make_joint(own, parameter)
            self.joint.param_groups.append(own.param_groups[0])
            self.joint.state[parameter] = own.state[parameter]
        assert self.joint is not None
        return self.joint

    def share_again(self) -> None:
        """Share groups and moments again after the joint optimiser has loaded a state."""
        assert self.joint is not None
        for place, group in enumerate(self.joint.param_groups):
            (parameter,) = group["params"]
            own = self._own(parameter)
            own.param_groups[0].update(group)
            own.state[parameter] = self.joint.state[parameter]
            self.joint.param_groups[place] = own.param_groups[0]

    def take_turn(self) -> None:
        """Let the SVI that last used Pyro's optimiser write its counts before this one does."""
        last = _last_users.get(self._optim)
        if last is not self:
            if last is not None:
                last._sync()
            _last_users[self._optim] = self

    def _find_or_make(self, name: str, parameter: Tensor) -> Optimizer:
        optim = self._optim
        if parameter in optim.optim_objs:
            return self._own(parameter)
        # The parameters of a model of this package are named "Class@id.path".
        plain = (name.partition("@")[2].partition(".")[2] if "@" in name else "") or name
        try:
            with name_parameter(parameter, plain):
                made = optim._get_optim(parameter)
                optim.grad_clip[parameter] = optim._get_grad_clip(parameter)
        except Exception as error:
            raise InputError(
                f"the optimiser of pyro.optim cannot be made for parameter {name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        optim.optim_objs[parameter] = made
        own = self._own(parameter)
        if not isinstance(own, Optimizer) or isinstance(own, torch.optim.LBFGS):
            raise InputError(
                "optimiser must make a torch.optim optimiser of gradient steps for each parameter; "
                f"it made {type(own).__name__}"
            )
        waiting = optim._state_waiting_to_be_consumed.pop(name, None)
        if waiting is not None:
            if made is not own:
                made.load_state_dict(waiting["scheduler"])
                waiting = waiting["optimizer"]
            own.load_state_dict(waiting)
        mark_as_stepped(own)
        own.register_step_pre_hook(lambda *_: _sync_last(optim))
        own.register_state_dict_pre_hook(lambda *_: _sync_last(optim))
        return own

    def _own(self, parameter: Tensor) -> Optimizer:
        """The torch optimiser of a parameter, which a schedule may hold."""
        made = self._optim.optim_objs[parameter]
        own: Optimizer = getattr(made, "optimizer", made)
        return own

    def _make_joint(self, own: Optimizer, parameter: Tensor) -> Optimizer:
        optim = self._optim
        is_pyros = type(optim) in (PyroOptim, PyroLRScheduler)
        if is_pyros and not optim.pt_clip_args and type(own) in (Adam, AdamW):
            takes = signature(type(own)).parameters
            options = {name: value for name, value in own.defaults.items() if name in takes}
            joint: Optimizer = type(own)([parameter], **options)
        else:
            joint = _OneByOne([parameter], optim, own.defaults)
        joint.param_groups.clear()
        return joint


class _OneByOne(Optimizer):
    """Steps Pyro's optimiser, which steps one torch optimiser for each parameter."""

    def __init__(
        self, parameters: list[Tensor], optim: PyroOptim, defaults: dict[str, Any]
    ) -> None:
        super().__init__(parameters, dict(defaults))
        self._optim = optim

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        parameters = [group["params"][0] for group in self.param_groups]
        self._optim([p for p in parameters if p.grad is not None])


_last_users: WeakKeyDictionary[PyroOptim, PyroOptimiser] = WeakKeyDictionary()
"""For each of Pyro's optimisers, who made the last updates."""


def _sync_last(optim: PyroOptim) -> None:
    last = _last_users.get(optim)
    if last is not None:
        last._sync()
