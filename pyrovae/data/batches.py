"""Minibatches, cut from tensors on the device or maps of files, or drawn from a DataLoader."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..errors import InputError
from .arrays import Array, Source, is_array
from .readahead import are_beyond_memory, read_ahead

__all__ = ["Batches", "LoaderBatches", "as_batches", "compute_digest"]

Transform = Callable[..., Any]
"""Applied to the parts of a batch on the device, such as dynamic binarisation or a cast."""

_DIGESTED = 2**24
"""Bytes that are hashed at a time."""


class Batches:
    """Minibatches of tensors or arrays, reshuffled at each pass.

    No workers and no copies through the host: a batch is one ``index_select`` a tensor, which
    for data that fit in memory is many times faster than a ``DataLoader``.

    Arrays of NumPy are taken as tensors of the same memory, real numbers as those of torch's
    default type. **Data larger than memory** are arrays that are mapped from a file, as
    ``np.load(path, mmap_mode="r")`` gives them: they are never read whole. Each batch is gathered
    from the map, and only its real numbers are cast. What is held is a batch, and 8 bytes a datum
    for the order of a pass; pages of the file that the system keeps beside that are given back
    where others need room. As long as it can keep them all, a batch takes about as long as from
    memory (256 rows of 4 kB: 0.78 ms, beside 0.68). Of files larger than the memory of the machine,
    each row costs a read of the disk; threads then read the pages of the next 8 batches, which
    halved the time on a virtual disk (128 rows: 5 ms, beside 11). A map must not change meanwhile.

    Arguments:
        tensors: a tensor or an array, or several of the same length, indexed by datum on the left.
        batch_size: data in a batch; the last batch of a pass holds what is left over.
        shuffle: draw a new order at each pass, from torch's generator.
        transform: applied to the parts of each batch; returns one part or a tuple of them.
        device: where the tensors shall live; where any is mapped, they stay on the host, and
            batches are moved there.

    Attributes:
        size: number of data.
        batch_size: as given.
        device: where their numbers are to be.

    Raises:
        InputError: if the tensors are empty or differ in length, or batch_size is not positive, or
            an array holds what no tensor does.

    Example:
        >>> [x.tolist() for (x,) in Batches(torch.arange(5), 2, shuffle=False)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        tensors: Array | Sequence[Array],
        batch_size: int = 128,
        *,
        shuffle: bool = True,
        transform: Transform | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        parts = (tensors,) if is_array(tensors) else tuple(tensors)
        lengths = {len(part) if part.ndim else 0 for part in parts}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"batches need tensors of one length, 1 or more; got {sorted(lengths)}"
            )
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be 1 or more")
        sources = [Source.of(part) for part in parts]
        self._maps = [source.map for source in sources if source.map is not None]
        is_host = device is None or torch.device(device).type == "cpu"
        self._destination = None if is_host or not self._maps else device
        home = device if self._destination is None else "cpu"
        self._sources = tuple(source.to(home) for source in sources)
        self.device = self._sources[0].tensor.device
        self.size = lengths.pop()
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._transform = transform

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self._shuffle:
            return (self.take(index) for index in self.indices())
        return self.in_order()

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        """The batches of a pass that is not shuffled: views, or from a map copies."""
        for start in range(0, self.size, self.batch_size):
            stop = min(start + self.batch_size, self.size)
            parts = (self._moved(source.span(start, stop)) for source in self._sources)
            yield _transformed(tuple(parts), self._transform)

    def digest(self) -> str:
        """SHA-256 of all data, by which others are told from these.

        A map is read once for it: at 1.9 GB a second where it was measured, or as the disk allows.
        """
        found = hashlib.sha256()
        for source in self._sources:
            found.update(f"{source.dtype} {tuple(source.tensor.shape)}".encode())
            size_of_row = source.tensor[:1].nbytes
            num = max(1, _DIGESTED // max(1, size_of_row))
            for start in range(0, self.size, num):
                values = source.tensor[start : start + num].to(source.dtype).cpu().contiguous()
                found.update(values.view(torch.uint8).numpy().data)
        return found.hexdigest()

    def indices(self) -> Iterator[Int[Tensor, "batch"]]:
        """One pass as the numbers of the data in each batch."""
        order_by = torch.randperm if self._shuffle else torch.arange
        order = order_by(self.size, device=self.device).split(self.batch_size)
        if self._shuffle and are_beyond_memory(self._maps):
            mapped = [source.tensor for source in self._sources if source.map is not None]
            yield from read_ahead(order, mapped, self._maps)
        else:
            yield from order

    def fetch(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, ...]:
        """What a step on these data is given: their numbers; or, where data are mapped and the
        device is another than theirs, the data, moved there.
        """
        if self._destination is None:
            return (index,)
        return tuple(self._moved(source.rows(index)) for source in self._sources)

    def finish(self, *fetched: Tensor) -> tuple[Any, ...]:
        """The batch of what was fetched, transformed: a function of tensors, part of a step."""
        if self._destination is None:
            (index,) = fetched
            fetched = tuple(source.rows(index) for source in self._sources)
        return _transformed(fetched, self._transform)

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Any, ...]:
        """The batch of these data, transformed; where none is moved, it may be part of a step."""
        return self.finish(*self.fetch(index))

    def _moved(self, rows: Tensor) -> Tensor:
        return rows if self._destination is None else rows.to(self._destination)


