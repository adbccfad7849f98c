"""What inference costs: the gap between log p(x) and the ELBO, taken apart."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import transform_to

from ...data.batches import Transform, as_batches
from ...errors import InputError
from ...progress import LateProgress
from ..pair.bound import PyroFunction
from ..pair.latents import LocalLatent, find_local_latents, unwrap_independent
from ..pair.pair import Pair
from ..pair.particles import Particles
from ..pair.rows import has_row_per_datum
from ..pair.terms import evaluate_terms
from .importance import importance_sample

__all__ = ["InferenceGap", "inference_gap"]

_PARTICLES = 16
"""Samples of the latents of each datum in a step of the optimiser."""

_SECONDARY = {
    "covariance_matrix": "scale_tril",
    "precision_matrix": "scale_tril",
    "probs": "logits",
}
"""Parameters that a family knows under another name, too, which is freed instead."""


@dataclass(frozen=True)
class InferenceGap:
    """log p(x) - ELBO of each datum, in nats, as the sum of two gaps (Cremer et al. 2018).

    Attributes:
        log_likelihood: log p(x): as given, or by importance sampling from the optimised q, which is
            too low rather than too high, and the approximation gap with it.
        best_elbo: the largest ELBO over q of the guide's family, as far as the optimiser came.
        elbo: the ELBO at the guide's own q, on the same noise as ``best_elbo``.
        pareto_k: of the weights at the optimised q; where it is above 0.7, log p(x) by importance
            sampling is not to be trusted. See :func:`pyrovae.infer.estimators.pareto.pareto_k`.
    """

    log_likelihood: Float[Tensor, "data"]
    best_elbo: Float[Tensor, "data"]
    elbo: Float[Tensor, "data"]
    pareto_k: Float[Tensor, "data"]

    @property
    def approximation_gap(self) -> Float[Tensor, "data"]:
        """log p(x) - best ELBO, which the family of q costs."""
        return self.log_likelihood - self.best_elbo

    @property
    def amortisation_gap(self) -> Float[Tensor, "data"]:
        """Best ELBO - ELBO, which it costs that one guide serves all data."""
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
    log_likelihood: Float[Tensor, "data"] | None = None,
    progress: bool = True,
) -> InferenceGap:
    """Optimise q for each datum within the guide's family, and compare, in eval mode.

        log p(x) - ELBO = (log p(x) - max_q ELBO) + (max_q ELBO - ELBO)

    The first term is the approximation gap, the second the amortisation gap (Cremer et al. 2018,
    Inference suboptimality in variational autoencoders). The parameters of each q(z | x) start at
    the guide's, are made unconstrained, and climb the ELBO with Adam on 16 reparameterised samples
    a step. The learning rate falls linearly to zero, and the mean of the second half of the steps
    is taken (Polyak and Juditsky 1992). Model and guide stay as they are, and get no gradients.
    Random numbers are those of the seed, and torch's own state is left as it was.

    Arguments:
        model: p(x, z), each of whose sites is in the plate over data.
        guide: q(z | x), likewise, of families that are reparameterised and rebuilt from their
            parameters, such as ``Normal``, ``LogNormal`` and ``MultivariateNormal``; the
            distribution of one latent may not depend on the draw of another.
        data: a tensor, a tuple of tensors, :class:`~pyrovae.Batches` or a ``DataLoader``.
        num_steps: steps of the optimiser for each batch.
        lr: its first learning rate, in units of the unconstrained parameters.
        num_samples: fresh samples of the latents for each datum, for each ELBO and for log p(x).
        batch_size: data in a batch, where data are tensors.
        seed: of all random numbers.
        transform: applied to the parts of each batch, as in ``fit``, once.
        device: where batches shall be; tensors stay where they are unless given.
        plate: name of the plate over data.
        log_likelihood: log p(x) of each datum where it is known better, as from annealed
            importance sampling; by importance sampling from the optimised q unless given.
        progress: show a bar where it takes more than two seconds.

    Raises:
        InputError: if the pair has no p(x) of one datum, or a latent's q cannot be optimised for
            each datum; or if an argument cannot be used.
        FloatingPointError: if weights are not numbers.

    Example:
        >>> from pyrovae import VAE
        >>> vae = VAE((4,), latent_dim=2, likelihood="Normal")
        >>> gap = inference_gap(vae.model, vae.guide, torch.randn(5, 4), num_steps=10)
        >>> gap.amortisation_gap.shape
        torch.Size([5])
    """
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)
    _check(num_steps, lr, num_samples, log_likelihood, batches.size)
    pair = Pair(model, guide)
    parts: list[tuple[Tensor, ...]] = []
    with torch.random.fork_rng(), pair.eval_mode():
        torch.manual_seed(seed)
        with LateProgress("inference gap", len(batches) * num_steps) as bar:
            for batch in batches:
                freed = _freed(pair, batch, plate)
                noise = int(torch.randint(2**31, ()))

                def score(
                    free: Sequence[Tensor], freed: _FreedPair = freed, noise: int = noise
                ) -> Any:
                    return importance_sample(
                        freed.model,
                        freed.guide,
                        (*freed.rows, *free),
                        num_samples=num_samples,
                        batch_size=len(free[0]),
                        seed=noise,
                        plate=plate,
                        compile=False,
                        progress=False,
                    )

                amortised = score(freed.free)
                advance = bar.advance if progress else lambda: None
                best = score(_optimised(freed, num_steps, lr, plate, advance))
                parts.append((best.log_likelihood, best.elbo, amortised.elbo, best.pareto_k))
    if not parts:
        raise InputError("the data gave no batch")
    estimated, best_elbo, elbo, pareto = (torch.cat(part) for part in zip(*parts, strict=True))
    known = estimated if log_likelihood is None else log_likelihood.to(estimated)
    return InferenceGap(known, best_elbo, elbo, pareto)


def _check(
    num_steps: int,
    lr: float,
    num_samples: int,
    log_likelihood: Float[Tensor, "data"] | None,
    num_data: int,
) -> None:
    if num_steps < 1:
        raise InputError(f"num_steps is {num_steps}; it must be 1 or more")
    if not lr > 0:
        raise InputError(f"lr is {lr:g}; it must be positive")
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; an error needs 2 samples or more")
    if log_likelihood is not None and len(log_likelihood) != num_data:
        raise InputError(
            f"log_likelihood has {len(log_likelihood)} entries for {num_data} data; give one each"
        )


@dataclass(frozen=True)
class _FreedLatent:
    """q of one latent as a function of unconstrained parameters, rows of which are of one datum."""

    latent: LocalLatent
    family: Any
    transforms: dict[str, Any]
    num_reinterpreted: int

    def q(self, free: Sequence[Tensor]) -> Any:
        parameters = {
            name: transform(rows.movedim(0, self.latent.data_axis))
            for (name, transform), rows in zip(self.transforms.items(), free, strict=True)
        }
        return self.family(**parameters).to_event(self.num_reinterpreted)


@dataclass(frozen=True)
class _FreedPair:
    """A pair for one batch whose arguments are the rows of data, then those of free parameters."""

    pair: Pair
    batch: Sequence[Any]
    latents: list[_FreedLatent]
    free: list[Tensor]

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
        """Sample each latent in its plates, that over data being as long as the rows are."""
        free = iter(args[-len(self.free) :])
        plates: dict[str, Any] = {}
        for each in self.latents:
            q = each.q([next(free) for _ in each.transforms])
            with ExitStack() as within:
                for frame in each.latent.frames:
                    size = q.batch_shape[frame.dim]
                    is_whole = frame.full_size in (None, frame.size)
                    declared = size if is_whole else frame.full_size
                    if frame.name not in plates:
                        plates[frame.name] = pyro.plate(frame.name, declared, size, dim=frame.dim)
                    within.enter_context(plates[frame.name])
                pyro.sample(each.latent.name, q)


def _freed(pair: Pair, batch: Sequence[Any], plate: str) -> _FreedPair:
    latents, free = [], []
    for latent in find_local_latents(pair, batch, plate):
        freed, rows = _free(latent)
        latents.append(freed)
        free.extend(rows)
    if not free:
        raise InputError("the pair has no latents, so that there is nothing to infer")
    return _FreedPair(pair, batch, latents, free)


def _free(latent: LocalLatent) -> tuple[_FreedLatent, list[Tensor]]:
    """A latent's q with the parameters that it has now, made unconstrained."""
    base = unwrap_independent(latent.q)
    family = type(base)
    if not base.has_rsample or isinstance(base, Delta):
        raise InputError(
            f"the guide's distribution of site {latent.name!r}, {family.__name__}, has no "
            "reparameterised samples with a density, by whose gradients it could be optimised; "
            "use another family, such as Normal"
        )
    try:
        freed, rows = _unconstrained(latent, base)
        value = latent.q.sample()
        is_same = torch.allclose(
            freed.q(rows).log_prob(value), latent.q.log_prob(value), rtol=1e-3, atol=1e-3
        )
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise _cannot_be_freed(latent, family) from error
    if not is_same:
        raise _cannot_be_freed(latent, family)
    return freed, rows


