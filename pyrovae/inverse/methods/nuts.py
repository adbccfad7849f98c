"""The no-U-turn sampler, on the latents of a few data at a time."""

from math import ceil

import torch
from pyro.infer import MCMC
from pyro.infer import NUTS as Kernel
from torch import Tensor

from ...arguments import as_real
from ...infer.estimators.densities import RowDensities
from ..observed_pair import Inputs, ObservedPair
from .chains import MIN_DRAWS, diagnose_chains
from .method import Advance, LatentDraws, Method, check_at_least

__all__ = ["NUTS"]

_AT_ONCE = 10
"""Data whose chains form one state: they share each gradient, but step sizes are smaller."""


class NUTS(Method):
    """Pyro's no-U-turn sampler (Hoffman and Gelman 2014) on p(y, z), with z mapped to R^n.

    It converges to p(z | y) whatever the guide is; the guide only gives chains their start. A draw
    takes some ten to a hundred gradients, so use it for few data, and latents of some tens of
    dimensions. The chains of ten data form one state; the warm-up adapts its step size and mass.

    Diagnostics: ``r_hat`` and ``effective_samples``, see
    :func:`~pyrovae.inverse.methods.chains.diagnose_chains`; ``divergences``, among the draws of
    the ten data that form one state, which should be 0.

    Arguments:
        num_chains: chains of each datum.
        warm_up: transitions to discard at the start.
        target_acceptance: acceptance probability to which the step size is adapted.

    Raises:
        InputError: if a number is too small, or the target is not between 0 and 1.
    """

    needs_gradient = True

    def __init__(
        self, num_chains: int = 2, warm_up: int = 200, target_acceptance: float = 0.8
    ) -> None:
        check_at_least(1, num_chains=num_chains, warm_up=warm_up)
        target_acceptance = as_real("target_acceptance", target_acceptance, above=0, below=1)
        self.num_chains, self.warm_up = num_chains, warm_up
        self.target_acceptance = target_acceptance

    def draw(
        self, pair: ObservedPair, inputs: Inputs, num_samples: int, advance: Advance
    ) -> LatentDraws:
        """Run all chains, and draw latents from them."""
        draws = [
            self._draw(pair, inputs.select(slice(i, i + _AT_ONCE)), num_samples)
            for i in range(0, len(inputs.y), _AT_ONCE)
        ]
        advance()
        first = draws[0]
        return LatentDraws(
            {name: torch.cat([each.latents[name] for each in draws]) for name in first.latents},
            {
                name: torch.cat([each.diagnostics[name] for each in draws])
                for name in first.diagnostics
            },
        )

    def _draw(self, pair: ObservedPair, inputs: Inputs, num_samples: int) -> LatentDraws:
        num_data = len(inputs.y)
        num_kept = max(ceil(num_samples / self.num_chains), MIN_DRAWS)
        rows = inputs.repeat(self.num_chains).args
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
        latents = densities.with_rows(inputs.repeat(num_samples).args).latents(position)
        return LatentDraws(
            latents,
            diagnose_chains(by_chain)
            | {"divergences": start.new_full((num_data,), float(divergences))},
        )
