"""Distributions of matrices."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Wishart"]


class Wishart(dist.Wishart):  # type: ignore[misc]
    """Pyro's Wishart, drawn once by Bartlett's decomposition.

    torch's own (to 2.15 at least) takes its sound samples for singular ones, warns, and draws each
    of them a second time.
    """

    def rsample(self, sample_shape: Any = (), max_try_correction: int | None = None) -> Tensor:
        drawn: Tensor = self._bartlett_sampling(torch.Size(sample_shape))
        return drawn
