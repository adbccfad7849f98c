"""The No-U-Turn sampler on the latents of a few data at a time."""

from math import ceil

import torch
from pyro.infer import MCMC
from pyro.infer import NUTS as Kernel
from torch import Tensor

from ...errors import InputError
from ...infer.estimators.densities import RowDensities
from ..observed_pair import Observed, Parts
from .chains import FEWEST, of_chains
from .method import Advance, Drawn, Method, at_least

__all__ = ["NUTS"]

_AT_ONCE = 10
"""Data whose chains move together: one gradient for all, a smaller step for each."""


class NUTS(Method):
    """Hamiltonian Monte Carlo whose trajectories end where they turn back (Hoffman and Gelman
    2014), Pyro's, on p(y, z) with z mapped to R^n.

    Its limit is p(z | y) whatever the guide is, which only gives chains their start. A gradient is
    taken at each of some ten to a hundred points for a draw, so it is for few data, and latents of
    some tens of dimensions. All chains of ten data are one state, whose step size and mass are
    adapted in the warm-up.

    Diagnostics: ``r_hat`` and ``effective_samples``, see
    :func:`~pyrovae.inverse.methods.chains.of_chains`; ``divergences`` among the draws of those data
    that moved together, none if all is well.

    Arguments:
        num_chains: chains of each datum.
        warm_up: transitions that are thrown away.
        target_acceptance: to which the step size is adapted.

    Raises:
        InputError: if a number is too small, or the target is no probability.
    """

    needs_gradient = True

    def __init__(
        self, num_chains: int = 2, warm_up: int = 200, target_acceptance: float = 0.8
    ) -> None:
        at_least(1, num_chains=num_chains, warm_up=warm_up)
        if not 0 < target_acceptance < 1:
            raise InputError(
                f"target_acceptance is {target_acceptance}; it is a probability between 0 and 1"
            )
        self.num_chains, self.warm_up = num_chains, warm_up
        self.target_acceptance = target_acceptance

    def draw(self, pair: Observed, parts: Parts, num_samples: int, advance: Advance) -> Drawn:
        """Latents from all chains."""
        found = [
            self._draw(pair, parts.of(slice(i, i + _AT_ONCE)), num_samples)
            for i in range(0, len(parts.y), _AT_ONCE)
        ]
        advance()
        first = found[0]
        return Drawn(
            {name: torch.cat([each.latents[name] for each in found]) for name in first.latents},
            {
                name: torch.cat([each.diagnostics[name] for each in found])
                for name in first.diagnostics
            },
        )

    def _draw(self, pair: Observed, parts: Parts, num_samples: int) -> Drawn:
        num_data = len(parts.y)
        num_kept = max(ceil(num_samples / self.num_chains), FEWEST)
        rows = parts.rows(self.num_chains).flat
        densities = RowDensities(pair.model, pair.guide, rows, pair.plate)
        start = densities.start().position
        log_joint = densities.with_rows(rows)

        def potential(at: dict[str, Tensor]) -> Tensor:
            return -log_joint(at["z"])[1].sum()

        kernel = Kernel(potential_fn=potential, target_accept_prob=self.target_acceptance)
        chain = MCMC(
            kernel,
            num_kept,
            warmup_steps=self.warm_up,
            initial_params={"z": start},
            disable_progbar=True,
        )
        with torch.enable_grad():
            chain.run()
        draws: Tensor = chain.get_samples()["z"].detach()
        by_chain = draws.view(num_kept, num_data, self.num_chains, -1)
        divergences = len(chain.diagnostics()["divergences"]["chain 0"])
        position = by_chain.transpose(0, 1).flatten(1, 2)[:, :num_samples].flatten(0, 1)
        latents = densities.with_rows(parts.rows(num_samples).flat).latents(position)
        return Drawn(
            latents,
            of_chains(by_chain) | {"divergences": start.new_full((num_data,), float(divergences))},
        )
