"""Minibatches of tensors, of memory-mapped files, or of a DataLoader."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from ..arguments import TensorLike, as_callable, as_device, as_flag, as_whole, describe
from ..errors import InputError, error_reason
from .arrays import Source, is_array
from .readahead import are_larger_than_memory, read_ahead

__all__ = ["Batches", "LoaderBatches", "as_batches", "compute_digest"]

Transform = Callable[..., Any]
"""A function of the parts of a batch, on the device, such as dynamic binarisation or a cast."""

_DIGEST_CHUNK = 2**24
"""Bytes to hash at a time."""


class Batches:
    """Minibatches of tensors or arrays, reshuffled at each pass.

    There are no workers and no copies through the host: each batch is one ``index_select`` per
    tensor. For data that fit in memory this is many times faster than a ``DataLoader``.

    NumPy arrays share their memory with the tensors that are read; real numbers get torch's
    default type. For **data larger than memory**, pass arrays that are memory-mapped, as
    ``np.load(path, mmap_mode="r")`` returns them. They are never read as a whole: each batch is
    gathered from the map, and only its real numbers are cast. Memory holds a batch, and 8 bytes
    per datum for the order of a pass; the operating system also caches pages of the file, and
    frees them when other programs need memory. While the cache holds the whole file, a batch takes
    about as long as from memory (256 rows of 4 kB: 0.78 ms, against 0.68 ms). For files larger
    than the memory of the machine, each row costs a disk read; threads then read the pages of the
    next 8 batches, which halved the time on a virtual disk (128 rows: 5 ms, against 11 ms). Do not
    change the file meanwhile.

    Arguments:
        tensors: a tensor, an array or a data frame of numbers, or several of the same length; the
            first dimension indexes data.
        batch_size: data in a batch; the last batch of a pass may be smaller.
        shuffle: draw a new order at each pass, from torch's generator; a single batch of all
            data keeps their order.
        transform: applied to the parts of each batch; returns one part or a tuple of them.
        device: device that holds the tensors; if any is memory-mapped, all stay on the host, and
            each batch is moved to the device.

    Attributes:
        size: number of data.
        batch_size: as given.
        device: device of the indices that :meth:`take` expects.

    Raises:
        InputError: if the tensors are empty or differ in length, an argument is invalid, or an
            array cannot be read as a tensor.

    Example:
        >>> [x.tolist() for (x,) in Batches(torch.arange(5), 2, shuffle=False)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        tensors: TensorLike | Sequence[TensorLike],
        batch_size: int = 128,
        *,
        shuffle: bool = True,
        transform: Transform | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        batch_size = as_whole("batch_size", batch_size, 1)
        shuffle = as_flag("shuffle", shuffle)
        check_transform(transform)
        device = None if device is None else as_device("device", device, meta=True)
        if not is_array(tensors) and not isinstance(tensors, tuple | list):
            raise InputError(
                f"data are {describe(tensors)}; give a tensor, an array, a data frame, or a tuple "
                "of these"
            )
        parts = (tensors,) if is_array(tensors) else tuple(tensors)
        sources = [Source.from_array(part) for part in parts]
        lengths = {len(each.tensor) if each.tensor.ndim else 0 for each in sources}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"batches need tensors of one length, 1 or more; got {sorted(lengths)}"
            )
        self._maps = [source.map for source in sources if source.map is not None]
        is_host = device is None or device.type == "cpu"
        self._destination = None if is_host or not self._maps else device
        storage_device = device if self._destination is None else "cpu"
        self._sources = tuple(source.to(storage_device) for source in sources)
        self.device = self._sources[0].tensor.device
        self.size = lengths.pop()
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._transform = transform

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    @property
    def is_shuffled(self) -> bool:
        """Whether each pass has a new order; never so for a single batch of all data."""
        return self._shuffle and self.size > self.batch_size

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self.is_shuffled:
            return (self.take(index) for index in self.indices())
        return self.in_order()

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        """The batches of an unshuffled pass: views, or copies if memory-mapped."""
        for start in range(0, self.size, self.batch_size):
            stop = min(start + self.batch_size, self.size)
            parts = (self._move(source.span(start, stop)) for source in self._sources)
            yield _apply_transform(tuple(parts), self._transform)

    def parts(self) -> tuple[Any, ...]:
        """What makes the batches, and may hold a state of its own."""
        return () if self._transform is None else (self._transform,)

    def digest(self) -> str:
        """SHA-256 of all data, which identifies them.

        Memory maps are read once, measured at 1.9 GB per second, or as fast as the disk allows.
        """
        digest = hashlib.sha256()
        for source in self._sources:
            digest.update(f"{source.dtype} {tuple(source.tensor.shape)}".encode())
            bytes_per_row = source.tensor[:1].nbytes
            num_rows = max(1, _DIGEST_CHUNK // max(1, bytes_per_row))
            for start in range(0, self.size, num_rows):
                values = source.tensor[start : start + num_rows].to(source.dtype).cpu().contiguous()
                digest.update(values.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def indices(self) -> Iterator[Int[Tensor, "batch"]]:
        """The indices of the data in each batch of one pass."""
        order_by = torch.randperm if self.is_shuffled else torch.arange
        order = order_by(self.size, device=self.device).split(self.batch_size)
        if self.is_shuffled and are_larger_than_memory(self._maps):
            mapped = [source.tensor for source in self._sources if source.map is not None]
            yield from read_ahead(order, mapped, self._maps)
        else:
            yield from order

    def fetch(self, index: Int[Tensor, "batch"]) -> tuple[Tensor, ...]:
        """The tensors to pass to a step on these data.

        Usually these are the indices. If data are memory-mapped and the device is not the host,
        these are the data, moved to the device.
        """
        if self._destination is None:
            return (index,)
        return tuple(self._move(source.rows(index)) for source in self._sources)

    def finish(self, *fetched: Tensor) -> tuple[Any, ...]:
        """The transformed batch from what :meth:`fetch` returned; a step can include this call."""
        if self._destination is None:
            (index,) = fetched
            fetched = tuple(source.rows(index) for source in self._sources)
        return _apply_transform(fetched, self._transform)

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Any, ...]:
        """The transformed batch of the data at these indices.

        A step can include this call unless :meth:`fetch` moves data.
        """
        return self.finish(*self.fetch(index))

    def _move(self, rows: Tensor) -> Tensor:
        return rows if self._destination is None else rows.to(self._destination)


class LoaderBatches:
    """The batches of an ordinary ``DataLoader``.

    Arguments:
        loader: yields a tensor, a sequence of tensors, or any value that transform accepts.
        transform: as for :class:`Batches`.
        device: device to move each tensor of a batch to.

    Attributes:
        size: number of data.
        is_shuffled: whether passes may have different orders.

    Raises:
        InputError: if loader is not a ``DataLoader``, or the number of its data is unknown.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        transform: Transform | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(loader, DataLoader):
            raise InputError(
                f"data are {describe(loader)}; give a tensor, an array, a data frame, a tuple of "
                "these, Batches or a DataLoader"
            )
        check_transform(transform)
        device = None if device is None else as_device("device", device)
        if isinstance(loader.dataset, IterableDataset):
            raise InputError(
                "the DataLoader streams an IterableDataset of unknown size; the bound needs the "
                "number of data"
            )
        self._loader = loader
        self._transform = transform
        self._device = device
        self.size = len(cast(Sized, loader.sampler))
        self.is_shuffled = not isinstance(loader.sampler, SequentialSampler)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for batch in self._loader:
            parts = batch if isinstance(batch, tuple | list) else (batch,)
            yield _apply_transform(tuple(self._move(part) for part in parts), self._transform)

    def parts(self) -> tuple[Any, ...]:
        """What makes the batches, and may hold a state of its own."""
        loader = self._loader
        batch_sampler = loader.batch_sampler
        parts = (loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
        rest = (loader.generator, loader.dataset, loader.collate_fn, self._transform)
        return tuple(each for each in (*parts, *rest) if each is not None)

    def _move(self, part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.to(self._device, non_blocking=True)
        return part


def check_transform(transform: Any) -> None:
    """Check that a transform can be called.

    Raises:
        InputError: if it cannot.
    """
    if transform is not None:
        as_callable("transform", transform, "a function of the parts of a batch")


def as_batches(
    data: Any,
    batch_size: int,
    *,
    shuffle: bool,
    transform: Transform | None,
    device: torch.device | str | None,
) -> Batches | LoaderBatches:
    """Batches of data of any supported type; :class:`Batches` are returned unchanged.

    Raises:
        InputError: if the type of the data is not supported, or ``Batches`` are combined with a
            transform or a device, which they would ignore.
    """
    device = None if device is None else as_device("device", device)
    if isinstance(data, Batches):
        if transform is not None or device is not None:
            raise InputError(
                "Batches have their own transform and device; pass these to Batches instead"
            )
        return data
    if is_array(data) or (isinstance(data, tuple | list) and data and all(map(is_array, data))):
        return Batches(data, batch_size, shuffle=shuffle, transform=transform, device=device)
    return LoaderBatches(data, transform, device)


def compute_digest(batch: Sequence[Any]) -> str:
    """SHA-256 of the tensors among the parts of a batch."""
    digest = hashlib.sha256()
    for part in batch:
        if isinstance(part, Tensor):
            values = torch.atleast_1d(part).cpu().contiguous()
            digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _apply_transform(batch: tuple[Any, ...], transform: Transform | None) -> tuple[Any, ...]:
    if transform is None:
        return batch
    try:
        result = transform(*batch)
    except TypeError as error:
        raise InputError(
            f"transform raised a TypeError on a batch of {len(batch)} parts: {error_reason(error)}"
        ) from error
    if result is None or isinstance(result, str | bytes | int | float):
        raise InputError(
            f"transform returned {describe(result)}; it must return the parts of a batch, as "
            "lambda x: 2 * x does"
        )
    return tuple(result) if isinstance(result, tuple | list) else (result,)
