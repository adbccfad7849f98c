"""No two programs share parameters, and eval mode reaches every network."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from pyrovae import VAE, InputError, evaluate, fit
from pyrovae.infer import SVI as OurSVI
from pyrovae.infer import Pair
from tests.pairs import linear_gaussian_vae, user_pair

X = torch.linspace(-1, 2, 24).reshape(8, 3)


def train_with_pyro(vae: VAE) -> None:
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X)


def train_with_torch(vae: VAE) -> None:
    elbo = Trace_ELBO()(vae.model, vae.guide)
    optimiser = torch.optim.Adam(elbo.parameters(), lr=0.1)
    elbo(X).backward()
    optimiser.step()


def train_with_fit(vae: VAE) -> None:
    fit(vae.model, vae.guide, X, epochs=1, lr=0.1, progress=False)


TRAININGS = (train_with_pyro, train_with_torch, train_with_fit)


def changed_names(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("train", TRAININGS)
@pytest.mark.parametrize("make_other", [copy.deepcopy, lambda _: linear_gaussian_vae()])
def test_training_one_model_leaves_another_alone(
    train: Callable[[VAE], None], make_other: Callable[[VAE], VAE]
) -> None:
    vae = linear_gaussian_vae()
    other = make_other(vae)
    before, other_before = (copy.deepcopy(v.state_dict()) for v in (vae, other))

    train(vae)
    assert changed_names(before, vae.state_dict()) == {name for name, _ in vae.named_parameters()}
    assert changed_names(other_before, other.state_dict()) == set()

    after = copy.deepcopy(vae.state_dict())
    train(other)
    assert changed_names(other_before, other.state_dict()) == {n for n, _ in vae.named_parameters()}
    assert changed_names(after, vae.state_dict()) == set()


@pytest.mark.parametrize("train", TRAININGS)
def test_training_leaves_the_global_store_empty(train: Callable[[VAE], None]) -> None:
    train(linear_gaussian_vae())
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("family", ["Normal", torch.distributions.Kumaraswamy])
def test_a_trained_model_can_be_copied_and_pickled(family: object) -> None:
    vae = VAE((3,), 2, {"family": family})
    x = X.sigmoid()
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    for copied in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        torch.testing.assert_close(copied.state_dict(), vae.state_dict())
        torch.testing.assert_close(
            copied.reconstruct(x, num_samples=0), vae.reconstruct(x, num_samples=0)
        )


def test_a_trained_pair_of_functions_keeps_its_parameters() -> None:
    """Whatever happens to Pyro's store after the fit."""
    pair = user_pair()
    history = fit(pair.model, pair.guide, X, epochs=3, lr=0.1, progress=False)
    trained = history.params["loc"]
    torch.testing.assert_close(pyro.param("loc").detach(), trained)
    pyro.clear_param_store()
    pyro.param("loc", torch.zeros(2))
    trace = pyro.poutine.trace(history.guide).get_trace(X)
    torch.testing.assert_close(trace.nodes["loc"]["value"].detach(), trained)
    assert pyro.param("loc").tolist() == [0.0, 0.0]


class Regression(PyroModule):
    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self.weight = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))
        self.noise = PyroParam(torch.tensor(0.5), dist.constraints.positive)

    def forward(self, x: Tensor) -> None:
        mean = x @ self.weight
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, self.noise), obs=x.sum(-1))


@pytest.mark.slow
def test_pyro_module_with_an_autoguide() -> None:
    """The posterior is known: all weights are 1, as y is the sum of the features."""
    x = torch.randn(200, 3)
    model = Regression()
    guide = AutoNormal(model)
    history = fit(model, guide, x, epochs=150, batch_size=50, lr=0.05, progress=False)
    assert history["loss"][-1] < history["loss"][0]
    torch.testing.assert_close(guide.median(x)["weight"], torch.ones(3), atol=0.1, rtol=0)
    stored = pyro.param("AutoNormal.locs.weight").detach()
    torch.testing.assert_close(stored, guide.median(x)["weight"])


