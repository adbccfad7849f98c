"""The result of imputation: the filled table, its uncertainty, and draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import as_whole
from ..errors import InputError
from ..models.vae import VAE
from ..training.history import History
from .columns import Column

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cells", "Imputation", "collect_results"]


@dataclass(frozen=True)
class Imputation:
    """A table with its missing cells filled, and how uncertain they are.

    Attributes:
        filled: the table with missing cells filled: real numbers by the posterior mean, whole
            numbers by the median, words by the most probable word. Other cells are unchanged.
        low, high: ends of the central credible interval of each number that was missing, NaN
            elsewhere.
        probability: p(word | row) of each word that was filled in, NaN elsewhere.
        mean: E[x | row] of each number that was missing, whole or not, NaN elsewhere.
        was_missing: whether each cell was filled.
        columns: the columns that the model uses, in its order, each with its likelihood and the
            reason for it.
        left_out: for each other column, a sentence that says why; its cells stay missing.
        notes: warnings about the results, in a sentence each.
        vae: the trained model; None if nothing was missing.
        history: the history of training; None if nothing was missing.
        effective_samples: effective sample size for each row with missing cells, out of 1,000
            importance samples.
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
        """Number of draws of the missing cells."""
        return len(self._cells[0].drawn) if self._cells else 0

    @property
    def num_filled(self) -> int:
        """Number of cells that were filled."""
        return int(self.was_missing.to_numpy().sum())

    def draw(self, number: int) -> "pd.DataFrame":
        """Return the table with its missing cells drawn from their joint posterior, row by row.

        This is one imputation of a multiple imputation (Rubin 1987), given the trained parameters.

        Arguments:
            number: which of the :attr:`num_draws` draws, from 0.

        Raises:
            InputError: if there is no draw with this number.
        """
        number = as_whole("number", number)
        if self._cells and not 0 <= number < self.num_draws:
            raise InputError(f"there are {self.num_draws} draws, numbered from 0; got {number}")
        table = self.filled
        for cells in self._cells:
            table = cells.column.fill(table, cells.rows, cells.draws(number))
        return table


@dataclass(frozen=True)
class Cells:
    """The missing cells of a column, with draws of them.

    Draws are stored in single precision, standardised by `loc` and `scale`, so that numbers of any
    magnitude keep their differences.
    """

    column: Column
    rows: NDArray[np.intp]
    mean: NDArray[np.float64]
    loc: float
    scale: float
    drawn: NDArray[np.float32]

    @classmethod
    def allocate(cls, column: Column, x: Float[Tensor, "rows"], num_samples: int) -> "Cells":
        """Make room for draws of the missing cells of x."""
        loc, scale = 0.0, 1.0
        known = x[~x.isnan()]
        if column.words is None:
            loc, scale = known.median().item(), known.std().item()
        rows = x.isnan().nonzero().squeeze(1).numpy()
        drawn = np.empty((num_samples, len(rows)), dtype=np.float32)
        return cls(column, rows, np.empty(len(rows)), loc, scale, drawn)

    def store(
        self,
        place: slice,
        draws: Float[Tensor, "samples cells"],
        mean: Float[Tensor, "cells"],
    ) -> None:
        """Store the draws and the means of some cells."""
        self.drawn[:, place] = (draws - self.loc) / self.scale
        self.mean[place] = mean.clamp(*self.column.bounds)

    def draws(self, number: int | slice = slice(None)) -> NDArray[np.float64]:
        """Return all draws, or one, within the bounds of the column."""
        draws = self.loc + self.scale * self.drawn[number].astype(float)
        if self.column.is_whole:
            draws = np.floor(draws + 0.5)
        clipped: NDArray[np.float64] = draws.clip(*self.column.bounds)
        return clipped

    def point_estimate(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the values to fill in, and their probabilities, NaN for numbers."""
        if self.column.words is not None:
            codes = range(len(self.column.words))
            probabilities = np.stack([(self.drawn == code).mean(0) for code in codes])
            return probabilities.argmax(0).astype(float), probabilities.max(0)
        point = np.median(self.draws(), 0) if self.column.is_whole else self.mean
        return point, np.full(len(self.rows), np.nan)

    def posterior_mean(self) -> NDArray[np.float64]:
        """Return the posterior mean of numbers, NaN for words."""
        if self.column.words is None:
            return self.mean
        words = self.column.words
        if words.dtype == object:
            return np.full(len(self.rows), np.nan)
        expected: NDArray[np.float64] = words.to_numpy(dtype=float)[self.drawn.astype(int)].mean(0)
        return expected

    def interval(self, level: float) -> NDArray[np.float64]:
        """Return the ends of the interval, which are draws; NaN for words."""
        if self.column.words is not None:
            return np.full((2, len(self.rows)), np.nan)
        num = len(self.drawn)
        tail = round((1 - level) / 2 * (num + 1)) - 1
        ends: NDArray[np.float64] = np.sort(self.draws(), 0)[[tail, num - 1 - tail]]
        return ends


def collect_results(
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
    """Collect the results in tables with the shape of the given one."""
    import pandas as pd

    filled = table.copy()
    low, high, probability, mean = (np.full(table.shape, np.nan) for _ in range(4))
    for each in cells:
        place = each.rows, each.column.position
        point, probability[place] = each.point_estimate()
        low[place], high[place] = each.interval(level)
        mean[place] = each.posterior_mean()
        filled = each.column.fill(filled, each.rows, point)

    def as_table(values: NDArray[np.float64]) -> "pd.DataFrame":
        return pd.DataFrame(values, table.index, table.columns)

    return Imputation(
        filled,
        as_table(low),
        as_table(high),
        as_table(probability),
        as_table(mean),
        table.isna() & filled.notna(),
        tuple(columns),
        left_out,
        notes,
        vae,
        history,
        effective,
        cells,
    )
