"""What is known of the data that a model was trained on, without the data themselves."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from ..errors import InputError
from .dataset import Dataset, Split

__all__ = ["DataDescription"]

_ROWS = 1000
"""Data whose bytes are read at a time."""


class DataDescription(BaseModel):
    """The shape, the names and the kinds of training data, as a file keeps them in plain text.

    Attributes:
        name: what the data set is called.
        event_shape: shape of one datum.
        num: number of training, validation and test data.
        levels: the highest grey level of images; None for other data.
        features: names of the columns of a table.
        whole: for each column of a table whether all its values are whole numbers.
        categories: for each column of words, the words that its codes 0, 1, ... stand for.
        has_missing: whether entries are missing.
        limits: the smallest and the largest of all training values; None if all are missing.
        classes: names of the classes in the labels, if these are words or have gaps.
        class_counts: number of training data of each class; None without labels.
        label: column of a table that holds the class.
        exposure: column of a table that holds the exposure.
        binarise: how grey levels become binary: none, static or dynamic.
        dequantise: whether uniform noise is added to whole numbers.
        digests: a checksum of each of the splits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    event_shape: tuple[int, ...]
    num: dict[str, int]
    levels: float | None = None
    features: tuple[str, ...] | None = None
    whole: tuple[bool, ...] | None = None
    categories: dict[str, tuple[str, ...]] = {}
    has_missing: bool = False
    limits: tuple[float, float] | None = None
    classes: tuple[str, ...] | None = None
    class_counts: tuple[int, ...] | None = None
    label: str | None = None
    exposure: str | None = None
    binarise: str = "none"
    dequantise: bool = False
    digests: dict[str, str]

    @classmethod
    def of(cls, dataset: Dataset, **options: Any) -> "DataDescription":
        """Describe a data set.

        Arguments:
            dataset: the data before binarisation or dequantisation, with columns in the order of
                the model.
            options: ``label``, ``exposure``, ``binarise`` and ``dequantise``.
        """
        splits = dataset.splits
        y = dataset.train.y
        counts = None if y is None else torch.bincount(y[y >= 0]).tolist()
        whole = None
        if dataset.features is not None:
            are_whole = [(p.x == p.x.round()) | p.x.isnan() for p in splits.values()]
            whole = tuple(torch.cat(are_whole).all(0).tolist())
        return cls(
            name=dataset.name,
            event_shape=dataset.event_shape,
            num={name: len(part) for name, part in splits.items()},
            levels=dataset.levels,
            features=dataset.features,
            whole=whole,
            categories=dict(dataset.categories),
            has_missing=dataset.has_missing,
            limits=_find_limits(dataset.train.x),
            classes=dataset.classes,
            class_counts=counts,
            digests={name: _digest(part) for name, part in splits.items()},
            **options,
        )

    @classmethod
    def parse(cls, plain: Any, source: str) -> "DataDescription":
        """The description that a file holds in plain values.

        Arguments:
            plain: mapping of the attributes.
            source: what to call it, for the message.

        Raises:
            InputError: if an attribute is missing, unknown or invalid.
        """
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{source} does not describe data: {where}: {first['msg'].lower()}"
            ) from None

    def to_plain(self) -> dict[str, Any]:
        """The attributes in plain values."""
        return self.model_dump(mode="json")

    def recode(self, dataset: Dataset) -> Dataset:
        """The data with words and classes numbered as they are here.

        Raises:
            InputError: if they hold a word or a class that is not known here.
        """
        names = {name: self.categories.get(name) for name in dataset.categories}
        if dict(dataset.categories) == dict(self.categories) and dataset.classes == self.classes:
            return dataset
        maps = {}
        for name, words in dataset.categories.items():
            known = names[name]
            if known is None:
                raise InputError(f"column {name!r} of {dataset.name} holds words, not numbers")
            maps[name] = _codes_of(words, known, f"column {name!r} of {dataset.name}")
        classes = None
        if dataset.classes is not None and self.classes is not None:
            classes = _codes_of(dataset.classes, self.classes, f"the labels of {dataset.name}")

        def recode(part: Split) -> Split:
            x = part.x.clone()
            for name, codes in maps.items():
                column = x[:, (dataset.features or ()).index(name)]
                present = ~column.isnan()
                column[present] = codes.to(x.dtype)[column[present].long()]
            y = part.y
            if y is not None and classes is not None:
                y = torch.where(y < 0, y, classes[y.clamp_min(0)])
            return replace(part, x=x, y=y)

        parts = [recode(part) for part in dataset.splits.values()]
        changed = replace(dataset, categories=dict(self.categories), classes=self.classes)
        return changed.with_splits(*parts)

    def check_same(self, dataset: Dataset) -> None:
        """Check that these are the data that are described here.

        Raises:
            InputError: if they differ in any split.
        """
        for name, part in dataset.splits.items():
            if self.digests.get(name) != _digest(part):
                raise InputError(
                    f"the {name} data of {dataset.name} are not those of the training: the file "
                    "or its splits changed; use the old file, or train again"
                )


def _find_limits(x: Tensor) -> tuple[float, float] | None:
    present = x[x.isfinite()]
    return (present.min().item(), present.max().item()) if len(present) else None


def _codes_of(words: Sequence[str], known: Sequence[str], what: str) -> Int[Tensor, "words"]:
    """For each word, its number among those that are known."""
    unknown = [word for word in words if word not in known]
    if unknown:
        raise InputError(f"{what} holds {unknown[0]!r}, which the model was not trained with")
    return torch.tensor([known.index(word) for word in words])


def _digest(part: Split) -> str:
    """SHA-256 of the data of a split, without a copy of them."""
    digest = hashlib.sha256()
    for name, tensor in {"x": part.x, "y": part.y, "exposure": part.exposure}.items():
        if tensor is not None:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for rows in tensor.split(_ROWS):
                digest.update(np.ascontiguousarray(rows.numpy()).data)
    return digest.hexdigest()