def test_pyro_modules_of_equal_names_are_refused() -> None:
    class Guide(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.noise = PyroParam(torch.tensor(3.0), dist.constraints.positive)

        def forward(self, x: Tensor) -> None:
            pyro.sample("weight", dist.Normal(torch.zeros(3), self.noise).to_event(1))

    with pytest.raises(InputError, match="both have a parameter 'noise'"):
        fit(Regression(), Guide(), torch.randn(8, 3), epochs=1, progress=False)


class Noisy(nn.Module):
    """A network with layers that differ between training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)
        )
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.layers[2].training)
        return self.layers(x)


@pytest.mark.parametrize("registered", [True, False])
def test_validation_is_in_eval_mode_and_training_is_not(registered: bool) -> None:
    """Also for a network that the guide only refers to, which Pyro does not know of."""
    network = Noisy()
    free = nn.Parameter(torch.zeros(()))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.sum(-1))

    def guide(x: Tensor) -> None:
        if registered:
            pyro.module("network", network)
        else:
            pyro.param("free", free)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x) + free, 1.0).to_event(1))

    x = torch.randn(8, 3)
    fit(model, guide, x, epochs=2, validation=x, batch_size=8, progress=False)
    # Checks of the data, a look at scales, and one run that meets the parameters; then two epochs.
    before = network.modes.index(True)
    assert not any(network.modes[:before])
    assert network.modes[before:] == [True, *[True, False, False] * 2]
    assert all(part.training for part in network.modules())
    assert network.layers[1].num_batches_tracked == 2


def test_eval_mode_restores_what_was_frozen() -> None:
    vae = linear_gaussian_vae()
    vae.guide.encoder.eval()
    with Pair(vae.model, vae.guide).eval_mode():
        assert not any(part.training for part in vae.model.modules())
    assert not vae.guide.encoder.training
    assert vae.model.training
    assert vae.guide.training


def test_two_networks_of_one_name_are_refused() -> None:
    encoder, decoder = nn.Linear(3, 2), nn.Linear(2, 3)

    def model(x: Tensor) -> None:
        pyro.module("net", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("net", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    with pytest.raises(InputError, match="registered another network of that name"):
        fit(model, guide, X, epochs=1, progress=False)


class ModeReader(nn.Module):
    """A module whose methods, not its forward, are the model and the guide."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.modes: list[bool] = []

    def guide(self, x: Tensor) -> None:
        pyro.module("reader", self)
        self.modes.append(self.training)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 1.0))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.sum(-1))


def test_evaluate_puts_the_pair_of_a_history_in_eval_mode() -> None:
    module = ModeReader()
    history = fit(module.model, module.guide, X, epochs=1, progress=False)
    assert module.modes.count(True) == 2  # to meet the parameters, and in the step
    num_runs = len(module.modes)
    evaluate(history.model, history.guide, X, num_particles=1)
    assert len(module.modes) > num_runs
    assert not any(module.modes[num_runs:])
    assert module.training


@pytest.mark.parametrize("wrap", [partial, lambda f: pyro.poutine.scale(f, scale=1.0)])
def test_wrapped_modules_are_trained(wrap: Callable[[Any], Any]) -> None:
    vae = linear_gaussian_vae()
    before = copy.deepcopy(vae.state_dict())
    fit(wrap(vae.model), wrap(vae.guide), X, epochs=1, lr=0.1, progress=False)
    assert changed_names(before, vae.state_dict()) == {name for name, _ in vae.named_parameters()}


def test_parameters_of_a_pair_in_training_may_be_taken_up_within_themselves() -> None:
    pair = user_pair()
    svi = OurSVI(pair.model, pair.guide, partial(torch.optim.Adam, lr=0.1), compile=False)
    svi.step(X)
    with svi.pair.store():
        before = dict(svi.pair.params())
        svi.pair.guide(X)
        torch.testing.assert_close(dict(svi.pair.params()), before, rtol=0, atol=0)
    svi.step(X)
    assert changed_names(before, svi.pair.params()) == set(before)
