"""The values of tensors that a program reads into Python, as it is recorded.

A program may read a value where it is the same in each run of the recording: one that depends
neither on the noise nor on what the step has changed. Each such value becomes a condition of the
recording. Two messengers see the reads: ``ReadFunctions`` the calls from Python, ``ReadOperators``
what they come down to, also from within torch.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...private_torch import TorchDispatchMode, not_recording
from .errors import CannotRecord
from .frames import BETWEEN, OURS, PYRO, TORCH, describe_users, outside

__all__ = ["ReadFunctions", "ReadOperators", "Reads"]

_aten = torch.ops.aten

_READ_MEMORY = frozenset({"tolist", "numpy", "__array__"})
"""Functions of tensors that read values by no operator of torch."""

_READS = _READ_MEMORY | frozenset(
    {"item", "__bool__", "__float__", "__int__", "__index__", "__complex__", "equal", "allclose"}
    | {"is_nonzero", "__contains__"}
)
"""Functions of tensors that read a value into Python."""

_PROPERTIES = frozenset({"__get__", "size", "dim", "stride", "__len__", "numel"})
"""Functions of tensors that compute nothing."""

_READ_SECOND = frozenset(
    {"rnn_tanh", "rnn_relu", "gru", "lstm", "_pad_packed_sequence", "tensor_split"}
)
"""Functions that read their second argument by no operator, where it holds whole numbers."""

_BY_INDEX = frozenset(
    {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
    | {_aten._index_put_impl_.default, _aten._unsafe_index.Tensor}
    | {_aten._unsafe_index_put.default}
)
"""Operators on the entries at some indices, which may be masks."""

_WARNINGS = ("warn_if_nan", "warn_if_inf")
"""Functions of Pyro that read values to warn, which a guard does for recorded steps."""

_MOST_CALLS = 3000
"""Most calls of tensor functions in a program; more would take minutes to compile."""

_MOST_ENTRIES = 1000
"""Most entries of a tensor that is read at once; more count as data."""


class Reads:
    """The tensors that a program reads, as recorded, and their values.

    Attributes:
        tensors: what is read; at most some entries each.
        values: their values in the recorded run.
        places: where they are read, and by what, in words.
        constants: tensors made of values that are noted already, by their identities.
        needed_for: for each of them the one tensor whose shape depends on its value, if it is read
            for that alone; else None.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.needed_for: list[Tensor | None] = []
        self.constants: dict[int, Tensor] = {}
        self.values: list[Tensor] = []
        self.places: list[str] = []

    def add(self, tensor: Tensor, by: str) -> Tensor:
        """Note that a value is read, and return it."""
        with not_recording():
            value = tensor.detach().clone()
        place = f"{describe_users(sys._getframe(1))} reads the value of a tensor, by {by}"
        if tensor.numel() > _MOST_ENTRIES:
            raise CannotRecord(f"{place}, of {tensor.numel():,} numbers")
        self.tensors.append(_aten.alias.default(tensor.detach()))
        self.values.append(value)
        self.places.append(place)
        self.needed_for.append(None)
        return value


class ReadFunctions(TorchFunctionMode):
    """Answers what Pyro reads for diagnostics, and notes what is read by no operator.

    Arguments:
        reads: where to note the reads.
    """

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self._reads = reads
        self._num_calls = 0
        self._selected: dict[int, tuple[Tensor, Tensor, int, Tensor, int]] = {}
        self._entries: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _READS:
            frame = outside(sys._getframe(), *BETWEEN)
            if frame.f_code.co_filename.endswith("torch/distributions/distribution.py"):
                return True  # arguments are valid
            frame = outside(frame, TORCH)
            file, where = frame.f_code.co_filename, frame.f_code.co_name
            if file.startswith(PYRO):
                if where in _WARNINGS:
                    return False
                if where == "compute_expectation":
                    return True  # keep every term, as Pyro does while torch traces
                if name == "item" and "infer" in file.removeprefix(PYRO):
                    return args[0].detach()  # a loss, for the user alone
            if name in _READ_MEMORY:
                value = self._reads.add(args[0], name)
                with not_recording():
                    return func(value, *args[1:], **kwargs)
        if name in _READ_SECOND and len(args) > 1 and _is_unread(args[1], self._reads):
            self._reads.add(args[1], name)
        if name == "one_hot" and args:
            return _one_hot(*args, **kwargs)
        if name == "__getitem__" and _is_number(args[1]):
            entry = args[0][args[1].reshape(1)].squeeze(0)  # not read, so it may be random
            self._entries.append((entry, entry._version))
            return entry
        if name == "__setitem__" and self._assigns_what_it_selects(*args):
            x, mask, value = args
            _, source, *_ = self._selected[id(value)]
            mask = mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))
            return x.copy_(torch.where(mask, source, x))
        self._num_calls += name not in _PROPERTIES
        if self._num_calls > _MOST_CALLS:
            place = describe_users(outside(sys._getframe(), TORCH, PYRO, OURS, *BETWEEN))
            raise CannotRecord(
                f"the program calls more than {_MOST_CALLS:,} functions of tensors, and would "
                f"take minutes to compile; a loop is unrolled, perhaps at {place}"
            )
        result = func(*args, **kwargs)
        if name == "_pad_packed_sequence":  # torch fills in the lengths by no operator
            with not_recording():
                lengths = result[1].clone()
            self._reads.constants[id(lengths)] = lengths
            return result[0], lengths
        if name == "__getitem__" and _is_mask(args[1]):
            x, mask = args
            self._selected[id(result)] = result, x, x._version, mask, mask._version
        return result

    def check_entries(self) -> None:
        """Check that the program wrote to no entry ``x[i]``, which is a copy in the recording."""
        if any(entry._version != version for entry, version in self._entries):
            raise CannotRecord(
                "the program writes into x[i], with a tensor i; write x[i] = ... instead"
            )

    def _assigns_what_it_selects(self, x: Tensor, index: Any, value: Any) -> bool:
        """Whether this is ``x[mask] = y[mask]``, which ``torch.where`` does at a fixed shape."""
        if id(value) not in self._selected:
            return False
        _, source, version, mask, mask_version = self._selected[id(value)]
        is_unchanged = version == source._version and mask_version == mask._version
        return mask is index and is_unchanged and source.shape == x.shape and source is not x


