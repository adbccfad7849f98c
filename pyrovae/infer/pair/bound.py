"""The evidence lower bound of a model and a guide, from one evaluation of both.

For latents z ~ q and observations x,

    log p(x) >= ELBO = E_q[log p(x | z)] - E_q[log q(z) - log p(z)].

The value and the gradient estimator are those of ``pyro.infer.Trace_ELBO`` (Wingate and Weber
2013; Ranganath et al. 2014): reparameterised if a site of the guide allows it, and otherwise the
score function with Rao-Blackwellisation over plates. All results are tensors on the device of the
data.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import inf
from typing import Any

from jaxtyping import Float
from pyro.distributions.util import is_identically_zero
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import MultiFrameTensor, get_plate_stacks, is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...arguments import as_whole
from ...errors import InputError
from .plates import known_sizes
from .sites import Site, data_dim, is_deterministic, is_local, sample_sites, subsample_scale

__all__ = ["Bound", "PyroFunction", "evaluate_bound"]

PyroFunction = Callable[..., Any]
"""A model or a guide: any callable with ``pyro.sample`` statements."""


class DataScale(Messenger):
    """Scale the sites in one plate so that a minibatch stands for the whole data set.

    A plate over a minibatch of B data out of N gets the scale N / B. A plate that declares the
    full size and subsamples it, as in ``plate("data", N, subsample_size=B)``, has that scale
    already and keeps it, and so do the sites that the program scales itself.
    """

    def __init__(self, plate: str, size: int, scaled: frozenset[str]) -> None:
        super().__init__()
        self.plate = plate
        self.size = size
        self.scaled = scaled

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.scaled:
            return
        for frame in msg["cond_indep_stack"]:
            if frame.name == self.plate and frame.size > 0:
                msg["scale"] = msg["scale"] * (self.size / (frame.full_size or frame.size))


@dataclass(frozen=True)
class Bound:
    """One Monte Carlo evaluation of the ELBO of a whole data set, from one (mini)batch.

    Attributes:
        model_trace: trace of the model, replayed against the guide.
        guide_trace: trace of the guide.
        plate: name of the plate over data.
        declared_size: number of data N that the bound is for; None to use the size of the plate.
    """

    model_trace: Trace
    guide_trace: Trace
    plate: str
    declared_size: int | None

    @cached_property
    def size(self) -> int:
        """Number of data N that the bound is for."""
        if self.declared_size is not None:
            return self.declared_size
        frame = self._data_frame()
        return int(frame.full_size or frame.size)

    def log_likelihood(self) -> Float[Tensor, ""]:
        """log p(x | z), summed over observed sites and all N data, in nats."""
        return self._total(site["log_prob_sum"] for site in self._observed_sites())

    def kl(self) -> Float[Tensor, ""]:
        """log q(z) - log p(z) at the sampled z, over latent sites and all N data, in nats."""
        log_q = self._total(site["log_prob_sum"] for site in sample_sites(self.guide_trace))
        return log_q - self._total(site["log_prob_sum"] for site in self._latent_sites())

    def surrogate(self) -> Float[Tensor, ""]:
        """A function whose gradient is an unbiased estimate of the gradient of the ELBO."""
        surrogate = self._total(site["log_prob_sum"] for site in sample_sites(self.model_trace))
        log_weight = None
        for site in sample_sites(self.guide_trace):
            _, score_function, entropy = site["score_parts"]
            if not is_identically_zero(entropy):
                surrogate = surrogate - entropy.sum()
            if not is_identically_zero(score_function):
                if log_weight is None:
                    log_weight = self._log_weight()
                signal = log_weight.sum_to(site["cond_indep_stack"])
                surrogate = surrogate + (signal * score_function).sum()
        return surrogate

    def per_datum(self) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """(log p(x_i | z_i), log q(z_i) - log p(z_i)) for each datum i of the batch, in nats.

        Each datum's terms include 1 / N of the terms of latents that all data share.
        """
        log_likelihood = sum(self._per_datum(site) for site in self._observed_sites())
        kl = sum(self._per_datum(site) for site in sample_sites(self.guide_trace)) - sum(
            self._per_datum(site) for site in self._latent_sites()
        )
        zeros = self.log_likelihood().new_zeros(self._data_frame().size)
        return zeros + log_likelihood, zeros + kl

    def check(self, *, sums_out: bool = False) -> None:
        """Check that this is a bound on log p(x).

        Arguments:
            sums_out: whether latents that the model marks for enumeration need no guide.

        Raises:
            InputError: if model and guide disagree about the latents, or no plate is over data.
        """
        latent = {site["name"] for site in self._latent_sites()}
        guided = {
            site["name"]
            for site in sample_sites(self.guide_trace)
            if not (site["is_observed"] or site["infer"].get("is_auxiliary"))
        }
        marked = {s["name"] for s in self._latent_sites() if s["infer"].get("enumerate")} - guided
        if sums_out:
            latent -= marked
        elif marked:
            raise InputError(
                f"the model marks {_join_names(marked)} for enumeration, and the guide lacks the "
                "site: use the objective 'enumerated', which sums over its values"
            )
        if latent - guided:
            raise InputError(
                f"the model samples {_join_names(latent - guided)}, which the guide does not: "
                "add the site to the guide, or observe it"
            )
        if guided - latent:
            raise InputError(
                f"the guide samples {_join_names(guided - latent)}, which is no latent of the "
                "model: remove the site, or add it to the model"
            )
        if not any(self._observed_sites()):
            raise InputError(
                "the model observes nothing: give the data to a site, as in "
                "pyro.sample('x', ..., obs=x)"
            )
        frame = self._data_frame()
        sizes = self._data_sizes()
        if min(sizes) < 0:
            raise InputError(
                f"plate {self.plate!r} has no size, and a site in it has no dimension over data; "
                f"write 'with pyro.plate({self.plate!r}, len(x)):'"
            )
        if len(sizes) > 1:
            raise InputError(
                f"the sites in plate {self.plate!r} are of {' and '.join(map(str, sorted(sizes)))} "
                "data; give the plate one size in model and guide"
            )
        if (frame.full_size or frame.size) not in (frame.size, self.size):
            raise InputError(
                f"plate {self.plate!r} declares {frame.full_size} data, but there are {self.size}"
            )

    @property
    def shared_sites(self) -> tuple[str, ...]:
        """Names of the sites that all data share, outside of the plate over data."""
        sites = chain(sample_sites(self.model_trace), sample_sites(self.guide_trace))
        names = (s["name"] for s in sites if not (is_local(s, self.plate) or is_deterministic(s)))
        return tuple(dict.fromkeys(names))

    def check_data_are_apart(self) -> None:
        """Check that p(x) is a product over data, with one factor p(x_i) for each datum.

        Raises:
            InputError: if a site is shared by all data, or scaled.
        """
        if self.shared_sites:
            raise InputError(
                f"site {self.shared_sites[0]!r} is outside of plate {self.plate!r}, shared by all "
                "data, so one datum has no p(x) of its own; use evaluate(), which gives the ELBO "
                "of all data together"
            )
        for site in chain(sample_sites(self.model_trace), sample_sites(self.guide_trace)):
            if is_local(site, self.plate):
                subsample_scale(site, self.plate)

    def _total(self, terms: Iterator[Tensor]) -> Tensor:
        on_device: Tensor = next(sample_sites(self.model_trace))["log_prob_sum"]
        return sum(terms, start=on_device.new_zeros(()))

    def _observed_sites(self) -> Iterator[Site]:
        return (site for site in sample_sites(self.model_trace) if site["is_observed"])

    def _latent_sites(self) -> Iterator[Site]:
        return (site for site in sample_sites(self.model_trace) if not site["is_observed"])

    def _data_frame(self) -> Any:
        frames = {
            frame.name: frame
            for site in sample_sites(self.model_trace)
            for frame in site["cond_indep_stack"]
        }
        if self.plate not in frames:
            raise InputError(
                f"the model has no plate {self.plate!r}, which would tell which of its sites "
                f"belong to one datum; its plates are: {', '.join(frames) or 'none'}. Write "
                f"'with pyro.plate({self.plate!r}, len(x)):', or give plate=NAME"
            )
        return frames[self.plate]

    def _data_sizes(self) -> set[int]:
        sites = chain(sample_sites(self.model_trace), sample_sites(self.guide_trace))
        frames = (f for s in sites for f in s["cond_indep_stack"] if f.name == self.plate)
        return {int(frame.size) for frame in frames}

    def _per_datum(self, site: Site) -> Tensor:
        for frame in site["cond_indep_stack"]:
            if frame.name == self.plate:
                dim = data_dim(site, self.plate)
                dims = [d for d in range(-site["log_prob"].dim(), 0) if d != dim]
                summed: Tensor = site["log_prob"].sum(dims) if dims else site["log_prob"]
                return summed * float(frame.size / self.size)
        shared: Tensor = site["log_prob_sum"] / self.size
        return shared

    def _log_weight(self) -> MultiFrameTensor:
        log_weight = MultiFrameTensor()
        stacks = get_plate_stacks(self.model_trace)
        for site in sample_sites(self.model_trace):
            term = site["log_prob"]
            if not site["is_observed"]:
                term = term - self.guide_trace.nodes[site["name"]]["log_prob"]
            log_weight.add((stacks[site["name"]], term.detach()))
        return log_weight


def evaluate_bound(
    model: PyroFunction,
    guide: PyroFunction,
    *args: Any,
    size: int | None = None,
    plate: str = "data",
    kwargs: dict[str, Any] | None = None,
    scaled: frozenset[str] = frozenset(),
) -> Bound:
    """Run the guide, replay the model against it, and score every site.

    Arguments:
        model: p(x, z), called with args.
        guide: q(z | x), called with args.
        args: a batch of data.
        size: number of data N in the whole data set; the size of the plate by default.
        plate: name of the plate over data.
        kwargs: further arguments of model and guide.
        scaled: names of the sites that the program itself scales from the batch to all data.

    Raises:
        InputError: if there is no such plate.
    """
    # Handlers see a site from the innermost to the outermost: plates first get their sizes.
    size = None if size is None else as_whole("size", size, 1, 2**53)
    scale = DataScale(plate, size, scaled) if size is not None else nullcontext()
    with scale, known_sizes(), _without_warning_of_sites():
        model_trace, guide_trace = get_importance_trace(
            "flat", inf, model, guide, args, kwargs or {}
        )
    return Bound(model_trace, guide_trace, plate, size)


@contextmanager
def _without_warning_of_sites() -> Iterator[None]:
    """Within, Pyro does not warn of sites that one program lacks: :meth:`Bound.check` raises."""
    if not is_validation_enabled():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found (non-auxiliary )?vars in")
        yield


def _join_names(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
