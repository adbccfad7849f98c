"""Densities of a pair as functions of one unconstrained vector for each row, as HMC needs them."""

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
from ..pair.sites import Site, sample_sites
from .hmc import State

__all__ = ["RowDensities", "simulate"]


class RowDensities:
    """log p0(z) and log p(x, z) of each row, as functions of one vector in R^n for each row.

    z comes from the vector by the bijections that belong to the supports of the model's latents, in
    the order of its sites, so that a support may depend on earlier latents; both densities are of
    the vector, the log-Jacobian included. To be called in the store of the pair.

    Arguments:
        model: p(x, z).
        guide: p0(z) = q(z | x); p0 is the prior where it is None.
        rows: arguments of both, one datum a row.
        plate: name of the plate over data.
        observed: values that take the place of what the model observes.
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
        """Draws from p0, and the densities there.

        Raises:
            InputError: if there is no density of one datum, or no HMC on its latents.
        """
        guide = self._guide
        if guide is None:
            guide = poutine.block(self._model, hide_fn=_is_observed)
        with _Replaced(self._observed):
            bound = evaluate_bound(self._model, guide, *self._rows, plate=self._plate)
        bound.check()
        bound.check_data_are_apart()
        for site in sample_sites(bound.guide_trace):
            if site["infer"].get("is_auxiliary"):
                raise InputError(
                    f"site {site['name']!r} of the guide is auxiliary, so that the density "
                    "q(z | x) is not known; leave the guide out, and chains start at the prior"
                )
        latents = _unconstrained(bound.model_trace, self._plate)
        for name, (_, value) in latents.items():
            if len(value) != self.num_rows:
                raise InputError(
                    f"plate {self._plate!r} has {len(value)} data at site {name!r}, where "
                    f"{self.num_rows} were given: size it by the arguments, as in len(x)"
                )
        self._layout = {name: (dim, value.shape[1:]) for name, (dim, value) in latents.items()}
        position = _vectors(latents)
        return State(position, self(position))

    def __call__(self, position: Float[Tensor, "rows dims"]) -> Float[Tensor, "2 rows"]:
        """(log p0(z), log p(x, z)), each with the log-Jacobian, in nats."""
        latents = _FromVectors(position, self._layout)
        with pyro.validation_enabled(False), _Replaced(self._observed):  # trajectories may diverge
            model_trace = poutine.trace(latents(self._model)).get_trace(*self._rows)
            log_likelihood, log_p0 = self._log_densities(model_trace)
            log_joint = log_likelihood + log_p0
            if self._guide is not None:
                replayed = poutine.replay(self._guide, trace=model_trace)
                guide_trace = poutine.trace(replayed).get_trace(*self._rows)
                log_p0 = torch.stack(self._log_densities(guide_trace)).sum(0)
        return torch.stack([log_p0, log_joint]) + latents.log_jacobian

    def with_rows(self, rows: tuple[Any, ...]) -> "RowDensities":
        """The same log p(x, z), p0 being the prior, of other rows than those it was started on."""
        other = RowDensities(self._model, None, rows, self._plate, self._observed)
        other._layout = self._layout
        return other

    def latents(self, position: Float[Tensor, "rows dims"]) -> dict[str, Tensor]:
        """The latents that the vectors stand for, by site."""
        latents = _FromVectors(position, self._layout)
        with pyro.validation_enabled(False), _Replaced(self._observed):
            trace: Any = poutine.trace(latents(self._model)).get_trace(*self._rows)
        return {name: trace.nodes[name]["value"] for name in self._layout}

    def _log_densities(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """Those of what is observed and what is latent, for each row."""
        trace = prune_subsample_sites(trace)
        trace.compute_log_prob()
        log_likelihood, minus_log_prior = Bound(trace, Trace(), self._plate, None).per_datum()
        return log_likelihood, -minus_log_prior


def simulate(
    model: PyroFunction, batch: Sequence[Any], plate: str, *, copies: int
) -> tuple[Float[Tensor, "rows dims"], dict[str, Tensor]]:
    """Draw latents and data from the model, one of each for a datum, and copy them.

    Arguments:
        model: p(x, z), to be called in its store.
        batch: its arguments, which say how many data there are.
        plate: name of the plate over data.
        copies: rows in succession for each datum.

    Returns:
        The latents as one vector in R^n a row, and the values of observed sites.

    Raises:
        InputError: if there are no latents of one datum, or a factor has no data to draw.
    """
    unobserved = _Unobserved()
    trace = poutine.trace(unobserved(model)).get_trace(*batch)
    trace = prune_subsample_sites(trace)
    Bound(trace, Trace(), plate, None).check_data_are_apart()
    observed: dict[str, Tensor] = {}
    for name in unobserved.names:
        site: Any = trace.nodes[name]
        if isinstance(site["fn"], Unit):
            raise InputError(f"site {name!r} is a pyro.factor, from which no data can be drawn")
        observed[name] = site["value"].repeat_interleave(copies, _dim_of_data(site, plate))
        trace.remove_node(name)
    return _vectors(_unconstrained(trace, plate)).repeat_interleave(copies, 0), observed


class _Unobserved(Messenger):
    """Observed sites are drawn anew, but for those that are functions of others."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not msg["infer"].get("_deterministic"):
            self.names.append(msg["name"])
            msg["is_observed"] = False
            msg["value"] = None
            msg["done"] = False


