"""Likelihoods for blocks of columns of a table, as one declaration and one layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from ..distributions import Blocks
from ..errors import InputError
from .declaration import Declaration
from .layer import Given, LikelihoodLayer
from .support import check_values

__all__ = ["MixedDeclaration", "MixedLayer"]


class MixedDeclaration:
    """A declaration for each block of columns of a table, as plain data.

    You write it as a :class:`~pyrovae.Mixed`.

    Attributes:
        blocks: the declaration of each block, by the names of its columns.
        columns: names of all columns, in the order of the blocks.
        given: names of the tensors given with x, of which there are none.
    """

    given: tuple[str, ...] = ()

    def __init__(self, blocks: Mapping[tuple[str, ...], Declaration]) -> None:
        self.blocks = dict(blocks)
        self.columns = tuple(name for names in self.blocks for name in names)
        if not self.columns:
            raise InputError("Mixed has no columns; give it a likelihood for each column")

    def to_dict(self) -> dict[str, Any]:
        """The declaration in plain types, as a YAML file holds it."""
        blocks = [{"columns": list(n), "likelihood": p.to_dict()} for n, p in self.blocks.items()]
        return {"family": "Mixed", "blocks": blocks}

    def __str__(self) -> str:
        families = (f"{', '.join(n)}: {p.family.name}" for n, p in self.blocks.items())
        return f"Mixed({'; '.join(families)})"

    def __repr__(self) -> str:
        return f"Mixed({ {(n[0] if len(n) == 1 else n): p for n, p in self.blocks.items()} })"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MixedDeclaration) and list(self.blocks.items()) == list(
            other.blocks.items()
        )

    def __hash__(self) -> int:
        return hash(repr(self))


class MixedLayer(nn.Module):
    """eta -> p(x | z) for a row of a table, like :class:`LikelihoodLayer` for one likelihood.

    Arguments:
        likelihood: the declaration of each block.

    Attributes:
        in_shape: ``(size,)``, where eta holds the inputs of each block, one after the other.
        fill: a value in the support of each column, with which missing entries are filled.
    """

    fill: Tensor

    def __init__(self, likelihood: MixedDeclaration) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.event_shape = (len(likelihood.columns),)
        self.layers = nn.ModuleList(
            LikelihoodLayer(p, (len(n),)) for n, p in likelihood.blocks.items()
        )
        self._widths = [len(names) for names in likelihood.blocks]
        self._sizes = [int(torch.Size(layer.in_shape).numel()) for layer in self._layers()]
        self.in_shape = (sum(self._sizes),)
        each = [
            torch.as_tensor(layer.fill).expand(width)
            for width, layer in zip(self._widths, self._layers(), strict=True)
        ]
        self.register_buffer("fill", torch.cat(each), persistent=False)

    def forward(
        self,
        eta: Float[Tensor, "..."],
        given: Given | None = None,
        observed: Bool[Tensor, "..."] | None = None,
    ) -> Blocks:
        """p(x | z), in which the blocks are independent given z.

        Raises:
            InputError: if the last size of eta is not :attr:`in_shape`.
        """
        if eta.shape[-1] != self.in_shape[0]:
            raise InputError(
                f"the decoder returned shape {tuple(eta.shape)}; {self.likelihood!r} expects "
                f"{self.in_shape} for each datum"
            )
        masks = [None] * len(self._widths) if observed is None else self._columns(observed)
        parts = zip(self._layers(), self._etas(eta), masks, strict=True)
        return Blocks([layer(part, None, mask) for layer, part, mask in parts])

    def mean(self, eta: Float[Tensor, "..."], given: Given | None = None) -> Float[Tensor, "..."]:
        """E[x | z], of shape ``(*batch, columns)``; for categories, taken as their numbers."""
        means = [p.mean(part) for p, part in zip(self._layers(), self._etas(eta), strict=True)]
        return torch.cat(means, dim=-1)

    def given_with(self, x: Shaped[Tensor, "..."], *given: Tensor) -> dict[str, Tensor]:
        """An empty dict, as blocks take no tensors besides x."""
        if given:
            raise InputError(f"Mixed takes x alone; got {len(given)} further tensors")
        return {}

    @property
    def is_discrete(self) -> bool:
        """Whether log p(x | z) is the log of a probability mass in every column."""
        return all(layer.is_discrete for layer in self._layers())

    @property
    def kind(self) -> str:
        """Whether log p(x | z) is a log density or a log probability mass, by column.

        Only figures of one kind can be compared.
        """
        kinds: dict[str, list[str]] = {}
        for layer, columns in zip(self._layers(), self.likelihood.blocks, strict=True):
            kinds.setdefault(layer.kind, []).extend(columns)
        if len(kinds) == 1:
            return next(iter(kinds))
        return "; ".join(f"{kind} of {', '.join(sorted(kinds[kind]))}" for kind in sorted(kinds))

    def check_varied(
        self, x: Shaped[Tensor, "..."], names: Sequence[str] | None = None, what: str = "the data"
    ) -> None:
        """Refuse a table with a constant column whose density would be infinite.

        Raises:
            InputError: naming the column.
        """
        parts = zip(self._layers(), self._columns(x), self.likelihood.blocks, strict=True)
        for layer, part, columns in parts:
            layer.check_varied(part, columns, what)

    def check(
        self,
        x: Shaped[Tensor, "..."],
        names: Sequence[str] | None = None,
        what: str = "the data",
        given: Given | None = None,
    ) -> None:
        """Refuse data outside the support of this likelihood; entries may be missing (NaN).

        Raises:
            InputError: naming the first offending column and value, and a likelihood that fits.
        """
        check_values(x, self.event_shape, self.likelihood.columns, what, missing=True)
        for layer, part, columns in zip(
            self._layers(), self._columns(x), self.likelihood.blocks, strict=True
        ):
            layer.check(part, columns, what)

    def set_units(self, loc: Tensor, scale: Tensor) -> None:
        """Use these units for learned locations and scales, column by column."""
        parts = zip(self._layers(), self._columns(loc), self._columns(scale), strict=True)
        for layer, m, s in parts:
            layer.set_units(m, s)

    def set_typical(self, given: Given) -> None:
        """Do nothing, as blocks take no tensors besides x."""

    def _layers(self) -> list[Any]:
        return list(self.layers)

    def _columns(self, x: Tensor) -> Sequence[Any]:
        columns: Sequence[Any] = x.split(self._widths, dim=-1)
        return columns

    def _etas(self, eta: Tensor) -> list[Tensor]:
        parts = eta.split(self._sizes, dim=-1)
        return [
            part.reshape(part.shape[:-1] + layer.in_shape)
            for part, layer in zip(parts, self._layers(), strict=True)
        ]
