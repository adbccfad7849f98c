"""A likelihood as it is declared: a family and where each of its arguments comes from."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.constraints import ordered_vector
from torch.distributions import Distribution, Transform, constraints

from ..errors import InputError
from ..links import find_link, link_to
from .families import LEARNED, Source, family_of

if TYPE_CHECKING:
    import pandas as pd

    from .layer import LikelihoodLayer
    from .mixed import Mixed

__all__ = ["Likelihood"]

_SIZES = ("num_classes", "rank", "num_components")


class Likelihood:
    """p(x | z) declared: a family of distributions and the source of each argument.

    A declaration holds no tensors. It may be shared, compared, printed and written to YAML;
    :meth:`build` makes the layer that a model uses, with parameters of its own.

    Arguments:
        family: a name, however capitalised (``"Bernoulli"``, ``"negative-binomial"``; ``pyrovae
            likelihoods`` lists them), any other class of ``pyro.distributions`` by its name, or a
            class of distributions.
        num_classes: number K of classes, of ``Categorical`` and ``OrderedLogistic``.
        rank: number of columns of a matrix argument, as ``LowRankNormal`` has.
        num_components: make it a finite mixture of so many of the family, for each feature.
        exposure: whether each datum comes with an exposure (a size factor, a time of observation),
            by which the mean of its counts is multiplied.
        links: names of links that replace the default ones, as in ``links={"rate": "exp"}``;
            see :mod:`pyrovae.links`.
        sources: for each argument ``"predicted"`` (by the decoder, for each datum and feature),
            ``"shared"`` (one learned number), ``"per_feature"`` (a learned number for each
            feature), ``"data"`` (given with each datum) or a constant. Arguments left out are
            predicted, unless the family was registered with another source.

    Raises:
        InputError: if the family or an argument is unknown, or a constant breaks its constraint.

    Example:
        >>> Likelihood("Bernoulli")
        Likelihood('Bernoulli', logits='predicted')
        >>> Likelihood("Normal", scale=1.0).to_dict()
        {'family': 'Normal', 'loc': 'predicted', 'scale': 1.0}
        >>> Likelihood("Binomial", total_count=16).build((1, 8, 8)).in_shape
        (1, 1, 8, 8)
        >>> Likelihood("Normal", num_components=3).build((5,)).in_shape  # locs and weights
        (6, 5)
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
        **sources: Source,
    ) -> None:
        self.family = family_of(family)
        self.sources = self.family.resolve(sources)
        self.num_classes = num_classes
        self.rank = rank
        self.num_components = num_components
        self.exposure = exposure
        self._check_sizes()
        self._check_constants()
        if not isinstance(links, Mapping | None):
            raise InputError(f"links is {links!r}; it names links, as in {{rate: exp}}")
        self.link_names = dict(links or {})
        for name in self.link_names:
            if self.sources.get(name) not in LEARNED:
                raise InputError(f"{self.family.name} learns no argument {name!r} to link")
        for name, link_name in self.link_names.items():
            link: Any = find_link(link_name)
            constraint: Any = self._element_constraint(name)
            if link.domain.event_dim > constraint.event_dim:
                raise InputError(f"the link {link_name!r} is of vectors, and {name} of numbers")
        self.links: dict[str, Transform] = {
            name: find_link(self.link_names[name])
            if name in self.link_names
            else link_to(self._element_constraint(name))
            for name, source in self.sources.items()
            if isinstance(source, str) and source != "data"
        }

    @staticmethod
    def infer(table: "pd.DataFrame", report: Callable[[str], object] = print) -> "Mixed":
        """A likelihood for each column of a DataFrame; see :func:`pyrovae.likelihoods.infer`."""
        from .infer import infer

        return infer(table, report)

    @classmethod
    def of(cls, spec: Any) -> "Likelihood | Mixed":
        """The same declaration from an object, a name, a class or a dict with the key ``family``.

        A :class:`Mixed`, or a dict of the family ``Mixed``, is taken likewise.

        >>> Likelihood.of({"family": "normal", "scale": 0.1}) == Likelihood("Normal", scale=0.1)
        True
        """
        from .mixed import Mixed

        if isinstance(spec, Likelihood | Mixed):
            return spec
        if not isinstance(spec, Mapping):
            return cls(spec)
        if "family" not in spec:
            raise InputError(
                f"a likelihood needs the key 'family', as in {{family: Normal}}; got {dict(spec)}"
            )
        if str(spec["family"]).lower() == "mixed":
            return Mixed.from_dict(spec)
        return cls(**spec)

    def build(self, event_shape: Sequence[int]) -> "LikelihoodLayer":
        """A layer for data of that shape, with new parameters."""
        from .layer import LikelihoodLayer

        return LikelihoodLayer(self, tuple(event_shape))

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
        """What comes with each datum beside x, in the order in which a model takes it.

        The total of counts over all features is no such thing, as x holds it.
        """
        names = ["exposure"] if self.exposure else []
        names += [n for n, source in self.sources.items() if source == "data"]
        return tuple(
            name for name in names if not (name == "total_count" and self.family.is_vector)
        )

    def width(self, name: str) -> int | None:
        """How many numbers a feature has of an argument, where these are a vector."""
        constraint: Any = self.family.constraints[name]
        if constraint.event_dim - self.family.is_vector < 1:
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
        for size in _SIZES:
            value = getattr(self, size)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise InputError(f"{size} is {value!r}; it must be 1, 2 or more")
        name, vector = self.family.name, int(self.family.is_vector)
        dims: dict[str, Any] = {n: self.family.constraints[n].event_dim for n in self.sources}
        vectors = [n for n, dim in dims.items() if dim == 1 + vector]
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
            raise InputError(f"a mixture is made of each feature; {name} is over all features")
        for n, source in self.sources.items():
            if vector and dims[n] == 0 and source in ("predicted", "per_feature"):
                raise InputError(f"{name} has one {n} for all features; it cannot be {source}")
        if self.exposure and (vector or self.family.exposure not in self.sources):
            raise InputError(
                f"{name} has no exposure; Poisson, NegativeBinomial and the zero-inflated have one"
            )

    def _check_constants(self) -> None:
        for name, source in self.sources.items():
            if isinstance(source, str):
                continue
            constraint = self._element_constraint(name)
            try:
                allowed = bool(constraint.check(torch.as_tensor(source, dtype=torch.double)).all())
            except (TypeError, ValueError, RuntimeError):
                allowed = False
            if not allowed:
                raise InputError(
                    f"{self.family.name}: {name}={source!r} does not satisfy {constraint}"
                )

    def __repr__(self) -> str:
        settings = self.to_dict()
        family = settings.pop("family")
        return (
            f"Likelihood({', '.join([repr(family)] + [f'{k}={v!r}' for k, v in settings.items()])})"
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Likelihood)
            and self.family.distribution is other.family.distribution
            and self.to_dict() == other.to_dict()
        )

    def __hash__(self) -> int:
        return hash(repr(self))
