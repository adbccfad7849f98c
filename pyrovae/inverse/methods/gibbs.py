"""Markov chains that alternate between the latents and the datum."""

from abc import abstractmethod
from math import ceil

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..observed_pair import Inputs, Latents, ObservedPair, compute_log_weights, draw_from_guide
from .chains import as_vectors, diagnose_chains
from .method import Advance, Diagnostics, LatentDraws, Method, check_at_least

__all__ = ["MetropolisWithinGibbs", "PseudoGibbs"]


class _AlternatingChains(Method):
    """Alternating draws of z and x; x starts from p(x | y, z) at z ~ q(z | start(y))."""

    needs_datum = True

    def __init__(self, num_chains: int = 10, burn_in: int = 200, thin: int = 5) -> None:
        check_at_least(1, num_chains=num_chains, thin=thin)
        check_at_least(0, burn_in=burn_in)
        self.num_chains, self.burn_in, self.thin = num_chains, burn_in, thin

    @abstractmethod
    def update_latents(
        self, pair: ObservedPair, latents: Latents, rows: tuple[Tensor, ...], round_number: int
    ) -> tuple[Latents, Float[Tensor, "rows"]]:
        """Draw the next latents given x.

        Arguments:
            pair: p(x, z) and q(z | x).
            latents: latents of the previous round.
            rows: (x, *given).
            round_number: from 0.

        Returns:
            The latents, and 1 for each row that moved, 0 for the others.
        """

    def draw(
        self, pair: ObservedPair, inputs: Inputs, num_samples: int, advance: Advance
    ) -> LatentDraws:
        """Run all chains, and keep latents from their last rounds."""
        rows = inputs.repeat(self.num_chains)
        latents, _ = pair.propose(inputs, self.num_chains)
        kept: list[Latents] = []
        moves = []
        num_kept = ceil(num_samples / self.num_chains)
        for round_number in range(self.burn_in + num_kept * self.thin):
            x = self._draw_x(pair, latents, rows)
            latents, moved = self.update_latents(pair, latents, (x, *rows.given), round_number)
            if round_number >= self.burn_in:
                moves.append(moved)
                if (round_number - self.burn_in + 1) % self.thin == 0:
                    kept.append(latents)
        advance()
        shape = (num_kept, len(inputs.y), self.num_chains)
        vectors = torch.stack([as_vectors(each) for each in kept])
        diagnostics = diagnose_chains(vectors.view(*shape, -1)) | self._diagnose_moves(
            torch.stack(moves).mean(0).view(-1, self.num_chains).mean(1)
        )
        return LatentDraws(
            {
                name: _flatten_draws(torch.stack([each[name] for each in kept]), shape, num_samples)
                for name in latents
            },
            diagnostics,
        )

    def _diagnose_moves(self, moved: Float[Tensor, "data"]) -> Diagnostics:
        """Diagnostics of the method, in addition to those of its chains."""
        return {}

    def _draw_x(self, pair: ObservedPair, latents: Latents, rows: Inputs) -> Num[Tensor, "..."]:
        x: Tensor = pair.restore(latents, rows).sample()
        return x


class PseudoGibbs(_AlternatingChains):
    """z ~ q(z | x), then x ~ p(x | y, z), and again (Rezende et al. 2014, appendix F).

    The chain converges to p(x, z | y) if q(z | x) is p(z | x). Otherwise its limit is wrong by as
    much as q is, and no diagnostic of the chain shows it. The encoder only ever sees complete data,
    so this suits models that were trained on such data.

    Diagnostics: ``r_hat`` and ``effective_samples``, see
    :func:`~pyrovae.inverse.methods.chains.diagnose_chains`.

    Arguments:
        num_chains: chains of each datum, run together.
        burn_in: rounds to discard at the start.
        thin: keep one draw out of this many rounds.

    Raises:
        InputError: if a number is too small.
    """

    def update_latents(
        self, pair: ObservedPair, latents: Latents, rows: tuple[Tensor, ...], round_number: int
    ) -> tuple[Latents, Float[Tensor, "rows"]]:
        """z ~ q(z | x)."""
        latents, _ = draw_from_guide(pair.model_of_x, pair.guide_of_x, rows, pair.plate)
        return latents, torch.ones(len(rows[0]), device=rows[0].device)


class MetropolisWithinGibbs(_AlternatingChains):
    """Pseudo-Gibbs that takes z' ~ q(z | x) as a proposal, and accepts it with probability

        min(1, p(x, z') q(z | x) / (p(x, z) q(z' | x))).

    The chain converges to p(x, z | y) whatever q is (Mattei and Frellsen 2018). The first
    ``pseudo_gibbs`` rounds accept every proposal, which brings the chains near.

    Diagnostics: ``acceptance`` after the burn-in, ``r_hat`` and ``effective_samples``, see
    :func:`~pyrovae.inverse.methods.chains.diagnose_chains`.

    Arguments:
        num_chains: chains of each datum, run together.
        burn_in: rounds to discard at the start.
        thin: keep one draw out of this many rounds.
        pseudo_gibbs: rounds of the burn-in that accept every proposal.

    Raises:
        InputError: if a number is too small.
    """

    def __init__(
        self, num_chains: int = 10, burn_in: int = 200, thin: int = 5, pseudo_gibbs: int = 20
    ) -> None:
        super().__init__(num_chains, burn_in, thin)
        check_at_least(0, pseudo_gibbs=pseudo_gibbs)
        self.pseudo_gibbs = min(pseudo_gibbs, burn_in)

    def update_latents(
        self, pair: ObservedPair, latents: Latents, rows: tuple[Tensor, ...], round_number: int
    ) -> tuple[Latents, Float[Tensor, "rows"]]:
        """Propose z' ~ q(z | x), and accept or reject it."""
        model, guide, plate = pair.model_of_x, pair.guide_of_x, pair.plate
        proposed, log_new = draw_from_guide(model, guide, rows, plate)
        if round_number < self.pseudo_gibbs:
            return proposed, torch.ones_like(log_new)
        log_old = compute_log_weights(model, guide, latents, rows, plate)
        ratio = (log_new - log_old).nan_to_num(-torch.inf).exp()
        accepted = torch.rand_like(ratio) < ratio

        def select(name: str) -> Tensor:
            new, old = proposed[name], latents[name]
            return torch.where(accepted.view(-1, *[1] * (new.ndim - 1)), new, old)

        return {name: select(name) for name in latents}, accepted.to(ratio.dtype)

    def _diagnose_moves(self, moved: Float[Tensor, "data"]) -> Diagnostics:
        """The share of proposals that were accepted."""
        return {"acceptance": moved}


def _flatten_draws(
    values: Num[Tensor, "kept rows ..."], shape: tuple[int, int, int], num_samples: int
) -> Num[Tensor, "draws ..."]:
    """Reorder so that the draws of a datum follow each other, and keep ``num_samples`` of them."""
    kept, num_data, num_chains = shape
    event = values.shape[2:]
    by_datum = values.view(kept, num_data, num_chains, *event).transpose(0, 1)
    return by_datum.reshape(num_data, -1, *event)[:, :num_samples].flatten(0, 1)
