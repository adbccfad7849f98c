"""Fill missing entries of data from draws of p(x | what is observed)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Num
from torch import Tensor

from ...arguments import TensorLike
from ...data.description import DataDescription
from ...data.rows import TABLES, Rows, as_table, is_table, read_table
from ...errors import InputError
from ...inverse import Posterior
from ...progress import LateProgress
from .generative import Layer
from .reading import Data

__all__ = ["impute"]

_MEAN, _MEDIAN, _MODE = range(3)

_CHUNK = 1000
"""The largest number of data at a time."""


def impute(
    model: Any,
    data: Data,
    given: tuple[TensorLike, ...],
    num_samples: int,
    seed: int,
    progress: bool,
) -> Any:
    """Fill the missing entries of data, as :meth:`NewData.impute` describes."""
    if isinstance(data, str | Path) and Path(data).suffix.lower() in TABLES:
        data = read_table(Path(data), model.about)
    rows = model.as_rows(data)
    if rows.as_read is not None and rows.as_read is not rows.x:
        raise InputError(
            "the model was trained on binarised or dequantised data, and would change the entries "
            "that are there; draw what is missing with posterior"
        )
    x, tensors = model.read_observations(rows, given)
    x = x if x.is_floating_point() else x.to(model.guide.standardise.loc)
    was_missing = x.isnan()
    chunks = was_missing.flatten(1).any(1).nonzero().squeeze(1).split(_CHUNK)
    filled = x.clone()
    with LateProgress("imputing", len(chunks)) as bar:
        for number, chunk in enumerate(chunks):
            if not len(chunk):
                continue
            drawn = model.posterior(
                Rows(rows.name, x[chunk]),
                *(each[chunk] for each in tensors),
                num_samples=num_samples,
                seed=seed + number,
                progress=False,
            )
            values = _point_estimate(drawn, model.likelihood, model.about)
            filled[chunk] = torch.where(was_missing[chunk], values.to(filled), x[chunk])
            if progress:
                bar.advance()
    if is_table(data):
        return _fill_frame(data, filled, was_missing, model.about)
    return filled.cpu().numpy() if isinstance(data, np.ndarray) else filled


def _point_estimate(
    posterior: Posterior, layer: Layer, about: DataDescription | None
) -> Num[Tensor, "data *event"]:
    """A value for each entry: the mean of real numbers, the median of whole ones, the commonest
    word.

    Arguments:
        posterior: draws of x.
        layer: p(x | z), which says which entries are discrete.
        about: what is known of the data, such as which columns hold words or whole numbers.
    """
    values = posterior.mean.clone()
    kinds = _kinds(layer, about, values[0].numel()).reshape(values.shape[1:])
    median = posterior.x.median(0).values
    values = torch.where((kinds == _MEDIAN).to(values.device), median.to(values), values)
    if bool((kinds == _MODE).any()):
        mode = posterior.x.mode(0).values
        values = torch.where((kinds == _MODE).to(values.device), mode.to(values), values)
    return values


def _fill_frame(
    frame: Any,
    filled: Num[Tensor, "data features"],
    was_missing: Bool[Tensor, "data features"],
    about: DataDescription | None,
) -> Any:
    """A copy of a data frame with its missing cells filled, of the same library.

    Arguments:
        frame: the data frame.
        filled: values for the columns of the model.
        was_missing: where to put them.
        about: names and words of the columns; without, the columns are those of the frame.
    """
    import narwhals as nw
    import pandas as pd

    table = as_table("data", frame).copy()
    features = about.features if about is not None and about.features else tuple(table.columns)
    changed = {}
    for place, name in enumerate(features):
        rows = was_missing[:, place].cpu().numpy()
        if not rows.any():
            continue
        values: Any = filled[:, place].double().cpu().numpy()[rows]
        words = about.categories.get(name) if about is not None else None
        column = table[name].astype(object)
        if words is not None:
            values = np.array(words, dtype=object)[values.astype(int)]
        column[rows] = values
        changed[name] = list(column) if words is not None else column.astype(float).to_numpy()
    if isinstance(frame, pd.DataFrame):
        result = frame.copy()
        for own, name in zip(frame.columns, map(str, frame.columns), strict=True):
            if name in changed:
                result[own] = changed[name]
        return result
    wrapped = nw.from_native(frame, eager_only=True)
    series = [
        nw.new_series(name, values, backend=wrapped.implementation)
        for name, values in changed.items()
    ]
    return wrapped.with_columns(*series).to_native() if series else frame


def _kinds(layer: Layer, about: DataDescription | None, num: int) -> Tensor:
    """How to estimate each entry of a datum."""
    kinds = torch.full((num,), _MEAN)
    blocks: list[Any] = list(getattr(layer, "layers", [layer]))
    start = 0
    for block in blocks:
        size = int(torch.Size(block.event_shape).numel())
        if block.likelihood.family.name == "Categorical":
            kinds[start : start + size] = _MODE
        elif block.is_discrete:
            kinds[start : start + size] = _MEDIAN
        start += size
    for place, name in enumerate((about and about.features) or ()):
        if about is not None and name in about.categories:
            kinds[place] = _MODE
        elif about is not None and about.whole is not None and about.whole[place]:
            kinds[place] = _MEDIAN if kinds[place] == _MEAN else kinds[place]
    return kinds
