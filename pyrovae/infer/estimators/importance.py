"""log p(x) of each datum by importance sampling, with estimates of its error."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import ceil, log
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...arguments import as_whole
from ...data.batches import Transform, as_batches
from ...errors import InputError
from ...progress import LateProgress
from ..compiler.tiered import Compile, TieredFunction
from ..pair.allocations import count_allocated_bytes
from ..pair.bound import PyroFunction
from ..pair.pair import Pair
from ..pair.particles import Particles
from ..pair.rows import has_row_per_datum
from ..pair.terms import evaluate_terms
from .evaluate import Estimate, check_log_likelihood
from .options import check_options
from .pareto import pareto_k, warn_of_heavy_tails

__all__ = ["ImportanceEstimate", "importance_sample"]

_ADVICE = "use a guide with wider tails, or annealed_importance_sample"


@dataclass(frozen=True)
class ImportanceEstimate:
    """Estimates of log p(x_i) for each datum i, in nats, from K samples of its latents.

    Attributes:
        num_samples: K.
        log_likelihood: log (1/K) sum_k w_ik, with w = p(x, z) / q(z | x); too low on average, by
            about half the square of its standard error (Burda et al. 2016).
        standard_error: Monte Carlo standard error of ``log_likelihood``, by the delta method; it is
            too small if ``pareto_k`` is above 0.5.
        effective_samples: effective number of samples, (sum_k w)^2 / sum_k w^2.
        pareto_k: shape of the tail of the importance weights; see :func:`pareto_k`. Above 0.7,
            trust neither ``log_likelihood`` nor its error.
        reconstruction: distortion, -E_q[log p(x | z)].
        kl: rate, E_q[log q(z | x) - log p(z)].
        bounds: for each smaller number k of samples that you asked for, E[log (1/k) sum_k w],
            averaged over the K / k groups of that size: a bound on log p(x).
    """

    num_samples: int
    log_likelihood: Float[Tensor, "data"]
    standard_error: Float[Tensor, "data"]
    effective_samples: Float[Tensor, "data"]
    pareto_k: Float[Tensor, "data"]
    reconstruction: Float[Tensor, "data"]
    kl: Float[Tensor, "data"]
    bounds: dict[int, Float[Tensor, "data"]]

    @property
    def elbo(self) -> Float[Tensor, "data"]:
        """The mean of log w, the bound for one sample."""
        return -self.reconstruction - self.kl

    @property
    def mean(self) -> Estimate:
        """log p(x) averaged over data; its standard error covers the choice of data and samples."""
        return Estimate.of(self.log_likelihood)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the average over these data, due to the samples alone."""
        error = self.standard_error.double()
        return error.square().sum().sqrt().item() / len(error)

    @property
    def bias(self) -> float:
        """Estimate of how much the average is too low: half the mean square of the errors."""
        return self.standard_error.double().square().mean().item() / 2

    def worst(self, count: int = 10) -> Int[Tensor, "count"]:
        """The indices of the data with the fewest effective samples."""
        return self.effective_samples.argsort()[:count]


