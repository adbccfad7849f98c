"""Densities of a pair as functions of one unconstrained vector for each row, for HMC."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions import Delta, MixtureSameFamily, Unit, VonMises
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import biject_to, constraints

from ...errors import InputError
from ..pair.bound import Bound, PyroFunction, evaluate_bound
from ..pair.plates import trace_function
from ..pair.sites import Site, data_dim, is_deterministic, sample_sites
from .hmc import State

__all__ = ["RowDensities", "simulate"]


class RowDensities:
    """log p0(z) and log p(x, z) of each row, as functions of one vector in R^n for each row.

    Bijections to the supports of the model's latents map the vector to z, in the order of the
    sites, so a support may depend on earlier latents. Both densities are densities of the vector,
    so they include the log-Jacobian. Call them within the store of the pair.

    Arguments:
        model: p(x, z).
        guide: p0(z) = q(z | x); with None, p0 is the prior.
        rows: arguments of both, with one datum in each row.
        plate: name of the plate over data.
        observed: values to use in place of the observed values of the model, by site.
    """

    def __init__(
        self,
        model: PyroFunction,
        guide: PyroFunction | None,
        rows: tuple[Any, ...],
        plate: str,
        observed: dict[str, Tensor] | None = None,
    ) -> None:
        self.num_rows = len(rows[0])
        self._model = model
        self._guide = guide
        self._rows = rows
        self._plate = plate
        self._observed = observed or {}
        self._layout: dict[str, tuple[int, torch.Size]] = {}

    def start(self) -> State:
        """Draw z from p0, and evaluate the densities there.

        Raises:
            InputError: if one datum has no density of its own, or HMC cannot sample its latents.
        """
        guide = self._guide
        if guide is None:
            guide = poutine.block(self._model, hide_fn=_is_observed)
        with _ReplaceObserved(self._observed):
            bound = evaluate_bound(self._model, guide, *self._rows, plate=self._plate)
        bound.check()
        bound.check_data_are_apart()
        for site in sample_sites(bound.guide_trace):
            if site["infer"].get("is_auxiliary"):
                raise InputError(
                    f"site {site['name']!r} of the guide is auxiliary, so the density q(z | x) is "
                    "not known; leave the guide out to start chains at the prior"
                )
        latents = _unconstrain_latents(bound.model_trace, self._plate)
        for name, (_, value) in latents.items():
            if len(value) != self.num_rows:
                raise InputError(
                    f"plate {self._plate!r} has {len(value)} data at site {name!r}, but got "
                    f"{self.num_rows} rows: take its size from the arguments, as in len(x)"
                )
        self._layout = {name: (axis, value.shape[1:]) for name, (axis, value) in latents.items()}
        position = _flatten(latents)
        return State(position, self(position))

    def __call__(self, position: Float[Tensor, "rows dims"]) -> Float[Tensor, "2 rows"]:
        """(log p0(z), log p(x, z)), each with the log-Jacobian, in nats."""
        latents = _SetLatents(position, self._layout)
        # Trajectories may diverge, which validation would refuse.
        with pyro.validation_enabled(False), _ReplaceObserved(self._observed):
            model_trace = trace_function(latents(self._model), *self._rows)
            log_likelihood, log_p0 = self._log_densities(model_trace)
            log_joint = log_likelihood + log_p0
            if self._guide is not None:
                replayed = poutine.replay(self._guide, trace=model_trace)
                guide_trace = trace_function(replayed, *self._rows)
                log_p0 = torch.stack(self._log_densities(guide_trace)).sum(0)
        return torch.stack([log_p0, log_joint]) + latents.log_jacobian

    def with_rows(self, rows: tuple[Any, ...]) -> "RowDensities":
        """The same log p(x, z) for other rows, with the prior as p0."""
        other = RowDensities(self._model, None, rows, self._plate, self._observed)
        other._layout = self._layout
        return other

    def latents(self, position: Float[Tensor, "rows dims"]) -> dict[str, Tensor]:
        """Map vectors to the values of the latents, by site."""
        latents = _SetLatents(position, self._layout)
        with pyro.validation_enabled(False), _ReplaceObserved(self._observed):
            trace: Any = trace_function(latents(self._model), *self._rows)
        return {name: trace.nodes[name]["value"] for name in self._layout}

    def _log_densities(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """Log-densities of observed and of latent sites, for each row."""
        trace = prune_subsample_sites(trace)
        trace.compute_log_prob()
        log_likelihood, minus_log_prior = Bound(trace, Trace(), self._plate, None).per_datum()
        return log_likelihood, -minus_log_prior


def simulate(
    model: PyroFunction, batch: Sequence[Any], plate: str, *, copies: int
) -> tuple[Float[Tensor, "rows dims"], dict[str, Tensor]]:
    """Draw latents and data from the model, one of each for a datum, and copy them.

    Arguments:
        model: p(x, z); call this within its store.
        batch: its arguments, which determine the number of data.
        plate: name of the plate over data.
        copies: number of successive rows for each datum.

    Returns:
        The latents as one vector in R^n for each row, and the values of observed sites.

    Raises:
        InputError: if data have no latents of their own, or a ``pyro.factor`` cannot be drawn.
    """
    uncondition = _DrawObserved()
    trace = trace_function(uncondition(model), *batch)
    trace = prune_subsample_sites(trace)
    Bound(trace, Trace(), plate, None).check_data_are_apart()
    observed: dict[str, Tensor] = {}
    for name in uncondition.names:
        site: Any = trace.nodes[name]
        if isinstance(site["fn"], Unit):
            raise InputError(f"site {name!r} is a pyro.factor, which cannot be simulated")
        observed[name] = site["value"].repeat_interleave(copies, _data_axis(site, plate))
        trace.remove_node(name)
    vectors = _flatten(_unconstrain_latents(trace, plate))
    return vectors.repeat_interleave(copies, 0), observed


class _DrawObserved(Messenger):
    """Draw observed sites from their distributions, except for deterministic sites."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not is_deterministic(msg):
            self.names.append(msg["name"])
            msg["is_observed"] = False
            msg["value"] = None
            msg["done"] = False


