"""The methods, copies, training and gradients of the hierarchical VAE."""

import copy
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae import VAE, InputError, fit
from pyrovae.infer import ELBO, latent_report
from pyrovae.models.hierarchical import HierarchicalVAE
from pyrovae.nn import MLP
from tests.models.hierarchical import X, each_guide, in_double


@in_double
@each_guide
def test_gradients_match_finite_differences(guide: str) -> None:
    body = partial(MLP, hidden=(4,))
    vae = HierarchicalVAE((3,), (3, 2, 2), "Normal", guide, body, body, hidden=(4,))
    x = torch.randn(4, 3)

    def loss() -> Any:
        torch.manual_seed(5)
        return Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)

    names, parameters = zip(*vae.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss(), parameters)
    step = 1e-5
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                ends.append(loss().item())
                parameter.sub_(sign * step * direction)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-6), name


@in_double
@each_guide
def test_one_layer_is_the_vae(guide: str) -> None:
    deep, vae = HierarchicalVAE((1, 8, 8), (3,), guide=guide), VAE((1, 8, 8), 3)
    assert vae.load_state_dict(deep.state_dict()) is not None
    x = X.double()
    losses = []
    for each in (deep, vae):
        torch.manual_seed(1)
        loss = Trace_ELBO().differentiable_loss(each.model, each.guide, x)
        gradients = torch.autograd.grad(loss, list(each.parameters()))
        losses.append((loss, *gradients))
    for ours, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(deep.embed(x), vae.embed(x))
    torch.testing.assert_close(
        deep.reconstruct(x, num_samples=0), vae.reconstruct(x, num_samples=0)
    )
    torch.manual_seed(1)
    ours = deep.sample(4)
    torch.manual_seed(1)
    assert torch.equal(ours, vae.sample(4))
    kl = kl_divergence(vae.q(x), vae.model.prior()).mean()
    torch.testing.assert_close(deep.layer_kl(x), kl.detach()[None])


@in_double
def test_means_pass_from_layer_to_layer() -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3, 2), guide="bottom_up")
    x = X.double()
    z1, z2, z3 = vae.means(x)
    assert [z.shape[-1] for z in (z1, z2, z3)] == [4, 3, 2]
    torch.testing.assert_close(z2, vae.guide.conditionals[0](z1).mean)
    torch.testing.assert_close(z3, vae.guide.conditionals[1](z2).mean)
    torch.testing.assert_close(
        vae.reconstruct(x, num_samples=0), vae.likelihood.mean(vae.model.decoder(z1))
    )
    assert torch.equal(vae.embed(x), z3)
    assert not vae.reconstruct(x, num_samples=0).requires_grad


@each_guide
def test_copies_are_independent(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3, 2), guide=guide, hidden=(8,))
    twin = copy.deepcopy(vae)

    def loss(each: HierarchicalVAE) -> float:
        torch.manual_seed(2)
        return float(Trace_ELBO().loss(each.model, each.guide, X))

    before = loss(vae)
    assert loss(twin) == before
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1)
    assert loss(twin) == before
    assert loss(vae) != before
    twin.load_state_dict(vae.state_dict())
    assert loss(twin) == loss(vae)
    fit(twin.model, twin.guide, X, epochs=1, compile=False, progress=False)
    assert loss(twin) != loss(vae)
    if guide == "top_down":
        assert twin.guide._model[0] is twin.model
    tensors = list(vae.state_dict().values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)


@each_guide
def test_double_precision_gives_the_same_results(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(8,))
    single = vae.embed(X), vae.reconstruct(X, num_samples=0)
    vae.double()
    double = vae.embed(X.double()), vae.reconstruct(X.double(), num_samples=0)
    for a, b in zip(single, double, strict=True):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@each_guide
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_methods_accept_any_batch_shape(guide: str, batch: tuple[int, ...]) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(8,))
    x = (torch.rand(*batch, 1, 8, 8) > 0.5).float()
    assert vae.embed(x).shape == (*batch, 3)
    assert vae.reconstruct(x, num_samples=0).shape == x.shape
    if batch:
        torch.testing.assert_close(vae.embed(x)[0], vae.embed(x[0]), rtol=1e-4, atol=1e-5)


