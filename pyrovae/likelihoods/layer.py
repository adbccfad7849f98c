"""A likelihood at work: the last layer of a decoder."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Categorical, constraints

from ..errors import InputError
from .declaration import Likelihood
from .support import check_support

__all__ = ["LikelihoodLayer"]


class LikelihoodLayer(nn.Module):
    """eta -> p(x | z), where eta is what the decoder network put out.

    Each predicted argument takes its numbers from eta and sends them through its link; shared
    and per-feature arguments are parameters of this layer, in the space before the link.
    Features are independent given z: log p(x | z) is the sum over the event.

    Where the family has the arguments ``loc`` and ``scale``, and its values are any real numbers,
    learned ones are measured in the units of the data once :meth:`set_units` has set them.

    Arguments:
        likelihood: the declaration.
        event_shape: shape of one datum.

    Attributes:
        in_shape: shape of eta for one datum, ``(numbers a feature, *event_shape)``.
    """

    units_loc: Tensor
    units_scale: Tensor

    def __init__(self, likelihood: Likelihood, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        if not event_shape or min(event_shape) < 1:
            raise InputError(f"event_shape is {event_shape}; it needs one positive size or more")
        self.likelihood = likelihood
        self.event_shape = event_shape
        self._slices: dict[str, slice] = {}
        self._constants: dict[str, float | int] = {}
        start = 0
        for name, source in likelihood.sources.items():
            width = likelihood.width(name)
            if source == "predicted":
                self._slices[name] = slice(start, start + (width or 1))
                start += width or 1
            elif isinstance(source, str):
                feature_shape = event_shape if source == "per_feature" else ()
                shape = feature_shape + ((width,) if width else ())
                initial = torch.zeros(shape) + (1.0 if self._is_positive(name) else 0.0)
                if self._is_positive(name):
                    initial = likelihood.links[name].inv(initial)
                self.register_parameter(f"unlinked_{name}", nn.Parameter(initial))
            else:
                self._add_constant(name, source)
        if start == 0:
            raise InputError(f"{likelihood!r} predicts no argument, so x would not depend on z")
        self.in_shape = (start, *event_shape)
        if self._has_units:
            self.register_buffer("units_loc", torch.zeros(event_shape))
            self.register_buffer("units_scale", torch.ones(event_shape))
        self._check_family()

    def forward(self, eta: Float[Tensor, "..."]) -> TorchDistributionMixin:
        """p(x | z) with batch shape ``eta.shape[:-len(in_shape)]`` and event shape ``event_shape``.

        Raises:
            InputError: if the last sizes of eta are not :attr:`in_shape`.
        """
        num_event = len(self.in_shape)
        if tuple(eta.shape[-num_event:]) != self.in_shape:
            raise InputError(
                f"the decoder put out shape {tuple(eta.shape)}; {self.likelihood!r} needs "
                f"{self.in_shape} for each datum"
            )
        arguments = {name: self._argument(name, eta) for name in self.likelihood.sources}
        base = self.likelihood.family(**arguments).expand(
            eta.shape[:-num_event] + torch.Size(self.event_shape)
        )
        p: TorchDistributionMixin = base.to_event(len(self.event_shape))
        return p

    def mean(self, eta: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """E[x | z], of shape ``(*batch, *event_shape)``; for categories, taken as their numbers."""
        base: Any = self(eta).base_dist
        if isinstance(base, Categorical):  # whose own mean is NaN
            classes = torch.arange(base.probs.shape[-1], dtype=eta.dtype, device=eta.device)
            return base.probs @ classes
        mean: Tensor = base.mean
        return mean

    @property
    def is_discrete(self) -> bool:
        """Whether log p(x | z) is the log of a probability mass, not of a density."""
        probe = torch.zeros(self.in_shape)
        return bool(self(probe.to(self._device)).support.is_discrete)

    def check(
        self, x: Num[Tensor, "..."], names: Sequence[str] | None = None, what: str = "the data"
    ) -> None:
        """Refuse data that this likelihood cannot have produced.

        Arguments:
            x: data of shape ``(*batch, *event_shape)``.
            names: names of the features of a table, for the message.
            what: what to call the data in the message.

        Raises:
            InputError: naming the first offending feature and value, and what would fit.
        """
        check_support(self, x, names, what)

    def set_units(self, loc: Tensor, scale: Tensor) -> None:
        """Measure learned ``loc`` and ``scale`` arguments in these units.

        With m and s the units: loc = m + s link(eta), scale = s link(eta). The density stays
        that of x in its own units. Other families are left as they are.
        """
        if self._has_units:
            self.units_loc.copy_(loc)
            self.units_scale.copy_(scale)

    @property
    def _has_units(self) -> bool:
        family: Any = self.likelihood.family.distribution
        has_both = {"loc", "scale"} <= self.likelihood.sources.keys()
        return has_both and family.support is constraints.real

    @property
    def _device(self) -> torch.device:
        return next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    def _argument(self, name: str, eta: Tensor) -> Tensor | float:
        if name in self._constants:
            return self._constants[name]
        if name in self._slices:
            event_dims = len(self.event_shape)
            values = eta.narrow(
                -event_dims - 1,
                self._slices[name].start,
                self._slices[name].stop - self._slices[name].start,
            )
            if self.likelihood.width(name):
                values = values.movedim(-event_dims - 1, -1)
            else:
                values = values.squeeze(-event_dims - 1)
        elif name in self._buffers:
            return self.get_buffer(name)
        else:
            values = self.get_parameter(f"unlinked_{name}")
        value: Tensor = self.likelihood.links[name](values)
        if self._has_units and name == "loc":
            return torch.addcmul(self.units_loc, self.units_scale, value)
        if self._has_units and name == "scale":
            return self.units_scale * value
        return value

    def _check_family(self) -> None:
        name = self.likelihood.family.name
        try:
            p = self(torch.zeros(self.in_shape))
            _ = p.support.is_discrete
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise InputError(
                f"{self.likelihood!r} makes no distribution: {' '.join(str(error).split())[:200]}"
            ) from error
        vector = p.event_shape[len(self.event_shape) :]
        if vector:
            raise InputError(
                f"{name} is a distribution over vectors (of length {vector[0]}); the features of a "
                "datum need one over numbers"
            )

    def _is_positive(self, name: str) -> bool:
        constraint = self.likelihood.family.constraints[name]
        return constraint is constraints.positive or constraint is constraints.nonnegative

    def _add_constant(self, name: str, source: Any) -> None:
        value = torch.as_tensor(source)
        if value.ndim == 0:
            self._constants[name] = source  # a number broadcasts on any device
            return
        if value.numel() != prod(self.event_shape):
            raise InputError(
                f"{self.likelihood.family.name}: {name} has {value.numel()} numbers for "
                f"{prod(self.event_shape)} features"
            )
        self.register_buffer(name, value.to(torch.get_default_dtype()).reshape(self.event_shape))
