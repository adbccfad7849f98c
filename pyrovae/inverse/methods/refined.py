"""Gradient steps on q(z | y) of each datum."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...declared import build_part, parse_declaration
from ...errors import InputError
from ...infer.estimators.densities import RowDensities
from ...infer.estimators.pareto import pareto_k
from ...posteriors import POSTERIORS
from ..observed_pair import Observed, Parts
from .method import Advance, Drawn, Method, at_least

__all__ = ["Refined", "Refinement"]

_FOR_START = 64
"""Draws from the guide for each datum, by which q is placed before the first step."""

_FOR_DIAGNOSTICS = 500
"""Draws from q by which it is judged."""

_LEAST_SPREAD = 1e-6

_FASTER = 3.0
"""Than later, steps go that place q."""

_CONTINUOUS = {
    name: POSTERIORS[name] for name in ("diagonal", "full_rank", "low_rank", "iaf", "spline")
}

_OF_POSTERIORS = ("latent_dim", "event_shape")
"""Arguments of a posterior that are no settings."""


class Refined(Method):
    """q(z | y) of each datum by itself, found by gradient ascent on its ELBO.

        ELBO(h) = E_q[log p(y, z) - log q(z; h)] <= log p(y),   z = m + s u,  u ~ posterior(h)

    u has any posterior of :mod:`pyrovae.posteriors` over the whole vector of latents, mapped to R^n
    where they have other supports. A third of the steps place it: with m and s the mean and
    standard deviation of draws from the guide (the amortised start), a factorised q climbs with
    three times the learning rate, as the encoder may be far off, and where it ends are the m and s
    of the other steps. h, and the parameters of a posterior that has some, such as a flow, follow
    Adam with a learning rate that falls to zero along a cosine. The gradient is that through the
    samples alone (Roeder et al. 2017), which vanishes where q is p(z | y).

    Diagnostics: ``elbo`` in nats, ``elbo_start`` before the first step, ``effective_samples`` out
    of 500 and ``pareto_k`` of the weights p(y, z) / q(z), which tell how near q is to p(z | y).

    Arguments:
        posterior: the family of q, by name or settings: ``diagonal``, ``full_rank``,
            ``low_rank``, ``iaf`` or ``spline``. Where much is missing, latents hang together, and
            a full rank tells; it has D (D + 3) / 2 numbers for D latent dimensions.
        num_steps: steps.
        lr: learning rate of the first step that is not to place q, in units of h.
        num_particles: samples of z in a step.

    Raises:
        InputError: if a number is not positive, or there is no such posterior.
    """

    needs_gradient = True

    def __init__(
        self,
        posterior: str | Mapping[str, Any] = "full_rank",
        num_steps: int = 300,
        lr: float = 0.1,
        num_particles: int = 16,
    ) -> None:
        at_least(1, num_steps=num_steps, num_particles=num_particles)
        if not 0 < lr < torch.inf:
            raise InputError(f"lr is {lr}; it must be a finite number above 0")
        parse_declaration("posterior", _CONTINUOUS, posterior, *_OF_POSTERIORS)
        self.posterior, self.num_steps = posterior, num_steps
        self.lr, self.num_particles = lr, num_particles

    @property
    def num_steps_of_batch(self) -> int:
        """A step of Adam each."""
        return self.num_steps

    def draw(self, pair: Observed, parts: Parts, num_samples: int, advance: Advance) -> Drawn:
        """Latents from the refined q."""
        refined = self.refine(pair, parts, advance)
        return Drawn(refined.latents(num_samples), refined.diagnostics())

    def refine(
        self, pair: Observed, parts: Parts, advance: Advance, log_noise: Tensor | None = None
    ) -> "Refinement":
        """The steps themselves.

        Arguments:
            pair: p(y, z) and q(z | start(y)).
            parts: of the batch.
            advance: called after each step.
            log_noise: the logarithm of the noise of each datum, climbed too, in place.
        """
        refinement = Refinement(pair, parts)
        num_placing = self.num_steps // 3
        self._climb(refinement, num_placing, _FASTER * self.lr, advance, log_noise)
        refinement = refinement.of(self.posterior)
        self._climb(refinement, self.num_steps - num_placing, self.lr, advance, log_noise)
        return refinement

    def _climb(
        self,
        refinement: "Refinement",
        num_steps: int,
        lr: float,
        advance: Advance,
        log_noise: Tensor | None,
    ) -> None:
        trained = refinement.parameters + ([] if log_noise is None else [log_noise])
        for tensor in trained:
            tensor.requires_grad_()
        optimiser = torch.optim.Adam(trained, lr=lr, betas=(0.9, 0.99))
        schedule = CosineAnnealingLR(optimiser, max(1, num_steps))
        for _ in range(num_steps):
            with torch.enable_grad():
                loss = -refinement.elbo(self.num_particles, log_noise).sum()
                gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            for tensor, gradient in zip(trained, gradients, strict=True):
                # Of a datum whose density overflowed: it waits for a better sample.
                tensor.grad = None if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
            optimiser.step()
            schedule.step()
            advance()
        for tensor in trained:
            tensor.requires_grad_(False)


class Refinement:
    """q(z | y) of each datum of a batch, as far as it has been refined; factorised at first.

    Arguments:
        pair: p(y, z) and q(z | start(y)), draws from which place it.
        parts: of the batch.
    """

    def __init__(self, pair: Observed, parts: Parts) -> None:
        self.pair, self.parts = pair, parts
        self.num_data = len(parts.y)
        rows = parts.rows(_FOR_START)
        self._rows = _FOR_START, rows
        self._densities = RowDensities(pair.model, pair.guide, rows.flat, pair.plate)
        state = self._densities.start()
        draws = state.position.view(self.num_data, _FOR_START, -1)
        log_weights = (state.terms[1] - state.terms[0]).view(self.num_data, _FOR_START)
        self.elbo_start = log_weights.mean(1)
        self._loc = draws.mean(1, keepdim=True)
        self._scale = draws.std(1, keepdim=True).clamp_min(_LEAST_SPREAD)
        self._begin("diagonal")

    def of(self, posterior: str | Mapping[str, Any]) -> "Refinement":
        """One of another family, placed where this one, which is factorised, has come to."""
        other = copy(self)
        u = self.q(self.h)
        other._loc = self._loc + self._scale * u.mean.unsqueeze(1)
        other._scale = (self._scale * u.stddev.unsqueeze(1)).clamp_min(_LEAST_SPREAD)
        other._begin(posterior)
        return other

    def _begin(self, posterior: str | Mapping[str, Any]) -> None:
        num_dims = self._loc.shape[2]
        self.q: Any = build_part(
            "posterior", _CONTINUOUS, posterior, latent_dim=num_dims, event_shape=(num_dims,)
        ).to(self._loc)
        in_shape: Any = self.q.in_shape
        self.h = self._loc.new_zeros(self.num_data, *in_shape)
        for parameter in self.q.parameters():
            parameter.requires_grad_(False)

    @property
    def parameters(self) -> list[Tensor]:
        """h, and the parameters of the posterior."""
        return [self.h, *self.q.parameters()]

    def sample(
        self, num: int, *, fixed: bool = False
    ) -> tuple[Float[Tensor, "rows dims"], Float[Tensor, "rows"]]:
        """Draws of the vector of latents, rows of one datum in succession, and their log q.

        Arguments:
            num: draws for each datum.
            fixed: whether log q is a function of the draws alone, without its own gradients.
        """
        u = self.q(self.h).rsample((num,))
        q = self._fixed() if fixed else self.q(self.h)
        log_q = q.log_prob(u).mT - self._scale.log().sum(2)
        position = self._loc + self._scale * u.transpose(0, 1)
        return position.flatten(0, 1), log_q.flatten()

    def elbo(self, num: int, log_noise: Tensor | None = None) -> Float[Tensor, "data"]:
        """Of each datum, from so many samples; its gradient is that through the samples."""
        position, log_q = self.sample(num, fixed=True)
        log_joint = self._of_rows(num, log_noise)(position)[1]
        return (log_joint - log_q).view(self.num_data, num).mean(1)

    def proposals(self, num: int) -> tuple[Float[Tensor, "rows dims"], Float[Tensor, "data draws"]]:
        """Draws of the vector, and log p(y, z) / q(z)."""
        position, log_q = self.sample(num)
        parts = position.view(self.num_data, num, -1).split(self.pair.at_once(self.num_data), 1)
        log_joint = torch.cat([self._log_joint(part) for part in parts], 1)
        return position, log_joint - log_q.view(self.num_data, num)

    def latents(self, num: int) -> dict[str, Tensor]:
        """Latents of each datum, rows of one in succession."""
        return self.latents_at(self.sample(num)[0])

    def latents_at(self, position: Float[Tensor, "rows dims"]) -> dict[str, Tensor]:
        """The latents that vectors stand for."""
        num = len(position) // self.num_data
        return self._of_rows(num).latents(position)

    def diagnostics(self) -> dict[str, Tensor]:
        """How good q is."""
        _, log_weights = self.proposals(_FOR_DIAGNOSTICS)
        return {
            "elbo": log_weights.mean(1),
            "elbo_start": self.elbo_start,
            "effective_samples": 1 / log_weights.softmax(1).square().sum(1),
            "pareto_k": pareto_k(log_weights),
        }

    def _log_joint(self, position: Float[Tensor, "data draws dims"]) -> Float[Tensor, "data draws"]:
        log_joint: Tensor = self._of_rows(position.shape[1])(position.flatten(0, 1))[1]
        return log_joint.view(position.shape[:2])

    def _of_rows(self, num: int, log_noise: Tensor | None = None) -> RowDensities:
        known, rows = self._rows
        if known != num:  # steps are all of one number
            rows = self.parts.rows(num)
            self._rows = num, rows
        if log_noise is not None:
            rows = rows.with_noise(log_noise.exp().repeat_interleave(num))
        return self._densities.with_rows(rows.flat)

    def _fixed(self) -> Any:
        state = {name: t.detach() for name, t in self.q.state_dict().items()}
        return functional_call(self.q, state, (self.h.detach(),))
