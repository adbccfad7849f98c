"""The built-in toy data: three overlapping Gaussians in the plane, with known parameters."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..arguments import as_whole
from .mixture import Mixture
from .randomness import as_seed

__all__ = ["TOY", "toy"]

TOY = Mixture.of(
    weights=[0.5, 0.3, 0.2],
    locs=[[0.0, 0.0], [2.5, 1.5], [-1.0, 3.0]],
    covariances=[[[1.0, 0.7], [0.7, 1.0]], [[0.6, -0.3], [-0.3, 0.5]], [[1.5, 0.0], [0.0, 0.2]]],
)
"""The mixture that toy data come from; components differ in weight and shape."""


def toy(num: int = 400, seed: int = 0) -> tuple[Float[Tensor, "n 2"], Int[Tensor, "n"]]:
    """Draw x from :data:`TOY`, and the component z of each; the seed determines the draws."""
    num = as_whole("num", num, 1)
    return TOY.sample(num, torch.Generator().manual_seed(as_seed(seed)))