class _Replaced(Messenger):
    """Observed sites have the values given here."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] in self._values:
            msg["value"] = self._values[msg["name"]]


class _FromVectors(Messenger):
    """Latents have the values that a vector of each row stands for."""

    def __init__(self, position: Tensor, layout: dict[str, tuple[int, torch.Size]]) -> None:
        super().__init__()
        parts = position.split([shape.numel() for _, shape in layout.values()], 1)
        self._values = {
            name: part.reshape(-1, *shape).movedim(0, dim)
            for part, (name, (dim, shape)) in zip(parts, layout.items(), strict=True)
        }
        self._dims = {name: dim for name, (dim, _) in layout.items()}
        self.log_jacobian = position.new_zeros(len(position))

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self._values:
            return
        bijection = _bijection(msg)
        value = bijection(self._values[name])
        log_jacobian = bijection.log_abs_det_jacobian(self._values[name], value)
        of_rows = log_jacobian.movedim(self._dims[name], 0).reshape(len(self.log_jacobian), -1)
        self.log_jacobian = self.log_jacobian + of_rows.sum(1)
        msg["value"] = value
        msg["done"] = True


def _unconstrained(trace: Trace, plate: str) -> dict[str, tuple[int, Tensor]]:
    """For each latent, the dimension that is over data, and its value in R^n with that in front."""
    found = {}
    for site in sample_sites(trace):
        if not site["is_observed"]:
            dim = _dim_of_data(site, plate)
            found[site["name"]] = dim, _bijection(site).inv(site["value"]).movedim(dim, 0)
    if not found:
        raise InputError("the model has no latents, so that its density itself is p(x)")
    return found


def _vectors(latents: dict[str, tuple[int, Tensor]]) -> Float[Tensor, "rows dims"]:
    return torch.cat([value.reshape(len(value), -1) for _, value in latents.values()], 1)


def _is_observed(site: Any) -> bool:
    return site["type"] == "sample" and bool(site["is_observed"])


def _dim_of_data(site: Site, plate: str) -> int:
    """Counted from the left, which is the same in R^n."""
    (dim,) = (frame.dim for frame in site["cond_indep_stack"] if frame.name == plate)
    if dim is None:
        raise InputError(
            f"plate {plate!r} is a loop; densities of each datum need 'with pyro.plate(...)'"
        )
    return int(site["value"].dim() - site["fn"].event_dim + dim)


def _bijection(site: Site) -> Any:
    """From R^n to the support of a latent."""
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
            "so that there is no HMC for it; use importance_sample"
        ) from error
    if bijection is None:
        raise InputError(
            f"site {name!r} is a {type(base).__name__}, which is discrete: HMC needs the gradient "
            "of a density; sum it out, or use importance_sample"
        )
    return bijection
