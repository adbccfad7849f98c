"""Convergence diagnostics of Markov chains."""

import torch
from jaxtyping import Float
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from ..observed_pair import Latents
from .method import Diagnostics

__all__ = ["MIN_DRAWS", "as_vectors", "diagnose_chains"]

MIN_DRAWS = 4
"""Fewest draws of a chain: split in two halves, each half still has a variance."""


def as_vectors(latents: Latents) -> Float[Tensor, "rows dims"]:
    """Concatenate all latents of a row."""
    flat = [value.reshape(len(value), -1) for value in latents.values()]
    dtype = next((v.dtype for v in flat if v.is_floating_point()), torch.get_default_dtype())
    return torch.cat([value.to(dtype) for value in flat], 1)


def diagnose_chains(draws: Float[Tensor, "kept data chains dims"]) -> Diagnostics:
    """Compute ``r_hat`` and ``effective_samples`` for each datum, each of its worst latent.

    ``r_hat`` compares halves of chains, and is 1 where they agree (Gelman et al. 2013). Both are
    NaN where a chain kept fewer than four draws. A latent with the same value in all draws, such as
    a class that is certain, counts as converged.
    """
    kept, num_data, num_chains, _ = draws.shape
    if kept < MIN_DRAWS:
        unknown = draws.new_full((num_data,), torch.nan)
        return {"r_hat": unknown, "effective_samples": unknown}
    is_constant = (draws == draws[:1, :, :1]).all(2).all(0)
    # Pyro's effective_sample_size is NaN for all latents if one of them is constant.
    steps = torch.arange(kept, dtype=draws.dtype, device=draws.device).view(-1, 1, 1, 1)
    varying = torch.where(is_constant.unsqueeze(1), steps, draws)
    by_chain = varying.movedim(2, 0)  # chains, kept, data, dims
    r_hat = split_gelman_rubin(by_chain, chain_dim=0, sample_dim=1)
    effective = effective_sample_size(by_chain, chain_dim=0, sample_dim=1)
    num = float(kept * num_chains)
    r_hat = torch.where(is_constant, 1.0, r_hat.nan_to_num(torch.inf, torch.inf))
    effective = torch.where(is_constant, num, effective.nan_to_num(1.0).clamp(max=num))
    return {"r_hat": r_hat.amax(-1), "effective_samples": effective.amin(-1)}
