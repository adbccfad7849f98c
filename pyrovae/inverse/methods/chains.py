"""What chains tell of themselves."""

import torch
from jaxtyping import Float
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from ..observed_pair import Latents
from .method import Diagnostics

__all__ = ["FEWEST", "as_vectors", "of_chains"]

FEWEST = 4
"""Draws of a chain that can be split in two halves with a variance each."""


def as_vectors(latents: Latents) -> Float[Tensor, "rows dims"]:
    """All latents of a row, one after the other."""
    flat = [value.reshape(len(value), -1) for value in latents.values()]
    dtype = next((v.dtype for v in flat if v.is_floating_point()), torch.get_default_dtype())
    return torch.cat([value.to(dtype) for value in flat], 1)


def of_chains(draws: Float[Tensor, "kept data chains dims"]) -> Diagnostics:
    """``r_hat``, of the worst latent: of halves of chains, and 1 where they agree (Gelman et al.
    2013); and ``effective_samples``, of the worst latent too; both NaN where a chain kept fewer
    than four. A latent that has one value in all draws, as a certain class has, is agreed upon.
    """
    kept, num_data, num_chains, _ = draws.shape
    if kept < FEWEST:
        unknown = draws.new_full((num_data,), torch.nan)
        return {"r_hat": unknown, "effective_samples": unknown}
    by_chain = draws.movedim(2, 0)  # chains, kept, data, dims
    r_hat = split_gelman_rubin(by_chain, chain_dim=0, sample_dim=1)
    effective = effective_sample_size(by_chain, chain_dim=0, sample_dim=1)
    is_one = (draws == draws[:1, :, :1]).all(2).all(0)
    num = float(kept * num_chains)
    r_hat = torch.where(is_one, 1.0, r_hat.nan_to_num(torch.inf, torch.inf))
    effective = torch.where(is_one, num, effective.nan_to_num(1.0).clamp(max=num))
    return {"r_hat": r_hat.amax(-1), "effective_samples": effective.amin(-1)}
