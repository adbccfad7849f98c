"""The gap between log p(x) and the ELBO, split into its approximation and amortisation parts."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Float
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import transform_to

from ...arguments import TensorLike, as_tensor, as_whole
from ...data.batches import Transform, as_batches
from ...errors import InputError
from ...progress import LateProgress
from ..pair.bound import PyroFunction
from ..pair.latents import LocalLatent, find_local_latents, unwrap_independent
from ..pair.pair import Pair
from ..pair.particles import Particles
from ..pair.rows import has_row_per_datum
from ..pair.terms import evaluate_terms
from .evaluate import check_log_likelihood
from .full_rank import Evidence, FullRankProposal
from .importance import importance_sample
from .options import check_options
from .pareto import HeavyTailWarning, warn_of_heavy_tails

__all__ = ["InferenceGap", "inference_gap"]

_PARTICLES = 16
"""Samples of the latents of each datum in a step of the optimiser."""

_PREFERRED = {
    "covariance_matrix": "scale_tril",
    "precision_matrix": "scale_tril",
    "probs": "logits",
}
"""Parameters with an equivalent in the same family that the optimiser changes instead."""


@dataclass(frozen=True)
class InferenceGap:
    """log p(x) - ELBO of each datum, in nats, as the sum of two gaps (Cremer et al. 2018).

    Attributes:
        log_likelihood: log p(x): as given, or by importance sampling from a full-rank q with a
            heavy tail, which makes it, and the approximation gap, slightly too low on average.
        best_elbo: the largest ELBO over q of the guide's family that the optimiser found.
        elbo: the ELBO at the guide's own q, on the same noise as ``best_elbo``.
        standard_error: Monte Carlo standard error of ``log_likelihood``; NaN if that was given.
        pareto_k: shape of the tail of the importance weights that ``log_likelihood`` comes from;
            NaN if it was given. Above 0.5 its standard error is too small, and above 0.7 trust
            neither. See :func:`pyrovae.infer.estimators.pareto.pareto_k`.
    """

    log_likelihood: Float[Tensor, "data"]
    best_elbo: Float[Tensor, "data"]
    elbo: Float[Tensor, "data"]
    standard_error: Float[Tensor, "data"]
    pareto_k: Float[Tensor, "data"]

    @property
    def approximation_gap(self) -> Float[Tensor, "data"]:
        """log p(x) - best ELBO: the cost of the family of q."""
        return self.log_likelihood - self.best_elbo

    @property
    def amortisation_gap(self) -> Float[Tensor, "data"]:
        """Best ELBO - ELBO: the cost of one guide for all data."""
        return self.best_elbo - self.elbo


@torch.no_grad()
def inference_gap(
    model: PyroFunction,
    guide: PyroFunction,
    data: Any,
    *,
    num_steps: int = 500,
    lr: float = 0.05,
    num_samples: int = 2000,
    batch_size: int = 100,
    seed: int = 0,
    transform: Transform | None = None,
    device: torch.device | str | None = None,
    plate: str = "data",
    log_likelihood: TensorLike | None = None,
    progress: bool = True,
) -> InferenceGap:
    """Optimise q for each datum within the guide's family, and compare ELBOs, in eval mode.

        log p(x) - ELBO = (log p(x) - max_q ELBO) + (max_q ELBO - ELBO)

    The first term is the approximation gap, the second the amortisation gap (Cremer et al. 2018,
    Inference suboptimality in variational autoencoders). The unconstrained parameters of each
    q(z | x) start at the guide's, and Adam maximises the ELBO on 16 reparameterised samples a step.
    The learning rate falls linearly to zero, and the result is the mean over the second half of the
    steps (Polyak and Juditsky 1992).

    If you give no log p(x), it comes from importance sampling. The best q in the guide's family may
    be too narrow for that: a factorised q does not cover a correlated posterior. So the samples
    come from a normal with full covariance in R^n and a heavy tail, fitted to each datum in half as
    many steps; see :class:`~pyrovae.infer.estimators.full_rank.FullRankProposal`. A
    :class:`~pyrovae.infer.HeavyTailWarning` says if that does not cover the posterior either.

    Model and guide do not change, and get no gradients. The seed determines all random numbers;
    torch's own random state does not change.

    Arguments:
        model: p(x, z), with all sites in the plate over data.
        guide: q(z | x), likewise, of reparameterised families that can be rebuilt from their
            parameters, such as ``Normal``, ``LogNormal`` and ``MultivariateNormal``; the
            distribution of one latent may not depend on the draw of another.
        data: a tensor, a tuple of tensors, :class:`~pyrovae.Batches` or a ``DataLoader``.
        num_steps: steps of the optimiser for each batch.
        lr: its initial learning rate, in units of the unconstrained parameters.
        num_samples: new samples of the latents for each datum, for each ELBO and for log p(x).
        batch_size: data in a batch, if data are tensors.
        seed: seed of all random numbers.
        transform: applied once to the parts of each batch, as in ``fit``.
        device: device to move batches to; by default tensors stay where they are.
        plate: name of the plate over data.
        log_likelihood: log p(x) of each datum if you have a better estimate, for example from
            annealed importance sampling.
        progress: show a progress bar if it takes more than two seconds.

    Raises:
        InputError: if one datum has no p(x) of its own, or a latent's q cannot be optimised for
            each datum; or if an argument is invalid.
        FloatingPointError: if importance weights are NaN.

    Example:
        >>> from pyrovae import VAE
        >>> vae = VAE((4,), latent_dim=2, likelihood="Normal")
        >>> gap = inference_gap(vae.model, vae.guide, torch.randn(5, 4), num_steps=10)
        >>> gap.amortisation_gap.shape
        torch.Size([5])
    """
    check_options(
        model=model,
        guide=guide,
        num_steps=num_steps,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        transform=transform,
        device=device,
        plate=plate,
        progress=progress,
    )
    as_whole("num_samples", num_samples, 2)
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)
    if log_likelihood is not None:
        log_likelihood = _check_log_likelihood(log_likelihood, batches.size)
    pair = Pair(model, guide)
    parts: list[tuple[Tensor, ...]] = []
    evidence: list[Evidence] = []
    with torch.random.fork_rng(), pair.eval_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", HeavyTailWarning)  # only the ELBOs are used
        torch.manual_seed(seed)
        num_fits = num_steps + (0 if log_likelihood is not None else (num_steps + 1) // 2)
        with LateProgress("inference gap", len(batches) * num_fits) as bar:
            for batch in batches:
                free_pair = _make_free_pair(pair, batch, plate)
                noise = int(torch.randint(2**31, ()))

                def score(
                    parameters: Sequence[Tensor],
                    free_pair: _FreePair = free_pair,
                    noise: int = noise,
                ) -> Any:
                    return importance_sample(
                        free_pair.model,
                        free_pair.guide,
                        (*free_pair.rows, *parameters),
                        num_samples=num_samples,
                        batch_size=len(parameters[0]),
                        seed=noise,
                        plate=plate,
                        compile=False,
                        progress=False,
                    )

                amortised = score(free_pair.parameters)
                advance = bar.advance if progress else lambda: None
                optimised = _optimise(free_pair, num_steps, lr, plate, advance)
                best = score(optimised)
                parts.append((best.elbo, amortised.elbo))
                if log_likelihood is None:
                    rows = (*free_pair.rows, *optimised)
                    with pair.store():
                        proposal = FullRankProposal(free_pair.model, free_pair.guide, rows, plate)
                        proposal.fit((num_steps + 1) // 2, lr, advance)
                        evidence.append(proposal.estimate(num_samples))
    if not parts:
        raise InputError("the data gave no batch")
    best_elbo, elbo = (torch.cat(part) for part in zip(*parts, strict=True))
    if log_likelihood is not None:
        unknown = torch.full_like(elbo, torch.nan)
        return InferenceGap(log_likelihood.to(elbo), best_elbo, elbo, unknown, unknown)
    log_p, error, tail = (
        torch.cat([getattr(each, name) for each in evidence])
        for name in ("log_likelihood", "standard_error", "pareto_k")
    )
    check_log_likelihood(log_p)
    warn_of_heavy_tails(tail, "give log_likelihood by annealed_importance_sample", stacklevel=4)
    return InferenceGap(log_p, best_elbo, elbo, error, tail)


def _check_log_likelihood(given: Any, num_data: int) -> Float[Tensor, "data"]:
    if isinstance(given, list | tuple):
        given = np.asarray(given)
    log_likelihood = as_tensor("log_likelihood", given)
    if tuple(log_likelihood.shape) != (num_data,):
        size = len(log_likelihood) if log_likelihood.ndim == 1 else tuple(log_likelihood.shape)
        raise InputError(
            f"log_likelihood has {size} entries for {num_data} data; give one entry for each datum"
        )
    if log_likelihood.dtype == torch.bool or not log_likelihood.isfinite().all():
        raise InputError("log_likelihood must be finite numbers; some of these are not")
    return log_likelihood


@dataclass(frozen=True)
class _FreeLatent:
    """q of one latent as a function of unconstrained parameters, with one row for each datum."""

    latent: LocalLatent
    family: Any
    transforms: dict[str, Any]
    num_reinterpreted: int

    def q(self, parameters: Sequence[Tensor]) -> Any:
        constrained = {
            name: transform(rows.movedim(0, self.latent.data_axis))
            for (name, transform), rows in zip(self.transforms.items(), parameters, strict=True)
        }
        return self.family(**constrained).to_event(self.num_reinterpreted)


@dataclass(frozen=True)
class _FreePair:
    """A pair for one batch; its arguments are the rows of data, then the parameters of each q."""

    pair: Pair
    batch: Sequence[Any]
    latents: list[_FreeLatent]
    parameters: list[Tensor]

    @property
    def rows(self) -> list[Tensor]:
        num = len(self.batch[0])
        return [part for part in self.batch if has_row_per_datum(part, num)]

    def model(self, *args: Tensor) -> Any:
        num, rows = len(self.batch[0]), iter(args)
        return self.pair.model(
            *(next(rows) if has_row_per_datum(part, num) else part for part in self.batch)
        )

    def guide(self, *args: Tensor) -> None:
        """Sample each latent in its plates; the plate over data has the size of the rows."""
        parameters = iter(args[-len(self.parameters) :])
        plates: dict[str, Any] = {}
        for each in self.latents:
            q = each.q([next(parameters) for _ in each.transforms])
            with ExitStack() as contexts:
                for frame in each.latent.frames:
                    size = q.batch_shape[frame.dim]
                    is_whole = frame.full_size in (None, frame.size)
                    declared = size if is_whole else frame.full_size
                    if frame.name not in plates:
                        plates[frame.name] = pyro.plate(frame.name, declared, size, dim=frame.dim)
                    contexts.enter_context(plates[frame.name])
                pyro.sample(each.latent.name, q)


def _make_free_pair(pair: Pair, batch: Sequence[Any], plate: str) -> _FreePair:
    latents, parameters = [], []
    for latent in find_local_latents(pair, batch, plate):
        free_latent, rows = _make_free_latent(latent)
        latents.append(free_latent)
        parameters.extend(rows)
    if not parameters:
        raise InputError("the pair has no latents, so there is nothing to infer")
    return _FreePair(pair, batch, latents, parameters)


def _make_free_latent(latent: LocalLatent) -> tuple[_FreeLatent, list[Tensor]]:
    """A latent's q with its current parameters, unconstrained."""
    base = unwrap_independent(latent.q)
    family = type(base)
    if not base.has_rsample or isinstance(base, Delta):
        raise InputError(
            f"the guide's distribution of site {latent.name!r}, {family.__name__}, has no "
            "reparameterised samples with a density, so gradients cannot optimise it; use another "
            "family, such as Normal"
        )
    try:
        free_latent, rows = _unconstrain(latent, base)
        value = latent.q.sample()
        is_same = torch.allclose(
            free_latent.q(rows).log_prob(value), latent.q.log_prob(value), rtol=1e-3, atol=1e-3
        )
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise _family_error(latent, family) from error
    if not is_same:
        raise _family_error(latent, family)
    return free_latent, rows