class _ReplaceObserved(Messenger):
    """Replace the values of observed sites, by name."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self._values:
            msg["value"] = self._values[msg["name"]]


class _SetLatents(Messenger):
    """Set latents to the values that one vector in R^n for each row maps to."""

    def __init__(self, position: Tensor, layout: dict[str, tuple[int, torch.Size]]) -> None:
        super().__init__()
        parts = position.split([shape.numel() for _, shape in layout.values()], 1)
        self._values = {
            name: part.reshape(-1, *shape).movedim(0, axis)
            for part, (name, (axis, shape)) in zip(parts, layout.items(), strict=True)
        }
        self._axes = {name: axis for name, (axis, _) in layout.items()}
        self.log_jacobian = position.new_zeros(len(position))

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self._values:
            return
        bijection = _find_bijection(msg)
        value = bijection(self._values[name])
        log_jacobian = bijection.log_abs_det_jacobian(self._values[name], value)
        log_jacobian = log_jacobian.movedim(self._axes[name], 0)
        log_jacobian = log_jacobian.reshape(len(self.log_jacobian), -1)
        self.log_jacobian = self.log_jacobian + log_jacobian.sum(1)
        msg["value"] = value
        msg["done"] = True


def _unconstrain_latents(trace: Trace, plate: str) -> dict[str, tuple[int, Tensor]]:
    """For each latent, the axis over data, and its value in R^n with that axis in front."""
    latents = {}
    for site in sample_sites(trace):
        if not site["is_observed"]:
            axis = _data_axis(site, plate)
            value = _find_bijection(site).inv(site["value"])
            latents[site["name"]] = axis, value.movedim(axis, 0)
    if not latents:
        raise InputError("the model has no latents, so its own density is p(x)")
    return latents


def _flatten(latents: dict[str, tuple[int, Tensor]]) -> Float[Tensor, "rows dims"]:
    return torch.cat([value.reshape(len(value), -1) for _, value in latents.values()], 1)


def _is_observed(site: Any) -> bool:
    return site["type"] == "sample" and bool(site["is_observed"])


def _data_axis(site: Site, plate: str) -> int:
    """The dimension over data of a value, counted from the left, which is the same in R^n."""
    return int(site["value"].dim() - site["fn"].event_dim + data_dim(site, plate))


def _find_bijection(site: Site) -> Any:
    """The bijection from R^n to the support of a latent."""
    name, fn = site["name"], site["fn"]
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    try:
        support = fn.support
        if isinstance(fn, MixtureSameFamily):
            support = support.base_constraint
        if isinstance(base, VonMises):  # a density on the circle, whose support torch calls real
            support = constraints.interval(-torch.pi, torch.pi)
        is_discrete = support.is_discrete or isinstance(base, Delta)
        bijection = None if is_discrete else biject_to(support)
    except NotImplementedError as error:
        raise InputError(
            f"site {name!r} is a {type(base).__name__}, whose support has no bijection from R^n, "
            "so HMC cannot sample it; use importance_sample"
        ) from error
    if bijection is None:
        raise InputError(
            f"site {name!r} is a {type(base).__name__}, which is discrete: HMC needs the gradient "
            "of a density; sum the site out, or use importance_sample"
        )
    return bijection
