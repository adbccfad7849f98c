"""Families of distributions by name, with the sources of their arguments."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions import Distribution
from torch.distributions import constraints as constraints_of
from torch.distributions.constraints import Constraint, is_dependent

from .. import distributions as ours
from ..arguments import as_text, describe
from ..errors import InputError, did_you_mean
from .refusals import REFUSALS

__all__ = ["FAMILIES", "LEARNED", "Family", "Source", "family_of", "register"]

Source = str | float | Sequence[float] | Sequence[Sequence[float]]
"""Where an argument comes from: one of ``LEARNED``, ``"data"``, or a constant: a number, a number
for each feature, or the rows of a matrix."""

LEARNED = ("predicted", "shared", "per_feature")
"""Predicted by the decoder for each datum; one parameter; one parameter per feature."""


@dataclass(frozen=True)
class Family:
    """A class of distributions and the default sources of its arguments.

    The decoder predicts arguments without a source. If a distribution takes an argument as
    ``logits`` or as probabilities, it predicts logits, which are numerically safe.

    Attributes:
        name: the name of the family.
        distribution: the class of distributions.
        sources: sources of arguments that a declaration leaves out.
        exposure: for families of counts, the argument that an exposure multiplies.
    """

    name: str
    distribution: type[Distribution]
    sources: Mapping[str, Source] = field(default_factory=dict)
    exposure: str | None = None

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
                f"{self.name} cannot be declared: the constraint on its {dependent[0]} depends on "
                "other arguments, so no link can be derived"
            )
        parameters = inspect.signature(self.distribution.__init__).parameters
        return {name: c for name, c in constraints.items() if name in parameters}

    @cached_property
    def is_vector(self) -> bool:
        """Whether one distribution is over all features of a datum, rather than over one."""
        support: Any = self.distribution.support
        try:
            return bool(support.event_dim == 1)
        except (AttributeError, NotImplementedError):
            return False

    def is_square(self, name: str) -> bool:
        """Whether an argument of a distribution over vectors is a triangular matrix."""
        is_triangular = self.constraints[name] is constraints_of.lower_cholesky
        return self.is_vector and is_triangular

    def __call__(self, **arguments: Any) -> Any:
        """A distribution of the family that Pyro can sample."""
        cls: Any = self.distribution
        return _as_pyro(cls)(**arguments)

    def check(self, declared: Mapping[str, Source]) -> None:
        """Check that the distribution has such arguments, and that they can have such sources.

        Raises:
            InputError: if not.
        """
        for name, source in declared.items():
            if name not in self.constraints:
                hint = did_you_mean(name, self.constraints)
                raise InputError(f"{self.name} has no argument {name!r}: {hint}")
            if source is None or isinstance(source, bool | bytes | Mapping):
                raise InputError(f"{self.name}: {name}={describe(source)} is no source")
            if isinstance(source, str) and source not in (*LEARNED, "data"):
                hint = did_you_mean(source, (*LEARNED, "data"))
                raise InputError(f"{self.name}: {name}={source!r} is not a source: {hint}")

    def resolve(self, declared: Mapping[str, Source]) -> dict[str, Source]:
        """The source of every argument that the distribution gets.

        Raises:
            InputError: if an argument is unknown, or its source is not possible.
        """
        self.check(declared)
        sources = dict(self.sources) | dict(declared)
        omitted = {self._alternative(name, sources) for name in self.constraints}
        for name, constraint in self.constraints.items():
            if name in omitted or name in sources:
                continue
            if constraint.is_discrete:
                raise InputError(f"{self.name} needs a number for {name}, as in {name}=16")
            sources[name] = "predicted"
        for name, source in sources.items():
            if not isinstance(source, str) or source == "data":
                continue
            if self.constraints[name].is_discrete:
                raise InputError(
                    f"{self.name}: {name} is a whole number, which gradients cannot learn; "
                    f"give it as a constant, as in {name}=16"
                )
        return {name: sources[name] for name in self.constraints if name in sources}

    def _alternative(self, name: str, declared: Mapping[str, Source]) -> str | None:
        """For an argument that may be logits or probabilities, the one that is not used."""
        if not name.endswith("logits"):
            return None
        other = name.removesuffix("_logits") if "_" in name else "probs"
        if other not in self.constraints:
            return None
        if name in declared and other in declared:
            raise InputError(f"{self.name} takes {name} or {other}, not both")
        return name if other in declared else other


FAMILIES: dict[str, Family] = {}
"""The families that have a short name; see :func:`register`."""


def register(
    name: str, distribution: type[Distribution], exposure: str | None = None, **sources: Source
) -> None:
    """Give a distribution a short name, with sources for arguments that a declaration leaves out.

    Any class of ``pyro.distributions`` works by its own name without this.

    Arguments:
        name: the name, found in any capitalisation.
        distribution: a class of torch or Pyro distributions that states its ``arg_constraints``.
        exposure: for families of counts, the argument that an exposure multiplies.
        sources: for each argument ``"predicted"``, ``"shared"``, ``"per_feature"``, ``"data"`` or a
            constant.

    Raises:
        InputError: if it is no class of distributions, or an argument or source is unknown.

    >>> import pyro.distributions as dist
    >>> register("SoftLaplace", dist.SoftLaplace, scale="shared")
    >>> from pyrovae import Likelihood
    >>> Likelihood("soft-laplace")
    Likelihood('SoftLaplace', loc='predicted', scale='shared')
    """
    name = as_text("name", name)
    if not (isinstance(distribution, type) and issubclass(distribution, Distribution)):
        raise InputError(
            f"distribution is {describe(distribution)}; it must be a class of distributions of "
            "torch or Pyro"
        )
    family = Family(name, distribution, sources, exposure)
    family.check(sources)
    known = isinstance(exposure, str) and exposure in family.constraints
    if exposure is not None and not known:
        raise InputError(
            f"exposure is {describe(exposure)}; it must be an argument of {distribution.__name__}, "
            f"one of {', '.join(family.constraints)}"
        )
    FAMILIES[name] = family


def family_of(spec: object) -> Family:
    """The family of that name, or of a class of distributions.

    Raises:
        InputError: if nothing has that name; the message suggests the nearest one.
    """
    if isinstance(spec, type) and issubclass(spec, Distribution):
        name = spec.__name__
        known = _all_classes().get(name), getattr(torch.distributions, name, None)
        return _family_of_class(name) if spec in known else Family(name, spec)
    if not isinstance(spec, str):
        raise InputError(f"a family is a name or a class of distributions, not {describe(spec)}")
    by_key = {_key(name): family for name, family in FAMILIES.items()}
    if _key(spec) in by_key:
        return by_key[_key(spec)]
    for name in (*_all_classes(), *REFUSALS):
        if _key(spec) == _key(name):
            return _family_of_class(name)
    hint = did_you_mean(spec, [*FAMILIES, *(n for n in _all_classes() if n not in REFUSALS)])
    raise InputError(
        f"unknown likelihood {describe(spec)}: {hint} (or any class of pyro.distributions)"
    )


def _family_of_class(name: str) -> Family:
    """The family of a class of Pyro or torch: of ours of that name, where there is one.

    Raises:
        InputError: if the class is no likelihood.
    """
    if name in REFUSALS:
        raise InputError(f"{name} cannot be declared: it {REFUSALS[name]}")
    return Family(name, getattr(ours, name, _all_classes()[name]))


@cache
def _all_classes() -> dict[str, Any]:
    """The classes of distributions of Pyro, by name; torch's have a class of Pyro each."""
    return {
        name: value
        for name, value in sorted(vars(dist).items())
        if isinstance(value, type) and issubclass(value, Distribution)
    }


