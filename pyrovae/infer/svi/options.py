"""The options of ``SVI``, checked and in their plain form."""

from typing import Any, NamedTuple, cast

import torch

from ...arguments import as_callable, as_dtype, as_flag, as_instance, as_real, as_whole, describe
from ...errors import InputError
from ..compiler.tiered import Compile
from ..nonfinite.guard import NonFinite
from ..parallel.shards import Shards

__all__ = ["Options", "as_compile", "check_functions", "check_options"]


class Options(NamedTuple):
    """The options that are numbers and words; see :class:`~pyrovae.SVI`."""

    compile: Compile
    num_steps: int | None
    clip_norm: float | None
    accumulate: int
    autocast: torch.dtype | None
    non_finite: NonFinite
    repeatable: bool


def check_functions(
    model: Any, guide: Any, schedule: Any, transform: Any, on_compile: Any, shards: Any
) -> None:
    """Check the options that are functions and objects.

    Raises:
        InputError: naming the first that is something else.
    """
    as_callable("model", model, "a Pyro function")
    as_callable("guide", guide, "a Pyro function")
    functions: list[tuple[str, Any, str]] = [
        ("schedule", schedule, "a function from an optimiser to a schedule of torch"),
        ("transform", transform, "a function of the arguments of a step"),
        ("on_compile", on_compile, "a function without arguments"),
    ]
    for name, function, what in functions:
        if function is not None:
            as_callable(name, function, what)
    if shards is not None:
        as_instance("shards", shards, Shards, "Shards or None")


def check_options(
    compile: Any,
    num_steps: Any,
    clip_norm: Any,
    accumulate: Any,
    autocast: Any,
    non_finite: Any,
    repeatable: Any,
) -> Options:
    """Check the options that are numbers and words, and return them in their plain form.

    Raises:
        InputError: naming the first that has no meaning.
    """
    if not isinstance(non_finite, str) or non_finite not in ("stop", "skip"):
        raise InputError(f"non_finite is {describe(non_finite)}; it may be 'stop' or 'skip'")
    return Options(
        compile=as_compile(compile),
        num_steps=None if num_steps is None else as_whole("num_steps", num_steps, 1, None),
        clip_norm=None if clip_norm is None else as_real("clip_norm", clip_norm, above=0),
        accumulate=as_whole("accumulate", accumulate, 1),
        autocast=None if autocast is None else as_dtype("autocast", autocast),
        non_finite=cast(NonFinite, non_finite),
        repeatable=as_flag("repeatable", repeatable),
    )


def as_compile(value: Any) -> Compile:
    """Whether to compile: ``"auto"``, True or False.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(value, str) and value == "auto":
        return "auto"
    try:
        return as_flag("compile", value)
    except InputError:
        raise InputError(f"compile is {describe(value)}; it may be 'auto', True or False") from None
