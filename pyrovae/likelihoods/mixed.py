"""A likelihood for each block of columns of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from ..distributions import Blocks
from ..errors import InputError
from .declaration import Likelihood

__all__ = ["Mixed", "MixedLayer"]

Given = Mapping[str, Tensor]


class Mixed:
    """p(x | z) = product over blocks of columns b of p_b(x_b | z), each declared by itself.

    Arguments:
        blocks: for a column, or a tuple of columns, its likelihood as an object, a name or a dict;
            a mapping, or pairs. The columns of x are in the order of the blocks.
        columns: likewise, for columns whose names are Python names.

    Raises:
        InputError: if there is no block, a column stands twice, or a likelihood is none.

    Example:
        >>> mixed = Mixed({("height", "weight"): "Normal"}, smoker="Bernoulli")
        >>> mixed.columns
        ('height', 'weight', 'smoker')
        >>> mixed.build((3,)).in_shape
        (3,)
    """

    given: tuple[str, ...] = ()

    def __init__(
        self,
        blocks: Mapping[str | tuple[str, ...], Any]
        | Sequence[tuple[str | tuple[str, ...], Any]]
        | None = None,
        **columns: Any,
    ) -> None:
        self.blocks: dict[tuple[str, ...], Likelihood] = {}
        pairs = list(blocks.items() if isinstance(blocks, Mapping) else blocks or ())
        for key, spec in [*pairs, *columns.items()]:
            names = (key,) if isinstance(key, str) else tuple(key)
            for name in names:
                if any(name in others for others in self.blocks) or names.count(name) > 1:
                    raise InputError(f"column {name!r} is in two blocks")
            likelihood = Likelihood.of(spec)
            if not isinstance(likelihood, Likelihood) or likelihood.given:
                raise InputError(
                    f"a block of columns takes a likelihood that needs nothing beside x; "
                    f"{', '.join(names)} has {likelihood!r}"
                )
            self.blocks[names] = likelihood
        self.columns = tuple(name for names in self.blocks for name in names)
        if not self.columns:
            raise InputError("Mixed has no columns")

    def build(self, event_shape: Sequence[int]) -> "MixedLayer":
        """A layer for rows of a table, with new parameters."""
        if tuple(event_shape) != (len(self.columns),):
            raise InputError(
                f"Mixed declares {len(self.columns)} columns; a datum has shape "
                f"{tuple(event_shape)}"
            )
        return MixedLayer(self)

    def to_dict(self) -> dict[str, Any]:
        """The declaration in plain types, as a YAML file holds it."""
        blocks = [{"columns": list(n), "likelihood": p.to_dict()} for n, p in self.blocks.items()]
        return {"family": "Mixed", "blocks": blocks}

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> "Mixed":
        """The declaration that :meth:`to_dict` wrote.

        Raises:
            InputError: if it is written otherwise.
        """
        try:
            return cls([(_names(b["columns"]), b["likelihood"]) for b in spec["blocks"]])
        except (KeyError, TypeError) as error:
            raise InputError(
                "Mixed is written as {family: Mixed, blocks: [{columns: [a, b], likelihood: "
                f"Normal}}, ...]}}; got {dict(spec)}"
            ) from error

    def __str__(self) -> str:
        families = (f"{', '.join(n)}: {p.family.name}" for n, p in self.blocks.items())
        return f"Mixed({'; '.join(families)})"

    def __repr__(self) -> str:
        return f"Mixed({ {(n[0] if len(n) == 1 else n): p for n, p in self.blocks.items()} })"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixed) and list(self.blocks.items()) == list(other.blocks.items())

    def __hash__(self) -> int:
        return hash(repr(self))


def _names(columns: Any) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


class MixedLayer(nn.Module):
    """eta -> p(x | z) for a row of a table; the counterpart of ``LikelihoodLayer``.

    Attributes:
        in_shape: ``(numbers,)``: those of each block, one after the other.
        fill: a value in the support of each column, for entries that are missing.
    """

    fill: Tensor

    def __init__(self, likelihood: Mixed) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.event_shape = (len(likelihood.columns),)
        self.layers = nn.ModuleList(p.build((len(n),)) for n, p in likelihood.blocks.items())
        self._widths = [len(names) for names in likelihood.blocks]
        self._numbers = [int(torch.Size(layer.in_shape).numel()) for layer in self._each()]
        self.in_shape = (sum(self._numbers),)
        each = [torch.full((w,), p.fill) for w, p in zip(self._widths, self._each(), strict=True)]
        self.register_buffer("fill", torch.cat(each), persistent=False)

    def forward(
        self,
        eta: Float[Tensor, "..."],
        given: Given | None = None,
        observed: Bool[Tensor, "..."] | None = None,
    ) -> Blocks:
        """p(x | z), the blocks independent given z.

        Raises:
            InputError: if the last size of eta is not :attr:`in_shape`.
        """
        if eta.shape[-1] != self.in_shape[0]:
            raise InputError(
                f"the decoder put out shape {tuple(eta.shape)}; {self.likelihood!r} needs "
                f"{self.in_shape} for each datum"
            )
        masks = [None] * len(self._widths) if observed is None else self._columns(observed)
        parts = zip(self._each(), self._etas(eta), masks, strict=True)
        return Blocks([layer(part, None, mask) for layer, part, mask in parts])

    def mean(self, eta: Float[Tensor, "..."], given: Given | None = None) -> Float[Tensor, "..."]:
        """E[x | z], of shape ``(*batch, columns)``; for categories, taken as their numbers."""
        means = [p.mean(part) for p, part in zip(self._each(), self._etas(eta), strict=True)]
        return torch.cat(means, dim=-1)

    def given_with(self, x: Num[Tensor, "..."], *given: Tensor) -> dict[str, Tensor]:
        """Nothing, which is all that blocks take beside x."""
        if given:
            raise InputError(f"Mixed takes nothing beside x; got {len(given)} tensors beside it")
        return {}

    @property
    def is_discrete(self) -> bool:
        """Whether log p(x | z) is the log of a probability mass in every column."""
        return all(layer.is_discrete for layer in self._each())

    @property
    def kind(self) -> str:
        """What log p(x | z) is the log of; only figures of one kind can be compared."""
        kinds: dict[str, list[str]] = {}
        for layer, columns in zip(self._each(), self.likelihood.blocks, strict=True):
            kinds.setdefault(layer.kind, []).extend(columns)
        if len(kinds) == 1:
            return next(iter(kinds))
        return "; ".join(f"{kind} of {', '.join(sorted(kinds[kind]))}" for kind in sorted(kinds))

    def check_varied(
        self, x: Num[Tensor, "..."], names: Sequence[str] | None = None, what: str = "the data"
    ) -> None:
        """Refuse a table with a constant column whose density would be infinite.

        Raises:
            InputError: naming the column.
        """
        parts = zip(self._each(), self._columns(x), self.likelihood.blocks, strict=True)
        for layer, part, columns in parts:
            layer.check_varied(part, columns, what)

    def check(
        self,
        x: Num[Tensor, "..."],
        names: Sequence[str] | None = None,
        what: str = "the data",
        given: Given | None = None,
    ) -> None:
        """Refuse data that this likelihood cannot have produced; missing entries (NaN) may be.

        Raises:
            InputError: naming the first offending column and value, and what would fit.
        """
        from .support import check_values

        check_values(x, self.event_shape, self.likelihood.columns, what, missing=True)
        for layer, part, columns in zip(
            self._each(), self._columns(x), self.likelihood.blocks, strict=True
        ):
            layer.check(part, columns, what)

    def set_units(self, loc: Tensor, scale: Tensor) -> None:
        """Measure learned locations and scales in these units, column by column."""
        parts = zip(self._each(), self._columns(loc), self._columns(scale), strict=True)
        for layer, m, s in parts:
            layer.set_units(m, s)

    def set_typical(self, given: Given) -> None:
        """Nothing, as blocks take nothing beside x."""

    def _each(self) -> list[Any]:
        return list(self.layers)

    def _columns(self, x: Tensor) -> Sequence[Any]:
        columns: Sequence[Any] = x.split(self._widths, dim=-1)
        return columns

    def _etas(self, eta: Tensor) -> list[Tensor]:
        parts = eta.split(self._numbers, dim=-1)
        return [
            part.reshape(part.shape[:-1] + layer.in_shape)
            for part, layer in zip(parts, self._each(), strict=True)
        ]
