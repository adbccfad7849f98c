"""Pairs and data for the tests that locate numbers that are not finite."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.infer import Pair
from pyrovae.infer.nonfinite.locate import locate_non_finite

NUM = 6


def data(num: int = NUM, dims: int = 3) -> Tensor:
    return torch.randn(num, dims, generator=torch.Generator().manual_seed(1))


def locate(pair: Any, loss: Any, *args: Any, **kwargs: Any) -> str:
    return locate_non_finite(Pair(pair.model, pair.guide), loss, args, kwargs)


class Normals:
    """A pair of normals; tests replace its scales or its likelihood by functions."""

    def __init__(
        self,
        scale: Callable[[Tensor, Tensor], Any] = lambda z, x: 1.0,
        q_scale: Callable[[Tensor], Any] = lambda x: 0.5,
        likelihood: Callable[[Any, Any], Any] = dist.Normal,
    ) -> None:
        self.scale, self.q_scale, self.likelihood = scale, q_scale, likelihood

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", self.likelihood(z, self.scale(z, x)), obs=x)

    def guide(self, x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, self.q_scale(x)))
