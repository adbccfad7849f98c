"""Draw several samples of each datum's latents at once, from any pair."""

from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from .bound import PyroFunction
from .layout import PARTICLE_PLATE, ParticleLayout
from .pair import Pair
from .plates import trace_function
from .rows import repeat_rows
from .trial import choose_layout

__all__ = ["GradientPath", "Particles"]

GradientPath = Literal["total", "partial", "none", "separate"]
"""Which gradients in the guide's parameters the terms carry, where sites are reparameterised.

``"total"``: all of them. ``"partial"``: only through the samples; log q is a function of the
samples, with its own parameters held fixed. ``"none"``: only through the parameters, not through
the samples. ``"separate"``: log q carries all of them, and the model gets copies of the samples
(see ``Terms.through_samples``).
"""


class Particles:
    """A pair that draws K samples of the latents of each datum at once.

    If the networks take further dimensions on the left, model and guide run in an outer plate of
    K, and an encoder runs once. Otherwise each datum is repeated, and its samples are rows of a
    larger batch. A trial at the start decides: in the plate, each sample must have the densities
    that it has alone.

    Arguments:
        model: p(x, z).
        guide: q(z | x).
        num: K.
        plate: name of the plate over data.
        args: example arguments of model and guide.
        kwargs: likewise.

    Attributes:
        layout: where the samples lie in the tensors of a trace.

    Raises:
        InputError: if neither works.
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
        self.model, self.guide = model, guide
        self.layout = ParticleLayout(num, plate)
        if num > 1:
            pair = Pair(model, guide)
            with torch.random.fork_rng(), torch.no_grad(), pair.eval_mode():
                self.layout = choose_layout(model, guide, num, plate, self._arrange, args, kwargs)

    @property
    def settings(self) -> tuple[PyroFunction, PyroFunction, int, str]:
        """Model, guide, number of samples and name of the plate."""
        return self.model, self.guide, self.layout.num, self.layout.plate

    def with_num(self, num: int) -> "Particles":
        """The same for another number of samples, above one, without another trial."""
        other = copy(self)
        other.layout = replace(self.layout, num=num)
        return other

    def traces(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], path: GradientPath = "total"
    ) -> tuple[Trace, Trace]:
        """Run guide and model once for all samples, without scoring their sites.

        Arguments:
            args: of model and guide.
            kwargs: likewise.
            path: which gradients flow through samples.
        """
        if self.layout.repeats_rows:
            args = tuple(repeat_rows(args, self.layout.num))
        guide = self._arrange(self.guide, self.layout)
        model = self._arrange(self.model, self.layout)
        with _StopGradients() if path == "none" else nullcontext():
            guide_trace = trace_function(guide, *args, **kwargs)
        given = _copy_samples(guide_trace) if path == "separate" else guide_trace
        replayed = poutine.replay(model, trace=given)
        model_trace = trace_function(replayed, *args, **kwargs)
        return prune_subsample_sites(guide_trace), prune_subsample_sites(model_trace)

    def _arrange(self, function: PyroFunction, layout: ParticleLayout) -> PyroFunction:
        """Model or guide as a function that runs in a layout."""
        if not layout.uses_plate:
            return function

        def run_in_plate(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate(PARTICLE_PLATE, layout.num, dim=layout.particle_dim):
                return function(*args, **kwargs)

        return run_in_plate


def _copy_samples(trace: Trace) -> Trace:
    """The trace with copies of its samples, at which gradients end."""
    copied: Any = trace.copy()
    for name, site in copied.nodes.items():
        value = site.get("value")
        if site["type"] == "sample" and isinstance(value, Tensor) and value.requires_grad:
            copied.nodes[name] = site | {"value": value.detach().requires_grad_()}
    result: Trace = copied
    return result


class _StopGradients(Messenger):
    """Detach samples as they are drawn, so that later sites get no gradient through them."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()
