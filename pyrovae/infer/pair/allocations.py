"""Count the memory that the tensors of a computation take."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ..private_torch import TorchDispatchMode
from ..trees import leaves_of

__all__ = ["count_allocated_bytes"]


def count_allocated_bytes(function: Callable[[], Any]) -> int:
    """Sum the bytes of all tensors that a call creates, including those it frees again."""
    with _Allocations() as allocations:
        function()
    total: int = allocations.total
    return total


class _Allocations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        new = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in given]
        self.total += sum(t.untyped_storage().nbytes() for t in new)
        return result


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in leaves_of(tree) if isinstance(leaf, Tensor))
