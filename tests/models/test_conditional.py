"""The conditional VAE: log p(x | y) against exact values, its parts, and training by Pyro."""

import copy
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyrovae import InputError, evaluate, fit, importance_sample
from pyrovae.models.base.condition import Condition
from pyrovae.models.base.conditional_normal import ConditionalNormal
from pyrovae.models.conditional import ConditionalVAE
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder, Joint
from pyrovae.priors import StandardNormal
from tests.graphs import assert_graph_matches_eager

GENERATOR = torch.Generator().manual_seed(0)
X = (torch.rand(10, 1, 8, 8, generator=GENERATOR) > 0.5).float()
CLASSES = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 1])
CONDITIONS: dict[str, tuple[dict[str, Any], Tensor]] = {
    "class": ({"num_classes": 3}, CLASSES),
    "vector": ({"condition_shape": (5,)}, 7 + 3 * torch.randn(10, 5, generator=GENERATOR)),
    "image": (
        {"condition_shape": (1, 8, 8), "condition": ConvEncoder},
        torch.rand(10, 1, 8, 8, generator=GENERATOR),
    ),
}
each_condition = pytest.mark.parametrize(("options", "y"), CONDITIONS.values(), ids=CONDITIONS)


def linear_gaussian_cvae(scale: float = 0.6) -> ConditionalVAE:
    """x = W z + V y + b + noise, with a linear decoder and a standard normal prior."""
    linear = partial(MLP, hidden=())
    likelihood = {"family": "Normal", "scale": scale}
    return ConditionalVAE((3,), 2, likelihood, condition_shape=(1,), decoder=linear, encoder=linear)


def exact_log_evidence(cvae: ConditionalVAE, x: Tensor, y: Tensor, scale: float = 0.6) -> Tensor:
    """log Normal(x; V y + b, W W' + s^2 I)."""
    linear = cvae.model.decoder.layers[0]
    of_z, of_y = linear.weight[:, :2], linear.weight[:, 2:]
    covariance = of_z @ of_z.T + scale**2 * torch.eye(3)
    return MultivariateNormal(linear.bias + y @ of_y.T, covariance).log_prob(x)


@pytest.mark.usefixtures("float64")
def test_importance_sampling_matches_the_exact_log_p() -> None:
    cvae = linear_gaussian_cvae()
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    found = importance_sample(
        cvae.model, cvae.guide, (x, y), num_samples=30000, compile=False, progress=False
    )
    exact = exact_log_evidence(cvae, x, y).detach()
    off = (found.log_likelihood - exact).abs()
    assert (off <= 4.5 * found.standard_error).all(), off / found.standard_error
    assert (found.standard_error < 0.1).all()
    assert (exact - exact_log_evidence(cvae, x, -y).detach()).abs().max() > 0.1  # y matters


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("conditional_prior", [False, True])
def test_importance_sampling_agrees_with_a_grid(conditional_prior: bool) -> None:
    """log p(x | y) is the log of the integral over a latent of one dimension."""
    cvae = ConditionalVAE(
        (4,),
        1,
        num_classes=3,
        conditional_prior=conditional_prior,
        encoder=partial(MLP, hidden=(8,)),
        decoder=decoder_with_large_weights,
    )
    x = (torch.rand(6, 4) > 0.5).double()
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    found = importance_sample(
        cvae.model, cvae.guide, (x, y), num_samples=4000, compile=False, progress=False
    )
    z = torch.linspace(-12, 12, 4001)
    with torch.no_grad():
        c = cvae.model.condition(y)
        log_p = cvae.model.p(c).expand([6]).log_prob(z[:, None, None].expand(-1, 6, 1))
        log_p = log_p + cvae.decode(z[:, None, None], y).log_prob(x)
    exact = log_p.logsumexp(0) + (z[1] - z[0]).log()
    off = (found.log_likelihood - exact).abs()
    assert (off <= 4.5 * found.standard_error).all(), off / found.standard_error
    assert (found.standard_error < 0.1).all()


