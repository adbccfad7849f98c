"""Check that a mixture can be fitted to data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import as_array, as_tensor, as_whole, describe, is_tensor_like
from ..errors import InputError

__all__ = [
    "as_double",
    "as_floor",
    "as_points",
    "as_weights",
    "check_complete",
    "check_fittable",
    "column_moments",
]

_RELATIVE_SPREAD = 1e-12
"""A column is constant up to round-off if its range is below this fraction of its largest value."""

_SMALLEST = 1e-100
_LARGEST = 1e100
"""Deviations beyond these have squares near the limits of double precision."""


def as_points(
    x: Any, names: Sequence[str] | None = None, *, missing: bool = False
) -> Float[Tensor, "n d"]:
    """Convert a matrix to a tensor of points, one in each row; floating-point data are not copied.

    Arguments:
        x: array, tensor, data frame, or nested lists.
        names: names of the columns, for error messages.
        missing: whether entries may be NaN.

    Raises:
        InputError: if x is not a matrix of real numbers, or has infinite values, or NaN.
    """
    points = _as_matrix(x)
    if points.ndim != 2:
        advice = " (for one column, use x.reshape(-1, 1))" if points.ndim == 1 else ""
        raise InputError(
            f"the data must have shape (n, d), one point in each row; got {tuple(points.shape)}"
            + advice
        )
    if not points.numel():
        raise InputError(f"the data have shape {tuple(points.shape)}, and so no values")
    bad = points.isinf() if missing else ~points.isfinite()
    if bad.any():
        column = int(bad.any(0).nonzero()[0])
        wrong = points[bad[:, column], column]
        advice = (
            "every value must be finite, or NaN if it is missing"
            if missing
            else "this needs every value: leave these rows out, or impute the values"
        )
        raise InputError(
            f"{_column_name(column, names)} holds {wrong[0].item()} in {len(wrong)} of "
            f"{len(points)} rows; {advice}"
        )
    return points


def _as_matrix(x: Any) -> Tensor:
    """Numbers as a tensor of single or double precision, without a copy where that is possible."""
    if isinstance(x, np.ndarray) and x.dtype.isnative and x.dtype.char in "efd":
        # torch does not share memory that is read-only or has negative strides
        x = torch.from_numpy(np.require(x, None, ["C", "W"]))
    points = as_tensor("the data", x) if isinstance(x, Tensor) else as_double("the data", x)
    if points.requires_grad:
        points = points.detach()
    if points.dtype == torch.bool:
        raise InputError("the data are truth values; they must be real numbers")
    return points if points.dtype in (torch.float32, torch.float64) else points.double()


def as_floor(floor: Any, x: Float[Tensor, "n d"]) -> Float[Tensor, "d"]:
    """The smallest variance allowed in each column.

    Raises:
        InputError: if there is not one for each column, or one is not positive and finite.
    """
    numbers = as_double("floor", floor).to(x.device)
    if tuple(numbers.shape) != (x.shape[1],):
        raise InputError(
            f"floor has shape {tuple(numbers.shape)}; it needs a variance for each of "
            f"{x.shape[1]} columns, as floor_of gives"
        )
    if not ((numbers > 0) & numbers.isfinite()).all():
        raise InputError("floor must hold positive and finite variances; some of these are not")
    return numbers


def check_complete(x: Float[Tensor, "n d"], method: str) -> None:
    """Refuse data with missing entries.

    Raises:
        InputError: if an entry is NaN.
    """
    num_missing = int(x.isnan().sum())
    if num_missing:
        raise InputError(
            f"{num_missing} of {x.numel()} entries of the data are missing (NaN), which {method} "
            "cannot integrate out; use em, coordinate_ascent or GaussianMixture, which can"
        )


def as_double(name: str, values: Any) -> Tensor:
    """Numbers in double precision, from a tensor, an array, a data frame or nested lists.

    Raises:
        InputError: if these are not numbers.
    """
    is_other = hasattr(values, "__array__") and not is_tensor_like(values)
    if isinstance(values, list | tuple | int | float) or is_other:
        try:
            values = np.asarray(values)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must be numbers; got {describe(values)}: {error}") from None
    if isinstance(values, Tensor):
        numbers = as_tensor(name, values)
    else:
        numbers = torch.from_numpy(np.array(as_array(name, values)))
    if numbers.dtype == torch.bool:
        raise InputError(f"{name} holds truth values (bool); it must hold real numbers")
    return numbers.double()


def as_weights(
    sample_weight: Any, num: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "n"] | None:
    """Weights of data, in double precision.

    Raises:
        InputError: if there is not one for each datum, one is negative, NaN or infinite, or all are
            zero.
    """
    if sample_weight is None:
        return None
    name = "sample_weight"
    weights = as_double(name, sample_weight).detach().to(device)
    if tuple(weights.shape) != (num,):
        raise InputError(
            f"{name} has shape {tuple(weights.shape)}; sample_weight.shape must be ({num},), one "
            "weight for each datum"
        )
    if not (weights.isfinite().all() and (weights >= 0).all()):
        bad = weights[~(weights.isfinite() & (weights >= 0))][0].item()
        raise InputError(f"{name} holds {bad:g}; weights must be finite, and 0 or more")
    if not weights.any():
        raise InputError(f"{name} is zero for all data; give one a positive weight")
    return weights


def check_fittable(
    x: Float[Tensor, "n d"], num_components: Any, names: Sequence[str] | None = None
) -> None:
    """Refuse data whose likelihood has no maximum from any start; NaN entries are missing.

    Raises:
        InputError: if there are fewer points, or fewer distinct points, than components; or if a
            column is constant or empty, or its variance is beyond double precision.
    """
    num_components = as_whole("num_components", num_components, 1)
    n, d = x.shape
    if d < 1:
        raise InputError("the data have no columns")
    if n < num_components:
        raise InputError(
            f"{num_components} components cannot be fitted to {n} points; use at most {n}"
        )
    if n < 2:
        raise InputError(f"{n} point (n_samples = {n}) has no covariance; give two or more")
    missing = x.isnan()
    if missing.all(0).any():
        column = int(missing.all(0).nonzero()[0])
        raise InputError(f"{_column_name(column, names)} has no values (all are NaN); leave it out")
    infinity = torch.inf
    low = torch.where(missing, infinity, x).min(0).values
    high = torch.where(missing, -infinity, x).max(0).values
    largest = torch.maximum(low.abs(), high.abs())
    constant = ~(high - low > _RELATIVE_SPREAD * largest)
    if constant.any():
        column = int(constant.nonzero()[0])
        raise InputError(
            f"{_column_name(column, names)} is constant ({low[column].item():g}), so the "
            "likelihood has no maximum; leave it out"
        )
    deviation = column_moments(x)[1].sqrt()
    extreme = ~((deviation > _SMALLEST) & (deviation < _LARGEST))
    if extreme.any():
        column = int(extreme.nonzero()[0])
        raise InputError(
            f"{_column_name(column, names)} has a standard deviation of "
            f"{deviation[column].item():.3g}, and its square is beyond double precision; rescale it"
        )
    x = x.nan_to_num(0.0) if missing.any() else x
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
    x = x.nan_to_num()
    mean = (share * x).sum(0)
    difference = present * (x - mean)
    return mean, (share * difference.square()).sum(0)


def _column_name(column: int, names: Sequence[str] | None) -> str:
    return f"column {column}" if names is None else f"column {names[column]!r}"
