"""The bound on held-out data, datum by datum, with its Monte Carlo and sampling error."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .bound import PyroFunction
from .pair import Pair

__all__ = ["Estimate", "Evaluation", "evaluate"]


@dataclass(frozen=True)
class Estimate:
    """A mean over data and its standard error."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Float[Tensor, "data"]) -> "Estimate":
        """Mean and standard error of independent values."""
        values = values.double()
        error = values.std().item() / sqrt(len(values)) if len(values) > 1 else float("nan")
        return cls(values.mean().item(), error)


@dataclass(frozen=True)
class Evaluation:
    """ELBO = -reconstruction - kl, each per datum in nats, averaged over data.

    Attributes:
        elbo: E_q[log p(x, z) - log q(z | x)].
        reconstruction: -E_q[log p(x | z)].
        kl: E_q[log q(z | x) - log p(z)].
        num_data: number of data.
        num_particles: samples of z for each datum.
    """

    elbo: Estimate
    reconstruction: Estimate
    kl: Estimate
    num_data: int
    num_particles: int


@torch.no_grad()
def evaluate(
    model: PyroFunction,
    guide: PyroFunction,
    batches: Iterable[tuple[Any, ...]],
    *,
    size: int,
    num_particles: int = 10,
    plate: str = "data",
) -> Evaluation:
    """The ELBO of a trained pair on data, in eval mode and without gradients.

    The standard errors are over data, and so include the Monte Carlo error of the samples of z.

    Arguments:
        model: p(x, z); of a pair trained by ``fit``, its ``history.model``, or the module.
        guide: q(z | x); likewise.
        batches: batches of data, each a tuple of arguments for model and guide.
        size: number of data that the model was trained on, which latents common to all data
            are shared among.
        num_particles: samples of z for each datum.
        plate: name of the plate over data.
    """
    pair = Pair(model, guide, plate)
    terms = []
    with pair.store(), pair.eval_mode():
        for batch in batches:
            particles = []
            for _ in range(num_particles):
                bound = pair.bound(*batch, size=size)
                if not terms and not particles:
                    bound.check()
                particles.append(torch.stack(bound.per_datum()))
            terms.append(torch.stack(particles).mean(0))
    log_likelihood, kl = torch.cat(terms, dim=1)
    return Evaluation(
        elbo=Estimate.of(log_likelihood - kl),
        reconstruction=Estimate.of(-log_likelihood),
        kl=Estimate.of(kl),
        num_data=len(kl),
        num_particles=num_particles,
    )
