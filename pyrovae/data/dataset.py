"""Data sets in memory, with fixed training, validation and test splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from ..arguments import as_instance, as_tensor
from ..errors import InputError, did_you_mean

__all__ = ["Dataset", "RawDataset", "Split", "split_off"]


@dataclass(frozen=True)
class Split:
    """Data x of shape ``(num, *event_shape)``, with optional labels and exposures.

    Attributes:
        x: data.
        y: class labels, if any.
        exposure: exposure of each datum, if any.
        label: labels that a model sees: y, with -1 for hidden ones; None if it sees none.
    """

    x: Num[Tensor, "num *event"]
    y: Int[Tensor, "num"] | None = None
    exposure: Float[Tensor, "num"] | None = None
    label: Int[Tensor, "num"] | None = None

    def __post_init__(self) -> None:
        """Take arrays and frames in place of tensors, and check that there is a row for each datum.

        Raises:
            InputError: if not.
        """
        x = as_tensor("x", self.x)
        if x.ndim == 0:
            raise InputError("x is one number; give data along its first dimension")
        object.__setattr__(self, "x", x)
        for name in ("y", "exposure", "label"):
            value = getattr(self, name)
            if value is None:
                continue
            tensor = as_tensor(name, value)
            if tuple(tensor.shape) != (len(x),) or (
                name != "exposure" and tensor.is_floating_point()
            ):
                kind = "a number" if name == "exposure" else "an integer"
                raise InputError(
                    f"{name} has shape {tuple(tensor.shape)} and type {tensor.dtype}; give {kind} "
                    f"for each of {len(x)} data"
                )
            object.__setattr__(self, name, tensor)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Arguments of a model of these data: x, then label and exposure if present."""
        return (self.x, *(part for part in (self.label, self.exposure) if part is not None))

    def to(self, dtype: torch.dtype) -> "Split":
        """The same data, with real numbers in the given precision."""
        x = self.x.to(dtype) if self.x.is_floating_point() else self.x
        exposure = None if self.exposure is None else self.exposure.to(dtype)
        return replace(self, x=x, exposure=exposure)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> "Split":
        others = (None if t is None else t[index] for t in (self.y, self.exposure, self.label))
        return Split(self.x[index], *others)


@dataclass(frozen=True)
class RawDataset:
    """Data as read, before splitting; the optional attributes are those of :class:`Dataset`."""

    train: Split
    test: Split | None = None
    levels: float | None = None
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test data that are the same in every run.

    Attributes:
        name: what the data set is called.
        train: data to fit.
        validation: data for model selection, such as early stopping.
        test: data for reported results.
        levels: the highest grey level L of images with values 0, ..., L; binarisation uses x / L
            as a probability. None for other data.
        features: names of the columns of a table.
        classes: names of the classes 0, 1, ... in the labels, if these are words.
        categories: for each column of words, the words that its codes 0, 1, ... stand for.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    levels: float | None = None
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the splits.

        Raises:
            InputError: if one is no :class:`Split`, or their data differ in shape.
        """
        for name, part in self.splits.items():
            as_instance(f"the {name} data", part, Split, "a Split")
            if part.x.shape[1:] != self.train.x.shape[1:]:
                raise InputError(
                    f"the {name} data have shape {tuple(part.x.shape[1:])} for each datum, but the "
                    f"training data {tuple(self.train.x.shape[1:])}"
                )

    def select(self, columns: Sequence[str]) -> "Dataset":
        """The same table with its columns in the given order.

        Raises:
            InputError: if these are not exactly its columns.
        """
        present = self.features or ()
        for name in columns:
            if name not in present:
                raise InputError(
                    f"{self.name} has no column {name!r}: {did_you_mean(name, present)}"
                )
        remaining = [name for name in present if name not in columns]
        if remaining:
            raise InputError(
                f"no likelihood is declared for column {remaining[0]!r} of {self.name}; add one"
            )
        order = torch.tensor([present.index(name) for name in columns])
        parts = (replace(part, x=part.x[:, order]) for part in self.splits.values())
        return replace(self.with_splits(*parts), features=tuple(columns))

    @property
    def has_missing(self) -> bool:
        """Whether any entry is missing (NaN)."""
        return any(bool(part.x.isnan().any()) for part in self.splits.values())

    @property
    def is_grey(self) -> bool:
        """Whether the data are grey-level images with one channel."""
        return self.levels is not None and self.event_shape[0] == 1

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.train.x.shape[1:])

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"training": self.train, "validation": self.validation, "test": self.test}

    def with_splits(self, train: Split, validation: Split, test: Split) -> "Dataset":
        """The same data set with other data in its splits."""
        return replace(self, train=train, validation=validation, test=test)


def split_off(data: Split, fraction: float, seed: int, what: str) -> tuple[Split, Split]:
    """Split off a random fraction of the data, the same for the same seed on every machine.

    Arguments:
        data: all data.
        fraction: part to split off.
        seed: seed of the random choice.
        what: purpose of the part, for messages.

    Returns:
        The remaining data, and the part that was split off.

    Raises:
        InputError: if either part would be empty.
    """
    num = round(fraction * len(data))
    if not 0 < num < len(data):
        raise InputError(
            f"cannot split off a fraction of {fraction} of {len(data)} data for {what}: one part "
            "would be empty; give more data or another fraction"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data[order[num:]], data[order[:num]]
