"""A saved model opens as it was, from its description alone, and what cannot be kept is named."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pyrovae
from pyrovae import (
    VAE,
    Autoencoder,
    ConditionalVAE,
    HierarchicalVAE,
    InputError,
    Likelihood,
    Mixed,
    MixtureVAE,
    ProbabilisticPCA,
    SemiSupervisedVAE,
)
from pyrovae.described import from_plain
from pyrovae.models import LatentVariableModel
from pyrovae.nn import MLP
from pyrovae.posteriors import POSTERIORS, FullRankNormal
from pyrovae.priors import PRIORS, LearnedNormal, VampPrior

X = torch.linspace(-1, 2, 24).reshape(6, 4).exp()

MODELS: dict[str, Callable[[], LatentVariableModel]] = {
    "vae": lambda: VAE((4,), 2, Likelihood("Gamma")),
    "networks": lambda: VAE((4,), 2, "Normal", encoder=partial(MLP, hidden=(5, 3)), decoder="mlp"),
    "activation": lambda: VAE((4,), 2, "Normal", encoder=partial(MLP, activation=nn.Tanh)),
    "settings": lambda: VAE((4,), 2, encoder={"name": "mlp", "hidden": [7]}, likelihood="Normal"),
    "modules": lambda: VAE((4,), 2, "Normal", LearnedNormal(2), FullRankNormal(2)),
    "network as a module": lambda: VAE((4,), 2, "Normal", decoder=MLP((2,), (1, 4))),
    "vamp": lambda: VAE((4,), 2, "Normal", VampPrior((4,), 3)),
    "mixed": lambda: VAE(
        (4,), 2, Mixed({("a", "b"): Likelihood("Gamma"), "c": "Normal", "d": "Normal"})
    ),
    "semi-amortised": lambda: VAE((4,), 2, "Normal", inference="semi_amortised"),
    "free": lambda: VAE((4,), 2, "Normal", inference={"name": "free", "num_data": 6}),
    "missing": lambda: VAE((4,), 2, "Normal", missing=True),
    "autoencoder": lambda: Autoencoder((4,), 2, "Normal"),
    "hierarchical": lambda: HierarchicalVAE((4,), [3, 2], "Normal", hidden=[5]),
    "top-down": lambda: HierarchicalVAE((4,), [3, 2], "Normal", guide="top_down", hidden=[5]),
    "mixture": lambda: MixtureVAE((4,), 2, 3, "Normal"),
    "ppca": lambda: ProbabilisticPCA((4,), 2),
    "conditional": lambda: ConditionalVAE((4,), 2, "Normal", num_classes=3),
    "semi-supervised": lambda: SemiSupervisedVAE((4,), 2, num_classes=3, likelihood="Normal"),
} | {
    f"prior {name}": partial(VAE, (4,), 2, "Normal", prior=name)
    for name in PRIORS
    if name not in ("concrete", "one_hot")
}


def move(model: LatentVariableModel) -> None:
    """Give each parameter and buffer another value, as training does."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.1).add_(0.01)


@pytest.mark.parametrize("name", MODELS)
def test_each_model_opens_as_it_was(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    model.standardise(X, *([torch.zeros(6, dtype=torch.long)] * (model.num_conditions > 0)))
    move(model)
    opened = pyrovae.open(model.save(tmp_path / "model"))
    assert type(opened) is type(model)
    assert not opened.training
    assert opened.describe() == model.describe()
    torch.testing.assert_close(opened.state_dict(), model.state_dict(), rtol=0, atol=0)
    if model.has_prior and not model.num_conditions:
        model.eval()
        samples = []
        for each in (model, opened):
            torch.manual_seed(0)
            samples.append(each.sample(3))
        torch.testing.assert_close(*samples, rtol=0, atol=0)


@pytest.mark.parametrize("name", POSTERIORS)
def test_each_posterior_opens_as_it_was(name: str, tmp_path: Path) -> None:
    model = VAE((4,), 2, "Normal", posterior=name)
    opened = pyrovae.open(model.save(tmp_path))
    torch.testing.assert_close(opened.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.usefixtures("float64")
def test_double_precision_is_kept(tmp_path: Path) -> None:
    model = VAE((4,), 2, "Normal")
    model.save(tmp_path)
    torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(pyrovae.open(str(tmp_path)).state_dict(), model.state_dict())


OWN = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(-1, (2, 2)))


class OwnVAE(VAE):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: VAE((4,), 2, "Normal", encoder=OWN),
            "encoder of VAE is a value of type Sequential",
        ),
        (
            lambda: VAE((4,), 2, "Normal", encoder=lambda i, o: MLP(i, o)),
            "encoder of VAE is a value of type func",
        ),
        (lambda: OwnVAE((4,), 2), "OwnVAE is a class of your own"),
    ],
)
def test_what_a_file_cannot_keep_is_named(
    make: Callable[[], VAE], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    model = make()
    with pytest.raises(InputError, match=message):
        model.save(folder)
    assert not folder.exists()


def test_later_changes_of_an_argument_are_not_kept(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"name": "mlp", "hidden": [5]}
    model = VAE((4,), 2, "Normal", encoder=settings)
    settings["hidden"].append(7)
    opened = pyrovae.open(model.save(tmp_path))
    torch.testing.assert_close(opened.state_dict(), model.state_dict())


def change(folder: Path, **changes: Any) -> None:
    path = folder / "description.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, and this version of pyrovae reads format 1"),
        ({"model": []}, "does not describe a model"),
        (
            {"model": {"class": "VAE2", "settings": {}}},
            "class cannot be 'VAE2': did you mean 'VAE'",
        ),
        ({"model": {"class": "os.system", "settings": {}}}, "class cannot be 'os.system'"),
        ({"model": {"class": "VAE", "settings": {"a": 1}}}, "VAE does not take its settings"),
        (
            {"model": {"class": "MLP", "settings": {"in_shape": [2], "out_shape": [3]}}},
            "does not fit",
        ),
        ({"dtype": "int8"}, "has dtype .int8."),
        ({"options": 3}, "has options 3"),
        ({"data": {"name": 3}}, "does not describe data: name"),
        (
            {"model": {"class": "VAE", "settings": {"event_shape": [5], "latent_dim": 2}}},
            "does not fit",
        ),
        (
            {"model": {"class": "VAE", "settings": {"event_shape": [4], "latent_dim": 10**9}}},
            "parameters|memory|large",
        ),
    ],
)
def test_a_description_that_is_not_ours_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    VAE((4,), 2, "Normal").save(tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        pyrovae.open(tmp_path)


@pytest.mark.parametrize("name", ["description.json", "model.safetensors"])
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    VAE((4,), 2, "Normal").save(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=name):
        pyrovae.open(tmp_path)


def test_places_without_a_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        pyrovae.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no description\.json"):
        pyrovae.open(tmp_path)
    VAE((4,), 2).save(tmp_path)
    with pytest.raises(InputError, match="device"):
        pyrovae.open(tmp_path, device="abacus")


def test_only_classes_of_this_package_are_built() -> None:
    class Spy(VAE):
        pass

    with pytest.raises(InputError, match="class cannot be 'Spy'"):
        from_plain({"class": "Spy", "settings": {"event_shape": [3], "latent_dim": 2}})
