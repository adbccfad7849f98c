"""Pairs for reports on latents."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.infer.estimators.collapse import LatentReport, latent_report


def report_of(model: Any, guide: Any, data: Any, **options: Any) -> LatentReport:
    (report,) = latent_report(model, guide, data, progress=False, **options)
    return report


def make_pair(loc_of: Any, scale: Any = 1.0) -> tuple[Any, Any]:
    """A pair whose q(z | x) is Normal(loc_of(x), scale), with a standard normal prior."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(loc_of(x).shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc_of(x), torch.as_tensor(scale)).to_event(1))

    return model, guide
