"""Minibatches, cut from tensors that stay on the device or drawn from a DataLoader."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..errors import InputError

__all__ = ["Batches", "LoaderBatches", "batches_of", "digest_of"]

Transform = Callable[..., Any]
"""Applied to the parts of a batch on the device, such as dynamic binarisation or a cast."""

_DIGESTED = 1000


class Batches:
    """Minibatches of tensors that live on one device, reshuffled at each pass.

    No workers and no copies through the host: a batch is one ``index_select`` a tensor, which
    for data that fit in memory is many times faster than a ``DataLoader``.

    Arguments:
        tensors: a tensor, or several of the same length, indexed by datum on the left.
        batch_size: data in a batch; the last batch of a pass holds what is left over.
        shuffle: draw a new order at each pass, from torch's generator.
        transform: applied to the parts of each batch; returns one part or a tuple of them.
        device: where the tensors shall live.

    Raises:
        InputError: if the tensors are empty or differ in length, or batch_size is not positive.

    Example:
        >>> [x.tolist() for (x,) in Batches(torch.arange(5), 2, shuffle=False)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        tensors: Tensor | Sequence[Tensor],
        batch_size: int = 128,
        *,
        shuffle: bool = True,
        transform: Transform | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        parts = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
        lengths = {len(part) for part in parts}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"batches need tensors of one length, 1 or more; got {sorted(lengths)}"
            )
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be 1 or more")
        self._tensors = tuple(part.to(device) for part in parts)
        self.size = lengths.pop()
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._transform = transform

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if self._shuffle:
            yield from (self.take(index) for index in self.indices())
            return
        parts = zip(*(part.split(self.batch_size) for part in self._tensors), strict=True)
        yield from (_transformed(batch, self._transform) for batch in parts)  # views, not copies

    def digest(self) -> str:
        """SHA-256 of up to a thousand data, evenly spaced, by which others are told from these."""
        return digest_of(self._tensors)

    def indices(self) -> Iterator[Int[Tensor, "batch"]]:
        """One pass as the numbers of the data in each batch."""
        order_by = torch.randperm if self._shuffle else torch.arange
        yield from order_by(self.size, device=self._tensors[0].device).split(self.batch_size)

    def take(self, index: Int[Tensor, "batch"]) -> tuple[Any, ...]:
        """The batch of these data, transformed: a function of tensors, to be part of a step."""
        return _transformed(tuple(part[index] for part in self._tensors), self._transform)


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
                "data are a tensor, a tuple of tensors, Batches or a DataLoader; got "
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


def batches_of(
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
    if isinstance(data, Tensor) or (
        isinstance(data, tuple | list) and all(isinstance(part, Tensor) for part in data)
    ):
        return Batches(data, batch_size, shuffle=shuffle, transform=transform, device=device)
    return LoaderBatches(data, transform, device)


def digest_of(parts: Sequence[Any]) -> str:
    """SHA-256 of up to a thousand rows, evenly spaced, of each tensor among some parts."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            rows = torch.atleast_1d(part)
            num = min(len(rows), _DIGESTED)
            places = torch.arange(num, device=rows.device) * len(rows) // max(num, 1)
            values = rows[places].cpu().contiguous()
            found.update(f"{values.dtype} {tuple(values.shape)}".encode())
            found.update(values.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _transformed(batch: tuple[Any, ...], transform: Transform | None) -> tuple[Any, ...]:
    if transform is None:
        return batch
    result = transform(*batch)
    return tuple(result) if isinstance(result, tuple | list) else (result,)
