"""The ELBO on held-out data, with its standard error over data and Monte Carlo samples."""

from dataclasses import dataclass
from itertools import chain
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.batches import Transform, as_batches
from ...errors import InputError
from ..compiler.tiered import Compile, TieredFunction
from ..pair.bound import PyroFunction
from ..pair.pair import Pair
from ..pair.scaling import find_scaled_sites
from .options import check_options

__all__ = ["Estimate", "Evaluation", "check_log_likelihood", "evaluate"]


@dataclass(frozen=True)
class Estimate:
    """A mean over data and its standard error; ``float(estimate)`` is the mean.

    >>> estimate = Estimate(-97.7, 0.2)
    >>> print(estimate, float(estimate))
    -97.70 ± 0.20 -97.7
    """

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Float[Tensor, "data"]) -> "Estimate":
        """Estimate a mean from independent values."""
        values = values.double()
        error = values.std().item() / sqrt(len(values)) if len(values) > 1 else float("nan")
        return cls(values.mean().item(), error)

    def __float__(self) -> float:
        return self.mean

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f}"


@dataclass(frozen=True)
class Evaluation:
    """The ELBO and its two terms, in nats per datum; ``elbo = -reconstruction - kl``.

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
    data: Any,
    *,
    size: int | None = None,
    num_particles: int = 10,
    batch_size: int = 1000,
    transform: Transform | None = None,
    device: torch.device | str | None = None,
    plate: str = "data",
    compile: Compile = "auto",
) -> Evaluation:
    """The ELBO of a trained pair on data, in eval mode and without gradients.

    The standard errors are over data. They include the Monte Carlo error of each datum's own
    latents, but not that of latents that all data share.

    Arguments:
        model: p(x, z); for a pair trained by ``fit``, its ``history.model``, or the module.
        guide: q(z | x); likewise.
        data: a tensor, a tuple of tensors, :class:`~pyrovae.Batches` or a ``DataLoader``.
        size: number of data that the model was trained on, which share the KL of latents common
            to all data; the number of data given by default.
        num_particles: samples of z for each datum.
        batch_size: data in a batch, if data are tensors.
        transform: applied to the parts of each batch, as in ``fit``.
        device: device to move batches to; by default tensors stay where they are.
        plate: name of the plate over data.
        compile: whether to record and compile the bound; see :class:`~pyrovae.SVI`.

    Raises:
        InputError: if the pair has no bound on these data, or an argument is invalid.
    """
    check_options(
        model=model,
        guide=guide,
        size=size,
        num_particles=num_particles,
        batch_size=batch_size,
        transform=transform,
        device=device,
        plate=plate,
        compile=compile,
    )
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)
    size = batches.size if size is None else size
    pair = Pair(model, guide)
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise InputError("the data gave no batch")
    pair.scaled = find_scaled_sites(
        pair, first, {}, size=size, plate=plate, refuse_outside=True, refuse_factors=True
    )

    def compute_terms(*batch: Any) -> Float[Tensor, "terms batch"]:
        with torch.no_grad(), pair.store(), pair.eval_mode():
            bound = pair.bound(*batch, size=size, plate=plate)
            bound.check()
            return torch.stack(bound.per_datum())

    num_calls = len(batches) * num_particles
    captured = TieredFunction(compute_terms, (model, guide), compile=compile, num_calls=num_calls)
    terms = [
        torch.stack([captured(batch, {}) for _ in range(num_particles)]).mean(0)
        for batch in chain([first], remaining)
    ]
    log_likelihood, kl = torch.cat(terms, dim=1)
    return Evaluation(
        elbo=Estimate.of(log_likelihood - kl),
        reconstruction=Estimate.of(-log_likelihood),
        kl=Estimate.of(kl),
        num_data=len(kl),
        num_particles=num_particles,
    )


def check_log_likelihood(log_likelihood: Float[Tensor, "data"]) -> Float[Tensor, "data"]:
    """Return estimates of log p(x), or raise a FloatingPointError if one of them is NaN."""
    num_nan = int(log_likelihood.isnan().sum())
    if num_nan:
        raise FloatingPointError(
            f"log p(x) of {num_nan} data is not a number: a density of the model or the guide is "
            "NaN there"
        )
    return log_likelihood
