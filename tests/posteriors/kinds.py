"""A small instance of each posterior, and a small VAE to test it in."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import VAE
from pyrovae.nn import MLP
from pyrovae.posteriors import (
    Concrete,
    DiagonalNormal,
    FullRankNormal,
    InverseAutoregressive,
    LowRankNormal,
    SplineFlow,
    StraightThrough,
)

CONTINUOUS: dict[str, Callable[[int], Any]] = {
    "diagonal": DiagonalNormal,
    "full rank": FullRankNormal,
    "low rank": partial(LowRankNormal, rank=2),
    "inverse autoregressive": partial(InverseAutoregressive, hidden=(8,), context=4),
    "spline": partial(SplineFlow, num_bins=4, hidden=(8,), context=4),
}
DISCRETE: dict[str, Callable[[int], Any]] = {
    "concrete": partial(Concrete, num_classes=3),
    "straight through": partial(StraightThrough, num_classes=3),
}
KINDS = CONTINUOUS | DISCRETE


def perturb(posterior: Any, size: float = 0.4) -> Any:
    """Move the posterior's own parameters, such as a flow's, away from their initial values."""
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return posterior


def small_vae(kind: str, latent_dim: int = 2) -> VAE:
    torch.manual_seed(2)
    posterior: nn.Module = perturb(KINDS[kind](latent_dim), 0.1)
    body = partial(MLP, hidden=(6,))
    likelihood = {"family": "Normal", "scale": 0.6}
    return VAE((3,), latent_dim, likelihood, posterior=posterior, encoder=body, decoder=body)


def inputs(posterior: Any, *batch: int) -> Tensor:
    return torch.randn(*batch, *posterior.in_shape, generator=torch.Generator().manual_seed(4))
