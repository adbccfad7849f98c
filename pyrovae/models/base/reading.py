"""How data come into a model: tensors, arrays, data frames and files, after checks."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Num
from torch import Tensor, nn

from ...arguments import TensorLike, as_data, as_tensor
from ...data.description import DataDescription
from ...data.rows import Rows, as_table, is_table, prepare, read_rows, rows_of_table
from ...errors import InputError
from ...inverse.posterior import check_given
from ...likelihoods.support import check_values
from .generative import GenerativeModel, Layer
from .recognition import RecognitionModel

__all__ = ["Data", "ReadsData"]

Data = TensorLike | str | Path | Rows
"""A tensor, an array or a data frame with data along the first dimension; the path of a file; or
rows that :meth:`ReadsData.as_rows` has read."""

_TOO_LARGE = 1e15
"""Squares of larger numbers overflow in single precision, or nearly so."""


class ReadsData(nn.Module):
    """The part of a model family that reads data.

    Methods take data as tensors, NumPy arrays, data frames or paths of files. If the model knows
    what its training data were (``about``), columns of tables are matched by name, and words and
    classes have the codes of the training data.
    """

    about: DataDescription | None
    event_shape: tuple[int, ...]
    model: GenerativeModel
    guide: RecognitionModel
    num_conditions: ClassVar[int]
    needs_condition: ClassVar[bool] = True
    """Whether the condition of each datum must be given; if not, it is unknown unless given."""

    @property
    @abstractmethod
    def likelihood(self) -> Layer:
        """p(x | z) as a function of the decoder's output."""

    def as_data(self, x: TensorLike, name: str = "x", batch_dims: int | None = None) -> Tensor:
        """x as a tensor on the device of the model, after a check of its shape.

        Every method takes tensors, NumPy arrays and data frames of numbers, by this check.

        Arguments:
            x: data.
            name: what to call them.
            batch_dims: number of dimensions before those of a datum; None for any.

        Raises:
            InputError: if x are no finite real numbers, or have another shape than the model
                expects, or are tensors on another device. NaN is taken where entries of x may be
                missing.
        """
        like = self.guide.standardise.loc
        data = as_data(name, x, self.event_shape, like=like, batch_dims=batch_dims)
        check_values(data, self.event_shape, self._features, name, missing=self.guide.missing)
        size = self.guide.standardise(data).abs().nan_to_num(0.0).max()
        if not bool(size < _TOO_LARGE):
            raise InputError(
                f"{name} holds numbers of {size.item():.3g} standard deviations, whose squares "
                "overflow; rescale the data"
            )
        return data

    def as_given(self, given: tuple[TensorLike, ...], x: Tensor) -> tuple[Tensor, ...]:
        """What comes with data x as tensors, after a check that each has a row for each datum.

        Raises:
            InputError: if one has another number of rows, or is no tensor, array or frame.
        """
        batch = tuple(x.shape[: x.ndim - len(self.event_shape)])
        tensors = []
        for i, each in enumerate(given):
            tensor = as_tensor(f"given[{i}]", each, like=self.guide.standardise.loc)
            if tuple(tensor.shape[: len(batch)]) != batch:
                raise InputError(
                    f"given[{i}] has shape {tuple(tensor.shape)}; it must begin with {batch}, as x "
                    "does"
                )
            tensors.append(tensor)
        return tuple(tensors)

    def as_rows(self, data: Data, key: str | None = None) -> Rows:
        """Read new data as the model takes them, from a file, a frame, an array or a tensor.

        Arguments:
            data: data.
            key: column of a table that identifies each row.

        Raises:
            InputError: if the data are not such as the model was trained on.
        """
        if isinstance(data, Rows):
            return data
        if isinstance(data, str | Path):
            rows = read_rows(data, self.about, key)
        elif is_table(data) and (key or (self.about is not None and self.about.features)):
            rows = rows_of_table(as_table("data", data), self.about, "the table", key)
        elif key is not None:
            raise InputError("id names a column of a table; give a data frame or a file")
        else:
            x = as_data("x", data, self.event_shape, like=self._like)
            return Rows("x", prepare(x, self.about, "x"), as_read=x)
        return rows

    def given_of(self, rows: Rows) -> tuple[Tensor, ...]:
        """What the model takes after x, from the columns of new data.

        Raises:
            InputError: if a column that it needs is not there.
        """
        given: list[Tensor] = []
        if self.num_conditions and not self.needs_condition:
            given.append(torch.full((len(rows),), -1))
        elif self.num_conditions:
            y = rows.y
            if y is None or bool((y < 0).any()):
                label = self.about.label if self.about is not None else None
                raise InputError(
                    f"{type(self).__name__} is p(x | y), so it needs the class y of each datum: "
                    f"{_advise(rows, label or 'y')}"
                )
            given.append(y)
        for name in self.likelihood.likelihood.given:
            if name != "exposure" or rows.exposure is None:
                exposure = self.about.exposure if self.about is not None else None
                advice = _advise(rows, exposure or name)
                raise InputError(f"the likelihood takes {name} with each datum: {advice}")
            given.append(rows.exposure)
        return tuple(given)

    def read(
        self, data: Data, given: tuple[TensorLike, ...], name: str | None = None
    ) -> tuple[Num[Tensor, "num *event"], tuple[Tensor, ...]]:
        """New data as tensors, with what comes with each datum, after all checks.

        Arguments:
            data: data.
            given: what comes with each datum; by default, columns of the data.
            name: what to call the data in messages; the name of the file by default.

        Raises:
            InputError: if the data are not such as the model was trained on.
        """
        rows = self.as_rows(data)
        name = name or rows.title
        x = self.as_data(rows.x.to(self._device), name, 1)
        if not len(x):
            raise InputError(f"{name} are empty; give one datum or more")
        tensors = self.as_given(given, x) if given else self.given_of(rows)
        tensors = tuple(each.to(self._device) for each in tensors)
        self._check_support(x, tensors, name)
        return x, tensors

    def flatten_batch(
        self, data: Data, given: tuple[TensorLike, ...]
    ) -> tuple[Data, tuple[TensorLike, ...], tuple[int, ...]]:
        """Give tensors one dimension before those of a datum; return them and the earlier sizes.

        Other data are returned as they are, with the size -1.
        """
        num_dims = len(self.event_shape)
        if not isinstance(data, Tensor) or data.ndim in (num_dims + 1, 0):
            return data, given, (-1,)
        x = self.as_data(data)
        batch = tuple(x.shape[: x.ndim - num_dims])
        flat = tuple(
            each.reshape(-1, *each.shape[len(batch) :]) for each in self.as_given(given, x)
        )
        return x.reshape(-1, *self.event_shape), flat, batch

    def read_observations(
        self, y: Data, given: tuple[TensorLike, ...], is_masked: bool = True
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Degraded observations as tensors, with what comes with each, after all checks.

        Arguments:
            y: observations, with NaN where nothing was observed.
            given: what comes with each; by default, columns of the data.
            is_masked: whether y are data of which entries are missing; if not, an operator makes
                them from x, and only it can check them.

        Raises:
            InputError: if the observations are not such as the model was trained on.
        """
        if not is_masked:
            observed = as_tensor("y", y, like=self._like)
            return observed, self._as_tensors(given)
        rows = self.as_rows(y)
        observed = rows.x.to(self._device)
        tensors = self._as_tensors(given) if given else self.given_of(rows)
        what = "the observations"
        check_values(observed, self.event_shape, self._features, what, missing=True)
        check_given(tensors, len(observed))
        self._check_support(observed, tensors, what)
        return observed, tuple(each.to(self._device) for each in tensors)

    def _as_tensors(self, given: tuple[TensorLike, ...]) -> tuple[Tensor, ...]:
        return tuple(
            as_tensor(f"given[{i}]", each, like=self._like) for i, each in enumerate(given)
        )

    def _check_support(self, x: Tensor, given: tuple[Tensor, ...], what: str) -> None:
        """Refuse data outside the support of the likelihood."""
        first, names = self.num_conditions, self.likelihood.likelihood.given
        named = self.likelihood.given_with(x, *given[first : first + len(names)])
        self.likelihood.check(x, self._features, what, named)

    @property
    def _features(self) -> tuple[str, ...] | None:
        """Names of the columns, if the data are a table."""
        return None if self.about is None else self.about.features

    @property
    def _like(self) -> Tensor:
        """A tensor on the device and of the type of the model."""
        return self.guide.standardise.loc

    @property
    def _device(self) -> torch.device:
        return self._like.device


def _advise(rows: Rows, name: str) -> str:
    """How to give what comes with each datum."""
    if rows.name == "x":
        return "give it after x"
    return f"add a column {name!r} without gaps to {rows.name}"
