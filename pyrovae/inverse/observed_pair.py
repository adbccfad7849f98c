"""The pair of y: a model and a guide of x, with p(y | z) in place of p(x | z)."""

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
from ..infer.pair.plates import trace_function
from ..infer.pair.rows import repeat_rows
from .operators import Operator

__all__ = [
    "Inputs",
    "Latents",
    "ObservedPair",
    "compute_log_weights",
    "draw_from_guide",
    "find_likelihood",
]

Latents = Mapping[str, Tensor]
"""Values of the latents by site; the first dimension has a row for each datum."""

_MAX_BYTES = 2**29
"""Limit on the memory that the tensors of one run of the pair take together."""

_NUM_MEASURED_DRAWS = 8
"""Draws of one datum from which the memory of a draw is measured."""

Rows = tuple[Tensor, ...]
"""The arguments of a model and a guide, with a row for each datum, or for each draw of a datum."""


class Inputs(NamedTuple):
    """The arguments of a model and a guide of y; each has a row for each datum.

    Attributes:
        y: observations.
        start: data that the guide sees in place of y.
        fill: data in the support of p(x | z), with which the model is called.
        noise: the standard deviation of the noise on y.
        given: arguments that come with each datum.
    """

    y: Tensor
    start: Tensor
    fill: Tensor
    noise: Tensor
    given: Rows

    @property
    def args(self) -> Rows:
        """All fields as positional arguments."""
        return (*self[:4], *self.given)

    def repeat(self, num: int) -> "Inputs":
        """Repeat each row ``num`` times; the copies of a row follow each other."""
        y, start, fill, noise, *given = repeat_rows(self.args, num)
        return Inputs(y, start, fill, noise, tuple(given))

    def select(self, data: slice) -> "Inputs":
        """Take the rows of some data."""
        y, start, fill, noise, *given = (part[data] for part in self.args)
        return Inputs(y, start, fill, noise, tuple(given))

    def split(self, size: int) -> list["Inputs"]:
        """Split into batches of ``size`` data."""
        return [self.select(slice(i, i + size)) for i in range(0, len(self.y), size)]

    def with_noise(self, noise: Float[Tensor, "data"]) -> "Inputs":
        """Replace the noise."""
        return self._replace(noise=noise)


