"""Data that a mixture can be fitted to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError

__all__ = ["as_points", "check_fittable"]

_RELATIVE_SPREAD = 1e-12
"""A column whose range is below this part of its largest value is round-off about a constant."""


def as_points(x: Any, names: Sequence[str] | None = None) -> Float[Tensor, "n d"]:
    """Points in the rows of a matrix, as they are in memory where they are floating point.

    Arguments:
        x: array or tensor.
        names: what the columns are called.

    Raises:
        InputError: if it is no matrix of numbers, or some are missing.
    """
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()  # torch does not share memory that it may not write to
    try:
        points = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the data must be numbers; got {type(x).__name__}: {error}") from None
    if points.ndim != 2:
        advice = " (for data of one number each, x.reshape(-1, 1))" if points.ndim == 1 else ""
        raise InputError(
            f"the data must have shape (n, d), one point in each row; got {tuple(points.shape)}"
            + advice
        )
    if points.is_complex() or points.dtype == torch.bool:
        raise InputError(f"the data must be real numbers; got {points.dtype}")
    if not points.is_floating_point():
        points = points.double()
    bad = ~points.isfinite().all(0)
    if bad.any():
        column = int(bad.nonzero()[0])
        wrong = points[:, column][~points[:, column].isfinite()]
        raise InputError(
            f"{_named(column, names)} holds {wrong[0].item()} in {len(wrong)} of {len(points)} "
            "rows; a Gaussian mixture needs every value: leave such rows out, or fill them in"
        )
    return points


def check_fittable(
    x: Float[Tensor, "n d"], num_components: int, names: Sequence[str] | None = None
) -> None:
    """Refuse data whose likelihood has no maximum, whatever the start.

    Raises:
        InputError: if there are fewer points, or fewer different points, than components; or if a
            column is constant.
    """
    if num_components < 1:
        raise InputError(f"num_components is {num_components}; it must be 1 or more")
    n, d = x.shape
    if d < 1:
        raise InputError("the data have no columns")
    if n < num_components:
        raise InputError(
            f"{n} points cannot be fitted by {num_components} components; use at most {n}"
        )
    if n < 2:
        raise InputError(f"{n} point (n_samples = {n}) has no covariance; give two or more")
    low, high = x.min(0).values, x.max(0).values
    largest = torch.maximum(low.abs(), high.abs())
    constant = ~(high - low > _RELATIVE_SPREAD * largest)
    if constant.any():
        column = int(constant.nonzero()[0])
        raise InputError(
            f"{_named(column, names)} is constant ({x[0, column].item():g}), so that its density "
            "has no maximum; leave it out"
        )
    deviation = x.double().std(0)
    extreme = ~((deviation > 1e-100) & (deviation < 1e100))
    if extreme.any():
        column = int(extreme.nonzero()[0])
        raise InputError(
            f"{_named(column, names)} has a standard deviation of {deviation[column].item():.3g}, "
            "whose square is beyond double precision; rescale it"
        )
    few = x[: 10 * num_components]
    if len(few.unique(dim=0)) < num_components:
        different = len(x.unique(dim=0))
        if different < num_components:
            raise InputError(
                f"the {n} points hold only {different} different ones, which cannot be fitted by "
                f"{num_components} components; use at most {different}"
            )


def _named(column: int, names: Sequence[str] | None) -> str:
    return f"column {column}" if names is None else f"column {names[column]!r}"
