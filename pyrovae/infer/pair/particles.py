"""Several samples of each datum's latents, from any pair: by a plate, or by repeated data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any, Literal

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from ...errors import InputError
from .bound import Bound, PyroFunction, scale_of
from .pair import Pair
from .rows import repeat_rows

__all__ = ["Particles", "Path", "PerSample"]

Site = dict[str, Any]
PerSample = Float[Tensor, "particles batch"]

Path = Literal["total", "partial", "none", "separate"]
"""Which gradients terms have in the parameters of the guide, as reparameterised sites allow.

``"total"``: all. ``"partial"``: through the samples alone, log q being a function of these with its
own parameters held fixed. ``"none"``: not through the samples, but through the parameters alone.
``"separate"``: log q has all; the model is given copies of the samples (``Terms.through_samples``).
"""

_PLATE = "_particles"


class Particles:
    """A pair that draws K samples of the latents of each datum at once.

    Where networks take further dimensions on the left, model and guide run within an outer plate of
    K, so that an encoder runs once. Whether they do is tried, once: each sample must have the
    densities that it has by itself. Otherwise each datum is repeated, so that its samples are
    rows of a larger batch.

    Arguments:
        model: p(x, z).
        guide: q(z | x).
        num: K.
        plate: name of the plate over data.
        args: of model and guide, as an example.
        kwargs: likewise.

    Attributes:
        uses_plate: whether there is an outer plate.

    Raises:
        InputError: if neither can be done.
    """

    def __init__(
        self,
        model: PyroFunction,
        guide: PyroFunction,
        num: int,
        plate: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.model, self.guide, self.num, self.plate = model, guide, num, plate
        self.uses_plate = False
        self._dim = 0
        if num > 1:
            pair = Pair(model, guide)
            with torch.random.fork_rng(), torch.no_grad(), pair.eval_mode():
                self._settle(args, kwargs)

    @property
    def settings(self) -> tuple[PyroFunction, PyroFunction, int, str]:
        """Model, guide, number of samples and name of the plate."""
        return self.model, self.guide, self.num, self.plate

    def of(self, num: int) -> "Particles":
        """The same for another number of samples, above one, without another trial."""
        other = copy(self)
        other.num = num
        return other

    def traces(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path = "total"
    ) -> tuple[Trace, Trace]:
        """Guide and model, run once for all samples; not yet scored.

        Arguments:
            args: of model and guide.
            kwargs: likewise.
            path: which gradients flow through samples.
        """
        if self.num > 1 and not self.uses_plate:
            args = tuple(repeat_rows(args, self.num))
        guide, model = self._within(self.guide), self._within(self.model)
        with _Detached() if path == "none" else nullcontext():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        given = _with_copies(guide_trace) if path == "separate" else guide_trace
        replayed = poutine.replay(model, trace=given)
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        return prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)

    def dreamt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
        """The guide on data simulated from the model, at the latents that made them; scored.

        Raises:
            InputError: if the model observes what is no argument, so that the guide cannot be
                given other data.
        """
        with torch.no_grad():
            dream: Any = poutine.trace(poutine.uncondition(self.model)).get_trace(*args, **kwargs)
        drawn = {n: s for n, s in dream.nodes.items() if s["type"] == "sample"}
        simulated: dict[int, Tensor] = {}
        for name, site in drawn.items():
            if not site["infer"].get("was_observed") or site["infer"].get("_deterministic"):
                continue
            seen = site["infer"]["obs"]
            if not any(arg is seen for arg in args):
                raise InputError(
                    f"the model observes at {name!r} what is none of its arguments as they are, so "
                    "that the guide cannot be given simulated data in its place; use 'rws'"
                )
            if id(seen) in simulated:
                raise InputError(
                    f"the model observes one argument at {name!r} and at another site, so that it "
                    "cannot be simulated; use 'rws'"
                )
            simulated[id(seen)] = site["value"]
        args = tuple(simulated.get(id(arg), arg) for arg in args)
        latents = {n: s["value"] for n, s in drawn.items() if not s["infer"].get("was_observed")}
        guide = poutine.condition(self.guide, data=latents)
        trace: Any = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and site["infer"].get("is_auxiliary"):
                raise InputError(
                    f"site {name!r} of the guide is auxiliary, so that log q of what the model has "
                    "drawn is not known; use 'rws'"
                )
        trace.compute_log_prob()
        scored: Trace = trace
        return scored

    def is_local(self, site: Site) -> bool:
        """Whether each datum has its own."""
        return any(frame.name == self.plate for frame in site["cond_indep_stack"])

    def total(self, sites: Sequence[Site]) -> PerSample:
        """The sum of the log densities of local sites, unscaled, for each sample and datum."""
        of_sites = [self._of_each(site, site["log_prob"]) for site in sites]
        return torch.stack(of_sites).sum(0) if len(of_sites) > 1 else of_sites[0]

    def rows(
        self, x: Float[Tensor, "..."], num_batch_dims: int, data_dim: int
    ) -> Float[Tensor, "particles batch dims"]:
        """What a local site has for each sample and datum, on the left, and all its numbers.

        Arguments:
            x: on the left the batch shape of the site.
            num_batch_dims: how many dimensions that has.
            data_dim: which of these is over data, from their right.
        """
        if not self.uses_plate:
            x = x.movedim(num_batch_dims + data_dim, 0)
            return x.reshape(-1, self.num, x[0].numel()).transpose(0, 1)
        x = x.movedim((num_batch_dims + self._dim, num_batch_dims + data_dim), (0, 1))
        return x.reshape(*x.shape[:2], -1)

    def scale_gradient(self, site: Site, scale: Callable[[], PerSample]) -> None:
        """Multiply the gradient in a sampled value, in the backward pass."""

        dims = (self._dim, self.data_dim(site)) if self.uses_plate else (self.data_dim(site),)
        dims = tuple(dim - site["fn"].event_dim for dim in dims)

        def scaled(gradient: Tensor) -> Tensor:
            factors = scale() if self.uses_plate else scale().T.reshape(-1)
            shape = [1] * gradient.dim()
            for dim, size in zip(dims, factors.shape, strict=True):
                shape[dim] = size
            return gradient * factors.reshape(shape)

        site["value"].register_hook(scaled)

    def data_dim(self, site: Site) -> int:
        """The dimension of a local site's plate over data, from the right of its batch shape."""
        (frame,) = (f for f in site["cond_indep_stack"] if f.name == self.plate)
        if frame.dim is None:
            raise InputError(
                f"plate {self.plate!r} is a loop; terms of each datum need 'with pyro.plate(...)'"
            )
        return int(frame.dim)

    def num_data(self, bound: Bound) -> int:
        """N: that which was declared, or the number of data that were given."""
        is_repeated = self.num > 1 and not self.uses_plate
        sizes = {
            frame.full_size or frame.size
            for site in bound.model_trace.nodes.values()
            if site["type"] == "sample" and is_repeated and bound.declared_size is None
            for frame in site["cond_indep_stack"]
            if frame.name == self.plate and frame.full_size in (None, frame.size)
        }
        return bound.size // self.num if sizes else bound.size

    def _within(self, function: PyroFunction) -> PyroFunction:
        if not self.uses_plate:
            return function

        def of_particles(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate(_PLATE, self.num, dim=self._dim):
                return function(*args, **kwargs)

        return of_particles

    def _of_each(self, site: Site, log_prob: Tensor) -> PerSample:
        """[particles, batch], from what a local site has in each of its plates."""
        dim, scale = self.data_dim(site), scale_of(site, self.plate)
        kept = (dim, self._dim) if self.uses_plate else (dim,)
        summed = [d for d in range(-log_prob.dim(), 0) if d not in kept]
        terms: Tensor = (log_prob.sum(summed) if summed else log_prob) / scale
        if self.uses_plate:
            return terms
        return terms.view(-1, self.num).T

    def _settle(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out how the pair takes several samples."""
        with _channel_dims() as alone:
            guide_trace = poutine.trace(self.guide).get_trace(*args, **kwargs)
            replayed = poutine.replay(self.model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        frames = [
            frame
            for trace in (guide_trace, model_trace)
            for site in trace.nodes.values()
            if site["type"] == "sample"
            for frame in site["cond_indep_stack"]
        ]
        self._dim = -1 - max((-f.dim for f in frames if f.dim is not None), default=0)
        try:
            self.uses_plate = True
            with _channel_dims() as together:
                self.uses_plate = self._has_densities_of_each(args, kwargs)
            self.uses_plate &= together <= alone
        except Exception:  # such as of a network that takes batches alone
            self.uses_plate = False
        if self.uses_plate:
            return
        sizes = {frame.size for frame in frames if frame.name == self.plate}
        try:
            _, model_trace = self.traces(args, kwargs)
            taken = {
                frame.size
                for site in model_trace.nodes.values()
                if site["type"] == "sample"
                for frame in site["cond_indep_stack"]
                if frame.name == self.plate
            }
        except Exception as error:
            raise InputError(f"{_NEITHER} ({type(error).__name__}: {error})") from error
        if taken != {size * self.num for size in sizes}:
            raise InputError(_NEITHER)

    def _has_densities_of_each(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether samples within the plate have the densities that they have by themselves."""
        guide: Any = poutine.trace(self._within(self.guide)).get_trace(*args, **kwargs)
        model: Any = poutine.trace(poutine.replay(self._within(self.model), trace=guide)).get_trace(
            *args, **kwargs
        )
        for trace in (guide, model):
            trace.compute_log_prob()
        for number in range(min(2, self.num)):
            alone = guide.copy()
            for name, site in guide.nodes.items():
                is_drawn = site["type"] == "sample" and not site_is_subsample(site)
                if is_drawn and any(f.name == _PLATE for f in site["cond_indep_stack"]):
                    event_dim = site["fn"].event_dim
                    along = site["value"].dim() - event_dim + self._dim
                    value = site["value"].select(along, number)
                    alone.nodes[name] = site | {"value": value}
            for function, together in ((self.guide, guide), (self.model, model)):
                trace = poutine.trace(poutine.replay(function, trace=alone)).get_trace(
                    *args, **kwargs
                )
                trace.compute_log_prob()
                for name, site in trace.nodes.items():
                    if site["type"] != "sample" or site_is_subsample(site):
                        continue
                    both = together.nodes[name]["log_prob"]
                    if both.dim() < -self._dim or both.shape[self._dim] != self.num:
                        return False
                    if not _is_close(both.select(self._dim, number), site["log_prob"]):
                        return False
        return True


_OF_CHANNELS = (_NormBase, nn.GroupNorm, nn.PReLU)

_NEITHER = (
    "the pair cannot be given several samples of each datum: its networks take no further "
    "dimension on the left, and its first argument is not the batch of data, whose rows could be "
    "repeated"
)


def _with_copies(trace: Trace) -> Trace:
    """The trace with copies of its samples, at which gradients end."""
    copied: Any = trace.copy()
    for name, site in copied.nodes.items():
        value = site.get("value")
        if site["type"] == "sample" and isinstance(value, Tensor) and value.requires_grad:
            copied.nodes[name] = site | {"value": value.detach().requires_grad_()}
    result: Trace = copied
    return result


@contextmanager
def _channel_dims() -> Iterator[set[tuple[int, int]]]:
    """How many dimensions are given to layers that take the second for that of channels.

    At their initial values they are the identity, whichever dimension they take.
    """
    dims: set[tuple[int, int]] = set()

    def note(module: nn.Module, args: Any) -> None:
        if isinstance(module, _OF_CHANNELS):
            dims.add((id(module), args[0].dim()))

    handle = register_module_forward_pre_hook(note)
    try:
        yield dims
    finally:
        handle.remove()


class _Detached(Messenger):
    """Stops gradients at samples as they are drawn, so that what follows does not see them."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


def _is_close(these: Tensor, those: Tensor) -> bool:
    if these.numel() != those.numel():
        return False
    scale = float(those.abs().max().clamp_min(1))
    return torch.allclose(these.reshape(those.shape), those, rtol=0, atol=1e-3 * scale)