class ReadOperators(TorchDispatchMode):
    """Notes the values that operators read, and gives tensors shaped by a mask a fixed shape.

    Arguments:
        reads: where to note the reads.
    """

    def __init__(self, reads: Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads
        self._indices: dict[tuple[int, int], tuple[Tensor, list[Tensor]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten._local_scalar_dense.default:
            if outside(sys._getframe(), *BETWEEN, TORCH).f_code.co_name in _WARNINGS:
                return False  # in a hook, where there is no mode for functions
            value = self._reads.add(args[0], _reading_function())
            with not_recording():
                return func(value)
        if func is _aten.equal.default:
            if args[0].shape != args[1].shape:
                return False
            value = self._reads.add((args[0] == args[1]).all(), "equal")
            with not_recording():
                return bool(value)
        if func is _aten._pack_padded_sequence.default:
            return self._pack(*args)
        if func is _aten.nonzero.default:
            return torch.stack(self._positions(args[0] != 0), 1)
        if func is _aten.masked_select.default:
            x, mask = torch.broadcast_tensors(*args)
            return _aten.index.Tensor(x, self._positions(mask))
        if func in _BY_INDEX and any(map(_is_mask, args[1])) and not _is_single(args[2:3]):
            indices: list[Any] = []
            for index in args[1]:
                indices += self._positions(index) if _is_mask(index) else [index]
            return func(args[0], indices, *args[2:], **kwargs)
        if torch.Tag.dynamic_output_shape in func.tags and func not in _BY_INDEX:
            raise CannotRecord(
                f"{describe_users(sys._getframe())} calls {_plain_name(func)}, and "
                "the shape of its result depends on values; compute it before the step, and give "
                "the result as an argument"
            )
        return func(*args, **kwargs)

    def _pack(self, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        """``torch.nn.utils.rnn.pack_padded_sequence`` for the lengths of the recorded run."""
        value = self._reads.add(lengths, "pack_padded_sequence")
        with not_recording():
            is_there = torch.arange(int(value.max()))[:, None] < value
            steps, sequences = (index.to(x.device) for index in is_there.nonzero(as_tuple=True))
            batch_sizes = is_there.sum(1)
        self._reads.constants[id(batch_sizes)] = batch_sizes
        index = [sequences, steps] if batch_first else [steps, sequences]
        return _aten.index.Tensor(x, index), batch_sizes

    def _positions(self, mask: Tensor) -> list[Tensor]:
        """The indices where a mask is true, one tensor for each dimension."""
        key = id(mask), mask._version
        if key not in self._indices:
            value = self._reads.add((mask != 0).sum(), "a mask")
            with not_recording():
                num = int(value)
            found = _aten.nonzero_static.default(mask, size=num)
            self._reads.needed_for[-1] = found
            self._indices[key] = mask, list(found.unbind(1))
        return self._indices[key][1]


def _is_unread(value: Any, reads: Reads) -> bool:
    """Whether a value is a tensor of whole numbers that is not noted yet."""
    if not isinstance(value, Tensor) or value.is_floating_point():
        return False
    return id(value) not in reads.constants


def _one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    """``torch.nn.functional.one_hot``, which reads the smallest and the largest class."""
    num = num_classes if num_classes >= 0 else int(x.max()) + 1
    return x.new_zeros((*x.shape, num)).scatter_(-1, x.unsqueeze(-1), 1)


def _is_number(index: Any) -> bool:
    is_scalar = isinstance(index, Tensor) and not index.shape
    return is_scalar and index.dtype not in (torch.bool, torch.uint8)


def _reading_function() -> str:
    """The name of the method by which the program reads a number."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == ReadFunctions.__torch_function__.__name__:
            return str(getattr(frame.f_locals.get("func"), "__name__", "item"))
        frame = frame.f_back  # type: ignore[assignment]
    return "item"


def _plain_name(operator: Any) -> str:
    """The name by which a user knows an operator."""
    return str(operator.__name__).partition(".")[0].strip("_0123456789")


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _is_single(values: Sequence[Any]) -> bool:
    """Whether one number is written wherever the mask is true, which has no shape to depend on."""
    return bool(values) and values[0].numel() == 1
