"""A likelihood as plain data: a family, and where each of its arguments comes from."""

from collections.abc import Mapping
from math import prod
from numbers import Integral, Real
from typing import Any

import torch
from pyro.distributions.constraints import ordered_vector
from torch.distributions import Distribution, Transform, constraints

from ..arguments import as_flag, as_shape, as_tensor, as_whole, describe, is_tensor_like
from ..data.memory import check_num_parameters
from ..errors import InputError
from ..links import find_link, link_to
from .families import LEARNED, family_of

__all__ = ["Declaration"]

_SIZES = ("num_classes", "rank", "num_components")


class Declaration:
    """A family of distributions and the source of each argument, without tensors.

    You write it as a :class:`~pyrovae.Likelihood`, whose arguments these are. It can be shared,
    compared, printed and written to YAML.

    Attributes:
        family: the registered family, or one made of a class of distributions.
        sources: for each argument where it comes from.
        links: the link function of each argument that is learned or predicted.
        link_names: names of the links that replace default ones.
    """

    def __init__(
        self,
        family: str | type[Distribution],
        *,
        num_classes: int | None = None,
        rank: int | None = None,
        num_components: int | None = None,
        exposure: bool = False,
        links: Mapping[str, str] | None = None,
        **sources: Any,  # a Source each, which is checked below
    ) -> None:
        self.family = family_of(family)
        self.sources = self.family.resolve(
            {name: _as_plain(f"{self.family.name}: {name}", each) for name, each in sources.items()}
        )
        self.num_classes = _as_size("num_classes", num_classes)
        self.rank = _as_size("rank", rank)
        self.num_components = _as_size("num_components", num_components)
        self.exposure = as_flag("exposure", exposure)
        self._check_sizes()
        self._check_constants()
        if not isinstance(links, Mapping | None):
            raise InputError(
                f"links is {describe(links)}; it maps arguments to names of links, as in "
                "{rate: exp}"
            )
        self.link_names = dict(links or {})
        for name in self.link_names:
            if self.sources.get(name) not in LEARNED:
                raise InputError(
                    f"{self.family.name} has no learned argument {name!r} that could take a link"
                )
        for name, link_name in self.link_names.items():
            link: Any = find_link(link_name)
            constraint: Any = self._element_constraint(name)
            if link.domain.event_dim > constraint.event_dim:
                raise InputError(f"the link {link_name!r} maps vectors, but {name} is a number")
        self.links: dict[str, Transform] = {
            name: find_link(self.link_names[name])
            if name in self.link_names
            else link_to(self._element_constraint(name))
            for name, source in self.sources.items()
            if isinstance(source, str) and source != "data"
        }

    def to_dict(self) -> dict[str, Any]:
        """The declaration in plain types, as a YAML file holds it."""
        sizes = {name: getattr(self, name) for name in _SIZES if getattr(self, name) is not None}
        spec: dict[str, Any] = {"family": self.family.name} | self.sources | sizes
        if self.exposure:
            spec["exposure"] = True
        if self.link_names:
            spec["links"] = self.link_names
        return spec

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the tensors given with x, in the order in which a model takes them.

        The total of counts over all features is not among them: it is computed from x.
        """
        names = ["exposure"] if self.exposure else []
        names += [n for n, source in self.sources.items() if source == "data"]
        return tuple(
            name for name in names if not (name == "total_count" and self.family.is_vector)
        )

    def as_event_shape(self, event_shape: Any) -> tuple[int, ...]:
        """The shape of one datum, after a check that the arguments for it fit into memory.

        Raises:
            InputError: if it is no shape, or they do not fit.
        """
        event_shape = as_shape("event_shape", event_shape)
        sizes = [self.width(name) or 1 for name in self.sources]
        num = (self.num_components or 1) * sum(sizes) * prod(event_shape)
        check_num_parameters(num, "a likelihood")
        shape: tuple[int, ...] = event_shape
        return shape

    def width(self, name: str) -> int | None:
        """How many numbers one feature has of a vector argument; None for a scalar argument."""
        constraint: Any = self.family.constraints[name]
        if constraint.event_dim - self.family.is_vector < 1:
            return None
        if self.family.is_square(name):
            return None
        if self.family.is_vector:
            return self.rank
        assert self.num_classes is not None
        return self.num_classes - isinstance(constraint, type(ordered_vector))

    def _element_constraint(self, name: str) -> Any:
        """The constraint on the numbers of one feature."""
        constraint: Any = self.family.constraints[name]
        if self.family.is_vector and isinstance(constraint, constraints.independent):
            return constraint.base_constraint
        return constraint

    def _check_sizes(self) -> None:
        name, vector = self.family.name, int(self.family.is_vector)
        dims: dict[str, Any] = {n: self.family.constraints[n].event_dim for n in self.sources}
        vectors = [n for n, dim in dims.items() if dim == 1 + vector]
        vectors = [n for n in vectors if not self.family.is_square(n)]
        square = [
            n
            for n in vectors
            if vector and not hasattr(self.family.constraints[n], "base_constraint")
        ]
        if square or any(dim > 1 + vector for dim in dims.values()):
            raise InputError(f"{name} has a matrix argument, which cannot be declared")
        size = "rank" if vector else "num_classes"
        if vectors and getattr(self, size) is None:
            raise InputError(
                f"{name} needs {size}, the size of its {vectors[0]}, "
                f"as in {{family: {name}, {size}: {2 if vector else 10}}}"
            )
        for unused in {"rank", "num_classes"} - ({size} if vectors else set()):
            if getattr(self, unused) is not None:
                raise InputError(f"{name} has no vector argument for {unused} to size")
        if vector and self.num_components is not None:
            raise InputError(
                f"num_components makes a mixture for each feature; {name} is one distribution over "
                "all features"
            )
        for n, source in self.sources.items():
            if vector and dims[n] == 0 and source in ("predicted", "per_feature"):
                raise InputError(f"{name} has one {n} for all features, which cannot be {source}")
        if self.exposure and (vector or self.family.exposure not in self.sources):
            raise InputError(
                f"{name} takes no exposure; Poisson, NegativeBinomial and the zero-inflated "
                "families do"
            )

    def _check_constants(self) -> None:
        for name, source in self.sources.items():
            if isinstance(source, str):
                continue
            constraint = self._element_constraint(name)
            try:
                allowed = bool(constraint.check(torch.as_tensor(source, dtype=torch.double)).all())
                allowed = allowed and _is_finite(source)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                allowed = False
            if not allowed:
                raise InputError(
                    f"{self.family.name}: {name}={describe(source)} does not satisfy {constraint}"
                )

    def __repr__(self) -> str:
        settings = self.to_dict()
        family = settings.pop("family")
        return (
            f"Likelihood({', '.join([repr(family)] + [f'{k}={v!r}' for k, v in settings.items()])})"
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Declaration)
            and self.family.distribution is other.family.distribution
            and self.to_dict() == other.to_dict()
        )

    def __hash__(self) -> int:
        return hash(repr(self))


def _as_size(name: str, value: Any) -> int | None:
    return None if value is None else as_whole(name, value, 1)


def _as_plain(name: str, source: Any) -> Any:
    """A source in plain types: a word, a number, or lists of numbers.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(source, str):
        return source
    if isinstance(source, Integral) and not isinstance(source, bool):
        return int(source)
    if isinstance(source, Real) and not isinstance(source, bool):
        return float(source)
    if is_tensor_like(source):
        return as_tensor(name, source).tolist()
    if isinstance(source, list | tuple):
        return [_as_plain(name, each) for each in source]
    raise InputError(
        f"{name} is {describe(source)}; it must be a word that says where it comes from, a number, "
        "or a number for each feature"
    )


def _is_finite(source: Any) -> bool:
    return bool(torch.as_tensor(source, dtype=torch.double).isfinite().all())