class LoaderBatches:
    """The batches of an ordinary ``DataLoader``.

    Arguments:
        loader: yields a tensor or a sequence of tensors at each step, or whatever transform takes.
        transform: as for :class:`Batches`.
        device: where to move each tensor of a batch.

    Raises:
        InputError: if it is no ``DataLoader``, or its length is not known.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        transform: Transform | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(loader, DataLoader):
            raise InputError(
                "data are a tensor, an array, a tuple of these, Batches or a DataLoader; got "
                f"{type(loader).__name__}"
            )
        if isinstance(loader.dataset, IterableDataset):
            raise InputError(
                "the DataLoader streams an IterableDataset of unknown size; the bound needs the "
                "number of data"
            )
        self._loader = loader
        self._transform = transform
        self._device = device
        self.size = len(cast(Sized, loader.sampler))

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self._loader:
            parts = batch if isinstance(batch, tuple | list) else (batch,)
            yield _transformed(tuple(self._moved(part) for part in parts), self._transform)

    def generators(self) -> list[torch.Generator]:
        """Those that the loader and its samplers have of their own."""
        batch_sampler = self._loader.batch_sampler
        parts = (self._loader, self._loader.sampler, getattr(batch_sampler, "sampler", None))
        found = (getattr(part, "generator", None) for part in (*parts, batch_sampler))
        return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def _moved(self, part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.to(self._device, non_blocking=True)
        return part


def as_batches(
    data: Any,
    batch_size: int,
    *,
    shuffle: bool,
    transform: Transform | None,
    device: torch.device | str | None,
) -> Batches | LoaderBatches:
    """Batches of whatever a user calls data; batches that are given are taken as they are.

    Raises:
        InputError: if the data are of no such kind, or given batches would ignore the transform or
            the device.
    """
    if isinstance(data, Batches):
        if transform is not None or device is not None:
            raise InputError(
                "Batches have a transform and a device of their own: give these to Batches"
            )
        return data
    if is_array(data) or (isinstance(data, tuple | list) and all(is_array(part) for part in data)):
        return Batches(data, batch_size, shuffle=shuffle, transform=transform, device=device)
    return LoaderBatches(data, transform, device)


def compute_digest(batch: Sequence[Any]) -> str:
    """SHA-256 of the tensors among the parts of a batch."""
    found = hashlib.sha256()
    for part in batch:
        if isinstance(part, Tensor):
            values = torch.atleast_1d(part).cpu().contiguous()
            found.update(f"{values.dtype} {tuple(values.shape)}".encode())
            found.update(values.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _transformed(batch: tuple[Any, ...], transform: Transform | None) -> tuple[Any, ...]:
    if transform is None:
        return batch
    result = transform(*batch)
    return tuple(result) if isinstance(result, tuple | list) else (result,)