def _unconstrain(latent: LocalLatent, base: Any) -> tuple[_FreeLatent, list[Tensor]]:
    constraints = type(base).arg_constraints
    if not isinstance(constraints, dict):
        raise TypeError("the constraints of one parameter depend on others")
    transforms, rows = {}, []
    for name, constraint in constraints.items():
        if _PREFERRED.get(name) in constraints:
            continue
        transforms[name] = transform_to(constraint)
        value = getattr(base, name)
        event_shape = value.shape[value.ndim - constraint.event_dim :]
        free = transforms[name].inv(value.expand(base.batch_shape + event_shape))
        rows.append(free.movedim(latent.data_axis, 0).contiguous())
    num_reinterpreted = len(base.batch_shape) - len(latent.q.batch_shape)
    return _FreeLatent(latent, type(base), transforms, num_reinterpreted), rows


def _family_error(latent: LocalLatent, family: Any) -> InputError:
    return InputError(
        f"the guide's distribution of site {latent.name!r}, {family.__name__}, cannot be rebuilt "
        "from unconstrained parameters, so it cannot be optimised; use a family with parameters "
        "of fixed constraints, such as Normal or MultivariateNormal"
    )


def _optimise(
    pair: _FreePair, num_steps: int, lr: float, plate: str, advance: Callable[[], None]
) -> list[Tensor]:
    """The parameters that maximise the ELBO of each datum."""
    free = [part.clone().requires_grad_() for part in pair.parameters]
    args = (*pair.rows, *free)
    particles = Particles(pair.model, pair.guide, _PARTICLES, plate, args, {})
    optimiser = torch.optim.Adam(free, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / num_steps)
    sums = [torch.zeros_like(part) for part in pair.parameters]
    num_averaged = (num_steps + 1) // 2
    for step in range(num_steps):
        with torch.enable_grad():
            terms = evaluate_terms(particles, args, {})
            loss = (terms.kl - terms.log_likelihood).mean(0).sum()
            gradients = torch.autograd.grad(loss, free, materialize_grads=True)
        for part, gradient in zip(free, gradients, strict=True):
            part.grad = gradient
        optimiser.step()
        schedule.step()
        if step >= num_steps - num_averaged:
            for total, part in zip(sums, free, strict=True):
                total.add_(part.detach())
        advance()
    return [part / num_averaged for part in sums]
