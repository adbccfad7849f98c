"""Distributions of matrices."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Wishart"]


class Wishart(dist.Wishart):  # type: ignore[misc]
    """Pyro's Wishart, sampled once by Bartlett's decomposition.

    The sampler of torch (up to 2.15 at least) mistakes valid samples for singular ones, warns, and
    draws each of them a second time.
    """

    def rsample(self, sample_shape: Any = (), max_try_correction: int | None = None) -> Tensor:
        sample: Tensor = self._bartlett_sampling(torch.Size(sample_shape))
        return sample