@each_guide
def test_pyro_svi_trains_a_hierarchical_vae(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(16,))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(X[:2].repeat(10, 1, 1, 1)) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.filterwarnings("error")
def test_closed_form_and_sampled_kl_agree_for_the_ladder() -> None:
    """Possible because the ladder draws latents in the order of the model."""
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide="top_down", hidden=(16,))
    both = [
        torch.tensor([objective.loss(vae.model, vae.guide, X) for _ in range(60)])
        for objective in (TraceMeanField_ELBO(), Trace_ELBO())
    ]
    error = sum(losses.var() / 60 for losses in both) ** 0.5
    assert abs(both[0].mean() - both[1].mean()) < 4.5 * error


@pytest.mark.slow
@each_guide
@pytest.mark.parametrize("objective", ["elbo", {"name": "beta", "beta": 0.5}, "iwae"], ids=str)
def test_objectives_train_a_hierarchical_vae(guide: str, objective: Any) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(16,))
    options = {"epochs": 20, "batch_size": 10, "lr": 1e-2, "compile": False, "progress": False}
    two = X[:2].repeat(10, 1, 1, 1)
    losses = fit(vae.model, vae.guide, two, objective=objective, **options)["loss"]
    assert losses[-1] < 0.7 * losses[0]


@in_double
@each_guide
def test_a_recorded_graph_gives_the_same_loss(guide: str) -> None:
    """The programs do not branch on values of tensors, so a graph can replace them."""
    vae = HierarchicalVAE((1, 8, 8), (4, 3, 2), guide=guide, hidden=(8,))

    def loss(x: Tensor) -> Tensor:
        return ELBO().differentiable_loss(vae.model, vae.guide, x)

    with pyro.validation_enabled(False):
        recorded = make_fx(loss, tracing_mode="fake", _allow_non_fake_inputs=True)(X.double())
        for x in (X.double(), 1 - X.double()):
            torch.manual_seed(3)
            expected = loss(x)
            torch.manual_seed(3)
            torch.testing.assert_close(recorded(x), expected, rtol=1e-9, atol=1e-9)


def test_two_models_share_nothing() -> None:
    first, second = (HierarchicalVAE((1, 8, 8), (4, 3), hidden=(8,)) for _ in range(2))
    before = copy.deepcopy(second.state_dict())
    svi = SVI(first.model, first.guide, pyro.optim.Adam({"lr": 1e-1}), Trace_ELBO())
    svi.step(X)
    assert all(torch.equal(value, before[name]) for name, value in second.state_dict().items())
    names = [
        {n for n, s in poutine.trace(each.model).get_trace(X).nodes.items() if s["type"] == "param"}
        for each in (first, second)
    ]
    assert names[0]
    assert not names[0] & names[1]


@each_guide
def test_reports_and_objectives_that_need_independent_latents_refuse(guide: str) -> None:
    vae = HierarchicalVAE((1, 8, 8), (4, 3), guide=guide, hidden=(8,))
    with pytest.raises(InputError, match="depends on the draw of another latent"):
        latent_report(vae.model, vae.guide, X)
    with pytest.raises(InputError, match="latents that the guide draws independently"):
        fit(vae.model, vae.guide, X, epochs=1, objective="stl", compile=False, progress=False)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match=r"latent_dims has 0 numbers"):
        HierarchicalVAE((3,), ())
    with pytest.raises(InputError, match=r"latent_dims\[1\] is 0"):
        HierarchicalVAE((3,), (3, 0))
    with pytest.raises(InputError, match=r"hidden has 0 numbers"):
        HierarchicalVAE((3,), (3, 2), hidden=())
    with pytest.raises(InputError, match="guide cannot be 'topdown': did you mean 'top_down'"):
        HierarchicalVAE((3,), (3, 2), guide="topdown")
    with pytest.raises(InputError, match="num_samples is 0"):
        HierarchicalVAE((3,), (3, 2), "Normal").layer_kl(torch.zeros(4, 3), num_samples=0)
