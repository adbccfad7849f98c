"""A likelihood as it is declared: a family and where each of its arguments comes from."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.distributions import Distribution, Transform

from ..errors import InputError
from ..links import link_named, link_to
from .families import Source, family_of

if TYPE_CHECKING:
    from .layer import LikelihoodLayer

__all__ = ["Likelihood"]


class Likelihood:
    """p(x | z) declared: a family of distributions and the source of each argument.

    A declaration holds no tensors. It may be shared, compared, printed and written to YAML;
    :meth:`build` makes the layer that a model uses, with parameters of its own.

    Arguments:
        family: a name (``"Bernoulli"``, ``"Binomial"``, ``"Categorical"``, ``"Normal"``,
            ``"Poisson"``, any other class of ``pyro.distributions``) or a class of distributions.
        num_classes: length of vector arguments, as ``Categorical`` has.
        links: names of links that replace the default ones, as in ``links={"rate": "exp"}``;
            see :mod:`pyrovae.links`.
        sources: for each argument ``"predicted"`` (by the decoder, for each datum and feature),
            ``"shared"`` (one learned number), ``"per_feature"`` (a learned number for each
            feature) or a constant. Arguments left out are predicted, save that the scale of
            ``"Normal"`` is shared (the sigma-VAE of Rybkin et al. 2021).

    Raises:
        InputError: if the family or an argument is unknown, or a constant breaks its constraint.

    Example:
        >>> Likelihood("Bernoulli")
        Likelihood('Bernoulli', logits='predicted')
        >>> Likelihood("Normal", scale=1.0).to_dict()
        {'family': 'Normal', 'loc': 'predicted', 'scale': 1.0}
        >>> Likelihood("Binomial", total_count=16).build((1, 8, 8)).in_shape
        (1, 1, 8, 8)
    """

    def __init__(
        self,
        family: str | type[Distribution],
        *,
        num_classes: int | None = None,
        links: Mapping[str, str] | None = None,
        **sources: Source,
    ) -> None:
        self.family = family_of(family)
        resolved = self.family.resolve(sources)
        self.sources = {
            name: resolved[name] for name in self.family.constraints if name in resolved
        }
        self.num_classes = num_classes
        self._check_num_classes()
        self._check_constants()
        if not isinstance(links, Mapping | None):
            raise InputError(f"links is {links!r}; it names links, as in {{rate: exp}}")
        self.link_names = dict(links or {})
        for name in self.link_names:
            if not isinstance(self.sources.get(name), str):
                raise InputError(f"{self.family.name} learns no argument {name!r} to link")
        self.links: dict[str, Transform] = {
            name: link_named(self.link_names[name])
            if name in self.link_names
            else link_to(self.family.constraints[name])
            for name, source in self.sources.items()
            if isinstance(source, str)
        }

    @classmethod
    def of(cls, spec: "Likelihood | str | type[Distribution] | Mapping[str, Any]") -> "Likelihood":
        """The same declaration from an object, a name, a class or a dict with the key ``family``.

        >>> Likelihood.of({"family": "Normal", "scale": 0.1}) == Likelihood("Normal", scale=0.1)
        True
        """
        if isinstance(spec, Likelihood):
            return spec
        if not isinstance(spec, Mapping):
            return cls(spec)
        if "family" not in spec:
            raise InputError(
                f"a likelihood needs the key 'family', as in {{family: Normal}}; got {dict(spec)}"
            )
        return cls(**spec)

    def build(self, event_shape: Sequence[int]) -> "LikelihoodLayer":
        """A layer for data of that shape, with new parameters."""
        from .layer import LikelihoodLayer

        return LikelihoodLayer(self, tuple(event_shape))

    def to_dict(self) -> dict[str, Any]:
        """The declaration in plain types, as a YAML file holds it."""
        spec: dict[str, Any] = {"family": self.family.name} | self.sources
        if self.num_classes is not None:
            spec["num_classes"] = self.num_classes
        if self.link_names:
            spec["links"] = self.link_names
        return spec

    def width(self, name: str) -> int | None:
        """The length of a vector argument; None for an argument that is one number."""
        return self.num_classes if self.family.constraints[name].event_dim else None

    def _check_num_classes(self) -> None:
        vectors = [name for name in self.sources if self.family.constraints[name].event_dim]
        if vectors and self.num_classes is None:
            raise InputError(
                f"{self.family.name} needs num_classes, the length of its {vectors[0]}, "
                f"as in {{family: {self.family.name}, num_classes: 256}}"
            )
        if self.num_classes is not None and not vectors:
            raise InputError(f"{self.family.name} has no vector argument for num_classes to size")
        if any(self.family.constraints[name].event_dim > 1 for name in vectors):
            raise InputError(f"{self.family.name} has a matrix argument, which cannot be declared")
        if self.num_classes is not None and not (
            isinstance(self.num_classes, int) and self.num_classes >= 1
        ):
            raise InputError(f"num_classes is {self.num_classes!r}; it must be 1, 2 or more")

    def _check_constants(self) -> None:
        for name, source in self.sources.items():
            if isinstance(source, str):
                continue
            constraint: Any = self.family.constraints[name]
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
