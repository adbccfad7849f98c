"""A likelihood for a column, proposed from its values with the reason."""

from typing import Any

from torch import Tensor

from ..errors import InputError

__all__ = ["propose_settings"]

_MAX_CLASSES = 50
_OVERDISPERSED = 1.5
"""Ratio of variance to mean above which counts do not follow a Poisson distribution."""

_SKEWED = 1.0
"""Skewness above which positive numbers get a log-normal distribution."""


def propose_settings(
    name: str, x: Tensor, num_classes: int | None = None
) -> tuple[dict[str, Any], str]:
    """The settings of a likelihood for one column, and the reason in words.

    Arguments:
        name: the column.
        x: its values, NaN where missing.
        num_classes: number of classes, where the values are numbers of classes.

    Raises:
        InputError: if the column is empty or constant, or has more than 50 classes.
    """
    x = x[~x.isnan()]
    if not len(x) or bool((x == x[0]).all()):
        what = f"always {x[0].item():g}" if len(x) else "empty"
        raise InputError(f"column {name!r} is {what}, which carries no information: remove it")
    if num_classes is not None and num_classes > _MAX_CLASSES:
        raise InputError(
            f"column {name!r} has {num_classes} classes, and at most {_MAX_CLASSES} can be "
            "modelled: remove it"
        )
    binary = bool(((x == 0) | (x == 1)).all())
    if binary or num_classes == 2:
        return {"family": "Bernoulli"}, "it has two classes"
    if num_classes is not None:
        settings = {"family": "Categorical", "num_classes": num_classes}
        return settings, f"it has {num_classes} classes"
    if bool((x == x.round()).all()) and x.min() >= 0:
        if x.var() > _OVERDISPERSED * x.mean():
            return {"family": "NegativeBinomial"}, "it counts, and varies more than a Poisson"
        return {"family": "Poisson"}, "it counts"
    if bool((x > 0).all()) and _skewness(x) > _SKEWED:
        return {"family": "LogNormal"}, "its numbers are positive and skewed"
    return {"family": "Normal"}, "its numbers are real"


def _skewness(x: Tensor) -> float:
    centred = x - x.mean()
    return float(centred.pow(3).mean() / centred.square().mean().pow(1.5))
