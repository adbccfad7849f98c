"""The autoencoder: a point as the posterior, no prior; its linear case is PCA."""

import copy
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from scipy.linalg import subspace_angles
from sklearn import decomposition
from torch import Tensor, nn

from pyrovae import InputError, fit
from pyrovae.models.autoencoder import Autoencoder
from pyrovae.nn import MLP
from pyrovae.posteriors.point import Point
from pyrovae.priors.flat import Flat

LEAST_SQUARES = {"family": "Normal", "scale": 1.0}
fit_quietly: Any = partial(fit, compile=False, progress=False)


def make_data(num: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(num, 2, generator=generator) @ torch.randn(2, 5, generator=generator)
    return 2 * z + 0.5 * torch.randn(num, 5, generator=generator)


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_the_loss_is_least_squares(objective: Any) -> None:
    autoencoder = Autoencoder((5,), 2, LEAST_SQUARES)
    x = make_data()
    error = x - autoencoder.model.decoder(autoencoder.embed(x)).squeeze(1)
    expected = 0.5 * error.square().sum() + 0.5 * x.numel() * torch.tensor(2 * torch.pi).log()
    loss = objective().loss(autoencoder.model, autoencoder.guide, x)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    history = fit_quietly(autoencoder.model, autoencoder.guide, x, epochs=1, batch_size=200)
    assert history.epochs[0].loss == pytest.approx(expected.item() / len(x), rel=1e-5)
    assert history.epochs[0].kl == 0


def test_gradients_match_the_plain_network() -> None:
    autoencoder = Autoencoder((5,), 2, LEAST_SQUARES)
    x = make_data()
    Trace_ELBO().differentiable_loss(autoencoder.model, autoencoder.guide, x).backward()
    found = {name: p.grad for name, p in autoencoder.named_parameters()}
    plain = copy.deepcopy(autoencoder)
    plain.zero_grad()
    code = plain.guide.encoder(x)
    (0.5 * (x - plain.model.decoder(code).squeeze(1)).square().sum()).backward()
    assert found
    for name, p in plain.named_parameters():
        torch.testing.assert_close(found[name], p.grad)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_linear_autoencoder_finds_the_pca_subspace() -> None:
    x = make_data() + 3.0
    linear = partial(MLP, hidden=())
    autoencoder = Autoencoder((5,), 2, LEAST_SQUARES, encoder=linear, decoder=linear)
    autoencoder.standardise(x)
    settings: Any = {"batch_size": len(x), "epochs": 250, "lr": 0.1, "schedule": "cosine"}
    fit_quietly(autoencoder.model, autoencoder.guide, x, **settings)
    pca = decomposition.PCA(2).fit(x)
    least = (x - torch.as_tensor(pca.inverse_transform(pca.transform(x)))).square().sum()
    error = (x - autoencoder.reconstruct(x)).square().sum()
    assert least * (1 - 1e-12) <= error < least * (1 + 1e-4)
    layer: Any = autoencoder.model.decoder.layers[0]
    weight = autoencoder.guide.standardise.scale.unsqueeze(1) * layer.weight.detach()
    assert subspace_angles(weight, pca.components_.T).max() < 1e-2


def test_pyro_svi_trains_an_autoencoder_of_images() -> None:
    x = (torch.rand(20, 1, 8, 8) > 0.5).float()
    autoencoder = Autoencoder((1, 8, 8), 3)
    svi = SVI(autoencoder.model, autoencoder.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


def test_missing_entries_do_not_contribute() -> None:
    autoencoder = Autoencoder((5,), 2, LEAST_SQUARES, missing=True)
    x = make_data(10).masked_fill(torch.rand(10, 5) < 0.3, torch.nan)
    error = (x - autoencoder.reconstruct(x)).square().nansum()
    constant = 0.5 * (~x.isnan()).sum() * torch.tensor(2 * torch.pi).log()
    loss = Trace_ELBO().loss(autoencoder.model, autoencoder.guide, x)
    assert loss == pytest.approx((0.5 * error + constant).item(), rel=1e-5)


def test_sampling_is_refused_without_a_prior() -> None:
    autoencoder = Autoencoder((5,), 2, LEAST_SQUARES)
    for method in (autoencoder.draw, autoencoder.sample):
        with pytest.raises(InputError, match=r"no p\(z\).*train a VAE"):
            method(3)
    with pytest.raises(InputError, match="does not integrate"):
        autoencoder.model(make_data())


def test_flat_log_prob_is_zero_for_any_shape_and_dtype() -> None:
    flat = Flat(3)().expand((4,))
    assert flat.event_shape == (3,)
    for dtype in (torch.float32, torch.float64):
        log_p = flat.log_prob(torch.randn(2, 4, 3, dtype=dtype))
        assert torch.equal(log_p, torch.zeros(2, 4, dtype=dtype))
        assert log_p.dtype == dtype


def test_point_returns_its_input() -> None:
    point, h = Point(3), torch.randn(2, 4, 3, requires_grad=True)
    q = point(h)
    assert (point.in_shape, q.batch_shape, q.event_shape) == ((3,), (2, 4), (3,))
    assert torch.equal(q.rsample(), h)
    assert torch.equal(point.centre(h), h)
    assert torch.equal(q.log_prob(h), torch.zeros(2, 4))
    assert q.rsample().requires_grad
    assert isinstance(point.prior(), nn.Module)
    assert point.prior()().event_shape == (3,)


def test_copies_and_state_dicts_keep_everything() -> None:
    x = make_data(10)
    one, other = (Autoencoder((5,), 2, LEAST_SQUARES) for _ in range(2))
    one.standardise(x)
    other.load_state_dict(one.state_dict())
    for twin in (other, copy.deepcopy(one)):
        torch.testing.assert_close(twin.reconstruct(x), one.reconstruct(x))
    torch.testing.assert_close(
        one.double().reconstruct(x.double()).float(), other.reconstruct(x), rtol=1e-4, atol=1e-5
    )
