"""Columns of a table as numbers, with a likelihood each, and back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..data.csv_text import MISSING
from ..errors import InputError, did_you_mean
from ..likelihoods import Likelihood, Mixed
from ..likelihoods.likelihood import propose

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "columns_of"]

_MOST_COUNTED = 50
"""Counts beyond it are as good as real numbers, and are modelled as such."""

_WORDS = ("Bernoulli", "Categorical")
"""Likelihoods of words."""

_LARGEST_WHOLE = 2.0**53
"""Beyond it, double precision does not tell whole numbers from their neighbours."""

_UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True)
class Column:
    """A column that takes part.

    Attributes:
        name: its name.
        position: its number in the table.
        likelihood: p(x | z).
        reason: why that.
        words: what the numbers 0, 1, ... stand for; None of numbers.
        is_whole: whether all its numbers are whole.
        bounds: the least and the largest number that is filled in: 0 where no known one is
            negative, and the limits of the type of the cells.
    """

    name: str
    position: int
    likelihood: Likelihood
    reason: str
    words: "pd.Index[Any] | None"
    is_whole: bool
    bounds: tuple[float, float] = _UNBOUNDED

    @property
    def is_of_words(self) -> bool:
        """Whether its cells are words, categories or truth values, and no numbers."""
        return self.words is not None and self.words.dtype == object

    def numbers(self, table: "pd.DataFrame") -> NDArray[np.float64]:
        """The cells as numbers, NaN where they are missing."""
        import pandas as pd

        values = table.iloc[:, self.position]

        if self.words is None:
            return values.to_numpy(dtype=float, na_value=np.nan)
        codes = self.words.get_indexer(pd.Index(values, dtype=object))
        return np.where(codes < 0, np.nan, codes.astype(float))

    def written(
        self, table: "pd.DataFrame", rows: NDArray[np.intp], numbers: NDArray[np.float64]
    ) -> "pd.DataFrame":
        """The table with these numbers in the cells of these rows, in the terms of the column."""
        import pandas as pd

        values: Any = numbers
        if self.words is not None:
            values = self.words.to_numpy()[numbers.astype(int)]
        elif self.is_whole:
            values = np.floor(numbers + 0.5)
        cells: Any = table.iloc[:, self.position].copy()
        if cells.dtype == object and pd.api.types.infer_dtype(cells) == "integer":
            values = values.astype(int).astype(object)
        cells.iloc[rows] = values if cells.dtype == object else pd.array(values, dtype=cells.dtype)
        table = table.copy(deep=False)
        table.isetitem(self.position, cells)
        return table


def columns_of(
    table: "pd.DataFrame", declared: Likelihood | Mixed | None
) -> tuple[list[Column], dict[str, str]]:
    """The columns that take part, and for each of the others a sentence that says why not.

    Arguments:
        table: the data.
        declared: a likelihood of all columns of numbers, or of those that it names; proposed for
            each unless given.

    Raises:
        InputError: if this is no table, or a declared likelihood has no column, or cannot have
            produced it.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"a table is a pandas.DataFrame, with a row for each datum; got {type(table).__name__}"
        )
    of_column: Mapping[str, Likelihood] = {}
    if isinstance(declared, Mixed):
        of_column = {name: p for names, p in declared.blocks.items() for name in names}
    elif declared is not None and declared.given:
        raise InputError(f"{declared!r} takes {declared.given[0]} beside x, which a table has not")
    names = [str(name) for name in table.columns]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the table has two columns {name!r}; rename one")
    for name in of_column:
        if name not in names:
            raise InputError(f"the table has no column {name!r}: {did_you_mean(name, names)}")
    columns, left_out = [], {}
    for i, name in enumerate(names):
        given = of_column.get(name)
        if given is None and isinstance(declared, Likelihood):
            given = declared
        try:
            columns.append(_column(name, i, table.iloc[:, i]))
        except InputError as error:
            if name in of_column:
                raise
            left_out[name] = str(error)
            continue
        if given is not None and (name in of_column or not columns[-1].is_of_words):
            columns[-1] = _declared(columns[-1], given)
        _check(columns[-1], table)
    return columns, left_out


def _declared(column: Column, likelihood: Likelihood) -> Column:
    """The column under a likelihood that was declared for it.

    Two numbers are the words of a likelihood of words, and numbers to all others.

    Raises:
        InputError: if the column is of words, and the likelihood of something else.
    """
    declared = replace(column, likelihood=_each(likelihood), reason="it was declared")
    if column.words is None:
        return declared
    num = len(column.words)
    name = likelihood.family.name
    if name in _WORDS and (likelihood.num_classes or 2) == num:
        return declared
    if column.is_of_words:
        fitting = "Bernoulli" if num == 2 else f"Categorical with num_classes={num}"
        what = name + (f" with num_classes={n}" if (n := likelihood.num_classes) else "")
        raise InputError(
            f"column {column.name!r} is of {num} words, and {what} is not; declare {fitting} for it"
        )
    return replace(declared, words=None, is_whole=True)


def _column(name: str, position: int, values: "pd.Series[Any]") -> Column:
    """The column with the likelihood that is proposed for it.

    Raises:
        InputError: if there is none that could describe it.
    """
    import pandas as pd

    if pd.api.types.is_complex_dtype(values):
        raise InputError(f"column {name!r} is of complex numbers; a likelihood takes real ones")
    if isinstance(values.dtype, pd.SparseDtype):
        raise InputError(f"column {name!r} is sparse; make it dense, as with .sparse.to_dense()")
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if values.dtype == object:
        is_number = pd.api.types.infer_dtype(values) in _NUMBERS
    return (_of_numbers if is_number else _of_words)(name, position, values)


