"""Columns of a table as numbers, with a likelihood each, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import InputError, did_you_mean
from .likelihoods import Likelihood, Mixed
from .likelihoods.infer import propose

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "columns_of"]

_MOST_COUNTED = 50
"""Counts beyond it are as good as real numbers, and are modelled as such."""

_WORDS = ("Bernoulli", "Categorical")


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
    """

    name: str
    position: int
    likelihood: Likelihood
    reason: str
    words: "pd.Index[Any] | None"
    is_whole: bool

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
        InputError: if a declared likelihood has no column, or cannot have produced it.
    """
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
        if given is not None and (name in of_column or columns[-1].words is None):
            columns[-1] = replace(columns[-1], likelihood=_each(given), reason="it was declared")
        _check(columns[-1], table)
    return columns, left_out


def _column(name: str, position: int, values: "pd.Series[Any]") -> Column:
    """The column with the likelihood that is proposed for it.

    Raises:
        InputError: if there is none that could describe it.
    """
    import pandas as pd

    known = values.dropna()
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if pd.api.types.is_complex_dtype(values):
        raise InputError(f"column {name!r} is of complex numbers; a likelihood takes real ones")
    if not is_number:
        _refuse_numbers_with_words(name, known)
        known = known.astype(object)
        try:
            _, words = pd.factorize(known, sort=True)
        except TypeError:  # of words that have no order among them
            _, words = pd.factorize(known)
        if len(words) > len(known) / 2 and len(words) > 2:
            raise InputError(
                f"column {name!r} has {len(words)} words in {len(known)} cells, too many to tell "
                "one from another"
            )
        words = pd.Index(words, dtype=object)
        codes = torch.tensor(words.get_indexer(pd.Index(known, dtype=object)), dtype=torch.double)
        likelihood, reason = propose(name, codes, len(words))
        return Column(name, position, _each(likelihood), reason, words, False)
    x = torch.tensor(values.to_numpy(dtype=float, na_value=np.nan))
    seen = x[~x.isnan()]
    likelihood, reason = propose(name, x)
    is_whole = bool((seen == seen.round()).all())
    if is_whole and len(seen.unique()) == 2:
        words = pd.Index(seen.unique().tolist())
        return Column(name, position, Likelihood("Bernoulli"), "it has two values", words, False)
    if is_whole and len(seen) > 2 and bool((seen.diff() == 1).all()) and len(seen) == len(x):
        raise InputError(f"column {name!r} numbers the rows, which tells nothing of them")
    if is_whole and seen.max() > _MOST_COUNTED and seen.min() >= 0:
        likelihood, reason = Likelihood("Normal"), "its whole numbers are large"
    if likelihood.family.name == "LogNormal":
        likelihood, reason = Likelihood("Normal"), "its numbers are real"
    return Column(name, position, _each(likelihood), reason, None, is_whole)


def _refuse_numbers_with_words(name: str, known: "pd.Series[Any]") -> None:
    """Refuse a column of numbers in which something else stands for what is missing.

    Raises:
        InputError: naming what stands there.
    """
    import pandas as pd

    if pd.api.types.is_bool_dtype(known) or isinstance(known.dtype, pd.CategoricalDtype):
        return
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
    layer = column.likelihood.build((1,))
    x = torch.tensor(column.numbers(table))[:, None]
    layer.check(x, [column.name], "the cells")
    layer.check_varied(x, [column.name], "the cells")