@pytest.mark.slow
def test_training_learns_how_x_depends_on_y() -> None:
    """x = 2 y - 1 + noise: the slope is right, and the ELBO exceeds log p(x) without y."""
    y = torch.randn(500, 1)
    x = torch.cat([2 * y - 1, -y], 1) + 0.3 * torch.randn(500, 2)
    linear = partial(MLP, hidden=())
    encoder = Joint(linear, (2,), 1, (2, 1), num_features=8, hidden=8)
    likelihood = {"family": "Normal", "scale": "shared"}
    cvae = ConditionalVAE(
        (2,), 1, likelihood, condition_shape=(1,), encoder=encoder, decoder=linear
    )
    options: dict[str, Any] = {"schedule": "cosine", "compile": False, "progress": False}
    fit(cvae.model, cvae.guide, (x, y), epochs=150, batch_size=500, lr=0.1, **options)
    ends = cvae.decode_mean(torch.zeros(2, 1), torch.tensor([[-1.0], [1.0]]))
    slope = ((ends[1] - ends[0]) / 2).detach()
    error = 0.3 / 500**0.5  # of the most likely slope
    torch.testing.assert_close(slope, torch.tensor([2.0, -1.0]), atol=4.5 * error, rtol=0)
    found = evaluate(cvae.model, cvae.guide, (x, y), compile=False).elbo
    best = -MultivariateNormal(torch.zeros(2), 0.09 * torch.eye(2)).entropy().item()
    alone = -MultivariateNormal(torch.zeros(2), torch.cov(x.T)).entropy().item()
    assert abs(found.mean - best) < 4.5 * found.standard_error
    assert found.mean > alone + 1


@each_condition
def test_methods_return_the_right_shapes(options: dict[str, Any], y: Tensor) -> None:
    cvae = ConditionalVAE((1, 8, 8), 3, **options)
    cvae.standardise(X, y)
    assert cvae.q(X, y).batch_shape == (10,)
    assert cvae.embed(X[0], y[0]).shape == (3,)
    assert cvae.decode(torch.zeros(7, 1, 3), y).batch_shape == (7, 10)
    assert cvae.decode_mean(torch.zeros(7, 10, 3), y[0]).shape == (7, 10, 1, 8, 8)
    assert cvae.reconstruct(X, y, num_samples=0).shape == X.shape
    assert cvae.sample(4, y[0]).shape == (4, 1, 8, 8)
    assert cvae.sample(10, y, mean=True).shape == X.shape
    assert cvae.transfer(X, y, y[3]).shape == X.shape


def test_transfer_and_draw_decode_with_the_given_y() -> None:
    cvae = ConditionalVAE((1, 8, 8), 3, num_classes=3)
    z = cvae.embed(X, CLASSES)
    other = (CLASSES + 1) % 3
    moved = cvae.transfer(X, CLASSES, other)
    torch.testing.assert_close(moved, cvae.decode_mean(z, other).detach())
    torch.testing.assert_close(
        cvae.transfer(X, CLASSES, CLASSES), cvae.reconstruct(X, CLASSES, num_samples=0)
    )
    assert (moved - cvae.reconstruct(X, CLASSES, num_samples=0)).abs().amax((1, 2, 3)).min() > 1e-3
    z, eta = cvae.draw(10, CLASSES)
    torch.testing.assert_close(eta, cvae.model.eta_given(z, cvae.model.condition(CLASSES)))
    assert not any(t.requires_grad for t in (moved, cvae.sample(4, CLASSES[0], mean=True)))


def test_draws_of_a_conditional_prior_follow_y() -> None:
    cvae = ConditionalVAE((4,), 1, num_classes=2, conditional_prior=True)
    with torch.no_grad():
        network = cvae.model.prior.network.layers[-1]
        network.weight.zero_()
        network.bias.copy_(torch.tensor([5.0, -3.0]))
        first = cvae.model.prior.network.layers[0]
        network.weight[0, 0] = 1.0
        first.weight[0] = torch.tensor([1.0, 9.0])
        first.bias[0] = 0.0
    y = torch.tensor([0, 1]).repeat(500)
    z, _ = cvae.draw(1000, y)
    scale = nn.functional.softplus(torch.tensor(-3.0)).item()
    for label, loc in ((0, 6.0), (1, 14.0)):
        of_label = z[y == label]
        assert abs(of_label.mean().item() - loc) < 4.5 * scale / 500**0.5
        assert abs(of_label.std().item() - scale) < 4.5 * scale / 1000**0.5


