"""Fill the missing cells of a table with a model that was trained on other rows."""

from typing import TYPE_CHECKING, Any

import torch

from ..arguments import as_flag, as_whole
from ..data.rows import as_table, rows_of_table
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..models.base import LatentVariableModel
from .columns import Column
from .imputation import NUM_SAMPLES, check_level, sample_missing
from .imputed import Imputation, collect_results

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["columns_of_model", "impute_with"]

_REASON = "the model was trained with it"


def impute_with(
    model: LatentVariableModel,
    table: "pd.DataFrame",
    *,
    level: float = 0.9,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    progress: bool = True,
) -> Imputation:
    """Fill the missing cells of a table from p(missing | observed) of a trained model.

    Columns are matched by name with those of the training data; others are left as they are.

    Arguments:
        model: a model that was trained on a table; see :func:`pyrovae.open`.
        table: rows with missing cells (NaN).
        level: probability that an interval contains the value.
        num_samples: number of draws of each missing cell.
        seed: seed of the draws; torch's own random state does not change.
        progress: whether to show a progress bar.

    Raises:
        InputError: if the table lacks a column of the training data, or holds words that these
            never held, or the model does not know its columns.
    """
    check_level(level, num_samples)
    seed = as_whole("seed", seed, 0, 2**63 - 1)
    progress = as_flag("progress", progress)
    table = as_table("table", table)
    columns, left_out = columns_of_model(model, table)
    about = model.about
    assert about is not None
    known = {*(about.features or ()), about.label, about.exposure}
    rows = rows_of_table(table[[name for name in table.columns if name in known]], about, "table")
    given = model.given_of(rows)
    x = rows.x.double()
    notes: tuple[str, ...] = ()
    if not bool(x.isnan().any()):
        nothing = torch.empty(0)
        return collect_results(table, columns, left_out, notes, None, None, nothing, (), level)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cells, effective = sample_missing(model, columns, x, num_samples, progress, *given)
    return collect_results(table, columns, left_out, notes, None, None, effective, cells, level)


def columns_of_model(
    model: LatentVariableModel, table: "pd.DataFrame"
) -> tuple[list[Column], dict[str, str]]:
    """The columns of a table that a model was trained on, in its order, and the others.

    Returns:
        The columns, and for each other column a sentence that says why it is left out.

    Raises:
        InputError: if the model was not trained on a table, or a column is missing.
    """
    import pandas as pd

    about = model.about
    if about is None or about.features is None:
        raise InputError("the model was not trained on a table with named columns")
    names = list(map(str, table.columns))
    columns = []
    for place, name in enumerate(about.features):
        if name not in names:
            raise InputError(f"the table has no column {name!r}, which the model was trained on")
        words = about.categories.get(name)
        index = None if words is None else pd.Index(words, dtype=object)
        is_whole = about.whole is not None and about.whole[place]
        likelihood = _likelihood_of(model, name)
        position = names.index(name)
        columns.append(Column(name, position, likelihood, _REASON, index, is_whole))
    left_out = {
        name: f"column {name!r} was not in the training data"
        for name in names
        if name not in about.features
    }
    return columns, left_out


def _likelihood_of(model: LatentVariableModel, name: str) -> Likelihood:
    declared: Any = model.likelihood.likelihood
    found: Likelihood = declared
    if isinstance(declared, Mixed):
        found = next(each for names, each in declared.blocks.items() if name in names)
    return found
