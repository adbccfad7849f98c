"""Turn columns of a table into numbers with a likelihood each, and numbers back into cells."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import as_tensor, describe
from ..data.csv_text import MISSING
from ..errors import InputError, did_you_mean
from ..likelihoods import Likelihood, Mixed
from ..likelihoods.likelihood import propose

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "as_frame", "choose_columns"]

_MAX_COUNT = 50
"""Columns with larger counts are modelled as real numbers."""

_WORD_LIKELIHOODS = ("Bernoulli", "Categorical")
"""Likelihoods for columns of words."""

_MAX_EXACT = 2.0**53
"""Above this, double precision cannot represent every whole number."""

_UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True)
class Column:
    """A column that the model uses.

    Attributes:
        name: its name.
        position: its number in the table.
        likelihood: p(x | z).
        reason: the reason for this likelihood.
        words: what the numbers 0, 1, ... stand for; None for a column of numbers.
        is_whole: whether all its numbers are whole.
        bounds: the smallest and the largest number to fill in. The lower bound is 0 if no known
            number is negative; the limits of the type of the cells apply too.
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
        """Whether its cells are words, categories or truth values, rather than numbers."""
        return self.words is not None and self.words.dtype == object

    def to_numbers(self, table: "pd.DataFrame") -> NDArray[np.float64]:
        """Return the cells as numbers, with NaN for missing ones."""
        import pandas as pd

        values = table.iloc[:, self.position]

        if self.words is None:
            return values.to_numpy(dtype=float, na_value=np.nan)
        codes = self.words.get_indexer(pd.Index(values, dtype=object))
        return np.where(codes < 0, np.nan, codes.astype(float))

    def fill(
        self, table: "pd.DataFrame", rows: NDArray[np.intp], numbers: NDArray[np.float64]
    ) -> "pd.DataFrame":
        """Return a copy of the table with these numbers in these rows, as cells of the column."""
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


def choose_columns(
    table: "pd.DataFrame", declared: Likelihood | Mixed | None
) -> tuple[list[Column], dict[str, str]]:
    """Choose the columns that the model uses, with their likelihoods.

    Arguments:
        table: the data.
        declared: a likelihood for all columns of numbers, or a Mixed for those that it names;
            chosen from the values of each other column.

    Returns:
        The columns, and for each other column a sentence that says why it is left out.

    Raises:
        InputError: if this is not a table, or a declared likelihood has no column, or cannot have
            produced it.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"table must be a pandas.DataFrame with a row per datum; got {type(table).__name__}"
        )
    by_name: Mapping[str, Likelihood] = {}
    if isinstance(declared, Mixed):
        by_name = {name: p for names, p in declared.blocks.items() for name in names}
    elif declared is not None and declared.given:
        raise InputError(
            f"{declared!r} needs {declared.given[0]} as well as x, which a table does not have"
        )
    names = [str(name) for name in table.columns]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the table has two columns named {name!r}; rename one")
    for name in by_name:
        if name not in names:
            raise InputError(f"the table has no column {name!r}: {did_you_mean(name, names)}")
    columns, left_out = [], {}
    for i, name in enumerate(names):
        given = by_name.get(name)
        if given is None and isinstance(declared, Likelihood):
            given = declared
        try:
            columns.append(_propose_column(name, i, table.iloc[:, i]))
        except InputError as error:
            if name in by_name:
                raise
            left_out[name] = str(error)
            continue
        if given is not None and (name in by_name or not columns[-1].is_of_words):
            columns[-1] = _with_declared(columns[-1], given)
        _check_cells(columns[-1], table)
    return columns, left_out


def _with_declared(column: Column, likelihood: Likelihood) -> Column:
    """Return the column with a likelihood that was declared for it.

    A column with two different numbers is one of words for Bernoulli and Categorical, and one of
    numbers for every other likelihood.

    Raises:
        InputError: if the column holds words, and the likelihood does not fit their number.
    """
    declared = replace(column, likelihood=_per_feature(likelihood), reason="it was declared")
    if column.words is None:
        return declared
    num = len(column.words)
    name = likelihood.family.name
    if name in _WORD_LIKELIHOODS and (likelihood.num_classes or 2) == num:
        return declared
    if column.is_of_words:
        fitting = "Bernoulli" if num == 2 else f"Categorical with num_classes={num}"
        what = name + (f" with num_classes={n}" if (n := likelihood.num_classes) else "")
        raise InputError(
            f"column {column.name!r} holds {num} different words, which {what} does not fit; "
            f"declare {fitting} for it"
        )
    return replace(declared, words=None, is_whole=True)


def _propose_column(name: str, position: int, values: "pd.Series[Any]") -> Column:
    """Return the column with a likelihood that suits its values.

    Raises:
        InputError: if there is none.
    """
    import pandas as pd

    if pd.api.types.is_complex_dtype(values):
        raise InputError(f"column {name!r} holds complex numbers; convert it to real columns")
    if isinstance(values.dtype, pd.SparseDtype):
        raise InputError(f"column {name!r} is sparse; make it dense with .sparse.to_dense()")
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if values.dtype == object:
        is_number = pd.api.types.infer_dtype(values) in _NUMBERS
    return (_propose_number_column if is_number else _propose_word_column)(name, position, values)


_NUMBERS = ("integer", "floating", "mixed-integer-float")
"""Pandas' names for objects that are numbers, without truth values."""


