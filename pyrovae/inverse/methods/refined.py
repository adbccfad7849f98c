"""Gradient ascent on a q(z | y) of each datum."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.optim.lr_scheduler import CosineAnnealingLR

from ...arguments import as_real
from ...declared import build_part, parse_declaration
from ...infer.estimators.densities import RowDensities
from ...infer.estimators.pareto import pareto_k
from ...posteriors import POSTERIORS
from ..observed_pair import Inputs, ObservedPair
from .method import Advance, LatentDraws, Method, check_at_least

__all__ = ["Refined", "Refinement"]

_NUM_START_DRAWS = 64
"""Draws from the guide for each datum, which set m and s before the first step."""

_NUM_DIAGNOSTIC_DRAWS = 500
"""Draws from q for its diagnostics."""

_MIN_SCALE = 1e-6

_PLACING_LR_FACTOR = 3.0
"""How many times larger the learning rate is while q is placed."""

_CONTINUOUS = {
    name: POSTERIORS[name] for name in ("diagonal", "full_rank", "low_rank", "iaf", "spline")
}

_SHAPE_ARGUMENTS = ("latent_dim", "event_shape")
"""Arguments of a posterior that a user does not set."""


class Refined(Method):
    """A q(z | y) for each datum, found by gradient ascent on its ELBO:

        ELBO(h) = E_q[log p(y, z) - log q(z; h)] <= log p(y),   z = m + s u,  u ~ posterior(h)

    u has any posterior of :mod:`pyrovae.posteriors`, over the vector of all latents; latents with
    other supports are mapped to R^n. The first third of the steps place q: m and s start as the
    mean and standard deviation of draws from the guide (the amortised start), and a fully
    factorised q climbs with three times the learning rate, as the encoder may be far off. Its mean
    and standard deviation are the m and s of the remaining steps. Adam updates h, and the
    parameters of a posterior that has some, such as a flow; its learning rate falls to zero along a
    cosine. The gradient is the one through the samples alone (Roeder et al. 2017), which vanishes
    where q is p(z | y).

    Diagnostics: ``elbo`` in nats; ``elbo_start``, before the first step; ``effective_samples`` out
    of 500 and ``pareto_k`` of the importance weights p(y, z) / q(z), which show how near q is to
    p(z | y).

    Arguments:
        posterior: the family of q, by name or settings: ``diagonal``, ``full_rank``,
            ``low_rank``, ``iaf`` or ``spline``. Where much is missing, latents are correlated, and
            ``full_rank`` is better; it has D (D + 3) / 2 numbers for D latent dimensions.
        num_steps: steps, including those that place q.
        lr: learning rate of the first step after q is placed, in units of h.
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
        check_at_least(1, num_steps=num_steps, num_particles=num_particles)
        lr = as_real("lr", lr, above=0)
        parse_declaration("posterior", _CONTINUOUS, posterior, *_SHAPE_ARGUMENTS)
        self.posterior, self.num_steps = posterior, num_steps
        self.lr, self.num_particles = lr, num_particles

    @property
    def num_steps_of_batch(self) -> int:
        """One for each step of Adam."""
        return self.num_steps

    def draw(
        self, pair: ObservedPair, inputs: Inputs, num_samples: int, advance: Advance
    ) -> LatentDraws:
        """Refine q, and draw latents from it."""
        refined = self.refine(pair, inputs, advance)
        return LatentDraws(refined.sample_latents(num_samples), refined.diagnostics())

    def refine(
        self, pair: ObservedPair, inputs: Inputs, advance: Advance, log_noise: Tensor | None = None
    ) -> "Refinement":
        """Take all steps.

        Arguments:
            pair: p(y, z) and q(z | start(y)).
            inputs: arguments of the pair for this batch.
            advance: advances the progress bar; called after each step.
            log_noise: the logarithm of the noise of each datum, which the steps optimise too, in
                place; left alone unless given.
        """
        refinement = Refinement(pair, inputs)
        num_placing = self.num_steps // 3
        self._ascend(refinement, num_placing, _PLACING_LR_FACTOR * self.lr, advance, log_noise)
        refinement = refinement.with_posterior(self.posterior)
        self._ascend(refinement, self.num_steps - num_placing, self.lr, advance, log_noise)
        return refinement

    def _ascend(
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
                # A datum whose density overflowed waits for a better sample.
                tensor.grad = None if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
            optimiser.step()
            schedule.step()
            advance()
        for tensor in trained:
            tensor.requires_grad_(False)


class Refinement:
    """A q(z | y) for each datum of a batch; fully factorised at first.

    Arguments:
        pair: p(y, z) and q(z | start(y)); draws from the latter set m and s.
        inputs: arguments of the pair for this batch.
    """

    def __init__(self, pair: ObservedPair, inputs: Inputs) -> None:
        self.pair, self.inputs = pair, inputs
        self.num_data = len(inputs.y)
        rows = inputs.repeat(_NUM_START_DRAWS)
        self._rows = _NUM_START_DRAWS, rows
        self._densities = RowDensities(pair.model, pair.guide, rows.args, pair.plate)
        state = self._densities.start()
        draws = state.position.view(self.num_data, _NUM_START_DRAWS, -1)
        log_weights = (state.terms[1] - state.terms[0]).view(self.num_data, _NUM_START_DRAWS)
        self.elbo_start = log_weights.mean(1)
        self._loc = draws.mean(1, keepdim=True)
        self._scale = draws.std(1, keepdim=True).clamp_min(_MIN_SCALE)
        self._set_posterior("diagonal")

    def with_posterior(self, posterior: str | Mapping[str, Any]) -> "Refinement":
        """Change to another family, with the mean and standard deviation of this one as m and s."""
        other = copy(self)
        u = self.q(self.h)
        other._loc = self._loc + self._scale * u.mean.unsqueeze(1)
        other._scale = (self._scale * u.stddev.unsqueeze(1)).clamp_min(_MIN_SCALE)
        other._set_posterior(posterior)
        return other

    def _set_posterior(self, posterior: str | Mapping[str, Any]) -> None:
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
        """The tensors to optimise: h, and the parameters of the posterior."""
        return [self.h, *self.q.parameters()]

    def sample(
        self, num: int, *, fixed: bool = False
    ) -> tuple[Float[Tensor, "rows dims"], Float[Tensor, "rows"]]:
        """Draw the vector of latents, and compute log q of each draw.

        Arguments:
            num: draws for each datum, which follow each other.
            fixed: whether to hold q fixed in log q, so that its gradient is the one through the
                draws alone.
        """
        u = self.q(self.h).rsample((num,))
        q = self._detached_q() if fixed else self.q(self.h)
        log_q = q.log_prob(u).mT - self._scale.log().sum(2)
        position = self._loc + self._scale * u.transpose(0, 1)
        return position.flatten(0, 1), log_q.flatten()

    def elbo(self, num: int, log_noise: Tensor | None = None) -> Float[Tensor, "data"]:
        """Estimate the ELBO of each datum; its gradient is the one through the samples alone."""
        position, log_q = self.sample(num, fixed=True)
        log_joint = self._densities_for(num, log_noise)(position)[1]
        return (log_joint - log_q).view(self.num_data, num).mean(1)

    def propose(self, num: int) -> tuple[Float[Tensor, "rows dims"], Float[Tensor, "data draws"]]:
        """Draw the vector of latents, and compute log p(y, z) / q(z)."""
        position, log_q = self.sample(num)
        chunks = position.view(self.num_data, num, -1).split(
            self.pair.max_draws_at_once(self.num_data), 1
        )
        log_joint = torch.cat([self._log_joint(chunk) for chunk in chunks], 1)
        return position, log_joint - log_q.view(self.num_data, num)

    def sample_latents(self, num: int) -> dict[str, Tensor]:
        """Draw latents; the draws of a datum follow each other."""
        return self.latents_at(self.sample(num)[0])

    def latents_at(self, position: Float[Tensor, "rows dims"]) -> dict[str, Tensor]:
        """Map vectors to latents by site."""
        num = len(position) // self.num_data
        return self._densities_for(num).latents(position)

    def diagnostics(self) -> dict[str, Tensor]:
        """Measure how good q is."""
        _, log_weights = self.propose(_NUM_DIAGNOSTIC_DRAWS)
        return {
            "elbo": log_weights.mean(1),
            "elbo_start": self.elbo_start,
            "effective_samples": 1 / log_weights.softmax(1).square().sum(1),
            "pareto_k": pareto_k(log_weights),
        }

    def _log_joint(self, position: Float[Tensor, "data draws dims"]) -> Float[Tensor, "data draws"]:
        log_joint: Tensor = self._densities_for(position.shape[1])(position.flatten(0, 1))[1]
        return log_joint.view(position.shape[:2])

    def _densities_for(self, num: int, log_noise: Tensor | None = None) -> RowDensities:
        cached_num, rows = self._rows
        if cached_num != num:  # all steps have the same number of draws
            rows = self.inputs.repeat(num)
            self._rows = num, rows
        if log_noise is not None:
            rows = rows.with_noise(log_noise.exp().repeat_interleave(num))
        return self._densities.with_rows(rows.args)

    def _detached_q(self) -> Any:
        return functional_call(self.q, self.q.state_dict(), (self.h.detach(),))
