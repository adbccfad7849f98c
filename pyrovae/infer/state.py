"""A state as tensors and plain values, as a safetensors file can hold it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .split import like, whole

__all__ = ["State"]

_TENSOR = "tensor"
"""The key that stands for a tensor in a tree of plain values."""


@dataclass
class State:
    """Tensors by name, and a record of plain values, as JSON has them.

    Attributes:
        tensors: by name.
        record: numbers, words, lists and mappings.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Keep copies of tensors in their order; of those that are split, of the whole."""
        copies = {f"{name}.{i}": whole(t.detach()).clone() for i, t in enumerate(tensors)}
        self.tensors |= copies
        self.record[name] = len(copies)

    def of(self, name: str) -> list[Tensor]:
        """The tensors that :meth:`add` kept."""
        return [self.tensors[f"{name}.{i}"] for i in range(self.record[name])]

    @torch.no_grad()
    def load(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Write those that were kept into tensors of the same shapes and types.

        Raises:
            InputError: if they are others.
        """
        kept = self.of(name)
        here, there = ([(t.shape, t.dtype) for t in each] for each in (tensors, kept))
        if here != there:
            pairs = enumerate(zip(here, there, strict=False))
            first = next((i for i, (one, other) in pairs if one != other), None)
            what = (
                f"{len(there)} {name}s were kept, and there are {len(here)}"
                if first is None
                else f"{name} {first} was of shape {tuple(there[first][0])} and type "
                f"{there[first][1]}, and is of {tuple(here[first][0])} and {here[first][1]}"
            )
            raise InputError(f"the state is of another model, likelihood or optimiser: {what}")
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(like(value, tensor))

    def add_tree(self, name: str, owner: Any) -> None:
        """Keep the ``state_dict()`` of an optimiser or a schedule.

        Raises:
            InputError: if it holds what is neither a tensor nor a plain value.
        """
        self.record[name] = self._plain(name, owner.state_dict())
        self.record[f"class of {name}"] = type(owner).__qualname__

    def load_tree(self, name: str, owner: Any) -> None:
        """Give it back to what gave it, by ``load_state_dict``.

        Raises:
            InputError: if it is of another one.
        """
        if name not in self.record:
            raise InputError(f"the state holds no {name}, and there is one now")
        kept, here = self.record[f"class of {name}"], type(owner).__qualname__
        if kept != here:
            raise InputError(f"the state is of another {name}: of {kept}, and this is {here}")
        try:
            owner.load_state_dict(self._tree(self.record[name]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"the state is of another {name}: {error}") from error

    def put(self, name: str, state: "State") -> None:
        """Keep another state whole."""
        self.tensors |= {f"{name}/{key}": tensor for key, tensor in state.tensors.items()}
        self.record[name] = state.record

    def part(self, name: str) -> "State":
        """The state that :meth:`put` kept."""
        start = f"{name}/"
        tensors = {
            key.removeprefix(start): t for key, t in self.tensors.items() if key.startswith(start)
        }
        return State(tensors, self.record[name])

    def _plain(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.tensors[name] = whole(value.detach()).clone()
            return {_TENSOR: name}
        if isinstance(value, Mapping):
            pairs = [[key, self._plain(f"{name}.{key}", each)] for key, each in value.items()]
            return {"pairs": pairs}
        if isinstance(value, list | tuple):
            return [self._plain(f"{name}.{i}", each) for i, each in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise InputError(
            f"{name} is a {type(value).__name__}, which a checkpoint does not hold (nothing is "
            "pickled); use an optimiser and a schedule of numbers and tensors, such as Adam and "
            "'cosine'"
        )

    def _tree(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self._tree(each) for each in plain]
        if not isinstance(plain, dict):
            return plain
        if _TENSOR in plain:
            return self.tensors[plain[_TENSOR]].clone()
        return {key: self._tree(each) for key, each in plain["pairs"]}