def _propose_word_column(name: str, position: int, values: "pd.Series[Any]") -> Column:
    import pandas as pd

    known = values.dropna().astype(object)
    _refuse_padded_missing(name, known)
    if not (pd.api.types.is_bool_dtype(values) or isinstance(values.dtype, pd.CategoricalDtype)):
        _refuse_numbers_with_words(name, known)
    try:
        _, words = pd.factorize(known, sort=True)
    except TypeError:  # the words cannot be sorted
        _, words = _factorize_in_order(name, known)
    if len(words) > len(known) / 2 and len(words) > 2:
        raise InputError(
            f"column {name!r} has {len(words)} different words in {len(known)} cells, too many to "
            "learn from"
        )
    words = pd.Index(words, dtype=object)
    codes = torch.tensor(words.get_indexer(pd.Index(known, dtype=object)), dtype=torch.double)
    likelihood, reason = propose(name, codes, len(words))
    return Column(name, position, _per_feature(likelihood), reason, words, False)


def _factorize_in_order(name: str, known: "pd.Series[Any]") -> Any:
    import pandas as pd

    try:
        return pd.factorize(known)
    except TypeError as error:  # unhashable
        raise InputError(
            f"column {name!r} holds lists or the like; a cell must be a number or a word"
        ) from error


def _propose_number_column(name: str, position: int, values: "pd.Series[Any]") -> Column:
    import pandas as pd

    x = torch.tensor(values.to_numpy(dtype=float, na_value=np.nan))
    known = x[~x.isnan()]
    likelihood, reason = propose(name, x)
    is_whole = bool((known == known.round()).all())
    is_exact = bool(known.abs().max() <= _MAX_EXACT)
    if not is_exact and pd.api.types.infer_dtype(values) == "integer":
        raise InputError(
            f"column {name!r} holds whole numbers above 2**53, which double precision cannot "
            "represent exactly; rescale it if they are quantities and not identifiers"
        )
    if known.var() < torch.finfo(x.dtype).tiny:
        raise InputError(
            f"column {name!r} varies so little that its variance underflows to zero; rescale it"
        )
    if is_whole and known.max() > _MAX_COUNT and known.min() >= 0:
        likelihood, reason = Likelihood("Normal"), "its whole numbers are large"
    is_whole = is_whole and is_exact  # above that all numbers look whole
    bounds = _find_bounds(values, known, is_whole)
    if is_whole and len(known.unique()) == 2:
        words = pd.Index(known.unique().tolist())
        reason = "it has two values"
        return Column(name, position, Likelihood("Bernoulli"), reason, words, False, bounds)
    if is_whole and len(known) > 2 and bool((known.diff() == 1).all()) and len(known) == len(x):
        raise InputError(f"column {name!r} only numbers the rows")
    if likelihood.family.name == "LogNormal":
        likelihood, reason = Likelihood("Normal"), "its numbers are real"
    return Column(name, position, _per_feature(likelihood), reason, None, is_whole, bounds)


