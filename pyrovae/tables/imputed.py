"""A table whose missing cells are filled, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..models.vae import VAE
from ..training.history import History
from .columns import Column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cells", "Imputation", "gathered"]


@dataclass(frozen=True)
class Imputation:
    """A table whose missing cells are filled, and how sure that is.

    Attributes:
        filled: the table with the posterior mean of real numbers, the median of whole ones and the
            most probable word; other cells are untouched.
        low, high: ends of the central credible interval of each number that was missing, NaN
            elsewhere.
        probability: p(word | row) of each word that was filled in, NaN elsewhere.
        mean: E[x | row] of each number that was missing, whole or not, NaN elsewhere.
        was_missing: whether each cell was filled.
        columns: those that took part, in the order in which the model has them, each with its
            likelihood and the reason for it.
        left_out: for each column that did not, a sentence that says why; its cells stay missing.
        notes: sentences on what is to be doubted.
        vae: the trained model; None where nothing was missing.
        history: of its training.
        effective_samples: of each row that was asked for, out of 1,000 weighted ones.
    """

    filled: "pd.DataFrame"
    low: "pd.DataFrame"
    high: "pd.DataFrame"
    probability: "pd.DataFrame"
    mean: "pd.DataFrame"
    was_missing: "pd.DataFrame"
    columns: tuple[Column, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]
    vae: VAE | None
    history: History | None
    effective_samples: Float[Tensor, "rows"]
    _cells: Sequence["Cells"]

    @property
    def num_draws(self) -> int:
        """How many draws of the missing cells there are."""
        return len(self._cells[0].drawn) if self._cells else 0

    @property
    def num_filled(self) -> int:
        """How many cells were filled."""
        return int(self.was_missing.to_numpy().sum())

    def draw(self, number: int) -> "pd.DataFrame":
        """The table with its missing cells drawn from their joint posterior, row by row, which is
        one imputation of a multiple imputation (Rubin 1987), given the trained parameters.

        Arguments:
            number: which of the :attr:`num_draws` draws, from 0.

        Raises:
            InputError: if there is none of that number.
        """
        if self._cells and not 0 <= number < self.num_draws:
            raise InputError(f"there are {self.num_draws} draws, numbered from 0; got {number}")
        table = self.filled
        for cells in self._cells:
            table = cells.column.written(table, cells.rows, cells.draws(number))
        return table


@dataclass(frozen=True)
class Cells:
    """The missing cells of a column, with draws of them in single precision and units of their own,
    which keep numbers of any size apart.
    """

    column: Column
    rows: NDArray[np.intp]
    mean: NDArray[np.float64]
    loc: float
    scale: float
    drawn: NDArray[np.float32]

    @classmethod
    def room(cls, column: Column, x: Float[Tensor, "rows"], num_samples: int) -> "Cells":
        """For the missing cells of x, with draws yet to be made."""
        loc, scale = 0.0, 1.0
        known = x[~x.isnan()]
        if column.words is None:
            loc, scale = known.median().item(), known.std().item()
        rows = x.isnan().nonzero().squeeze(1).numpy()
        drawn = np.empty((num_samples, len(rows)), dtype=np.float32)
        return cls(column, rows, np.empty(len(rows)), loc, scale, drawn)

    def put(
        self,
        place: slice,
        draws: Float[Tensor, "samples cells"],
        mean: Float[Tensor, "cells"],
    ) -> None:
        """Keep the draws and the means of some cells."""
        self.drawn[:, place] = (draws - self.loc) / self.scale
        self.mean[place] = mean.clamp(*self.column.bounds)

    def draws(self, number: int | slice = slice(None)) -> NDArray[np.float64]:
        """All draws, or one, within the bounds of the column."""
        draws = self.loc + self.scale * self.drawn[number].astype(float)
        if self.column.is_whole:
            draws = np.floor(draws + 0.5)
        found: NDArray[np.float64] = draws.clip(*self.column.bounds)
        return found

    def point(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What to fill in, and its probability, NaN of numbers."""
        if self.column.words is not None:
            codes = range(len(self.column.words))
            probabilities = np.stack([(self.drawn == code).mean(0) for code in codes])
            return probabilities.argmax(0).astype(float), probabilities.max(0)
        point = np.median(self.draws(), 0) if self.column.is_whole else self.mean
        return point, np.full(len(self.rows), np.nan)

    def expected(self) -> NDArray[np.float64]:
        """The posterior mean, where the column is of numbers."""
        if self.column.words is None:
            return self.mean
        words = self.column.words
        if words.dtype == object:
            return np.full(len(self.rows), np.nan)
        expected: NDArray[np.float64] = words.to_numpy(dtype=float)[self.drawn.astype(int)].mean(0)
        return expected

    def interval(self, level: float) -> NDArray[np.float64]:
        """The ends of the interval, which are draws."""
        if self.column.words is not None:
            return np.full((2, len(self.rows)), np.nan)
        num = len(self.drawn)
        tail = round((1 - level) / 2 * (num + 1)) - 1
        ends: NDArray[np.float64] = np.sort(self.draws(), 0)[[tail, num - 1 - tail]]
        return ends


def gathered(
    table: "pd.DataFrame",
    columns: Sequence[Column],
    left_out: Mapping[str, str],
    notes: tuple[str, ...],
    vae: VAE | None,
    history: History | None,
    effective: Float[Tensor, "asked"],
    cells: Sequence[Cells],
    level: float,
) -> Imputation:
    """All that was found, in tables of the shape of the one given."""
    import pandas as pd

    filled = table.copy()
    low, high, probability, mean = (np.full(table.shape, np.nan) for _ in range(4))
    for each in cells:
        place = each.rows, each.column.position
        point, probability[place] = each.point()
        low[place], high[place] = each.interval(level)
        mean[place] = each.expected()
        filled = each.column.written(filled, each.rows, point)

    def beside(values: NDArray[np.float64]) -> "pd.DataFrame":
        return pd.DataFrame(values, table.index, table.columns)

    return Imputation(
        filled,
        beside(low),
        beside(high),
        beside(probability),
        beside(mean),
        table.isna() & filled.notna(),
        tuple(columns),
        left_out,
        notes,
        vae,
        history,
        effective,
        cells,
    )
