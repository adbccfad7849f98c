"""Parameters with a row for each place in a batch, which shuffled data must not be given."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .bound import evaluate_bound
from .pair import Pair
from .rows import has_row_per_datum

__all__ = ["find_positional_parameters"]

_PLACES = (0, 1, -1)
"""The places in a batch whose terms are differentiated."""


def find_positional_parameters(pair: Pair, batch: Sequence[Any], plate: str) -> list[str]:
    """The names of parameters of which each datum uses the row of its place in the batch.

    The terms of the bound of the datum in place i then have a gradient in row i, and not in the
    rows of others, whatever datum is in that place. The batch is reversed, so that tables from
    which data take rows by their own number are told apart.

    Arguments:
        pair: the model and the guide.
        batch: their arguments.
        plate: name of the plate over data.
    """
    num = len(batch[0]) if isinstance(batch[0], Tensor) else 0
    if num < 3:
        return []
    reverse = [part.flip(0) if has_row_per_datum(part, num) else part for part in batch]
    collector = _Collector()
    with torch.random.fork_rng(), pair.throwaway_store(), pair.eval_mode(), torch.enable_grad():
        with pyro.validation_enabled(False), collector:
            bound = evaluate_bound(*pair.functions, *reverse, plate=plate)
        found = {name: p for name, p in collector.found.items() if _has_rows(p, num)}
        if not found:
            return []
        positional: set[str] = set()
        for terms in bound.per_datum():
            if terms.requires_grad and len(terms) == num:
                positional |= _find_by_gradient(terms, found)
    return [name for name in found if name in positional]


def _find_by_gradient(terms: Float[Tensor, "batch"], found: dict[str, Tensor]) -> set[str]:
    """The parameters of which the terms of each place have a gradient in rows of its own."""
    gradients = [
        torch.autograd.grad(
            terms[place], list(found.values()), retain_graph=True, allow_unused=True
        )
        for place in _PLACES
    ]
    return {
        name
        for name, of_places in zip(found, zip(*gradients, strict=True), strict=True)
        if any(_follows_place(of_places, dim, len(terms)) for dim in range(found[name].dim()))
    }


class _Collector(Messenger):
    """Collects the unconstrained parameters of a program by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        unconstrained = value.unconstrained() if hasattr(value, "unconstrained") else value
        if unconstrained.requires_grad:
            self.found[msg["name"]] = unconstrained


def _has_rows(parameter: Tensor, num: int) -> bool:
    return any(size >= num for size in parameter.shape)


def _follows_place(gradients: Sequence[Tensor | None], dim: int, num: int) -> bool:
    """Whether the rows of the first, second and last place are in this order, evenly apart.

    A datum may have several rows, and all data may share others, as where one vector holds the
    latents of all data.
    """
    rows: list[set[int]] = []
    for gradient in gradients:
        if gradient is None or gradient.shape[dim] < num:
            return False
        by_row = gradient.movedim(dim, 0).reshape(gradient.shape[dim], -1)
        rows.append(set(by_row.any(1).nonzero().flatten().tolist()))
    shared = set.intersection(*rows)
    first, second, last = (sorted(each - shared) for each in rows)
    if not first or not len(first) == len(second) == len(last):
        return False
    step = second[0] - first[0]
    return step > 0 and all(
        b - a == step and c - a == step * (num - 1)
        for a, b, c in zip(first, second, last, strict=True)
    )