def _find_bounds(
    values: "pd.Series[Any]", known: Float[Tensor, "cells"], is_whole: bool
) -> tuple[float, float]:
    """Return the smallest and the largest number that may be filled in."""
    dtype: Any = values.dtype
    dtype = np.dtype(getattr(dtype, "numpy_dtype", dtype))
    low, high = (-_MAX_EXACT, _MAX_EXACT) if is_whole else _UNBOUNDED
    if dtype.kind in "iuf":
        limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        low, high = max(low, float(limits.min)), min(high, float(limits.max))
    return (max(low, 0.0) if bool(known.min() >= 0) else low), high


def _refuse_padded_missing(name: str, known: "pd.Series[Any]") -> None:
    """Refuse words that would mean missing without the spaces around them.

    Raises:
        InputError: naming the first one.
    """
    for word in known:
        if isinstance(word, str) and word != word.strip() and word.strip() in MISSING:
            raise InputError(
                f"column {name!r} holds {word!r}, which would mean missing without its spaces; "
                "leave the cell empty if it is missing"
            )


def _refuse_numbers_with_words(name: str, known: "pd.Series[Any]") -> None:
    """Refuse a column of numbers that marks missing cells by some word.

    Raises:
        InputError: naming the word.
    """
    import pandas as pd

    numbers = pd.to_numeric(known, errors="coerce")
    if not pd.api.types.is_numeric_dtype(numbers):
        return
    others = known[numbers.isna()]
    if len(others) and len(others) < len(known) / 2:
        raise InputError(
            f"column {name!r} holds numbers and also {str(others.iloc[0])!r}; if that means "
            "missing, leave the cell empty"
        )


def _per_feature(likelihood: Likelihood) -> Likelihood:
    """Return the likelihood with a learned number per column instead of shared ones."""
    settings = likelihood.to_dict()
    changed: dict[str, Any] = {
        k: "per_feature" if v == "shared" else v for k, v in settings.items()
    }
    return Likelihood(**changed)


def as_frame(table: Any) -> "pd.DataFrame":
    """A table as a frame of pandas, from a frame of another library, an array or a tensor.

    Raises:
        InputError: if it is something else.
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return table
    if hasattr(table, "to_pandas") and not isinstance(table, type):
        frame = table.to_pandas()
        if isinstance(frame, pd.DataFrame):
            return frame
    if isinstance(table, np.ndarray | Tensor):
        numbers = as_tensor("table", table)
        if numbers.ndim == 2:
            values = numbers.detach().cpu().numpy() if isinstance(table, Tensor) else table
            return pd.DataFrame(values, columns=[f"c{i}" for i in range(numbers.shape[1])])
    raise InputError(
        f"table is {describe(table)}; it must be a pandas.DataFrame with a row per datum, or an "
        "array of two dimensions"
    )


def _check_cells(column: Column, table: "pd.DataFrame") -> None:
    """Refuse cells that the likelihood cannot have produced.

    Raises:
        InputError: naming the column and the row.
    """
    layer = column.likelihood.build((1,)).double()
    x = torch.tensor(column.to_numbers(table))[:, None]
    try:
        layer.check(x, [column.name], "the cells")
        layer.check_varied(x, [column.name], "the cells")
    except InputError as error:
        by_row = re.sub(r"\bin datum (\d+),", _name_row, str(error), count=1)
        raise InputError(by_row) from None


def _name_row(datum: re.Match[str]) -> str:
    return f"in row {int(datum[1]) + 1},"
