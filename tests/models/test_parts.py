"""Parts are words or settings in Python, exactly as in YAML, for every family."""

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pyrovae import (
    VAE,
    Autoencoder,
    ConditionalVAE,
    HierarchicalVAE,
    InputError,
    MixtureVAE,
    ProbabilisticPCA,
    SemiSupervisedVAE,
)
from pyrovae.models.catalogue import build_model
from pyrovae.nn import ConvEncoder, ResidualMLP
from pyrovae.posteriors import FullRankNormal
from pyrovae.priors import NormalMixture, VampPrior

X = torch.linspace(-1, 1, 30).reshape(5, 6)


def make(family: Any, **parts: Any) -> Any:
    options = {
        ConditionalVAE: {"num_classes": 3},
        SemiSupervisedVAE: {"num_classes": 3},
        MixtureVAE: {"num_components": 3},
    }.get(family, {})
    return family((6,), latent_dim=2, likelihood="Normal", **options, **parts)


@pytest.mark.parametrize("family", [VAE, ConditionalVAE, SemiSupervisedVAE])
def test_priors_and_posteriors_by_name(family: Any) -> None:
    model = make(family, prior="mixture", posterior="full_rank")
    assert isinstance(model.model.prior, NormalMixture)
    assert isinstance(model.guide.posterior, FullRankNormal)
    model = make(family, prior={"name": "mixture", "num_components": 5})
    assert model.model.prior.loc.shape == (5, 2)
    module = NormalMixture(2, 4)
    assert make(family, prior=module).model.prior is module


def test_a_vamp_prior_by_name_gets_the_shape_of_the_data() -> None:
    vae = make(VAE, prior={"name": "vamp", "num_components": 3})
    assert isinstance(vae.model.prior, VampPrior)
    assert vae.model.prior.pseudo_inputs.shape == (3, 6)


@pytest.mark.parametrize(
    "family", [VAE, Autoencoder, MixtureVAE, ConditionalVAE, SemiSupervisedVAE]
)
def test_networks_by_name(family: Any) -> None:
    network = {"name": "residual_mlp", "hidden": [7]}
    model = make(family, encoder="mlp", decoder=network)
    assert isinstance(model.model.decoder, ResidualMLP)
    assert model.model.decoder.layers[0].out_features == 7
    model = family((1, 8, 8), 2, 3) if family in (MixtureVAE, SemiSupervisedVAE) else None
    assert model is None or model.event_shape == (1, 8, 8)


def test_image_networks_by_name() -> None:
    vae = VAE((1, 8, 8), 2, encoder="conv", decoder="residual")
    assert isinstance(vae.guide.encoder, ConvEncoder)
    assert vae.embed(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    cvae = ConditionalVAE((6,), 2, condition_shape=(1, 8, 8), condition="conv")
    assert cvae.embed(torch.zeros(3, 6), torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    hierarchical = HierarchicalVAE((1, 8, 8), (3, 2), encoder="conv", decoder="conv")
    assert hierarchical.embed(torch.zeros(3, 1, 8, 8)).shape == (3, 2)


def test_words_mean_what_they_mean_in_yaml() -> None:
    parts = {"prior": {"name": "mixture", "num_components": 5}, "posterior": "low_rank"}
    torch.manual_seed(0)
    by_class = VAE((6,), 2, "Normal", **parts)
    torch.manual_seed(0)
    by_yaml = build_model("vae", event_shape=(6,), latent_dim=2, likelihood="Normal", **parts)
    for name, value in by_class.state_dict().items():
        torch.testing.assert_close(value, by_yaml.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"prior": "mixtur"}, "prior cannot be 'mixtur': did you mean 'mixture'"),
        ({"prior": {"name": "mixture", "components": 5}}, "unknown setting 'components'"),
        ({"posterior": "nothing"}, "posterior cannot be 'nothing'"),
        ({"posterior": nn.Linear(3, 3)}, "has no in_shape"),
        ({"encoder": "cnn"}, "encoder cannot be 'cnn'"),
        ({"decoder": {"name": "mlp", "hidden": [0]}}, r"hidden\[0\] is 0"),
        ({"encoder": nn.Linear(5, 3)}, r"the encoder cannot take inputs of shape \(2, 6\)"),
        ({"decoder": nn.Linear(2, 3)}, r"the decoder must return shape \(2, 1, 6\)"),
        ({"decoder": lambda in_shape, out_shape: None}, "decoder made a NoneType"),
        ({"prior": NormalMixture(3, 4)}, "the prior has latents of shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(VAE, **parts)


METHODS = """
import numpy as np, pandas as pd, torch
from pyrovae import VAE
vae = VAE(np.int64(6), np.int32(2), likelihood="Normal", prior={"name": "mixture",
          "num_components": np.int64(3)})
x = torch.linspace(-1, 1, 30).reshape(5, 6)
for other in (x.numpy(), x.double().numpy(), pd.DataFrame(x.numpy())):
    vae.standardise(other)
    for name in ("embed", "reconstruct"):
        assert torch.equal(getattr(vae, name)(other), getattr(vae, name)(x)), name
z = vae.embed(x).detach()
assert torch.equal(vae.decode_mean(z.numpy()), vae.decode_mean(z))
assert torch.equal(vae.decode_mean(z.double()), vae.decode_mean(z))
assert vae.sample(np.int64(3)).shape == (3, 6)
assert vae.posterior(x.numpy(), method="amortised", num_samples=np.int64(2)).x.shape == (2, 5, 6)
assert vae.latent_dim == 2 and type(vae.latent_dim) is int
"""


def test_methods_take_arrays_frames_and_numbers_of_numpy() -> None:
    """In a process of its own, as the types in signatures are checked in this one."""
    subprocess.run([sys.executable, "-c", METHODS], check=True)


@pytest.mark.parametrize("family", [VAE, Autoencoder, MixtureVAE, ProbabilisticPCA])
def test_methods_refuse_other_shapes(family: Any) -> None:
    model = ProbabilisticPCA((6,), 2) if family is ProbabilisticPCA else make(family)
    others = [X[:, :5], X[:, :, None], X[0, 0], X.to_sparse(), X.to(torch.complex64), "x", None]
    others += [X * torch.nan, X / 0, X * 1e30, X.numpy().astype(str), pd.DataFrame({"a": ["b"]})]
    for x in others:
        for name in ("embed", "reconstruct", "standardise"):
            if name == "reconstruct" and isinstance(x, str):
                continue  # the path of a file
            if name == "standardise" and isinstance(x, torch.Tensor) and x.shape == X.shape:
                continue  # learns the units of large and missing numbers
            with pytest.raises(InputError, match=r"^x "):
                getattr(model, name)(x)
    assert model.embed(X.numpy()).shape == (5, 2)
    assert model.embed(np.asarray(X[0])).shape == (2,)


def test_numbers_of_draws_are_checked() -> None:
    vae = make(VAE)
    for num in (0, -1, True, 10**12):
        with pytest.raises(InputError, match="num_samples"):
            vae.sample(num)
