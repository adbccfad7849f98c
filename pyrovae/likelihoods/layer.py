"""The layer that turns the output of a decoder into p(x | z)."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from pyro.distributions import Categorical, MixtureSameFamily
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from ..arguments import as_instance
from ..distributions import expectation
from ..errors import InputError
from .declaration import Declaration
from .initial import find_fill, initial_value
from .rows import element_constraint, vectors_in_support
from .support import check_distribution, check_support, check_varied

__all__ = ["LikelihoodLayer"]

Given = Mapping[str, Tensor]
"""Tensors given with each datum, such as exposures, by name."""


class LikelihoodLayer(nn.Module):
    """eta -> p(x | z), where eta is the output of the decoder network.

    Each predicted argument takes its part of eta through its link function. Shared and per-feature
    arguments are parameters of this layer, before the link. Features are independent given z,
    except under distributions over vectors.

    Where the family has a location and a scale in units of x, :meth:`set_units` makes learned ones
    relative to the units of the data.

    Arguments:
        likelihood: the declaration.
        event_shape: shape of one datum.

    Attributes:
        in_shape: shape of eta for one datum, ``(numbers per feature, *event_shape)``.
        is_discrete: whether log p(x | z) is a log probability mass rather than a log density.
        fill: a value in the support, or one for each feature, with which missing entries of x are
            filled.
    """

    fill: float | Tensor

    units_loc: Tensor
    units_scale: Tensor

    def __init__(self, likelihood: Declaration, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        as_instance("likelihood", likelihood, Declaration, "a Likelihood")
        event_shape = likelihood.as_event_shape(event_shape)
        if likelihood.family.is_vector and len(event_shape) != 1:
            raise InputError(
                f"{likelihood.family.name} is a distribution over the features of a table, "
                f"which takes data of one dimension; a datum has shape {event_shape}"
            )
        self.likelihood = likelihood
        self.event_shape = event_shape
        self._slices: dict[str, slice] = {}
        self._constants: dict[str, float | int] = {}
        start = 0
        for name, source in likelihood.sources.items():
            if source == "predicted":
                stop = start + prod(self._trailing_shape(name))
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
        check_distribution(self)
        support = self.support
        self.is_discrete = bool(support.is_discrete)
        fill = find_fill(support, event_shape)
        if bool((fill == fill.flatten()[0]).all()):
            self.fill = float(fill.flatten()[0])
        else:
            self.register_buffer("fill", fill, persistent=False)

    def forward(
        self,
        eta: Float[Tensor, "..."],
        given: Given | None = None,
        observed: Bool[Tensor, "..."] | None = None,
    ) -> TorchDistributionMixin:
        """p(x | z) with batch shape ``eta.shape[:-len(in_shape)]`` and event shape ``event_shape``.

        Arguments:
            eta: the output of the decoder.
            given: tensors given with each datum, from :meth:`given_with`; unless you give them,
                typical values of the training data.
            observed: which entries of x are observed. The distribution is then that of the observed
                entries; evaluate its density with :attr:`fill` in the others.

        Raises:
            InputError: if the last sizes of eta differ from :attr:`in_shape`.
        """
        num_event = len(self.in_shape)
        if tuple(eta.shape[-num_event:]) != self.in_shape:
            raise InputError(
                f"the decoder returned shape {tuple(eta.shape)}; {self.likelihood!r} expects "
                f"{self.in_shape} for each datum"
            )
        batch = eta.shape[:-num_event]
        p: Any = self.likelihood.family(**self._arguments(eta, given or {}))
        if self.likelihood.family.is_vector:
            vector: TorchDistributionMixin = _expand(p, batch)
            return vector if observed is None else vector.marginal(observed)
        shape = batch + torch.Size(self.event_shape)
        if self.likelihood.num_components:
            weights = Categorical(
                logits=self._predicted_values(eta, self._weights, (self.likelihood.num_components,))
            )
            p = MixtureSameFamily(weights, _expand(p, shape + weights.logits.shape[-1:]))
        else:
            p = _expand(p, shape)
        if observed is not None:
            p = p.mask(observed)
        independent: TorchDistributionMixin = p.to_event(len(self.event_shape))
        return independent

    def mean(self, eta: Float[Tensor, "..."], given: Given | None = None) -> Float[Tensor, "..."]:
        """E[x | z], of shape ``(*batch, *event_shape)``; categories count as their numbers."""
        p: Any = self(eta, given)
        return expectation(p if self.likelihood.family.is_vector else p.base_dist)

    def given_with(self, x: Shaped[Tensor, "..."], *given: Tensor) -> dict[str, Tensor]:
        """The tensors given with data x, by name: exposures, totals and the like.

        Arguments:
            x: data; missing entries are left out of a total.
            given: a tensor for each name of ``likelihood.given``, of the shape of x or with one
                number per datum.

        Raises:
            InputError: if there are more or fewer tensors than names.
        """
        names = self.likelihood.given
        if len(given) != len(names):
            raise InputError(
                f"{self.likelihood!r} takes x and {', '.join(names) or 'nothing else'}; got "
                f"{len(given)} tensors after x"
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
        """Whether log p(x | z) is a log density or a log probability mass.

        Only figures of one kind can be compared.
        """
        kind = "log probability mass" if self.is_discrete else "log density"
        is_conditional = (
            "total_count" in self.likelihood.sources and self.likelihood.family.is_vector
        )
        return f"{kind} given the total" if is_conditional else kind

    def check_varied(
        self, x: Shaped[Tensor, "..."], names: Sequence[str] | None = None, what: str = "the data"
    ) -> None:
        """Refuse a table with a constant column, where a density would be infinite.

        Raises:
            InputError: naming the column.
        """
        check_varied(self, x, names, what)

    @property
    def support(self) -> Any:
        """The constraint on each number of x."""
        return element_constraint(self(torch.zeros(self.in_shape, device=self._device)).support)

    def check(
        self,
        x: Shaped[Tensor, "..."],
        names: Sequence[str] | None = None,
        what: str = "the data",
        given: Given | None = None,
    ) -> None:
        """Refuse data outside the support of this likelihood; entries may be missing (NaN).

        Arguments:
            x: data of shape ``(*batch, *event_shape)``.
            names: names of the features of a table, for the message.
            what: what to call the data in the message.
            given: tensors given with each datum.

        Raises:
            InputError: naming the first offending feature and value, and likelihoods that fit.
        """
        for name, values in (given or {}).items():
            if name == "exposure" and not bool(((values > 0) & values.isfinite()).all()):
                raise InputError("exposures must be positive and finite; got other numbers")
        check_support(self, x, names, what, LikelihoodLayer, given)

    def in_support(
        self, x: Shaped[Tensor, "..."], given: Given | None = None
    ) -> Bool[Tensor, "..."]:
        """Which entries of x have positive probability, or a finite and positive density."""
        x = x.to(self._dtype)
        # Generic arguments: at 1, a gamma would be an exponential, which is finite at 0.
        with_arguments = {n: torch.full_like(p, 0.3) for n, p in self.named_parameters()}
        eta = torch.full(self.in_shape, 0.3, device=self._device)
        if given:
            eta = eta.expand(x.shape[: x.ndim - len(self.event_shape)] + self.in_shape)
        p: Any = functional_call(self, with_arguments, (eta, given))
        if self.likelihood.family.is_vector:
            return vectors_in_support(p.support, x)
        inside: Tensor = p.base_dist.support.check(x)
        if self.is_discrete:
            return inside
        filled = torch.where(inside, x, self.fill)
        # At the ends of its support a density may be 0 or infinite, and has no gradient.
        return inside & torch.as_tensor(p.base_dist.log_prob(filled)).isfinite()

    @torch.no_grad()
    def set_units(self, loc: Tensor, scale: Tensor) -> None:
        """Make learned ``loc`` and ``scale`` arguments relative to these units.

        With the units m and s: loc = m + s link(eta), scale = s link(eta). The density is still
        that of x in its own units. Families without location and scale are not changed.
        """
        if self._has_units:
            self.units_loc.copy_(loc)
            self.units_scale.copy_(scale)

    @torch.no_grad()
    def set_typical(self, given: Given) -> None:
        """Store the medians of the tensors given in training, for use when none are given."""
        for name, values in given.items():
            self.get_buffer(f"typical_{name}").copy_(values.to(self._dtype).nanmedian())

    @property
    def _has_units(self) -> bool:
        family: Any = self.likelihood.family.distribution
        names = self.likelihood.sources.keys()
        has_both = "loc" in names and bool({"scale", "scale_tril", "cov_diag"} & names)
        in_units = family.support is constraints.real or getattr(family, "has_units", False)
        return has_both and in_units

    @property
    def _device(self) -> torch.device:
        return next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    @property
    def _dtype(self) -> torch.dtype:
        tensors = (*self.parameters(), *self.buffers())
        return next((t.dtype for t in tensors), torch.get_default_dtype())

    def _trailing_shape(self, name: str) -> tuple[int, ...]:
        """Sizes after the event shape: components of a mixture, then classes or columns."""
        if self._is_square(name):
            return ((self.event_shape[0] + 2) // 2,)
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
            return self._with_component_dim(constant) if constant.ndim else constant
        if source == "predicted":
            values = self._predicted_values(eta, self._slices[name], self._trailing_shape(name))
        else:
            values = getattr(self, f"unlinked_{name}")
        value: Tensor = self.likelihood.links[name](values)
        if source == "shared" and self._has_feature_rows(name) and not self._is_square(name):
            value = value.expand(*self.event_shape, *self._trailing_shape(name))
        return self._apply_units(name, value) if self._has_units else value

    def _apply_units(self, name: str, value: Tensor) -> Tensor:
        scale = self._with_component_dim(self.units_scale)
        if name == "loc":
            return torch.addcmul(self._with_component_dim(self.units_loc), scale, value)
        if name == "scale":
            return scale * value
        if name in ("cov_factor", "scale_tril"):
            return scale.unsqueeze(-1) * value
        return scale.square() * value if name == "cov_diag" else value

    def _predicted_values(self, eta: Tensor, part: slice, trailing: tuple[int, ...]) -> Tensor:
        """The part of eta for one argument, of shape ``(*batch, *event_shape, *trailing)``."""
        dim = -len(self.in_shape)
        values = eta.narrow(dim, part.start, part.stop - part.start)
        if not trailing:
            return values.squeeze(dim)
        values = values.movedim(dim, -1)
        return values.reshape(values.shape[:-1] + trailing)

    def replace_part(self, eta: Tensor, name: str, value: float) -> Tensor:
        """A copy of eta with this value for a predicted argument."""
        part = self._slices[name]
        dim = eta.ndim - len(self.in_shape)
        index = torch.arange(part.start, part.stop, device=eta.device)
        return eta.index_fill(dim, index, value)

    def _given(self, name: str, given: Given) -> Tensor:
        values = given.get(name)
        if values is None:
            return self.get_buffer(f"typical_{name}")
        values = values.to(self._dtype)
        if self.likelihood.family.is_vector:
            return values
        if tuple(values.shape[-len(self.event_shape) :]) != self.event_shape or values.ndim == 1:
            values = values.reshape(values.shape + (1,) * len(self.event_shape))
        return self._with_component_dim(values)

    def _with_component_dim(self, values: Tensor) -> Tensor:
        """The values with a dimension for the components of a mixture, where there is one."""
        return values.unsqueeze(-1) if self.likelihood.num_components else values

    def _has_feature_rows(self, name: str) -> bool:
        """Whether the argument has a row for each feature of a distribution over vectors."""
        constraint: Any = self.likelihood.family.constraints[name]
        return self.likelihood.family.is_vector and constraint.event_dim > 0

    def _is_square(self, name: str) -> bool:
        return self.likelihood.family.is_square(name)

    def _add_parameter(self, name: str, source: str) -> None:
        feature_shape = self.event_shape if source == "per_feature" else ()
        if self._is_square(name):
            feature_shape = self.event_shape  # one matrix for all data
        elif source == "shared" and self._has_feature_rows(name):
            feature_shape = (1,)
        initial = initial_value(self.likelihood, name, feature_shape, self._trailing_shape(name))
        self.register_parameter(f"unlinked_{name}", nn.Parameter(initial))

    def _add_constant(self, name: str, source: Any) -> None:
        value = torch.as_tensor(source)
        if self.likelihood.family.constraints[name].is_discrete and value.ndim == 0:
            self._constants[name] = source  # such as a number of levels
            return
        if self._is_square(name):
            if tuple(value.shape) != self.event_shape * 2:
                raise InputError(
                    f"{self.likelihood.family.name}: {name} has shape {tuple(value.shape)}; it "
                    f"must be a matrix of {prod(self.event_shape)} rows and columns"
                )
            self.register_buffer(name, value.to(torch.get_default_dtype()))
            return
        if value.ndim == 0:
            shape = (
                self.event_shape + self._trailing_shape(name)
                if self._has_feature_rows(name)
                else ()
            )
            value = torch.full(shape, float(source))
            self.register_buffer(name, value, persistent=False)
            return
        if value.numel() != prod(self.event_shape):
            raise InputError(
                f"{self.likelihood.family.name}: {name} has {value.numel()} numbers for "
                f"{prod(self.event_shape)} features"
            )
        self.register_buffer(name, value.to(torch.get_default_dtype()).reshape(self.event_shape))


def _expand(p: Any, shape: torch.Size) -> Any:
    """The distribution with that batch shape; a user's class may lack ``expand``."""
    return p if p.batch_shape == shape else p.expand(shape)
