"""A state of training as tensors and plain values, which a safetensors file can hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from ...errors import InputError
from ..parallel.fsdp import gather, shard_like

__all__ = ["State"]

_TENSOR = "tensor"
"""The key by which a tree of plain values refers to a tensor."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""Tensors of the shape of a parameter; fused optimisers do not check their shapes."""


@dataclass
class State:
    """Tensors by name, and a record of plain values as in JSON.

    Attributes:
        tensors: the tensors, by name.
        record: numbers, strings, lists and mappings.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Add copies of a list of tensors under one name; split tensors are gathered."""
        copies = {f"{name}.{i}": gather(t.detach()).clone() for i, t in enumerate(tensors)}
        self.tensors |= copies
        self.record[name] = len(copies)

    def tensors_of(self, name: str) -> list[Tensor]:
        """The list of tensors added under a name."""
        return [self.tensors[f"{name}.{i}"] for i in range(self.record[name])]

    @torch.no_grad()
    def load(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors added under a name into these, which have the same shapes and types.

        Raises:
            InputError: if shapes or types differ.
        """
        kept = self.tensors_of(name)
        here, there = ([(t.shape, t.dtype) for t in each] for each in (tensors, kept))
        if here != there:
            pairs = enumerate(zip(here, there, strict=False))
            first = next((i for i, (one, other) in pairs if one != other), None)
            what = (
                f"it holds {len(there)} {name}s, and there are {len(here)}"
                if first is None
                else f"{name} {first} has shape {tuple(there[first][0])} and type "
                f"{there[first][1]} in the state, and now {tuple(here[first][0])} and "
                f"{here[first][1]}"
            )
            raise InputError(f"the state is of another model, likelihood or optimiser: {what}")
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(shard_like(value, tensor))

    def add_state_dict(self, name: str, owner: Any) -> None:
        """Add the ``state_dict()`` of an optimiser or a schedule.

        Raises:
            InputError: if it holds anything but tensors and plain values.
        """
        self.record[name] = self._to_plain(name, owner.state_dict())
        self.record[f"class of {name}"] = type(owner).__qualname__

    def load_state_dict(self, name: str, owner: Any) -> None:
        """Give an optimiser or a schedule its ``state_dict()`` back.

        Raises:
            InputError: if the state belongs to another one.
        """
        if name not in self.record:
            raise InputError(f"the state holds no {name}, but there is one now")
        kept, here = self.record[f"class of {name}"], type(owner).__qualname__
        if kept != here:
            raise InputError(f"the state is of another {name}: a {kept}, and this is a {here}")
        try:
            tree = self._from_plain(self.record[name])
            if isinstance(owner, Optimizer):
                _check_optimiser(tree, owner)
            owner.load_state_dict(tree)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"the state is of another {name}: {error}") from error

    def add_state(self, name: str, state: "State") -> None:
        """Add another state under a name."""
        self.tensors |= {f"{name}/{key}": tensor for key, tensor in state.tensors.items()}
        self.record[name] = state.record

    def get_state(self, name: str) -> "State":
        """The state added under a name."""
        start = f"{name}/"
        tensors = {
            key.removeprefix(start): t for key, t in self.tensors.items() if key.startswith(start)
        }
        return State(tensors, self.record[name])

    def _to_plain(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.tensors[name] = gather(value.detach()).clone()
            return {_TENSOR: name}
        if isinstance(value, Mapping):
            pairs = [[key, self._to_plain(f"{name}.{key}", each)] for key, each in value.items()]
            return {"pairs": pairs}
        if isinstance(value, list | tuple):
            return [self._to_plain(f"{name}.{i}", each) for i, each in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise InputError(
            f"{name} is a {type(value).__name__}, which a checkpoint cannot hold, as nothing is "
            "pickled; use an optimiser and a schedule whose state is numbers and tensors, such as "
            "Adam and 'cosine'"
        )

    def _from_plain(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self._from_plain(each) for each in plain]
        if not isinstance(plain, dict):
            return plain
        if _TENSOR in plain:
            return self.tensors[plain[_TENSOR]].clone()
        return {key: self._from_plain(each) for key, each in plain["pairs"]}


def _check_optimiser(tree: Any, owner: Optimizer) -> None:
    """Check that a state fits these parameters; fused steps write beyond tensors that do not.

    Raises:
        ValueError: if it does not fit.
    """
    groups = tree["param_groups"]
    if len(groups) != len(owner.param_groups):
        raise ValueError(f"it has {len(groups)} groups of parameters")
    parameters: dict[int, Tensor] = {}
    for kept, here in zip(groups, owner.param_groups, strict=True):
        if len(kept["params"]) != len(here["params"]):
            raise ValueError(f"a group has {len(kept['params'])} parameters")
        parameters |= dict(zip(kept["params"], here["params"], strict=True))
        for key, value in here.items():
            is_of_schedule = key == "initial_lr" and key not in kept
            if not (key == "params" or is_of_schedule or _is_like(kept[key], value)):
                raise ValueError(f"its {key} differs")
    for number, kept in tree["state"].items():
        of = parameters[number]
        if isinstance(owner, Adam | AdamW) and not {"step", *_MOMENTS[:2]} <= kept.keys():
            raise ValueError(f"it lacks the moments of parameter {number}")
        for key, value in kept.items():
            shape = () if key == "step" else of.shape
            checked = key == "step" or key in _MOMENTS
            if checked and isinstance(value, Tensor):
                is_real = value.is_floating_point() and bool(value.isfinite().all())
                if value.shape != shape or not is_real:
                    raise ValueError(f"{key} of parameter {number} has another shape or type")
                if key != "step" and value.dtype != of.dtype:
                    raise ValueError(f"{key} of parameter {number} is of {value.dtype}")
            elif key in _MOMENTS and value is not None:
                raise ValueError(f"{key} of parameter {number} is not a tensor")


def _is_like(kept: Any, here: Any) -> bool:
    """Whether an option of an optimiser is of the same kind; numbers may differ."""
    if isinstance(here, bool | str | None):
        return kept is here or (isinstance(here, str) and kept == here)
    if isinstance(here, int | float):
        return isinstance(kept, int | float) and not isinstance(kept, bool) and isfinite(kept)
    if isinstance(here, list | tuple):
        return (
            isinstance(kept, list | tuple)
            and len(kept) == len(here)
            and all(map(_is_like, kept, here))
        )
    return isinstance(kept, Tensor) == isinstance(here, Tensor)
