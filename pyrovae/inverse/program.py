"""A model and a guide of x as a model and a guide of y: the same latents, another likelihood."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ..errors import InputError
from ..infer.bound import Bound, PyroFunction
from ..infer.particles import repeated
from .operators import Operator

__all__ = ["Latents", "Observed", "Parts", "drawn", "likelihood", "log_weights"]

Latents = Mapping[str, Tensor]
"""Values of the latents by site, with a row for each datum first."""

_AT_ONCE = 2**24
"""Numbers in the data that are worked on together."""

Rows = tuple[Tensor, ...]
"""The arguments of a model and a guide, with a row for each datum or each draw of one."""


class Parts(NamedTuple):
    """What a model and a guide of y are called with; each has a row for each datum.

    Attributes:
        y: what is observed.
        start: data that the guide is shown in its place.
        fill: data in the support of p(x | z), for the model to begin with.
        noise: the standard deviation of the noise on y.
        given: what comes with each datum.
    """

    y: Tensor
    start: Tensor
    fill: Tensor
    noise: Tensor
    given: Rows

    @property
    def flat(self) -> Rows:
        """All of it as arguments by position."""
        return (*self[:4], *self.given)

    def rows(self, num: int) -> "Parts":
        """With each datum so many times in succession."""
        y, start, fill, noise, *given = repeated(self.flat, num)
        return Parts(y, start, fill, noise, tuple(given))

    def of(self, data: slice) -> "Parts":
        """Those of some data."""
        y, start, fill, noise, *given = (part[data] for part in self.flat)
        return Parts(y, start, fill, noise, tuple(given))

    @property
    def at_once(self) -> int:
        """How many draws of each datum may be worked on together: tensors of 64 MiB or so."""
        return max(1, _AT_ONCE // max(self.y.numel(), self.fill.numel()))

    def with_noise(self, noise: Float[Tensor, "data"]) -> "Parts":
        """The same with other noise."""
        return self._replace(noise=noise)


class Observed:
    """The pair p(z) p(y | z), q(z | start(y)), from a pair of x and an operator.

    ``model`` and ``guide`` are Pyro functions of the fields of :class:`Parts`.

    Arguments:
        model: p(x, z), whose observed site is x.
        guide: q(z | x).
        operator: p(y | x).
        site: name of the observed site.
        plate: name of the plate over data.
    """

    def __init__(
        self, model: PyroFunction, guide: PyroFunction, operator: Operator, site: str, plate: str
    ) -> None:
        self.of_x, self.guide_of_x = model, guide
        self.operator = operator
        self.site, self.plate = site, plate

    def model(self, y: Tensor, start: Tensor, fill: Tensor, noise: Tensor, *given: Tensor) -> None:
        """p(z) p(y | z)."""
        with _Seen(self.operator, self.site, y, fill, noise):
            self.of_x(fill, *given)

    def guide(self, y: Tensor, start: Tensor, fill: Tensor, noise: Tensor, *given: Tensor) -> None:
        """q(z | start(y))."""
        self.guide_of_x(start, *given)

    def propose(self, parts: Parts, num: int) -> tuple[Latents, Float[Tensor, "data draws"]]:
        """Latents drawn from the guide, rows of one datum in succession, and log p(y, z) / q(z)."""
        found = []
        for first in range(0, num, parts.at_once):
            some = min(parts.at_once, num - first)
            latents, log_weights = drawn(self.model, self.guide, parts.rows(some).flat, self.plate)
            by_datum = {name: z.view(-1, some, *z.shape[1:]) for name, z in latents.items()}
            found.append((by_datum, log_weights.view(-1, some)))
        return (
            {
                name: torch.cat([each[name] for each, _ in found], 1).flatten(0, 1)
                for name in found[0][0]
            },
            torch.cat([log_weights for _, log_weights in found], 1),
        )

    def likelihood(self, latents: Latents, rows: Parts) -> Any:
        """p(x | z) of each row."""
        return likelihood(self.of_x, latents, (rows.fill, *rows.given), self.site)

    def discrete_latents(self, parts: Parts) -> list[str]:
        """Names of the latents that have no gradient."""
        trace: Any = prune_subsample_sites(poutine.trace(self.model).get_trace(*parts.flat))
        return [name for name in _latents(trace) if trace.nodes[name]["fn"].support.is_discrete]

    def restored(self, latents: Latents, rows: Parts) -> Any:
        """p(x | y, z) of each row."""
        return self.operator.restored(self.likelihood(latents, rows), rows.y, rows.noise)


def drawn(
    model: PyroFunction, guide: PyroFunction, rows: Rows, plate: str
) -> tuple[dict[str, Tensor], Float[Tensor, "rows"]]:
    """Latents from the guide, and log p / q of each row.

    Raises:
        InputError: if there is no p(x) of one datum.
    """
    guide_trace = poutine.trace(guide).get_trace(*rows)
    bound = _bound(model, guide_trace, rows, plate)
    bound.check()
    bound.check_data_are_apart()
    log_likelihood, kl = bound.per_datum()
    return _latents(guide_trace), log_likelihood - kl


def log_weights(
    model: PyroFunction, guide: PyroFunction, latents: Latents, rows: Rows, plate: str
) -> Float[Tensor, "rows"]:
    """log p / q of each row at these latents."""
    with _At(latents):
        guide_trace = poutine.trace(guide).get_trace(*rows)
    log_likelihood, kl = _bound(model, guide_trace, rows, plate).per_datum()
    return log_likelihood - kl


def likelihood(model: PyroFunction, latents: Latents, rows: Rows, site: str) -> Any:
    """p(x | z) of each row, as the model has it at its observed site."""
    with _At(latents):
        trace: Any = poutine.trace(model).get_trace(*rows)
    found = trace.nodes.get(site)
    if found is None or not found.get("is_observed"):
        raise InputError(
            f"the model observes no site {site!r}, whose likelihood an operator could be put on; "
            "say which with site=..."
        )
    return found["fn"]


def _bound(model: PyroFunction, guide_trace: Any, rows: Rows, plate: str) -> Bound:
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*rows)
    model_trace, guide_trace = map(prune_subsample_sites, (model_trace, guide_trace))
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    return Bound(model_trace, guide_trace, plate, None)


def _latents(trace: Any) -> dict[str, Tensor]:
    sites: dict[str, Any] = prune_subsample_sites(trace).nodes
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


class _At(Messenger):
    """Latents have the values given here."""

    def __init__(self, latents: Latents) -> None:
        super().__init__()
        self._values = latents

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self._values:
            msg["value"] = self._values[msg["name"]]
            msg["done"] = True


class _Seen(Messenger):
    """The observed site is that of y."""

    def __init__(
        self, operator: Operator, site: str, y: Tensor, fill: Tensor, noise: Tensor
    ) -> None:
        super().__init__()
        self._operator, self._site = operator, site
        self._y, self._fill, self._noise = y, fill, noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] == self._site:
            p, fill = msg["fn"], self._fill.to(self._y.dtype)
            msg["fn"], msg["value"] = self._operator.seen(p, self._y, self._noise, fill)
