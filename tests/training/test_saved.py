"""A trained pair of one's own opens with its parameters, given its programs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae
from pyrovae import VAE, InputError, evaluate, fit

torch.manual_seed(0)
X = torch.randn(60, 3) @ torch.randn(3, 3) + 2


def functions() -> tuple[Any, Any]:
    """Functions with networks and parameters of several constraints."""
    decoder, encoder = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.ones(3), constraint=constraints.positive)
        weight = pyro.param("weight", torch.tensor(0.5), constraint=constraints.unit_interval)
        shift = pyro.param("shift", torch.tensor(1.0), constraint=constraints.interval(-1.5, 1.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = weight * decoder(z) + shift
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> None:
        pyro.module("decoder", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.body(z), 1.0).to_event(1), obs=x)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> None:
        pyro.module("encoder", self)
        with pyro.plate("data", len(x)):
            loc, raw = self.body(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Regression(PyroModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))

    def forward(self, x: Tensor) -> None:
        loc = self.linear(x[:, :2]).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=x[:, 2])


def auto(kind: Any) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        model = Regression()
        return model, kind(model)

    return make


PAIRS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "functions": functions,
    "modules": lambda: (Decoder(), Encoder()),
    "AutoNormal": auto(AutoNormal),
    "AutoLowRank": auto(AutoLowRankMultivariateNormal),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_opens_as_it_was(name: str, tmp_path: Path) -> None:
    make = PAIRS[name]
    history = fit(*make(), X, epochs=3, lr=0.05, progress=False)
    torch.manual_seed(1)
    expected = evaluate(history.model, history.guide, X)
    params = history.params
    history.save(tmp_path / "kept")
    # Another training under the same names must not matter.
    pyro.clear_param_store()
    fit(*make(), X + 3, epochs=1, lr=0.5, progress=False)
    before = {key: value.clone() for key, value in pyro.get_param_store().items()}

    torch.manual_seed(2)  # other starting values
    model, guide = make()
    opened = pyrovae.open(tmp_path / "kept", model=model, guide=guide, device="cpu")
    torch.manual_seed(1)
    found = evaluate(opened.model, opened.guide, X)
    assert found.elbo.mean == pytest.approx(expected.elbo.mean, rel=1e-6)
    assert found.kl.mean == pytest.approx(expected.kl.mean, rel=1e-6)
    assert opened.epochs == history.epochs
    assert opened.params.keys() == params.keys()
    for key, value in opened.params.items():
        torch.testing.assert_close(value, params[key])
    assert {key: value.tolist() for key, value in pyro.get_param_store().items()} == {
        key: value.tolist() for key, value in before.items()
    }
    predictive = Predictive(opened.model, guide=opened.guide, num_samples=3)
    assert predictive(X)


@pytest.mark.parametrize("name", PAIRS)
def test_an_opened_pair_is_saved_again(name: str, tmp_path: Path) -> None:
    make = PAIRS[name]
    history = fit(*make(), X, epochs=1, progress=False)
    history.save(tmp_path / "one")
    model, guide = make()
    opened = pyrovae.open(tmp_path / "one", model=model, guide=guide)
    opened.save(tmp_path / "zero")  # before either has run
    opened.guide(X)
    opened.model(X)
    opened.save(tmp_path / "two")
    for folder in ("zero", "two"):
        model, guide = make()
        again = pyrovae.open(tmp_path / folder, model=model, guide=guide)
        again.guide(X)
        again.model(X)
        assert again.params.keys() == history.params.keys()
        for key, value in again.params.items():
            torch.testing.assert_close(value, history.params[key])


def test_models_of_the_package_are_pairs_too(tmp_path: Path) -> None:
    vae = VAE((3,), 2, "Normal")
    history = fit(vae.model, vae.guide, X, epochs=1, progress=False)
    history.save(tmp_path)
    other = VAE((3,), 2, "Normal")
    pyrovae.open(tmp_path, model=other.model, guide=other.guide)
    torch.testing.assert_close(other.state_dict(), vae.state_dict())


def test_pairs_that_do_not_fit_are_named(tmp_path: Path) -> None:
    fit(*functions(), X, epochs=1, progress=False).save(tmp_path / "functions")
    fit(Decoder(), Encoder(), X, epochs=1, progress=False).save(tmp_path / "modules")
    model, guide = functions()
    with pytest.raises(InputError, match=r"give them too, as in open\(path, model=model"):
        pyrovae.open(tmp_path / "functions")
    with pytest.raises(InputError, match="guide is None; it must be a Pyro function"):
        pyrovae.open(tmp_path / "functions", model=model)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="is a module; give an object of its class"):
        pyrovae.open(tmp_path / "modules", model=model, guide=guide)
    with pytest.raises(InputError, match="does not fit the module that you gave"):
        pyrovae.open(tmp_path / "modules", model=Encoder(), guide=Decoder())
    VAE((3,), 2, "Normal").save(tmp_path / "vae")
    with pytest.raises(InputError, match=r"holds no pair\.json; model and guide are for"):
        pyrovae.open(tmp_path / "vae", model=model, guide=guide)

    wide = nn.Linear(3, 6)

    def wider(x: Tensor) -> None:
        pyro.module("encoder", wide)
        with pyro.plate("data", len(x)):
            loc, raw = wide(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    opened = pyrovae.open(tmp_path / "functions", model=model, guide=wider)
    with pytest.raises(InputError, match=r"encoder\$\$\$weight.* has shape \(6, 3\)"):
        opened.guide(X)


def test_what_a_file_cannot_keep_is_named(tmp_path: Path) -> None:
    class Even(constraints.Constraint):
        def check(self, value: Tensor) -> Tensor:
            return value > 0

    even = Even()
    torch.distributions.transform_to.register(even, lambda _: torch.distributions.ExpTransform())

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.ones(3), constraint=even)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pass

    history = fit(model, guide, X, epochs=1, progress=False)
    with pytest.raises(InputError, match=r"'loc' has the constraint .*which a file cannot keep"):
        history.save(tmp_path / "no")
    assert not (tmp_path / "no").exists()

    normalised = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    def with_buffers(x: Tensor) -> None:
        pyro.module("decoder", normalised)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(normalised(z), 1.0).to_event(1), obs=x)

    history = fit(with_buffers, functions()[1], X, epochs=1, progress=False)
    with pytest.raises(InputError, match=r"buffer '1\.running_mean'"):
        history.save(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    model, guide = functions()
    fit(model, guide, X, epochs=1, progress=False).save(tmp_path)
    path = tmp_path / "pair.json"
    text = path.read_text()
    for change, message in [
        ({"format": 2}, "has format 2"),
        ({"constraints": []}, "does not describe a pair"),
        ({"constraints": {}}, "does not belong to pair.json"),
        ({"epochs": [{"a": 1}]}, "does not belong to pair.json"),
    ]:
        path.write_text(json.dumps(json.loads(text) | change, indent=2) + "\n")
        with pytest.raises(InputError, match=message):
            pyrovae.open(tmp_path, model=model, guide=guide)
    path.write_text(text)
    tensors = tmp_path / "parameters.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(InputError, match="is damaged"):
        pyrovae.open(tmp_path, model=model, guide=guide)