_NUMBERS = ("integer", "floating", "mixed-integer-float")
"""What pandas calls objects that are numbers, and no truth values."""


def _of_words(name: str, position: int, values: "pd.Series[Any]") -> Column:
    import pandas as pd

    known = values.dropna().astype(object)
    _refuse_missing(name, known)
    if not (pd.api.types.is_bool_dtype(values) or isinstance(values.dtype, pd.CategoricalDtype)):
        _refuse_numbers_with_words(name, known)
    try:
        _, words = pd.factorize(known, sort=True)
    except TypeError:  # of words that have no order among them
        _, words = _in_order_of_appearance(name, known)
    if len(words) > len(known) / 2 and len(words) > 2:
        raise InputError(
            f"column {name!r} has {len(words)} words in {len(known)} cells, too many to tell "
            "one from another"
        )
    words = pd.Index(words, dtype=object)
    codes = torch.tensor(words.get_indexer(pd.Index(known, dtype=object)), dtype=torch.double)
    likelihood, reason = propose(name, codes, len(words))
    return Column(name, position, _each(likelihood), reason, words, False)


def _in_order_of_appearance(name: str, known: "pd.Series[Any]") -> Any:
    import pandas as pd

    try:
        return pd.factorize(known)
    except TypeError as error:  # not hashable
        raise InputError(
            f"column {name!r} holds lists or the like; a cell is a number or a word"
        ) from error


def _of_numbers(name: str, position: int, values: "pd.Series[Any]") -> Column:
    import pandas as pd

    x = torch.tensor(values.to_numpy(dtype=float, na_value=np.nan))
    seen = x[~x.isnan()]
    likelihood, reason = propose(name, x)
    is_whole = bool((seen == seen.round()).all())
    is_exact = bool(seen.abs().max() <= _LARGEST_WHOLE)
    if not is_exact and pd.api.types.infer_dtype(values) == "integer":
        raise InputError(
            f"column {name!r} holds whole numbers beyond 2**53, which double precision does not "
            "tell from their neighbours; rescale it if they are more than names"
        )
    if seen.var() < torch.finfo(x.dtype).tiny:
        raise InputError(
            f"column {name!r} varies by so little that the square of it vanishes; rescale it"
        )
    if is_whole and seen.max() > _MOST_COUNTED and seen.min() >= 0:
        likelihood, reason = Likelihood("Normal"), "its whole numbers are large"
    is_whole = is_whole and is_exact  # beyond that all numbers look whole
    bounds = _bounds(values, seen, is_whole)
    if is_whole and len(seen.unique()) == 2:
        words = pd.Index(seen.unique().tolist())
        reason = "it has two values"
        return Column(name, position, Likelihood("Bernoulli"), reason, words, False, bounds)
    if is_whole and len(seen) > 2 and bool((seen.diff() == 1).all()) and len(seen) == len(x):
        raise InputError(f"column {name!r} numbers the rows, which tells nothing of them")
    if likelihood.family.name == "LogNormal":
        likelihood, reason = Likelihood("Normal"), "its numbers are real"
    return Column(name, position, _each(likelihood), reason, None, is_whole, bounds)


def _bounds(
    values: "pd.Series[Any]", seen: Float[Tensor, "cells"], is_whole: bool
) -> tuple[float, float]:
    """What may be filled in."""
    dtype: Any = values.dtype
    dtype = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    low, high = (-_LARGEST_WHOLE, _LARGEST_WHOLE) if is_whole else _UNBOUNDED
    if dtype.kind in "iuf":
        limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        low, high = max(low, float(limits.min)), min(high, float(limits.max))
    return (max(low, 0.0) if bool(seen.min() >= 0) else low), high


def _refuse_missing(name: str, known: "pd.Series[Any]") -> None:
    """Refuse words that would mean missing but for the spaces around them.

    Raises:
        InputError: naming the first.
    """
    for word in known:
        if isinstance(word, str) and word != word.strip() and word.strip() in MISSING:
            raise InputError(
                f"column {name!r} holds {word!r}, which would mean missing but for its spaces: "
                "leave the cell empty if it does"
            )


def _refuse_numbers_with_words(name: str, known: "pd.Series[Any]") -> None:
    """Refuse a column of numbers in which something else stands for what is missing.

    Raises:
        InputError: naming what stands there.
    """
    import pandas as pd

    numbers = pd.to_numeric(known, errors="coerce")
    if not pd.api.types.is_numeric_dtype(numbers):
        return
    others = known[numbers.isna()]
    if len(others) and len(others) < len(known) / 2:
        raise InputError(
            f"column {name!r} holds numbers, and {str(others.iloc[0])!r} beside them: if that "
            "means missing, leave the cell empty"
        )


def _each(likelihood: Likelihood) -> Likelihood:
    """With learned numbers for each column in place of those that several would share."""
    settings = likelihood.to_dict()
    own: dict[str, Any] = {k: "per_feature" if v == "shared" else v for k, v in settings.items()}
    return Likelihood(**own)


def _check(column: Column, table: "pd.DataFrame") -> None:
    """Refuse cells that the likelihood cannot have produced.

    Raises:
        InputError: naming the column and the row.
    """
    layer = column.likelihood.build((1,)).double()
    x = torch.tensor(column.numbers(table))[:, None]
    try:
        layer.check(x, [column.name], "the cells")
        layer.check_varied(x, [column.name], "the cells")
    except InputError as error:
        by_row = re.sub(r"\bin datum (\d+),", _in_row, str(error), count=1)
        raise InputError(by_row) from None


def _in_row(datum: re.Match[str]) -> str:
    return f"in row {int(datum[1]) + 1},"
