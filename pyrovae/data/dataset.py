"""A data set in memory, split once and for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from ..errors import InputError, did_you_mean

__all__ = ["Dataset", "Read", "Split", "split"]


@dataclass(frozen=True)
class Split:
    """Data x of shape ``(num, *event_shape)``, and what there is beside them.

    Attributes:
        x: data.
        y: class labels, where there are any.
        exposure: of each datum, where there is one.
        label: what a model is told of the labels: nothing (None), or y, -1 where it is kept back.
    """

    x: Num[Tensor, "num *event"]
    y: Int[Tensor, "num"] | None = None
    exposure: Float[Tensor, "num"] | None = None
    label: Int[Tensor, "num"] | None = None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What a model of these data takes: x, then label and exposure where there are any."""
        return (self.x, *(part for part in (self.label, self.exposure) if part is not None))

    def to(self, dtype: torch.dtype) -> "Split":
        """The same data, real numbers in this precision."""
        x = self.x.to(dtype) if self.x.is_floating_point() else self.x
        exposure = None if self.exposure is None else self.exposure.to(dtype)
        return replace(self, x=x, exposure=exposure)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> "Split":
        beside = (None if t is None else t[index] for t in (self.y, self.exposure, self.label))
        return Split(self.x[index], *beside)


@dataclass(frozen=True)
class Read:
    """What a source of data held; test data, levels and names where there are any."""

    train: Split
    test: Split | None = None
    levels: float | None = None
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test data that never change from run to run.

    Attributes:
        name: what the data set is called.
        train: data to fit.
        validation: data to choose by, as early stopping does.
        test: data for the figures that are reported.
        levels: the highest grey level L of images whose values are 0, ..., L; binarisation
            reads x / L as a probability. None for other data.
        features: names of the columns of a table.
        classes: names of the classes that labels number, where these are words.
        categories: for columns of words, the words that their numbers 0, 1, ... stand for.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    levels: float | None = None
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def select(self, columns: Sequence[str]) -> "Dataset":
        """The same table with its columns in another order.

        Raises:
            InputError: if these are not its columns.
        """
        present = self.features or ()
        for name in columns:
            if name not in present:
                raise InputError(
                    f"{self.name} has no column {name!r}: {did_you_mean(name, present)}"
                )
        left = [name for name in present if name not in columns]
        if left:
            raise InputError(f"no likelihood is declared for column {left[0]!r} of {self.name}")
        order = torch.tensor([present.index(name) for name in columns])
        parts = (replace(part, x=part.x[:, order]) for part in self.splits.values())
        return replace(self.with_splits(*parts), features=tuple(columns))

    @property
    def has_missing(self) -> bool:
        """Whether any entry is missing (NaN)."""
        return any(bool(part.x.isnan().any()) for part in self.splits.values())

    @property
    def is_grey(self) -> bool:
        """Whether the data are images of grey levels in one channel."""
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


def split(data: Split, fraction: float, seed: int, what: str) -> tuple[Split, Split]:
    """Set a random fraction of the data aside, the same for the same seed on every machine.

    Returns:
        What is left, and what was set aside.

    Raises:
        InputError: if either part would be empty.
    """
    aside = round(fraction * len(data))
    if not 0 < aside < len(data):
        raise InputError(
            f"{len(data)} data cannot spare a fraction of {fraction} for {what}; "
            "give more data or another fraction"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data[order[aside:]], data[order[:aside]]
