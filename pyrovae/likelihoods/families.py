"""Families of distributions by name, and what each of their arguments may be."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import pyro.distributions
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint, is_dependent

from ..errors import InputError, did_you_mean

__all__ = ["FAMILIES", "LEARNED", "Family", "Source", "family_of", "register"]

Source = str | float | Sequence[float]
"""Where an argument comes from: one of ``LEARNED`` (the decoder, parameters), or a constant."""

LEARNED = ("predicted", "shared", "per_feature")


@dataclass(frozen=True)
class Family:
    """A class of distributions and the sources that its arguments have unless declared otherwise.

    An argument without a source of its own is predicted by the decoder; where a distribution
    takes either ``logits`` or ``probs``, that is ``logits``, the numerically safe one.
    """

    name: str
    distribution: type[Distribution]
    sources: Mapping[str, Source] = field(default_factory=dict)

    @cached_property
    def constraints(self) -> dict[str, Constraint]:
        """The constraint on each argument of the distribution."""
        constraints = self.distribution.arg_constraints
        if not isinstance(constraints, dict):
            raise InputError(
                f"{self.name} does not state arg_constraints, so no link can be derived for it"
            )
        dependent = [name for name, c in constraints.items() if is_dependent(c)]
        if dependent:
            raise InputError(
                f"{self.name} cannot be declared: what its {dependent[0]} may be depends on other "
                "arguments, so no link can be derived"
            )
        parameters = inspect.signature(self.distribution.__init__).parameters
        return {name: c for name, c in constraints.items() if name in parameters}

    def __call__(self, **arguments: Any) -> Any:
        """A distribution of the family that Pyro can sample."""
        cls: Any = self.distribution
        return _as_pyro(cls)(**arguments)

    def resolve(self, declared: Mapping[str, Source]) -> dict[str, Source]:
        """The source of every argument that the distribution will be given.

        Raises:
            InputError: if an argument is unknown, or cannot come from where it is said to.
        """
        for name in declared:
            if name not in self.constraints:
                hint = did_you_mean(name, self.constraints)
                raise InputError(f"{self.name} has no argument {name!r}: {hint}")
        sources = dict(self.sources) | dict(declared)
        if {"logits", "probs"} <= self.constraints.keys():
            if {"logits", "probs"} <= sources.keys():
                raise InputError(f"{self.name} takes logits or probs, not both")
            omitted = "logits" if "probs" in sources else "probs"
        else:
            omitted = None
        for name, constraint in self.constraints.items():
            if name == omitted or name in sources:
                continue
            if not constraint.is_discrete:
                sources[name] = "predicted"
            else:
                raise InputError(f"{self.name} needs a number for {name}, as in {name}=16")
        for name, source in sources.items():
            if isinstance(source, str) and source not in LEARNED:
                hint = did_you_mean(source, LEARNED)
                raise InputError(f"{self.name}: {name}={source!r} is no source: {hint}")
            if isinstance(source, str) and self.constraints[name].is_discrete:
                raise InputError(
                    f"{self.name}: {name} is a whole number, which gradients cannot learn; "
                    f"give it as a constant, as in {name}=16"
                )
        return sources


FAMILIES: dict[str, Family] = {}
"""The families that have a short name; see :func:`register`."""


def register(name: str, distribution: type[Distribution], **sources: Source) -> None:
    """Give a distribution a short name, with sources for arguments left undeclared.

    Any ``pyro.distributions`` class works by its own name without this.

    >>> import pyro.distributions as dist
    >>> register("Laplace", dist.Laplace, scale="shared")
    >>> from pyrovae import Likelihood
    >>> Likelihood("Laplace")
    Likelihood('Laplace', loc='predicted', scale='shared')
    """
    FAMILIES[name] = Family(name, distribution, sources)


def family_of(spec: object) -> Family:
    """The family named, or made of a class of distributions.

    Raises:
        InputError: if nothing has that name; the message names the nearest that has.
    """
    if isinstance(spec, type) and issubclass(spec, Distribution):
        return Family(spec.__name__, spec)
    if not isinstance(spec, str):
        raise InputError(f"a family is a name or a class of distributions, not {spec!r}")
    if spec in FAMILIES:
        return FAMILIES[spec]
    distribution: Any = getattr(pyro.distributions, spec, None)
    if isinstance(distribution, type) and issubclass(distribution, Distribution):
        return Family(spec, distribution)
    hint = did_you_mean(spec, FAMILIES)
    raise InputError(f"unknown likelihood {spec!r}: {hint} (or any class of pyro.distributions)")


@cache
def _as_pyro(distribution: Any) -> Any:
    """The class itself, or mixed with what Pyro asks of a distribution that it samples."""
    if issubclass(distribution, TorchDistributionMixin):
        return distribution
    return type(distribution.__name__, (distribution, TorchDistributionMixin), {})


register("Bernoulli", pyro.distributions.Bernoulli)
register("Binomial", pyro.distributions.Binomial)
register("Categorical", pyro.distributions.Categorical)
register("Normal", pyro.distributions.Normal, scale="shared")
register("Poisson", pyro.distributions.Poisson)