def _unconstrained(latent: LocalLatent, base: Any) -> tuple[_FreedLatent, list[Tensor]]:
    constraints = type(base).arg_constraints
    if not isinstance(constraints, dict):
        raise TypeError("the constraints of one parameter depend on others")
    transforms, rows = {}, []
    for name, constraint in constraints.items():
        if _SECONDARY.get(name) in constraints:
            continue
        transforms[name] = transform_to(constraint)
        value = getattr(base, name)
        event_shape = value.shape[value.ndim - constraint.event_dim :]
        free = transforms[name].inv(value.expand(base.batch_shape + event_shape))
        rows.append(free.movedim(latent.data_axis, 0).contiguous())
    num_reinterpreted = len(base.batch_shape) - len(latent.q.batch_shape)
    return _FreedLatent(latent, type(base), transforms, num_reinterpreted), rows


def _cannot_be_freed(latent: LocalLatent, family: Any) -> InputError:
    return InputError(
        f"the guide's distribution of site {latent.name!r}, {family.__name__}, cannot be rebuilt "
        "from unconstrained parameters, so that its family cannot be searched; use one with "
        "parameters of fixed constraints, such as Normal or MultivariateNormal"
    )


def _optimised(
    freed: _FreedPair, num_steps: int, lr: float, plate: str, advance: Callable[[], None]
) -> list[Tensor]:
    """The free parameters at which the ELBO of each datum is largest."""
    free = [part.clone().requires_grad_() for part in freed.free]
    args = (*freed.rows, *free)
    particles = Particles(freed.model, freed.guide, _PARTICLES, plate, args, {})
    optimiser = torch.optim.Adam(free, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / num_steps)
    sums = [torch.zeros_like(part) for part in freed.free]
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
