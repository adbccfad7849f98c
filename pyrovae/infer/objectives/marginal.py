"""The ELBO of a model whose discrete latents are summed out in the model, by Pyro."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.poutine import Trace
from torch import Tensor

from ..pair.bound import DataScale, PyroFunction
from ..pair.pair import Pair
from ..pair.plates import known_sizes, trace_function
from ..pair.sites import sample_sites

__all__ = ["MarginalELBO", "find_enumerated_in_model"]


def find_enumerated_in_model(
    model: PyroFunction,
    guide: PyroFunction,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[set[str], int]:
    """The latents of the model that are marked for enumeration and that the guide lacks.

    Returns:
        Their names, and the number of nested plates in model and guide.
    """
    pair = Pair(model, guide)
    with torch.random.fork_rng(), torch.no_grad(), pair.eval_mode():
        in_guide = list(sample_sites(trace_function(guide, *args, **kwargs)))
        sites = list(sample_sites(trace_function(model, *args, **kwargs)))
    guided = {site["name"] for site in in_guide}
    names = {
        site["name"]
        for site in sites
        if site["infer"].get("enumerate") and not (site["is_observed"] or site["name"] in guided)
    }
    dims = [
        -frame.dim
        for site in [*sites, *in_guide]
        for frame in site["cond_indep_stack"]
        if frame.dim is not None
    ]
    return names, max(dims, default=0)


class MarginalELBO:
    """E_q[log sum_y p(x, y, z) - log q(z | x)], with y the model's marked latents.

    Pyro's ``TraceEnum_ELBO`` eliminates y by tensor contraction (Obermeyer et al. 2019), also along
    ``pyro.markov`` chains.

    Arguments:
        num_plates: number of nested plates in model and guide.
        num_particles: draws of the latents that the guide has.
        plate: name of the plate over data.
    """

    def __init__(self, num_plates: int, num_particles: int, plate: str) -> None:
        self._elbo = TraceEnum_ELBO(max_plate_nesting=num_plates, num_particles=num_particles)
        self._plate = plate

    def evaluate(
        self,
        model: PyroFunction,
        guide: PyroFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        size: int | None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Minus the ELBO of all data, with its gradient, and the KL of what the guide draws."""
        of_model, of_guide = _Traced(model), _Traced(guide)
        scale = nullcontext() if size is None else DataScale(self._plate, size, frozenset())
        with scale, known_sizes():
            if torch.is_grad_enabled():
                loss = self._elbo.differentiable_loss(of_model, of_guide, *args, **kwargs)
            else:
                loss = torch.as_tensor(self._elbo.loss(of_model, of_guide, *args, **kwargs))
        with torch.no_grad():
            kl = _sampled_kl(of_model.trace, of_guide.trace)
        return loss, torch.zeros_like(loss) + kl


class _Traced:
    """A model or guide that keeps the trace of its last run."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.trace: Trace = Trace()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.trace() as tracer:
            result = self._function(*args, **kwargs)
        self.trace = tracer.trace
        return result


def _sampled_kl(model_trace: Trace, guide_trace: Trace) -> Tensor | float:
    """log q(z) - log p(z) of what the guide draws, where p(z) depends on no summed latent."""
    total: Tensor | float = 0.0
    nodes: Any = model_trace.nodes
    for site in sample_sites(guide_trace):
        in_model = nodes.get(site["name"])
        if site["is_observed"] or in_model is None or site["infer"].get("enumerate"):
            continue
        log_q, log_p = (each["fn"].log_prob(site["value"]) for each in (site, in_model))
        if log_q.shape == log_p.shape:
            total = total + ((log_q - log_p) * site["scale"]).sum()
    return total
