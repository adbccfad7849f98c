"""Check that a mixture can be fitted to data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError

__all__ = ["as_points", "check_fittable", "column_moments"]

_RELATIVE_SPREAD = 1e-12
"""A column is constant up to round-off if its range is below this fraction of its largest value."""


def as_points(x: Any, names: Sequence[str] | None = None) -> Float[Tensor, "n d"]:
    """Convert a matrix to a tensor of points, one in each row; floating-point data are not copied.

    Arguments:
        x: array or tensor.
        names: names of the columns, for error messages.

    Raises:
        InputError: if x is not a matrix of real numbers, or has NaN or infinite values.
    """
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()  # torch does not share read-only memory
    try:
        points = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the data must be numbers; got {type(x).__name__}: {error}") from None
    if points.ndim != 2:
        advice = " (for one column, use x.reshape(-1, 1))" if points.ndim == 1 else ""
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
            f"{_column_name(column, names)} holds {wrong[0].item()} in {len(wrong)} of "
            f"{len(points)} rows; a Gaussian mixture needs every value: leave these rows "
            "out, or impute the values"
        )
    return points


def check_fittable(
    x: Float[Tensor, "n d"], num_components: int, names: Sequence[str] | None = None
) -> None:
    """Refuse data whose likelihood has no maximum from any start.

    Raises:
        InputError: if there are fewer points, or fewer distinct points, than components; or if a
            column is constant, or its variance is beyond double precision.
    """
    if num_components < 1:
        raise InputError(f"num_components is {num_components}; it must be 1 or more")
    n, d = x.shape
    if d < 1:
        raise InputError("the data have no columns")
    if n < num_components:
        raise InputError(
            f"{num_components} components cannot be fitted to {n} points; use at most {n}"
        )
    if n < 2:
        raise InputError(f"{n} point (n_samples = {n}) has no covariance; give two or more")
    low, high = x.min(0).values, x.max(0).values
    largest = torch.maximum(low.abs(), high.abs())
    constant = ~(high - low > _RELATIVE_SPREAD * largest)
    if constant.any():
        column = int(constant.nonzero()[0])
        raise InputError(
            f"{_column_name(column, names)} is constant ({x[0, column].item():g}), so the "
            "likelihood has no maximum; leave it out"
        )
    deviation = x.double().std(0)
    extreme = ~((deviation > 1e-100) & (deviation < 1e100))
    if extreme.any():
        column = int(extreme.nonzero()[0])
        raise InputError(
            f"{_column_name(column, names)} has a standard deviation of "
            f"{deviation[column].item():.3g}, and its square is beyond double precision; rescale it"
        )
    few = x[: 10 * num_components]
    if len(few.unique(dim=0)) < num_components:
        num_distinct = len(x.unique(dim=0))
        if num_distinct < num_components:
            raise InputError(
                f"only {num_distinct} of the {n} points are distinct, which {num_components} "
                f"components cannot be fitted to; use at most {num_distinct}"
            )


def column_moments(
    x: Float[Tensor, "n d"], weights: Float[Tensor, "n"] | None = None
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Mean and variance of the entries of each column that are not NaN, in double precision.

    Arguments:
        x: data.
        weights: how many times each datum counts; once unless given.
    """
    x = x.double()
    present = ~x.isnan()
    weight = present.double() if weights is None else present * weights.unsqueeze(1)
    share = weight / weight.sum(0)
    mean = (share * x.nan_to_num(0.0)).sum(0)
    difference = torch.where(present, x - mean, 0.0)
    return mean, (share * difference.square()).sum(0)


def _column_name(column: int, names: Sequence[str] | None) -> str:
    return f"column {column}" if names is None else f"column {names[column]!r}"
