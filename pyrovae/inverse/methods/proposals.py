"""Draws from the guide as they are, and draws weighted by how likely they are."""

from collections.abc import Mapping
from math import log
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...declared import parse_declaration
from ...infer.estimators.pareto import pareto_k
from ..observed_pair import Observed, Parts
from .method import Advance, Diagnostics, Drawn, Method, at_least
from .refined import Refined

__all__ = ["Amortised", "Importance", "systematic_resample"]


class Amortised(Method):
    """z ~ q(z | start(y)): the encoder, shown y filled in.

    Exact where the encoder is, as that of a model that was trained on data with missing entries may
    nearly be; else a start.

    Diagnostics: ``elbo``, the bound on log p(y) in nats; ``effective_samples`` of the draws and
    ``pareto_k`` of the weights p(y, z) / q(z) that they are not given.
    """

    def draw(self, pair: Observed, parts: Parts, num_samples: int, advance: Advance) -> Drawn:
        """Latents from the guide."""
        latents, log_weights = pair.propose(parts, num_samples)
        advance()
        return Drawn(latents, {"elbo": log_weights.mean(1)} | _of_weights(log_weights))


class Importance(Method):
    """z drawn from a proposal q(z | y), then drawn again with probability in proportion to
    w = p(y, z) / q(z | y) (sampling importance resampling; Rubin 1987), systematically.

    Diagnostics: ``effective_samples``, (sum w)^2 / sum w^2 out of ``num_proposals``; ``pareto_k``,
    above 0.7 where the weights cannot be trusted however many they are (Vehtari et al. 2024);
    ``log_likelihood``, the estimate of log p(y) in nats, and its ``standard_error``.

    Arguments:
        proposal: ``amortised``, the encoder shown y filled in, or ``refined``, with the settings
            of :class:`Refined`.
        num_proposals: draws from it for each datum.

    Raises:
        InputError: if there is no such proposal.
    """

    def __init__(
        self, proposal: str | Mapping[str, Any] = "refined", num_proposals: int = 2000
    ) -> None:
        at_least(2, num_proposals=num_proposals)
        name, settings = parse_declaration(
            "proposal", {"amortised": Amortised, "refined": Refined}, proposal
        )
        self.refined = Refined(**settings) if name == "refined" else None
        self.num_proposals = num_proposals
        self.needs_gradient = self.refined is not None

    @property
    def num_steps_of_batch(self) -> int:
        """Those that find the proposal, and one to draw."""
        return 1 + (self.refined.num_steps_of_batch if self.refined else 0)

    def draw(self, pair: Observed, parts: Parts, num_samples: int, advance: Advance) -> Drawn:
        """Latents from the weighted proposals."""
        if self.refined is None:
            proposed, log_weights = pair.propose(parts, self.num_proposals)
            rows = systematic_resample(log_weights, num_samples)
            latents = {name: value[rows] for name, value in proposed.items()}
        else:
            refined = self.refined.refine(pair, parts, advance)
            position, log_weights = refined.proposals(self.num_proposals)
            rows = systematic_resample(log_weights, num_samples)
            latents = refined.latents_at(position[rows])
        advance()
        log_weights = log_weights.nan_to_num(-torch.inf)  # as they were drawn by
        return Drawn(latents, _of_weights(log_weights) | _evidence(log_weights))


def systematic_resample(log_weights: Float[Tensor, "data draws"], num: int) -> Int[Tensor, "rows"]:
    """Row numbers, with probability in proportion to the weights, in random order for each datum.

    One uniform number serves all draws of a datum, so that the number of times that one comes
    differs from its expectation by less than one (Kitagawa 1996).

    Arguments:
        log_weights: of rows that stand in succession for each datum.
        num: rows to draw for each datum.

    Raises:
        FloatingPointError: if a datum has no weight that is a number above zero.
    """
    num_data, num_draws = log_weights.shape
    without = int((~log_weights.isfinite()).all(1).sum())
    if without:
        raise FloatingPointError(
            f"p(z | y) of {without} data cannot be drawn from: a density of the model or the guide "
            "is not a number there, or no proposal can have given y"
        )
    sums = log_weights.double().nan_to_num(-torch.inf).softmax(1).cumsum(1)
    first = torch.rand(num_data, 1, dtype=sums.dtype, device=sums.device)
    ticks = (torch.arange(num, dtype=sums.dtype, device=sums.device) + first) / num
    drawn = torch.searchsorted(sums, ticks * sums[:, -1:]).clamp_max(num_draws - 1)
    shuffled = torch.rand(drawn.shape, device=drawn.device).argsort(1)
    start = torch.arange(num_data, device=drawn.device)[:, None] * num_draws
    return (drawn.gather(1, shuffled) + start).flatten()


def _of_weights(log_weights: Float[Tensor, "data draws"]) -> Diagnostics:
    return {
        "effective_samples": 1 / log_weights.softmax(1).square().sum(1),
        "pareto_k": pareto_k(log_weights),
    }


def _evidence(log_weights: Float[Tensor, "data draws"]) -> Diagnostics:
    num = log_weights.shape[1]
    effective = 1 / log_weights.softmax(1).square().sum(1)
    return {
        "log_likelihood": log_weights.logsumexp(1) - log(num),
        "standard_error": ((num / effective - 1).clamp_min(0) / (num - 1)).sqrt(),
    }
