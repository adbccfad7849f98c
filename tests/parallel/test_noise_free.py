"""Without noise, steps in shards equal steps on the whole batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.optim import SGD, Adam

from pyrovae import SVI, Autoencoder, Batches, fit
from pyrovae.infer import ELBO
from pyrovae.infer.parallel.processes import Processes
from pyrovae.infer.parallel.shards import Shards

NUM = 23
pytestmark = pytest.mark.usefixtures("float64")


def _data(*shape: int) -> Tensor:
    return torch.randn(NUM, *shape, generator=torch.Generator().manual_seed(2))


def _autoencoder() -> dict[str, Any]:
    family = Autoencoder((4,), 2, {"family": "Normal", "scale": 1.0})
    return {"model": family.model, "guide": family.guide, "data": _data(4)}


def _map_of_shared_and_local_latents() -> dict[str, Any]:
    """A latent outside the plate; its prior must count once, however many shards there are."""

    def model(x: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 0.1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("slope", dist.Delta(pyro.param("slope_map", torch.tensor(0.3))))
        weight = pyro.param("weight", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(weight * x))

    return {"model": model, "guide": guide, "data": _data()}


def _enumerated_mixture() -> dict[str, Any]:
    encoder = nn.Linear(1, 3)

    def model(x: Tensor) -> None:
        locs = pyro.param("locs", torch.tensor([-1.0, 0.0, 1.0]))
        weights = pyro.param("weights", torch.ones(3) / 3, constraint=constraints.simplex)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[k], 0.5), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            q = dist.Categorical(logits=encoder(x[:, None]))
            pyro.sample("k", q, infer={"enumerate": "parallel"})

    return {"model": model, "guide": guide, "data": _data(), "objective": "enumerated"}


PAIRS: dict[str, Callable[[], dict[str, Any]]] = {
    each.__name__.removeprefix("_"): each
    for each in (_autoencoder, _map_of_shared_and_local_latents, _enumerated_mixture)
}


def _result_of_fit(pair: str, shards: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    settings = PAIRS[pair]()
    batches = Batches(settings.pop("data"), 7, shuffle=False)  # 7, 7, 7 and 2
    options: Any = {"lr": 0.02, "clip_norm": 1.0, "compile": False, "progress": False}
    history = fit(**settings, data=batches, validation=batches, epochs=3, shards=shards, **options)
    parts = [part for part in (settings["model"], settings["guide"]) if isinstance(part, nn.Module)]
    rows = [[v for k, v in row.items() if k != "seconds"] for row in history.rows()]
    parameters = [p.detach() for part in parts for p in part.parameters()]
    return [torch.tensor(rows), *history.params.values(), *parameters]


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_shards_give_the_result_of_whole_batches(pair: str) -> None:
    whole = _result_of_fit(pair, None)
    assert len(whole) > 2
    for shards in (1, 3, 4):
        torch.testing.assert_close(_result_of_fit(pair, shards), whole, rtol=1e-9, atol=1e-9)


def test_gradient_at_fixed_noise() -> None:
    """With a global latent w, and z for each datum, at noise that the data provide:

    L = -(log p(w) - log q(w)) / N - mean_i [log p(x_i | w, z_i) + log p(z_i) - log q(z_i)].
    """
    num, noise = 100, torch.tensor(0.4)

    def delta_at(loc: Tensor, scale: Tensor, eps: Tensor) -> Any:
        value = loc + scale * eps
        return dist.Delta(value, log_density=dist.Normal(loc, scale).log_prob(value))

    def model(x: Tensor, eps: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", num, subsample=x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w + z, 1.0), obs=x)

    def guide(x: Tensor, eps: Tensor) -> None:
        loc, log_scale, slope = (pyro.param(n, torch.tensor(v)) for n, v in start.items())
        pyro.sample("w", delta_at(loc, log_scale.exp(), noise))
        with pyro.plate("data", num, subsample=x):
            pyro.sample("z", delta_at(slope * x, torch.ones(()), eps))

    start = {"loc": 0.2, "log_scale": -0.3, "slope": 0.7}
    x, eps = _data(2)[:7].unbind(1)
    shards = Shards(3, Processes())  # of 3, 3 and 1
    svi = SVI(model, guide, partial(SGD, lr=1.0), ELBO(), compile=False, shards=shards)
    loss = svi.step(x, eps).loss

    parameters = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    scale = parameters["log_scale"].exp()
    w, z = parameters["loc"] + scale * noise, parameters["slope"] * x + eps
    of_w = -(w**2) / 2 + noise**2 / 2 + scale.log()
    of_data = (
        -((x - w - z) ** 2) / 2 - z**2 / 2 + eps**2 / 2 - torch.log(torch.tensor(2 * torch.pi)) / 2
    )
    expected = -of_w / num - of_data.mean()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        moved = torch.tensor(start[name]) - svi.pair.params()[name]
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-12, atol=1e-14)


def test_buffers_end_as_the_mean_over_shards() -> None:
    """In batch normalisation, the running mean after a step is that of the whole batch."""
    norm = nn.BatchNorm1d(2)

    def model(x: Tensor) -> None:
        pyro.module("norm", norm)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(norm(x), 1.0).to_event(1), obs=x)

    x = _data(2)[:7]
    shards = Shards(2, Processes())
    svi = SVI(model, lambda x: None, partial(Adam, lr=0.1), compile=False, shards=shards)
    svi.step(x)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))
    assert norm.num_batches_tracked == 1


def test_constant_buffers_keep_every_bit() -> None:
    """The shares of a batch do not sum to exactly one, so means of values would change them."""
    torch.set_default_dtype(torch.float32)
    network = nn.Linear(4, 4)
    constants = torch.tensor([1.0, 16.0, 0.1, 255.0])
    network.register_buffer("constants", constants.clone())

    def model(x: Tensor) -> None:
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(network(x), network.constants).to_event(1), obs=x)

    data = _data(4).float()
    history = fit(model, lambda x: None, data, epochs=5, batch_size=10, shards=7, progress=False)
    assert torch.equal(network.constants, constants)
    assert len(history["loss"]) == 5


def test_batches_are_cut_into_shards_of_almost_equal_size() -> None:
    shards = Shards(3, Processes(), seed=0)
    x, scale = torch.arange(7.0), torch.ones(2)
    parts = shards.split((x, scale, "word"))
    assert [share for share, _ in parts] == [3 / 7, 3 / 7, 1 / 7]
    assert [part.tolist() for _, (part, _, _) in parts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(part[1] is scale and part[2] == "word" for _, part in parts)
    assert [len(part) for _, (part,) in shards.split((x[:2],))] == [1, 1]


def test_a_request_holds_for_one_step() -> None:
    shards = Shards(2, Processes(), seed=0)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    optimiser = partial(SGD, lr=0.1)
    svi = SVI(model, lambda x: None, optimiser, ELBO(), compile=False, shards=shards)
    for stop, save in ((False, False), (True, False), (False, False), (False, True)):
        shards.request(stop=stop, save=save)
        svi.step(torch.ones(4))
        assert (shards.should_stop, shards.should_save) == (stop, save)