def test_vectors_and_images_are_standardised_and_classes_are_not() -> None:
    _, vector = CONDITIONS["vector"]
    condition = Condition(condition_shape=(5,))
    condition.set_units(vector)
    c = condition(vector)
    torch.testing.assert_close(c.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(c.std(0, correction=0), torch.ones(5))
    _, image = CONDITIONS["image"]
    image_condition = Condition(condition_shape=(1, 8, 8))
    image_condition.set_units(16 * image)
    assert image_condition.standardise(16 * image).std(correction=0).item() == pytest.approx(1)
    assert image_condition.standardise.scale.unique().numel() == 1
    class_condition = Condition(num_classes=3)
    class_condition.set_units(CLASSES)
    assert torch.equal(class_condition(CLASSES), nn.functional.one_hot(CLASSES, 3).float())
    cvae = ConditionalVAE((3,), 2, "Normal", condition_shape=(5,))
    cvae.standardise(torch.randn(10, 3), vector)
    for part in (cvae.model, cvae.guide):
        torch.testing.assert_close(part.condition(vector), c)


@each_condition
def test_copies_and_state_dicts_give_the_same_pair(options: dict[str, Any], y: Tensor) -> None:
    cvae = ConditionalVAE((1, 8, 8), 3, conditional_prior=True, **options)
    cvae.standardise(X, y)
    fresh = ConditionalVAE((1, 8, 8), 3, conditional_prior=True, **options)
    fresh.load_state_dict(cvae.state_dict())
    expected = cvae.reconstruct(X, y, num_samples=0)
    for other in (copy.deepcopy(cvae), fresh):
        assert torch.equal(other.reconstruct(X, y, num_samples=0), expected)
    own = {p.data_ptr() for p in copy.deepcopy(cvae).parameters()}
    assert not own & {p.data_ptr() for p in cvae.parameters()}
    stored = [t.data_ptr() for t in cvae.state_dict().values()]
    assert len(stored) == len(set(stored))
    doubled = fresh.double().reconstruct(X.double(), y, num_samples=0)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled, expected.double(), rtol=1e-4, atol=1e-4)


