"""Likelihoods proposed for the columns of a table, each with the reason."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from .declaration import Likelihood
from .mixed import Mixed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["infer", "propose"]

_MAX_CLASSES = 50
_OVERDISPERSED = 1.5
"""Ratio of variance to mean beyond which counts are no Poisson."""

_SKEWED = 1.0


def infer(table: "pd.DataFrame", report: Callable[[str], object] = print) -> Mixed:
    """Propose a likelihood for each column of a table, and say why.

    Words, categories and truth values count as classes, whole numbers from 0 upwards as counts.
    Missing cells are no evidence.

    Arguments:
        table: the data.
        report: called with a line for each column.

    Raises:
        InputError: if a column is empty, constant, or a name of its own in each row.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"age": [31.5, 42.0, 27.2], "smoker": [True, False, True]})
    >>> mixed = infer(table)
    age: Normal, as its numbers are real
    smoker: Bernoulli, as it has two classes
    >>> mixed.columns
    ('age', 'smoker')
    """
    import pandas as pd

    blocks: dict[str | tuple[str, ...], Any] = {}
    for column in table:
        values = table[column]
        classes = None
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            codes, names = pd.factorize(values, sort=True)
            classes = len(names)
            values = pd.Series(codes, dtype=float).where(codes >= 0)
        numbers = torch.tensor(values.to_numpy(dtype=float, na_value=float("nan")))
        likelihood, reason = propose(str(column), numbers, classes)
        report(f"{column}: {_short(likelihood)}, as {reason}")
        blocks[str(column)] = likelihood
    return Mixed(blocks)


def propose(name: str, x: Tensor, classes: int | None = None) -> tuple[Likelihood, str]:
    """A likelihood for one column, and the reason.

    Arguments:
        name: the column.
        x: its numbers, NaN where missing.
        classes: the number of classes that they number, where they do.
    """
    x = x[~x.isnan()]
    if not len(x) or bool((x == x[0]).all()):
        what = f"always {x[0].item():g}" if len(x) else "empty"
        raise InputError(f"column {name!r} is {what}, which tells nothing: remove it")
    if classes is not None and classes > _MAX_CLASSES:
        raise InputError(f"column {name!r} has {classes} classes, more than a few: remove it")
    binary = bool(((x == 0) | (x == 1)).all())
    if binary or classes == 2:
        return Likelihood("Bernoulli"), "it has two classes"
    if classes is not None:
        return Likelihood("Categorical", num_classes=classes), f"it has {classes} classes"
    if bool((x == x.round()).all()) and x.min() >= 0:
        if x.var() > _OVERDISPERSED * x.mean():
            return Likelihood("NegativeBinomial"), "it counts, and varies more than a Poisson"
        return Likelihood("Poisson"), "it counts"
    if bool((x > 0).all()) and _skewness(x) > _SKEWED:
        return Likelihood("LogNormal"), "its numbers are positive and skewed"
    return Likelihood("Normal"), "its numbers are real"


def _skewness(x: Tensor) -> float:
    centred = x - x.mean()
    return float(centred.pow(3).mean() / centred.square().mean().pow(1.5))


def _short(likelihood: Likelihood) -> str:
    size = likelihood.num_classes
    return likelihood.family.name + (f"({size} classes)" if size else "")