@torch.no_grad()
def importance_sample(
    model: PyroFunction,
    guide: PyroFunction,
    data: Any,
    *,
    num_samples: int = 5000,
    bounds: Sequence[int] = (),
    batch_size: int = 100,
    memory: int = 2**28,
    seed: int = 0,
    transform: Transform | None = None,
    device: torch.device | str | None = None,
    plate: str = "data",
    compile: Compile = "auto",
    progress: bool = True,
) -> ImportanceEstimate:
    """Estimate log p(x) of each datum, for any pair, in eval mode and without gradients.

        log p(x) ~ log (1/K) sum_k p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)

    (Rezende et al. 2014; Burda et al. 2016.) The networks of the guide run once for all samples of
    a run, if the networks of the model take samples in a further dimension. The seed determines all
    random numbers, including those that a transform draws; torch's own random state does not
    change. A :class:`HeavyTailWarning` says for how many data the standard error is too small.

    Arguments:
        model: p(x, z), with all sites in the plate over data.
        guide: q(z | x), likewise.
        data: a tensor, a tuple of tensors, :class:`~pyrovae.Batches` or a ``DataLoader``.
        num_samples: K, samples of the latents for each datum.
        bounds: smaller numbers of samples to compute bounds for as well.
        batch_size: data in a batch, if data are tensors.
        memory: bytes that the tensors of one run of the pair may take together. Samples are drawn
            in as many runs as this needs, with one sample of each datum in a run at least.
        seed: seed of all random numbers.
        transform: applied to the parts of each batch, as in ``fit``.
        device: device to move batches to; by default tensors stay where they are.
        plate: name of the plate over data.
        compile: whether to record and compile runs; see :class:`~pyrovae.SVI`.
        progress: show a progress bar if it takes more than two seconds.

    Raises:
        InputError: if all data share a latent, or a site is scaled, so that one datum has no p(x)
            of its own; or if an argument is invalid.
        FloatingPointError: if importance weights are NaN.
    """
    check_options(
        model=model,
        guide=guide,
        bounds=bounds,
        batch_size=batch_size,
        memory=memory,
        seed=seed,
        transform=transform,
        device=device,
        plate=plate,
        compile=compile,
        progress=progress,
    )
    as_whole("num_samples", num_samples, 2)
    if any(k > num_samples for k in bounds):
        raise InputError(f"bounds are {list(bounds)}; each must be from 1 to {num_samples}")
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)
    pair = Pair(model, guide)

    parts: list[ImportanceEstimate] = []
    with torch.random.fork_rng(), pair.store():
        torch.manual_seed(seed)
        batch = next(iter(batches), None)
        if batch is None:
            raise InputError("the data gave no batch")
        particles = Particles(*pair.functions, 2, plate, tuple(batch), {})
        num_rows = memory // _bytes_per_row(pair, particles, batch)
        num_runs = ceil(num_samples / max(1, num_rows // len(batch[0])))
        num_at_once = max(2, ceil(num_samples / num_runs))
        captured = TieredFunction(
            partial(_log_terms, pair, particles.with_num(num_at_once)),
            (model, guide),
            compile=compile,
            num_calls=num_runs * len(batches),
        )
        torch.manual_seed(seed)
        with LateProgress("importance sampling", len(batches)) as bar:
            for batch in batches:
                runs = [captured(tuple(batch), {}) for _ in range(num_runs)]
                terms = torch.cat(runs, 1)[:, :num_samples]
                parts.append(_summarise(terms.double().mT, bounds))
                if progress:
                    bar.advance()
    estimate = _concatenate(parts)
    check_log_likelihood(estimate.log_likelihood)
    warn_of_heavy_tails(estimate.pareto_k, _ADVICE, stacklevel=4)
    return estimate


def _log_terms(
    pair: Pair, particles: Particles, *batch: Any
) -> Float[Tensor, "terms particles batch"]:
    """log p(x | z) and log q(z | x) - log p(z), stacked."""
    with torch.no_grad(), pair.store(), pair.eval_mode():
        terms = evaluate_terms(particles, batch, {}, apart=True)
    return torch.stack([terms.log_likelihood, terms.kl])


def _bytes_per_row(pair: Pair, particles: Particles, batch: Sequence[Any]) -> int:
    """Memory for one sample of one datum, measured on a run of a few, shared tensors included."""
    one = [part[:1] if has_row_per_datum(part, len(batch[0])) else part for part in batch]
    return max(
        1, count_allocated_bytes(partial(_log_terms, pair, particles.with_num(8), *one)) // 8
    )


def _summarise(
    terms: Float[Tensor, "terms batch samples"], bounds: Sequence[int]
) -> ImportanceEstimate:
    log_likelihood, kl = terms
    log_weights = log_likelihood - kl
    num = log_weights.shape[1]
    effective = 1 / log_weights.softmax(1).square().sum(1)
    return ImportanceEstimate(
        num_samples=num,
        log_likelihood=log_weights.logsumexp(1) - log(num),
        standard_error=((num / effective - 1).clamp_min(0) / (num - 1)).sqrt(),
        effective_samples=effective,
        pareto_k=pareto_k(log_weights),
        reconstruction=-log_likelihood.mean(1),
        kl=kl.mean(1),
        bounds={k: _bound(log_weights, k) for k in bounds},
    )


def _concatenate(parts: list[ImportanceEstimate]) -> ImportanceEstimate:
    """Join the estimates of all batches."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {k: join([value[k] for value in values]) for k in values[0]}
        return torch.cat(values) if isinstance(values[0], Tensor) else values[0]

    names = [each.name for each in fields(ImportanceEstimate)]
    return ImportanceEstimate(*(join([getattr(part, name) for part in parts]) for name in names))


def _bound(log_weights: Float[Tensor, "batch samples"], k: int) -> Float[Tensor, "batch"]:
    num_groups = log_weights.shape[1] // k
    groups = log_weights[:, : num_groups * k].reshape(len(log_weights), num_groups, k)
    return (groups.logsumexp(2) - log(k)).mean(1)