@each_condition
def test_pyro_svi_trains_a_conditional_vae(options: dict[str, Any], y: Tensor) -> None:
    cvae = ConditionalVAE((1, 8, 8), 3, conditional_prior=True, **options)
    svi = SVI(cvae.model, cvae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(X, y) for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(p.grad is None or p.grad.isfinite().all() for p in cvae.parameters())


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_recorded_steps_match_eager_steps() -> None:
    x = X.double()
    x[torch.rand(x.shape) < 0.3] = float("nan")

    def make() -> ConditionalVAE:
        body = partial(MLP, hidden=(8,))
        return ConditionalVAE(
            (1, 8, 8),
            3,
            num_classes=3,
            encoder=Joint(body, (2, 8, 8), 3, (2, 3), 8, 8),
            decoder=body,
            missing=True,
        )

    assert_graph_matches_eager(make, [(x[:5], CLASSES[:5]), (x[5:], CLASSES[5:])] * 3)


@pytest.mark.usefixtures("float64")
def test_missing_entries_are_integrated_out() -> None:
    """With a missing column, log p of a linear-Gaussian model is log p of the other columns."""
    cvae = linear_gaussian_cvae()
    cvae = ConditionalVAE(
        (3,),
        2,
        {"family": "Normal", "scale": 0.6},
        condition_shape=(1,),
        decoder=cvae.model.decoder,
        missing=True,
    )
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    x[:, 1] = float("nan")
    found = importance_sample(
        cvae.model, cvae.guide, (x, y), num_samples=4000, compile=False, progress=False
    )
    linear = cvae.model.decoder.layers[0]
    kept = [0, 2]
    of_z, of_y = linear.weight[kept, :2], linear.weight[kept, 2:]
    p = MultivariateNormal(linear.bias[kept] + y @ of_y.T, of_z @ of_z.T + 0.36 * torch.eye(2))
    off = (found.log_likelihood - p.log_prob(x[:, kept]).detach()).abs()
    assert (off <= 4.5 * found.standard_error).all()
    assert cvae.reconstruct(x, y, num_samples=0).isfinite().all()


def test_given_parts_are_used() -> None:
    class Tanh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(67, 6), nn.Tanh())

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return self.layers(torch.cat([x.flatten(-3), c], -1)).unflatten(-1, (2, 3))

    prior = StandardNormal(3)
    cvae = ConditionalVAE((1, 8, 8), 3, num_classes=3, prior=prior, encoder=Tanh())
    assert cvae.model.prior is prior
    assert cvae.embed(X, CLASSES).abs().max() <= 1
    class_condition = ConditionalNormal(MLP((3,), (2, 3)), 3)
    cvae = ConditionalVAE(
        (1, 8, 8), 3, num_classes=3, prior=class_condition, encoder=ConvEncoder, decoder=ConvDecoder
    )
    assert cvae.model.p(cvae.model.condition(CLASSES)).batch_shape == (10,)
    fit(cvae.model, cvae.guide, (X, CLASSES), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({"num_classes": 3}, CLASSES + 1, r"contain 3; labels of 3 classes are from 0 to 2"),
        ({"num_classes": 3}, CLASSES - 1, r"3 of 10 labels are missing \(-1\)"),
        ({"num_classes": 3}, CLASSES - 2, r"missing \(-1\)|contain -2"),
        ({"num_classes": 3}, CLASSES.float(), r"torch.float32; give integers from 0 to 2"),
        ({"num_classes": 3}, CLASSES[:, None], r"\(10, 1\) for 10 data; it must be \(10,\)"),
        ({"condition_shape": (5,)}, torch.zeros(10, 4), r"it must be \(10, 5\)"),
        ({"condition_shape": (5,)}, torch.full((10, 5), float("nan")), r"missing \(NaN\)"),
        ({"condition_shape": (1, 8, 8)}, X[:, 0], r"it must be \(10, 1, 8, 8\)"),
    ],
)
def test_invalid_conditions_are_refused(options: dict[str, Any], y: Tensor, message: str) -> None:
    cvae = ConditionalVAE((1, 8, 8), 2, **options)
    with pytest.raises(InputError, match=message):
        fit(cvae.model, cvae.guide, (X, y), epochs=1, progress=False)
    for program in (cvae.model, cvae.guide):
        with pytest.raises(InputError, match=message):
            pyro.poutine.trace(program).get_trace(X, y)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="latent_dim is 0"):
        ConditionalVAE((3,), 0, num_classes=2)
    with pytest.raises(InputError, match="give one of the two"):
        ConditionalVAE((3,), 2)
    with pytest.raises(InputError, match="give one of the two"):
        ConditionalVAE((3,), 2, num_classes=2, condition_shape=(3,))
    with pytest.raises(InputError, match="num_classes is 1"):
        ConditionalVAE((3,), 2, num_classes=1)
    with pytest.raises(InputError, match="positive whole number"):
        ConditionalVAE((3,), 2, condition_shape=())
    with pytest.raises(InputError, match="both prior and conditional_prior"):
        ConditionalVAE((3,), 2, num_classes=2, prior=StandardNormal(2), conditional_prior=True)
    with pytest.raises(InputError, match="each need a network of their own for an image y"):
        ConditionalVAE((3,), 2, condition_shape=(1, 8, 8), condition=nn.Flatten())
    cvae = ConditionalVAE((3,), 2, num_classes=2)
    with pytest.raises(InputError, match="for 5 draws give one y for all"):
        cvae.sample(5, torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"have shape \(4,\); the model expects \(5,\)"):
        Condition(condition_shape=(5,))(torch.zeros(4))


def decoder_with_large_weights(in_shape: Any, out_shape: Any) -> nn.Module:
    """A decoder with large weights, so that z and y matter."""
    body = MLP(in_shape, out_shape, hidden=(8,), activation=nn.Tanh)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.normal_()
    return body
