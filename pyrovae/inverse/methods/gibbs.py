"""Chains that alternate between the latents and what is missing of the datum."""

from abc import abstractmethod
from math import ceil

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..observed_pair import Latents, Observed, Parts, drawn, log_weights
from .chains import as_vectors, of_chains
from .method import Advance, Diagnostics, Drawn, Method, at_least

__all__ = ["MetropolisWithinGibbs", "PseudoGibbs"]


class _Alternating(Method):
    """x starts from p(x | y, z) at z ~ q(z | start(y)); settings are those of the methods."""

    needs_datum = True

    def __init__(self, num_chains: int = 10, burn_in: int = 200, thin: int = 5) -> None:
        at_least(1, num_chains=num_chains, thin=thin)
        at_least(0, burn_in=burn_in)
        self.num_chains, self.burn_in, self.thin = num_chains, burn_in, thin

    @abstractmethod
    def round(
        self, pair: Observed, latents: Latents, rows: tuple[Tensor, ...], round_number: int
    ) -> tuple[Latents, Float[Tensor, "rows"]]:
        """The next latents given x, and which of the rows moved.

        Arguments:
            pair: p(x, z) and q(z | x).
            latents: those of the round before.
            rows: (x, *given).
            round_number: from 0.
        """

    def draw(self, pair: Observed, parts: Parts, num_samples: int, advance: Advance) -> Drawn:
        """Latents from the last rounds of all chains."""
        rows = parts.rows(self.num_chains)
        latents, _ = pair.propose(parts, self.num_chains)
        kept: list[Latents] = []
        moves = []
        num_kept = ceil(num_samples / self.num_chains)
        for number in range(self.burn_in + num_kept * self.thin):
            x = self._complete(pair, latents, rows)
            latents, moved = self.round(pair, latents, (x, *rows.given), number)
            if number >= self.burn_in:
                moves.append(moved)
                if (number - self.burn_in + 1) % self.thin == 0:
                    kept.append(latents)
        advance()
        shape = (num_kept, len(parts.y), self.num_chains)
        vectors = torch.stack([as_vectors(each) for each in kept])
        diagnostics = of_chains(vectors.view(*shape, -1)) | self.diagnostics(
            torch.stack(moves).mean(0).view(-1, self.num_chains).mean(1)
        )
        return Drawn(
            {
                name: _in_succession(torch.stack([each[name] for each in kept]), shape, num_samples)
                for name in latents
            },
            diagnostics,
        )

    def diagnostics(self, moved: Float[Tensor, "data"]) -> Diagnostics:
        """What there is to say beside what all chains say."""
        return {}

    def _complete(self, pair: Observed, latents: Latents, rows: Parts) -> Num[Tensor, "..."]:
        x: Tensor = pair.restored(latents, rows).sample()
        return x


class PseudoGibbs(_Alternating):
    """z ~ q(z | x), then x ~ p(x | y, z), and again (Rezende et al. 2014, appendix F).

    Its limit is p(x, z | y) if q(z | x) is p(z | x), and as far from it as q is, which the chain
    itself does not show. For complete data the encoder is never shown anything but whole data.

    Diagnostics: ``r_hat`` and ``effective_samples``, see
    :func:`~pyrovae.inverse.methods.chains.of_chains`.

    Arguments:
        num_chains: chains of each datum, all at once.
        burn_in: rounds that are thrown away.
        thin: rounds from one draw that is kept to the next.

    Raises:
        InputError: if a number is too small.
    """

    def round(
        self, pair: Observed, latents: Latents, rows: tuple[Tensor, ...], round_number: int
    ) -> tuple[Latents, Float[Tensor, "rows"]]:
        """z ~ q(z | x)."""
        latents, _ = drawn(pair.of_x, pair.guide_of_x, rows, pair.plate)
        return latents, torch.ones(len(rows[0]), device=rows[0].device)


class MetropolisWithinGibbs(_Alternating):
    """Pseudo-Gibbs whose z ~ q(z | x) is a proposal, accepted with probability

        min(1, p(x, z') q(z | x) / (p(x, z) q(z' | x))),

    so that the limit is p(x, z | y) whatever q is (Mattei and Frellsen 2018). The first
    ``pseudo_gibbs`` rounds accept all, which brings chains near.

    Diagnostics: ``acceptance`` after the burn-in, ``r_hat`` and ``effective_samples``, see
    :func:`~pyrovae.inverse.methods.chains.of_chains`.

    Arguments:
        num_chains: chains of each datum, all at once.
        burn_in: rounds that are thrown away.
        thin: rounds from one draw that is kept to the next.
        pseudo_gibbs: rounds of the burn-in that accept all.

    Raises:
        InputError: if a number is too small.
    """

    def __init__(
        self, num_chains: int = 10, burn_in: int = 200, thin: int = 5, pseudo_gibbs: int = 20
    ) -> None:
        super().__init__(num_chains, burn_in, thin)
        at_least(0, pseudo_gibbs=pseudo_gibbs)
        self.pseudo_gibbs = min(pseudo_gibbs, burn_in)

    def round(
        self, pair: Observed, latents: Latents, rows: tuple[Tensor, ...], round_number: int
    ) -> tuple[Latents, Float[Tensor, "rows"]]:
        """A proposal, accepted or not."""
        model, guide, plate = pair.of_x, pair.guide_of_x, pair.plate
        proposed, log_new = drawn(model, guide, rows, plate)
        if round_number < self.pseudo_gibbs:
            return proposed, torch.ones_like(log_new)
        log_old = log_weights(model, guide, latents, rows, plate)
        ratio = (log_new - log_old).nan_to_num(-torch.inf).exp()
        accepted = torch.rand_like(ratio) < ratio

        def of_those(name: str) -> Tensor:
            new, old = proposed[name], latents[name]
            return torch.where(accepted.view(-1, *[1] * (new.ndim - 1)), new, old)

        return {name: of_those(name) for name in latents}, accepted.to(ratio.dtype)

    def diagnostics(self, moved: Float[Tensor, "data"]) -> Diagnostics:
        """The acceptance."""
        return {"acceptance": moved}


def _in_succession(
    values: Num[Tensor, "kept rows ..."], shape: tuple[int, int, int], num_samples: int
) -> Num[Tensor, "draws ..."]:
    """Rows of one datum in succession, so many of each."""
    kept, num_data, num_chains = shape
    event = values.shape[2:]
    by_datum = values.view(kept, num_data, num_chains, *event).transpose(0, 1)
    return by_datum.reshape(num_data, -1, *event)[:, :num_samples].flatten(0, 1)
