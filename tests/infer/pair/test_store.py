"""Networks of one name in Pyro's store: each program trains its own."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from pyrovae import InputError, fit
from pyrovae.errors import NotFinite
from pyrovae.infer import SVI, Capacity
from pyrovae.infer.pair.store import ProgramParameters

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
QUIET: dict[str, Any] = {"progress": False, "compile": False}


class Tutorial(nn.Module):
    """A VAE as in Pyro's tutorial, which registers its networks by fixed names."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def svi_of(vae: Tutorial) -> SVI:
    adam = pyro.optim.Adam({"lr": 0.05})
    return SVI(vae.model, vae.guide, adam, Trace_ELBO(), compile=False)


@pytest.mark.filterwarnings("error")
def test_networks_of_one_name_in_two_fits() -> None:
    """Pyro would train the first network twice, and the second never."""
    ends = []
    for _ in range(2):
        vae = Tutorial()
        torch.manual_seed(2)
        fit(vae.model, vae.guide, X, epochs=3, lr=0.05, **QUIET)
        ends.append(vae.state_dict())
        stored = dict(pyro.get_param_store().named_parameters())
        assert stored["decoder$$$weight"] is vae.decoder.weight
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.filterwarnings("error")
def test_networks_of_one_name_in_two_svis_in_turn() -> None:
    first, second = svi_of(Tutorial()), svi_of(Tutorial())
    for seed in range(6):
        losses = []
        for svi in (first, second):
            torch.manual_seed(seed)
            losses.append(svi.step(X))
        assert losses[0] == losses[1]
    assert len(first.parameters) == len(second.parameters) == 4


@pytest.mark.filterwarnings("error")
def test_a_deep_copy_shares_nothing() -> None:
    vae = Tutorial()
    svi_of(vae).step(X)
    before, other = copy.deepcopy(vae.state_dict()), copy.deepcopy(vae)
    svi_of(other).step(X)
    torch.testing.assert_close(vae.state_dict(), before, rtol=0, atol=0)
    assert not torch.equal(other.decoder.weight, vae.decoder.weight)


class Regression(PyroModule):
    def __init__(self) -> None:
        super().__init__("regression")
        self.weight = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))
        self.noise = PyroParam(torch.tensor(0.5), dist.constraints.positive)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = x @ self.weight
        with pyro.plate("data", len(x)):
            value: Tensor = pyro.sample("y", dist.Normal(mean, self.noise), obs=y)
        return value


def test_a_copied_pyro_module_begins_from_its_own_values() -> None:
    y = X.sum(-1)
    one = Regression()
    fit(one, AutoNormal(one), (X, y), epochs=5, lr=0.05, **QUIET)
    noise, other = one.noise.item(), copy.deepcopy(one)
    adam = pyro.optim.Adam({"lr": 0.1})
    svi = SVI(other, AutoNormal(other), adam, Trace_ELBO(), compile=False)
    with pytest.warns(UserWarning, match=r"'regression\.noise' in Pyro's store"):
        svi.step(X, -y)
    assert one.noise.item() == noise
    assert other.noise.item() != noise


@pytest.mark.slow
def test_predictive_of_a_pyro_module_after_fit() -> None:
    """All weights are 1, as y is the sum of the features."""
    y = X.sum(-1)
    model = Regression()
    guide = AutoNormal(model)
    fit(model, guide, (X, y), epochs=300, lr=0.05, schedule="cosine", **QUIET)
    drawn = Predictive(model, guide=guide, num_samples=50)(X)["regression.weight"]
    torch.testing.assert_close(drawn.mean(0).flatten(), torch.ones(3), atol=0.1, rtol=0)


def test_two_networks_of_one_name_in_a_program_are_refused() -> None:
    vae, other = Tutorial(), Tutorial()

    def guide(x: Tensor) -> None:
        pyro.module("decoder", other.decoder)
        vae.guide(x)

    adam = pyro.optim.Adam({"lr": 0.05})
    with pytest.raises(InputError, match="registered another network of that name before"):
        SVI(vae.model, guide, adam, Trace_ELBO(), compile=False).step(X)


def test_a_network_that_is_new_at_each_step_is_refused() -> None:
    def model(x: Tensor) -> None:
        net = nn.Linear(1, 3)
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(net(torch.ones(len(x), 1)), 1.0).to_event(1), obs=x)

    adam = pyro.optim.Adam({"lr": 0.05})
    svi = SVI(model, lambda x: None, adam, Trace_ELBO(), compile=False)
    with pytest.raises(InputError, match=r"'net'.* create it outside of the function"):
        list(map(svi.step, [X] * 5))


def test_loaded_values_that_a_network_does_not_use_are_refused(tmp_path: Path) -> None:
    svi_of(Tutorial()).step(X)
    pyro.get_param_store().save(str(tmp_path / "store"))
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "store"))
    with pytest.raises(InputError, match=r"values for 'encoder\.weight'.*update_module_params"):
        svi_of(Tutorial(3)).step(X)
    vae = Tutorial(3)
    for name in ("encoder", "decoder"):
        pyro.module(name, getattr(vae, name), update_module_params=True)
    svi_of(vae).step(X)


@pytest.mark.parametrize("objective", ["beta_tc", "free_bits", Capacity(1.0), "info"])
def test_objectives_that_compare_data_are_refused_in_shards(objective: Any) -> None:
    vae = Tutorial()
    with pytest.raises(InputError, match="cannot be computed in shards"):
        fit(vae.model, vae.guide, X, epochs=1, shards=2, objective=objective, **QUIET)
    fit(vae.model, vae.guide, X, epochs=1, shards=1, objective=objective, **QUIET)


@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_a_last_update_that_overflows_is_an_error(non_finite: Any) -> None:
    vae = Tutorial()
    options = QUIET | {"optimiser": partial(torch.optim.SGD, lr=3e38), "non_finite": non_finite}
    with pytest.raises(NotFinite, match=r"the update after step 1 was too large.*'\w+\.\w+'"):
        fit(vae.model, vae.guide, 10 * X, epochs=1, **options)


def test_undeclared_parameters_of_a_module_stay_as_they_are() -> None:
    """As in Pyro, and a warning says so."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.loc + z[:, None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, scale))

    model = Model()
    with pytest.warns(UserWarning, match=r"Model\.loc .*do not register.*stays as it is"):
        fit(model, guide, X + 3, epochs=3, lr=0.1, **QUIET)
    assert model.loc.tolist() == [0.0, 0.0, 0.0]
    assert model.loc.grad is None


def test_a_parameter_belongs_to_the_module_whose_name_it_has() -> None:
    named = PyroModule("net")
    named.weight = PyroParam(torch.ones(2))
    unnamed = PyroModule()
    unnamed.loc = PyroParam(torch.zeros(2))
    program = ProgramParameters((named, unnamed), lambda: [], None)
    assert program._module_of("net.weight") is named
    assert program._module_of("loc") is unnamed
    for name in ("weight", "other.weight", "network.weight", "scale"):
        assert program._module_of(name) is None
