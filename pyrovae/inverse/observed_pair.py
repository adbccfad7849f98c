"""A model and a guide of x as a model and a guide of y: the same latents, another likelihood."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ..errors import InputError
from ..infer.pair.allocations import count_allocated_bytes
from ..infer.pair.bound import Bound, PyroFunction
from ..infer.pair.rows import repeat_rows
from .operators import Operator

__all__ = ["Latents", "Observed", "Parts", "drawn", "likelihood", "log_weights"]

Latents = Mapping[str, Tensor]
"""Values of the latents by site, with a row for each datum first."""

_MEMORY = 2**29
"""Bytes that the tensors of one run of the pair may have together."""

_MEASURED = 8
"""Draws of one datum by which it is told what a draw takes."""

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
        y, start, fill, noise, *given = repeat_rows(self.flat, num)
        return Parts(y, start, fill, noise, tuple(given))

    def of(self, data: slice) -> "Parts":
        """Those of some data."""
        y, start, fill, noise, *given = (part[data] for part in self.flat)
        return Parts(y, start, fill, noise, tuple(given))

    def split(self, size: int) -> list["Parts"]:
        """Those of so many data at a time."""
        return [self.of(slice(i, i + size)) for i in range(0, len(self.y), size)]

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
        self._bytes_of_a_draw = 1

    def check(self, parts: Parts) -> None:
        """Make sure that all that will be asked can be answered, by two draws of each datum.

        Raises:
            InputError: if not.
        """
        poutine.trace(self.model).get_trace(*parts.flat)  # which checks what comes with data
        rows = parts.rows(2)
        with pyro.validation_enabled(False):  # as a guide may look at the density of its start
            latents, _ = self._propose(parts, 2)
        for name, value in latents.items():
            if len(value) != len(rows.y):
                raise InputError(
                    f"latent {name!r} has shape {tuple(value.shape)}; its first dimension must be "
                    f"that of plate {self.plate!r}, which is then the only one beside it: declare "
                    "others with .to_event"
                )
        _ = self.restored(latents, rows).mean

    def measure(self, parts: Parts) -> None:
        """Learn what a draw takes of memory, by which draws are worked on in parts."""
        one = parts.of(slice(1))

        def some() -> None:
            latents, _ = self._propose(one, _MEASURED)
            p = self.restored(latents, one.rows(_MEASURED))
            _ = p.sample(), p.mean

        self._bytes_of_a_draw = max(1, count_allocated_bytes(some) // _MEASURED)

    def at_once(self, num_data: int) -> int:
        """How many draws of each of so many data may be worked on together."""
        return max(1, _MEMORY // (self._bytes_of_a_draw * num_data))

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
        at_once = self.at_once(len(parts.y))
        for first in range(0, num, at_once):
            some = min(at_once, num - first)
            latents, log_weights = self._propose(parts, some)
            by_datum = {name: z.view(-1, some, *z.shape[1:]) for name, z in latents.items()}
            found.append((by_datum, log_weights.view(-1, some)))
        return (
            {
                name: torch.cat([each[name] for each, _ in found], 1).flatten(0, 1)
                for name in found[0][0]
            },
            torch.cat([log_weights for _, log_weights in found], 1),
        )

    def _propose(self, parts: Parts, num: int) -> tuple[Latents, Float[Tensor, "rows"]]:
        return drawn(self.model, self.guide, parts.rows(num).flat, self.plate)

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
    _refuse_batch(site, found["fn"], rows)
    return found["fn"]


def _refuse_batch(site: str, p: Any, rows: Rows) -> None:
    """Refuse features that are a plate, as the density of a datum would be that of each.

    Raises:
        InputError: if there are any.
    """
    if len(p.batch_shape) > 1:
        raise InputError(
            f"site {site!r} has batch shape {tuple(p.batch_shape)} for {len(rows[0])} data; "
            "declare the features of a datum with .to_event, not with a plate"
        )


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
            _refuse_batch(self._site, p, (self._y,))
            msg["fn"], msg["value"] = self._operator.seen(p, self._y, self._noise, fill)