def _key(name: str) -> str:
    """The letters and digits of a name: ``negative-binomial`` is ``NegativeBinomial``."""
    return re.sub("[^a-z0-9]", "", name.lower())


@cache
def _as_pyro(distribution: Any) -> Any:
    """The class, with the methods that Pyro needs to sample from it."""
    if issubclass(distribution, TorchDistributionMixin):
        return distribution
    return type(distribution.__name__, (distribution, TorchDistributionMixin), {})


register("Bernoulli", ours.Bernoulli)
register("Beta", ours.Beta)
register("BetaBinomial", ours.BetaBinomial)
register("Binomial", ours.Binomial)
register("Categorical", dist.Categorical)
register("ContinuousBernoulli", ours.ContinuousBernoulli)
register("Dirichlet", ours.Dirichlet)
register("DirichletMultinomial", ours.DirichletMultinomial, total_count="data")
register("DiscretisedLogistic", ours.DiscretisedLogistic, scale="predicted", levels=256)
register("Exponential", dist.Exponential)
register("Gamma", ours.Gamma, concentration="per_feature")
register("Laplace", dist.Laplace, scale="shared")
register("LogNormal", dist.LogNormal, scale="shared")
register("LowRankNormal", ours.LowRankNormal, cov_factor="per_feature", cov_diag="per_feature")
register("Multinomial", ours.Multinomial, total_count="data")
register("MultivariateNormal", ours.MultivariateNormal, scale_tril="shared")
register("NegativeBinomial", ours.NegativeBinomial, "logits", total_count="per_feature")
register("Normal", dist.Normal, scale="shared")
register("OneHotCategorical", ours.OneHotCategorical)
register("OrderedLogistic", ours.OrderedLogistic, cutpoints="per_feature")
register("Poisson", ours.Poisson, "rate")
register("StudentT", ours.StudentT, df=4.0, scale="shared")
register("VonMises", ours.VonMises, concentration="shared")
register(
    "ZeroInflatedNegativeBinomial",
    ours.ZeroInflatedNegativeBinomial,
    "logits",
    total_count="per_feature",
)
register("ZeroInflatedPoisson", ours.ZeroInflatedPoisson, "rate")
