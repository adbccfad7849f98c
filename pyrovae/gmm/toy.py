"""The built-in toy: three overlapping Gaussians in the plane, whose truth is known."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .mixture import Mixture

__all__ = ["TOY", "toy"]

TOY = Mixture.of(
    weights=[0.5, 0.3, 0.2],
    locs=[[0.0, 0.0], [2.5, 1.5], [-1.0, 3.0]],
    covariances=[[[1.0, 0.7], [0.7, 1.0]], [[0.6, -0.3], [-0.3, 0.5]], [[1.5, 0.0], [0.0, 0.2]]],
)
"""The mixture that the toy is drawn from: unequal weights, and a shape for each component."""


def toy(num: int = 400, seed: int = 0) -> tuple[Float[Tensor, "n 2"], Int[Tensor, "n"]]:
    """Draws x from :data:`TOY` and the component z of each, the same for the same seed."""
    return TOY.sample(num, torch.Generator().manual_seed(seed))
