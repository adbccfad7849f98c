"""Draws from the guide as they are, or resampled by importance weights."""

from collections.abc import Mapping
from math import log
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...declared import parse_declaration
from ...infer.estimators.pareto import pareto_k
from ..observed_pair import Inputs, ObservedPair
from .method import Advance, Diagnostics, LatentDraws, Method, check_at_least
from .refined import Refined

__all__ = ["Amortised", "Importance", "systematic_resample"]


class Amortised(Method):
    """z ~ q(z | start(y)): the encoder applied to y, with missing entries filled in.

    It is as exact as the encoder. If the model was trained on data with missing entries, that can
    be nearly exact; otherwise take it as a first guess.

    Diagnostics: ``elbo``, the bound on log p(y) in nats; ``effective_samples`` and ``pareto_k`` of
    the importance weights p(y, z) / q(z), which the draws themselves do not use.
    """

    def draw(
        self, pair: ObservedPair, inputs: Inputs, num_samples: int, advance: Advance
    ) -> LatentDraws:
        """Draw latents from the guide."""
        latents, log_weights = pair.propose(inputs, num_samples)
        advance()
        return LatentDraws(
            latents, {"elbo": log_weights.mean(1)} | _weight_diagnostics(log_weights)
        )


class Importance(Method):
    """Sampling importance resampling (Rubin 1987): draw z from a proposal q(z | y), then resample
    systematically with probability in proportion to w = p(y, z) / q(z | y).

    Diagnostics: ``effective_samples``, (sum w)^2 / sum w^2 out of ``num_proposals``; ``pareto_k``:
    above 0.5 the standard error is too small, and above 0.7 do not trust the weights, however many
    there are (Vehtari et al. 2024); ``log_likelihood``, the estimate of log p(y) in nats, and its
    ``standard_error``.

    Arguments:
        proposal: ``amortised``, the encoder applied to y with missing entries filled in, or
            ``refined``, with the settings of :class:`Refined`.
        num_proposals: draws from the proposal for each datum.

    Raises:
        InputError: if there is no such proposal.
    """

    def __init__(
        self, proposal: str | Mapping[str, Any] = "refined", num_proposals: int = 2000
    ) -> None:
        check_at_least(2, num_proposals=num_proposals)
        name, settings = parse_declaration(
            "proposal", {"amortised": Amortised, "refined": Refined}, proposal
        )
        self.refined = Refined(**settings) if name == "refined" else None
        self.num_proposals = num_proposals
        self.needs_gradient = self.refined is not None

    @property
    def num_steps_of_batch(self) -> int:
        """The steps that refine the proposal, and one to draw."""
        return 1 + (self.refined.num_steps_of_batch if self.refined else 0)

    def draw(
        self, pair: ObservedPair, inputs: Inputs, num_samples: int, advance: Advance
    ) -> LatentDraws:
        """Draw latents from the weighted proposals."""
        if self.refined is None:
            proposed, log_weights = pair.propose(inputs, self.num_proposals)
            rows = systematic_resample(log_weights, num_samples)
            latents = {name: value[rows] for name, value in proposed.items()}
        else:
            refined = self.refined.refine(pair, inputs, advance)
            position, log_weights = refined.propose(self.num_proposals)
            rows = systematic_resample(log_weights, num_samples)
            latents = refined.latents_at(position[rows])
        advance()
        log_weights = log_weights.nan_to_num(-torch.inf)  # as systematic_resample does
        return LatentDraws(
            latents, _weight_diagnostics(log_weights) | _evidence_diagnostics(log_weights)
        )


def systematic_resample(log_weights: Float[Tensor, "data draws"], num: int) -> Int[Tensor, "rows"]:
    """Draw row numbers with probability in proportion to the weights, in random order.

    All draws of a datum share one uniform number, so that the count of each row differs from its
    expectation by less than one (Kitagawa 1996).

    Arguments:
        log_weights: logarithms of the importance weights.
        num: rows to draw for each datum.

    Returns:
        Numbers of rows, where the draws of a datum follow each other.

    Raises:
        FloatingPointError: if no weight of a datum is a finite number above zero.
    """
    num_data, num_draws = log_weights.shape
    num_failed = int((~log_weights.isfinite()).all(1).sum())
    if num_failed:
        raise FloatingPointError(
            f"cannot draw from p(z | y) for {num_failed} of {num_data} data: a density of the "
            "model or the guide is NaN or infinite there, or y has probability 0 under every "
            "proposal"
        )
    sums = log_weights.double().nan_to_num(-torch.inf).softmax(1).cumsum(1)
    first = torch.rand(num_data, 1, dtype=sums.dtype, device=sums.device)
    ticks = (torch.arange(num, dtype=sums.dtype, device=sums.device) + first) / num
    rows = torch.searchsorted(sums, ticks * sums[:, -1:]).clamp_max(num_draws - 1)
    order = torch.rand(rows.shape, device=rows.device).argsort(1)
    start = torch.arange(num_data, device=rows.device)[:, None] * num_draws
    return (rows.gather(1, order) + start).flatten()


def _weight_diagnostics(log_weights: Float[Tensor, "data draws"]) -> Diagnostics:
    return {
        "effective_samples": 1 / log_weights.softmax(1).square().sum(1),
        "pareto_k": pareto_k(log_weights),
    }


def _evidence_diagnostics(log_weights: Float[Tensor, "data draws"]) -> Diagnostics:
    num = log_weights.shape[1]
    effective = 1 / log_weights.softmax(1).square().sum(1)
    return {
        "log_likelihood": log_weights.logsumexp(1) - log(num),
        "standard_error": ((num / effective - 1).clamp_min(0) / (num - 1)).sqrt(),
    }
