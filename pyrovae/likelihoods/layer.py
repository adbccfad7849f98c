"""A likelihood at work: the last layer of a decoder."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float, Num
from pyro.distributions import Categorical, MixtureSameFamily
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from ..distributions import expectation
from ..errors import InputError
from ..links import link_to
from .declaration import Likelihood
from .support import check_support, check_varied

__all__ = ["LikelihoodLayer"]

Given = Mapping[str, Tensor]
"""What comes with each datum beside x, by name."""


class LikelihoodLayer(nn.Module):
    """eta -> p(x | z), where eta is what the decoder network put out.

    Each predicted argument takes its numbers from eta and sends them through its link; shared
    and per-feature arguments are parameters of this layer, in the space before the link.
    Features are independent given z, save under distributions over vectors.

    Where the family has a location and a scale in units of x, learned ones are measured in the
    units of the data once :meth:`set_units` has set them.

    Arguments:
        likelihood: the declaration.
        event_shape: shape of one datum.

    Attributes:
        in_shape: shape of eta for one datum, ``(numbers a feature, *event_shape)``.
        is_discrete: whether log p(x | z) is the log of a probability mass, not of a density.
        fill: a value in the support, for entries of x that are missing.
    """

    units_loc: Tensor
    units_scale: Tensor

    def __init__(self, likelihood: Likelihood, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        if not event_shape or min(event_shape) < 1:
            raise InputError(f"event_shape is {event_shape}; it needs one positive size or more")
        if likelihood.family.is_vector and len(event_shape) != 1:
            raise InputError(
                f"{likelihood.family.name} is a distribution over the features of a table; a datum "
                f"of shape {event_shape} has no single row of them"
            )
        self.likelihood = likelihood
        self.event_shape = event_shape
        self._slices: dict[str, slice] = {}
        self._constants: dict[str, float | int] = {}
        start = 0
        for name, source in likelihood.sources.items():
            if source == "predicted":
                stop = start + prod(self._trailing(name))
                self._slices[name] = slice(start, stop)
                start = stop
            elif source == "data":
                self.register_buffer(f"typical_{name}", torch.ones(()))
            elif isinstance(source, str):
                self._add_parameter(name, source)
            else:
                self._add_constant(name, source)
        if start == 0:
            raise InputError(f"{likelihood!r} predicts no argument, so x would not depend on z")
        self._weights = slice(start, start + (likelihood.num_components or 0))
        self.in_shape = (self._weights.stop, *event_shape)
        if likelihood.exposure:
            self.register_buffer("typical_exposure", torch.ones(()))
        if self._has_units:
            self.register_buffer("units_loc", torch.zeros(event_shape))
            self.register_buffer("units_scale", torch.ones(event_shape))
        self._check_family()
        support = self.support
        self.is_discrete = bool(support.is_discrete)
        self.fill = (
            float(getattr(support, "lower_bound", 0))
            if self.is_discrete
            else float(link_to(support)(torch.zeros(())))
        )

    def forward(
        self,
        eta: Float[Tensor, "..."],
        given: Given | None = None,
        observed: Bool[Tensor, "..."] | None = None,
    ) -> TorchDistributionMixin:
        """p(x | z) with batch shape ``eta.shape[:-len(in_shape)]`` and event shape ``event_shape``.

        Arguments:
            eta: what the decoder put out.
            given: what comes with each datum beside x, see :meth:`given_with`; typical values
                of the training data unless given.
            observed: which entries of x are observed; the distribution is then that of these, and
                its density is to be taken where the others hold :attr:`fill`.

        Raises:
            InputError: if the last sizes of eta are not :attr:`in_shape`.
        """
        num_event = len(self.in_shape)
        if tuple(eta.shape[-num_event:]) != self.in_shape:
            raise InputError(
                f"the decoder put out shape {tuple(eta.shape)}; {self.likelihood!r} needs "
                f"{self.in_shape} for each datum"
            )
        batch = eta.shape[:-num_event]
        p: Any = self.likelihood.family(**self._arguments(eta, given or {}))
        if self.likelihood.family.is_vector:
            vector: TorchDistributionMixin = _of_shape(p, batch)
            return vector if observed is None else vector.marginal(observed)
        shape = batch + torch.Size(self.event_shape)
        if self.likelihood.num_components:
            weights = Categorical(
                logits=self._predicted(eta, self._weights, (self.likelihood.num_components,))
            )
            p = MixtureSameFamily(weights, _of_shape(p, shape + weights.logits.shape[-1:]))
        else:
            p = _of_shape(p, shape)
        if observed is not None:
            p = p.mask(observed)
        independent: TorchDistributionMixin = p.to_event(len(self.event_shape))
        return independent

    def mean(self, eta: Float[Tensor, "..."], given: Given | None = None) -> Float[Tensor, "..."]:
        """E[x | z], of shape ``(*batch, *event_shape)``; for categories, taken as their numbers."""
        p: Any = self(eta, given)
        return expectation(p if self.likelihood.family.is_vector else p.base_dist)

    def given_with(self, x: Num[Tensor, "..."], *given: Tensor) -> dict[str, Tensor]:
        """What comes with data x, by name: exposures, totals and the like.

        Arguments:
            x: data; missing entries do not count towards a total.
            given: a tensor for each name of ``likelihood.given``, of the shape of x or of one
                number a datum.

        Raises:
            InputError: if there are more or fewer of them.
        """
        names = self.likelihood.given
        if len(given) != len(names):
            raise InputError(
                f"{self.likelihood!r} takes {', '.join(names) or 'nothing'} beside x; got "
                f"{len(given)} tensors beside it"
            )
        found = dict(zip(names, given, strict=True))
        if (
            self.likelihood.sources.get("total_count") == "data"
            and self.likelihood.family.is_vector
        ):
            found["total_count"] = x.nansum(-1)
        return found

    @property
    def kind(self) -> str:
        """What log p(x | z) is the log of; only figures of one kind can be compared."""
        kind = "log probability mass" if self.is_discrete else "log density"
        is_conditional = (
            "total_count" in self.likelihood.sources and self.likelihood.family.is_vector
        )
        return f"{kind} given the total" if is_conditional else kind

    def check_varied(
        self, x: Num[Tensor, "..."], names: Sequence[str] | None = None, what: str = "the data"
    ) -> None:
        """Refuse a table with a constant column whose density would be infinite.

        Raises:
            InputError: naming the column.
        """
        check_varied(self, x, names, what)

    @property
    def support(self) -> Any:
        """The constraint on each number of x."""
        return _element(self(torch.zeros(self.in_shape, device=self._device)).support)

    def check(
        self,
        x: Num[Tensor, "..."],
        names: Sequence[str] | None = None,
        what: str = "the data",
        given: Given | None = None,
    ) -> None:
        """Refuse data that this likelihood cannot have produced; missing entries (NaN) may be.

        Arguments:
            x: data of shape ``(*batch, *event_shape)``.
            names: names of the features of a table, for the message.
            what: what to call the data in the message.
            given: what comes with each datum beside x.

        Raises:
            InputError: naming the first offending feature and value, and what would fit.
        """
        for name, values in (given or {}).items():
            if name == "exposure" and not bool(((values > 0) & values.isfinite()).all()):
                raise InputError("exposures are positive and finite numbers; got others")
        check_support(self, x, names, what, given)

    def in_support(self, x: Num[Tensor, "..."], given: Given | None = None) -> Bool[Tensor, "..."]:
        """Which entries of x have positive probability, or a finite density that is not zero."""
        x = x.to(self._dtype)
        # Arguments that are nothing special: an exponential is a gamma that is finite at 0.
        with_arguments = {n: torch.full_like(p, 0.3) for n, p in self.named_parameters()}
        eta = torch.full(self.in_shape, 0.3, device=self._device)
        if given:
            eta = eta.expand(x.shape[: x.ndim - len(self.event_shape)] + self.in_shape)
        p: Any = functional_call(self, with_arguments, (eta, given))
        if self.likelihood.family.is_vector:
            return torch.as_tensor(_element(p.support).check(x))
        inside: Tensor = p.base_dist.support.check(x)
        if self.is_discrete:
            return inside
        filled = torch.where(inside, x, self.fill)
        # A density may be 0 or infinite at the ends of its support, where no gradient is.
        return inside & torch.as_tensor(p.base_dist.log_prob(filled)).isfinite()

    @torch.no_grad()
    def set_units(self, loc: Tensor, scale: Tensor) -> None:
        """Measure learned ``loc`` and ``scale`` arguments in these units.

        With m and s the units: loc = m + s link(eta), scale = s link(eta). The density stays
        that of x in its own units. Other families are left as they are.
        """
        if self._has_units:
            self.units_loc.copy_(loc)
            self.units_scale.copy_(scale)

    @torch.no_grad()
    def set_typical(self, given: Given) -> None:
        """Keep the median of what came with the training data, for when nothing is given."""
        for name, values in given.items():
            self.get_buffer(f"typical_{name}").copy_(values.to(self._dtype).nanmedian())

    @property
    def _has_units(self) -> bool:
        family: Any = self.likelihood.family.distribution
        names = self.likelihood.sources.keys()
        has_both = "loc" in names and bool({"scale", "cov_diag"} & names)
        in_units = family.support is constraints.real or getattr(family, "has_units", False)
        return has_both and in_units

    @property
    def _device(self) -> torch.device:
        return next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    @property
    def _dtype(self) -> torch.dtype:
        tensors = (*self.parameters(), *self.buffers())
        return next((t.dtype for t in tensors), torch.get_default_dtype())

    def _trailing(self, name: str) -> tuple[int, ...]:
        """Sizes behind those of the event: components of a mixture, then classes or columns."""
        return tuple(
            size for size in (self.likelihood.num_components, self.likelihood.width(name)) if size
        )

    def _arguments(self, eta: Tensor, given: Given) -> dict[str, Any]:
        arguments = {name: self._argument(name, eta, given) for name in self.likelihood.sources}
        if self.likelihood.exposure:
            name = str(self.likelihood.family.exposure)
            exposure = self._given("exposure", given)
            is_log = name.endswith("logits")
            value = arguments[name]
            arguments[name] = value + exposure.log() if is_log else value * exposure
        return arguments

    def _argument(self, name: str, eta: Tensor, given: Given) -> Any:
        source = self.likelihood.sources[name]
        if name in self._constants:
            return self._constants[name]
        if source == "data":
            return self._given(name, given)
        if not isinstance(source, str):
            constant = self.get_buffer(name)
            return self._behind(constant) if constant.ndim else constant
        if source == "predicted":
            values = self._predicted(eta, self._slices[name], self._trailing(name))
        else:
            values = getattr(self, f"unlinked_{name}")
        value: Tensor = self.likelihood.links[name](values)
        if source == "shared" and self._is_of_features(name):
            value = value.expand(*self.event_shape, *self._trailing(name))
        return self._in_units(name, value) if self._has_units else value

    def _in_units(self, name: str, value: Tensor) -> Tensor:
        scale = self._behind(self.units_scale)
        if name == "loc":
            return torch.addcmul(self._behind(self.units_loc), scale, value)
        if name == "scale":
            return scale * value
        if name == "cov_factor":
            return scale.unsqueeze(-1) * value
        return scale.square() * value if name == "cov_diag" else value

    def _predicted(self, eta: Tensor, part: slice, trailing: tuple[int, ...]) -> Tensor:
        """A part of eta of shape ``(*batch, *event_shape, *trailing)``."""
        dim = -len(self.in_shape)
        values = eta.narrow(dim, part.start, part.stop - part.start)
        if not trailing:
            return values.squeeze(dim)
        values = values.movedim(dim, -1)
        return values.reshape(values.shape[:-1] + trailing)

    def _given(self, name: str, given: Given) -> Tensor:
        values = given.get(name)
        if values is None:
            return self.get_buffer(f"typical_{name}")
        values = values.to(self._dtype)
        if self.likelihood.family.is_vector:
            return values
        if tuple(values.shape[-len(self.event_shape) :]) != self.event_shape or values.ndim == 1:
            values = values.reshape(values.shape + (1,) * len(self.event_shape))
        return self._behind(values)

    def _behind(self, values: Tensor) -> Tensor:
        """With a dimension for the components of a mixture."""
        return values.unsqueeze(-1) if self.likelihood.num_components else values

    def _is_of_features(self, name: str) -> bool:
        """Whether it is an argument of a distribution over vectors with a row for each feature."""
        constraint: Any = self.likelihood.family.constraints[name]
        return self.likelihood.family.is_vector and constraint.event_dim > 0

    def _add_parameter(self, name: str, source: str) -> None:
        feature_shape = self.event_shape if source == "per_feature" else ()
        if source == "shared" and self._is_of_features(name):
            feature_shape = (1,)
        trailing = self._trailing(name)
        initial = torch.zeros(feature_shape + trailing)
        constraint = self.likelihood.family.constraints[name]
        if isinstance(constraint, constraints.independent):
            constraint = constraint.base_constraint
        if isinstance(constraint, constraints.greater_than | constraints.greater_than_eq):
            link = self.likelihood.links[name]
            initial = link.inv(initial + float(constraint.lower_bound) + 1.0)
        elif trailing and not self.likelihood.width(name):
            initial = initial + torch.linspace(-1, 1, trailing[0])  # components apart
        elif self.likelihood.family.is_vector and trailing:
            initial = torch.randn(feature_shape + trailing) * 0.1  # columns apart
        self.register_parameter(f"unlinked_{name}", nn.Parameter(initial))

    def _add_constant(self, name: str, source: Any) -> None:
        value = torch.as_tensor(source)
        if self.likelihood.family.constraints[name].is_discrete and value.ndim == 0:
            self._constants[name] = source  # such as a number of levels, which is no tensor
            return
        if value.ndim == 0:
            shape = self.event_shape + self._trailing(name) if self._is_of_features(name) else ()
            value = torch.full(shape, float(source))
            self.register_buffer(name, value, persistent=False)
            return
        if value.numel() != prod(self.event_shape):
            raise InputError(
                f"{self.likelihood.family.name}: {name} has {value.numel()} numbers for "
                f"{prod(self.event_shape)} features"
            )
        self.register_buffer(name, value.to(torch.get_default_dtype()).reshape(self.event_shape))

    def _check_family(self) -> None:
        name = self.likelihood.family.name
        try:
            for value in (-3.0, 3.0, 0.0):
                p = self(torch.full(self.in_shape, value))
            _ = p.support.is_discrete
        except InputError:
            raise
        except Exception as error:  # of a distribution that may be anybody's
            raise InputError(
                f"{self.likelihood!r} makes no distribution: {' '.join(str(error).split())[:200]}"
            ) from error
        if p.event_shape != self.event_shape:
            raise InputError(
                f"{name} is a distribution over vectors of length {p.event_shape[-1]}; it has no "
                "argument for each of the features"
            )
        if self.likelihood.family.is_vector and not hasattr(p, "marginal"):
            raise InputError(
                f"{name} is over all features at once; such a distribution needs a method "
                "'marginal(observed)', that of the observed ones"
            )


def _of_shape(p: Any, shape: torch.Size) -> Any:
    """The distribution with that batch shape; a user's own may have no ``expand``."""
    return p if p.batch_shape == shape else p.expand(shape)


def _element(support: Any) -> Any:
    """The constraint on one number, of one that may be on vectors or of a mixture."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
