"""Settings of fits that processes share, in double precision."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributions import constraints
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import VAE, Batches, fit
from pyrovae.infer.compiler.tiered import TieredFunction
from tests.pairs import user_pair
from tests.training import killed_fits

Settings = dict[str, Any]

_BINOMIAL = {"family": "Binomial", "total_count": 16}


def counts(num: int = 17) -> Tensor:
    """The last batch of eight holds one datum, so that one of two shards is empty."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 17, (num, 1, 4, 4), generator=generator).double()


def _settings(vae: VAE, **settings: Any) -> Settings:
    return {"model": vae.model, "guide": vae.guide, "data": counts(), "lr": 0.03} | settings


def vae_with_patience() -> Settings:
    return _settings(
        VAE((1, 4, 4), 2, _BINOMIAL),
        validation=counts(11),
        patience=1,
        schedule="cosine",
        clip_norm=50.0,
    )


def recorded() -> Settings:
    """Steps are recorded and replayed, but not compiled, which takes seconds."""
    return vae_with_patience() | {"compile": True, "skip_compiler": True}


def compiled() -> Settings:
    return user_program() | {"compile": True, "patience": 2, "validation": counts(11).flatten(1)}


def accumulated_with_momentum() -> Settings:
    """Three shards of batches that they do not divide; three batches per update."""
    return _settings(
        VAE((1, 4, 4), 2, _BINOMIAL),
        batch_size=7,
        shards=3,
        accumulate=3,
        clip_norm=5.0,
        optimiser=partial(SGD, lr=1e-3, momentum=0.9, nesterov=True),
        schedule=partial(LambdaLR, lr_lambda=lambda update: 1 / (1 + update)),
    )


def warmed_up_with_batch_normalisation() -> Settings:
    def body(in_shape: Any, out_shape: Any) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(-3),
            nn.Linear(16, 8, bias=False),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 4),
            nn.Unflatten(-1, out_shape),
        )

    objective = {"name": "beta", "beta": {"steps": 20, "start": 0.0, "end": 1.0}}
    vae = VAE((1, 4, 4), 2, _BINOMIAL, encoder=body)
    return _settings(vae, data=Batches(counts(20), 8), objective=objective, accumulate=2)


def iwae_of_overdispersed_counts() -> Settings:
    return _settings(
        VAE((1, 4, 4), 2, "NegativeBinomial"),
        validation=counts(11),
        objective={"name": "iwae", "num_particles": 3},
        optimiser=partial(AdamW, lr=0.01, amsgrad=True),
    )


def posterior_of_each_datum() -> Settings:
    free = {"name": "free", "num_data": 17, "num_steps": 3}
    vae = VAE((1, 4, 4), 2, _BINOMIAL, inference=free)
    return _settings(vae, data=(counts(), torch.arange(17)), validation=counts(11))


def shared_and_discrete_latents() -> Settings:
    """No reparameterised gradients; the site ``weights`` is outside the plate."""
    pair = user_pair()
    data = torch.randn(17, 3, generator=torch.Generator().manual_seed(4))
    return {"model": pair.model, "guide": pair.guide, "data": data, "validation": data[:11]}


def discrete_latents() -> Settings:
    return killed_fits.discrete_latents() | {"data": counts().flatten(1)}


def user_program() -> Settings:
    """Parameters with random initial values."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(16))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(loc + z[:, None], 3.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        weight = pyro.param("weight", lambda: torch.randn(16) / 20)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weight, scale))

    return {"model": model, "guide": guide, "data": counts().flatten(1), "lr": 0.01}


def loader() -> Settings:
    """A transform draws from Python and NumPy, between steps."""

    def with_noise(x: Tensor) -> Tensor:
        return x + np.random.normal() / 10 + random.random() / 10  # noqa: NPY002

    data = DataLoader(TensorDataset(counts().flatten(1)), 8, shuffle=True)
    return user_program() | {"data": data, "validation": data, "transform": with_noise}


def noise_of_numpy() -> Settings:
    """A transform draws from Python and NumPy, in each shard."""
    settings = loader()
    return settings | {"data": counts().flatten(1), "validation": counts(11).flatten(1)}


def parameter_without_gradient_in_some_shards() -> Settings:
    """One parameter has no gradient in a shard with only small data."""
    settings = user_program()
    inner = settings["model"]

    def model(x: Tensor) -> None:
        inner(x)
        extra = pyro.param("extra", torch.zeros(()))
        if x[:, 0].max() > 12:
            pyro.factor("reward", -((extra - x[:, 0].mean()) ** 2))

    return settings | {"model": model, "batch_size": 4, "compile": False}


SETUPS: dict[str, Callable[[], Settings]] = {
    each.__name__: each
    for each in (
        vae_with_patience,
        recorded,
        accumulated_with_momentum,
        warmed_up_with_batch_normalisation,
        iwae_of_overdispersed_counts,
        posterior_of_each_datum,
        shared_and_discrete_latents,
        discrete_latents,
        user_program,
        compiled,
        loader,
        noise_of_numpy,
        parameter_without_gradient_in_some_shards,
    )
}


def result_of_fit(setup: Callable[[], Settings], group: ProcessGroup | None) -> dict[str, Tensor]:
    """The result of a fit as tensors: parameters, buffers, epochs and the next random numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    settings: Settings = {"batch_size": 8, "epochs": 2, "compile": False} | setup()
    if isinstance(settings["data"], Batches | DataLoader):
        del settings["batch_size"]
    no_compiler = patch.object(TieredFunction, "_should_compile", lambda *_: False)
    with no_compiler if settings.pop("skip_compiler", False) else nullcontext():
        history = fit(**settings, group=group, progress=False)
    result = {f"param {name}": value.contiguous() for name, value in history.params.items()}
    for name in ("model", "guide"):
        if isinstance(settings[name], nn.Module):
            tensors = settings[name].state_dict().items()
            result |= {f"{name} {key}": tensor.clone() for key, tensor in tensors}
    rows = [[v or 0.0 for k, v in row.items() if k != "seconds"] for row in history.rows()]
    next_numbers = [torch.rand(()).item(), random.random(), float(np.random.random())]  # noqa: NPY002
    result |= {"epochs": torch.tensor(rows), "next numbers": torch.tensor(next_numbers)}
    torch.set_default_dtype(before)
    return result


def results_of_fits(group: ProcessGroup | None, *names: str, shards: int = 2) -> dict[str, Tensor]:
    """Results of several setups by name; a setup may override the number of shards."""
    result = {}
    for name in names:
        end = result_of_fit(lambda name=name: {"shards": shards} | SETUPS[name](), group)
        result |= {f"{name}: {key}": tensor for key, tensor in end.items()}
    return result


def results_of_fits_alone(group: ProcessGroup, *names: str) -> dict[str, Tensor]:
    """Results of the same fits in one process."""
    return results_of_fits(None, *names)