class ObservedPair:
    """The pair p(z) p(y | z), q(z | start(y)), made from a pair of x and an operator.

    ``model`` and ``guide`` are Pyro functions of the fields of :class:`Inputs`.

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
        self.model_of_x, self.guide_of_x = model, guide
        self.operator = operator
        self.site, self.plate = site, plate
        self._bytes_per_draw = 1

    def check(self, inputs: Inputs) -> None:
        """Check that the pair and the operator fit together, with two draws of each datum.

        Raises:
            InputError: if they do not.
        """
        trace_function(self.model, *inputs.args)  # checks what comes with the data
        rows = inputs.repeat(2)
        with pyro.validation_enabled(False):  # a guide may evaluate a density at its start
            latents, _ = self._propose(inputs, 2)
        for name, value in latents.items():
            if len(value) != len(rows.y):
                raise InputError(
                    f"latent {name!r} has shape {tuple(value.shape)}; its first dimension must be "
                    f"plate {self.plate!r}, and that must be its only plate: declare other "
                    "dimensions with .to_event"
                )
        _ = self.restore(latents, rows).mean

    def measure_memory(self, inputs: Inputs) -> None:
        """Measure the memory of a draw, which sets :meth:`max_draws_at_once`."""
        one = inputs.select(slice(1))

        def draw() -> None:
            latents, _ = self._propose(one, _NUM_MEASURED_DRAWS)
            p = self.restore(latents, one.repeat(_NUM_MEASURED_DRAWS))
            _ = p.sample(), p.mean

        self._bytes_per_draw = max(1, count_allocated_bytes(draw) // _NUM_MEASURED_DRAWS)

    def max_draws_at_once(self, num_data: int) -> int:
        """How many draws of each of ``num_data`` data fit into memory together."""
        return max(1, _MAX_BYTES // (self._bytes_per_draw * num_data))

    def model(self, y: Tensor, start: Tensor, fill: Tensor, noise: Tensor, *given: Tensor) -> None:
        """p(z) p(y | z)."""
        with _ObserveY(self.operator, self.site, y, fill, noise):
            self.model_of_x(fill, *given)

    def guide(self, y: Tensor, start: Tensor, fill: Tensor, noise: Tensor, *given: Tensor) -> None:
        """q(z | start(y))."""
        self.guide_of_x(start, *given)

    def propose(self, inputs: Inputs, num: int) -> tuple[Latents, Float[Tensor, "data draws"]]:
        """Draw latents from the guide.

        Returns:
            The latents, in which the draws of a datum follow each other, and log p(y, z) / q(z).
        """
        chunks = []
        at_once = self.max_draws_at_once(len(inputs.y))
        for first in range(0, num, at_once):
            size = min(at_once, num - first)
            latents, log_weights = self._propose(inputs, size)
            by_datum = {name: z.view(-1, size, *z.shape[1:]) for name, z in latents.items()}
            chunks.append((by_datum, log_weights.view(-1, size)))
        return (
            {
                name: torch.cat([chunk[name] for chunk, _ in chunks], 1).flatten(0, 1)
                for name in chunks[0][0]
            },
            torch.cat([log_weights for _, log_weights in chunks], 1),
        )

    def _propose(self, inputs: Inputs, num: int) -> tuple[Latents, Float[Tensor, "rows"]]:
        return draw_from_guide(self.model, self.guide, inputs.repeat(num).args, self.plate)

    def find_likelihood(self, latents: Latents, rows: Inputs) -> Any:
        """p(x | z) of each row."""
        return find_likelihood(self.model_of_x, latents, (rows.fill, *rows.given), self.site)

    def find_discrete_latents(self, inputs: Inputs) -> list[str]:
        """Names of the latents that have no gradient."""
        trace: Any = prune_subsample_sites(trace_function(self.model, *inputs.args))
        names = _read_latents(trace)
        return [name for name in names if trace.nodes[name]["fn"].support.is_discrete]

    def restore(self, latents: Latents, rows: Inputs) -> Any:
        """p(x | y, z) of each row."""
        return self.operator.restored(self.find_likelihood(latents, rows), rows.y, rows.noise)


def draw_from_guide(
    model: PyroFunction, guide: PyroFunction, rows: Rows, plate: str
) -> tuple[dict[str, Tensor], Float[Tensor, "rows"]]:
    """Draw latents from the guide, and compute log p / q of each row.

    Raises:
        InputError: if there is no p(x) of one datum.
    """
    guide_trace = trace_function(guide, *rows)
    bound = _make_bound(model, guide_trace, rows, plate)
    bound.check()
    bound.check_data_are_apart()
    log_likelihood, kl = bound.per_datum()
    return _read_latents(guide_trace), log_likelihood - kl


def compute_log_weights(
    model: PyroFunction, guide: PyroFunction, latents: Latents, rows: Rows, plate: str
) -> Float[Tensor, "rows"]:
    """log p / q of each row at the given latents."""
    with _FixLatents(latents):
        guide_trace = trace_function(guide, *rows)
    log_likelihood, kl = _make_bound(model, guide_trace, rows, plate).per_datum()
    return log_likelihood - kl


def find_likelihood(model: PyroFunction, latents: Latents, rows: Rows, site: str) -> Any:
    """p(x | z) of each row: the distribution at the observed site of the model."""
    with _FixLatents(latents):
        trace: Any = trace_function(model, *rows)
    node = trace.nodes.get(site)
    if node is None or not node.get("is_observed"):
        raise InputError(
            f"the model observes no site {site!r}, so the operator has no likelihood to act on; "
            "name the observed site with site=..."
        )
    _check_batch_shape(site, node["fn"], rows)
    return node["fn"]


def _check_batch_shape(site: str, p: Any, rows: Rows) -> None:
    """Refuse features that are a plate: each would have a density of its own.

    Raises:
        InputError: if there are any.
    """
    if len(p.batch_shape) > 1:
        raise InputError(
            f"site {site!r} has batch shape {tuple(p.batch_shape)} for {len(rows[0])} data; "
            "declare the features of a datum with .to_event, not with a plate"
        )


def _make_bound(model: PyroFunction, guide_trace: Any, rows: Rows, plate: str) -> Bound:
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = trace_function(replayed, *rows)
    model_trace, guide_trace = map(prune_subsample_sites, (model_trace, guide_trace))
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    return Bound(model_trace, guide_trace, plate, None)


def _read_latents(trace: Any) -> dict[str, Tensor]:
    sites: dict[str, Any] = prune_subsample_sites(trace).nodes
    return {
        name: site["value"]
        for name, site in sites.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


class _FixLatents(Messenger):
    """Gives the latents fixed values."""

    def __init__(self, latents: Latents) -> None:
        super().__init__()
        self._values = latents

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self._values:
            msg["value"] = self._values[msg["name"]]
            msg["done"] = True


class _ObserveY(Messenger):
    """Observes y under p(y | z) at the site of x."""

    def __init__(
        self, operator: Operator, site: str, y: Tensor, fill: Tensor, noise: Tensor
    ) -> None:
        super().__init__()
        self._operator, self._site = operator, site
        self._y, self._fill, self._noise = y, fill, noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"] == self._site:
            p, fill = msg["fn"], self._fill.to(self._y.dtype)
            _check_batch_shape(self._site, p, (self._y,))
            msg["fn"], msg["value"] = self._operator.seen(p, self._y, self._noise, fill)
