"""Operators against dense matrices, Bayes' rule, and every family of likelihoods."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae import VAE, InputError
from pyrovae.inverse import Blur, Downsample, Linear, Mask, Noise, Operator
from pyrovae.inverse.covariance import Covariance
from pyrovae.inverse.linear import LinearMap
from tests.likelihoods.test_conformance import SHIPPED, declared, layer_and_eta
from tests.pairs import assert_unbiased

from .families import ENDLESS

float64 = pytest.mark.usefixtures("float64")

IMAGE = (2, 4, 6)


def random_matrix(shape: tuple[int, ...], size: int) -> Tensor:
    return torch.randn(3, size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


MAPS: dict[str, tuple[Callable[..., LinearMap], tuple[int, ...]]] = {
    "Linear": (lambda **of: Linear(random_matrix((5,), 5), **of), (5,)),
    "Linear of images": (
        lambda **of: Linear(random_matrix(IMAGE, 48), event_shape=IMAGE, **of),
        IMAGE,
    ),
    "Downsample": (lambda **of: Downsample(2, **of), IMAGE),
    "Blur": (lambda **of: Blur(0.7, **of), IMAGE),
}

maps = pytest.mark.parametrize("name", MAPS)


def dense(operator: LinearMap, event_shape: tuple[int, ...]) -> Tensor:
    """The matrix A, found column by column from unit vectors."""
    size = torch.Size(event_shape).numel()
    return operator.apply(torch.eye(size).reshape(size, *event_shape)).flatten(1).mT


def as_matrix(covariance: Covariance, shape: tuple[int, ...], rows: int) -> Tensor:
    """The covariance as a dense matrix, from its solutions for unit vectors."""
    size = torch.Size(shape).numel()
    eye = torch.eye(size).reshape(size, 1, *shape).expand(size, rows, *shape)
    inverse = torch.stack([covariance.solve(each).flatten(1) for each in eye], -1)
    return torch.linalg.inv(inverse)


@maps
@float64
def test_adjoint_and_covariance_equal_those_of_the_dense_matrix(name: str) -> None:
    make, event = MAPS[name]
    operator = make(noise=0.3)
    a = dense(operator, event)
    seen = operator.shape(event)
    x, y = torch.randn(7, *event), torch.randn(7, *seen)
    torch.testing.assert_close(operator.apply(x).flatten(1), x.flatten(1) @ a.mT)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y.flatten(1) @ a)
    inner = (operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum()
    torch.testing.assert_close(*inner)
    for variance in (torch.rand(3, *event) + 0.2, torch.full((3, *event), 0.7)):
        for noise in (torch.tensor([0.1, 0.2, 0.3]), torch.full((3,), 0.3)):
            covariance = operator.gram(variance).add_variance(noise.view(-1, *[1] * len(seen)))
            exact = a @ torch.diag_embed(variance.flatten(1)) @ a.mT
            exact = exact + noise.view(-1, 1, 1) * torch.eye(len(a))
            torch.testing.assert_close(as_matrix(covariance, seen, 3), exact)
            mean = torch.randn(3, *seen)
            found = covariance.make_normal(mean).log_prob(y[:3])
            normal = MultivariateNormal(mean.flatten(1), exact)
            torch.testing.assert_close(found, normal.log_prob(y[:3].flatten(1)))


@maps
@float64
def test_maps_accept_any_batch_shape_and_start_at_data_that_look_like_y(name: str) -> None:
    make, event = MAPS[name]
    operator = make(noise=0.3)
    x = torch.randn(2, 3, *event)
    each = torch.stack([operator.apply(row) for row in x.flatten(0, 1)])
    torch.testing.assert_close(operator.apply(x).flatten(0, 1), each)
    y, centre = operator.apply(x[0]), torch.randn(event)
    start = operator.start(y, centre)
    assert start.shape == x[0].shape
    if name == "Blur":  # its start does not undo the blur
        assert (operator.apply(start) - y).norm() < (operator.apply(centre[None]) - y).norm()
        return
    torch.testing.assert_close(operator.apply(start), y)
    # The start is the nearest to the centre: the difference has no part in the null space of A.
    a = dense(operator, event)
    difference = (start - centre).flatten(1)
    torch.testing.assert_close(difference @ torch.linalg.pinv(a) @ a, difference)


def test_block_means_and_blurs_keep_channels_apart() -> None:
    x = torch.zeros(1, *IMAGE)
    x[0, 1, 0, :2] = torch.tensor([4.0, 8.0])
    small = Downsample(2, 0.1).apply(x)
    assert small[0, 1].tolist() == [[3.0, 0, 0], [0, 0, 0]]
    assert small[0, 0].eq(0).all()
    blur = Blur(0.7, 0.1)
    assert blur.apply(x)[0, 0].eq(0).all()
    torch.testing.assert_close(
        blur.apply(torch.full((1, *IMAGE), 2.5)), torch.full((1, *IMAGE), 2.5)
    )
    # Far from the edges, weights fall as exp(-d^2 / (2 width^2)).
    one = torch.zeros(1, 1, 11, 11)
    one[..., 5, 5] = 1
    found = blur.apply(one)[0, 0, 5]
    weights = (-(torch.arange(-5.0, 6) ** 2) / (2 * 0.7**2)).exp()
    torch.testing.assert_close(found[3:8] / found[5], weights[3:8] / weights[5])
    whole = Downsample(2, 0.1).apply(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
    assert whole.item() == 255


@maps
@float64
def test_x_given_y_and_z_by_bayes(name: str) -> None:
    make, event = MAPS[name]
    operator = make(noise=0.4)
    size, num = torch.Size(event).numel(), 6
    loc, scale = torch.randn(num, *event), torch.rand(num, *event) + 0.5
    p = dist.Normal(loc, scale).to_event(len(event))
    y = operator.observe(p.sample())
    noise = torch.full((num,), 0.4)
    seen, value = operator.seen(p, y, noise, torch.zeros(num, *event))
    restored = operator.restored(p, y, noise)
    a = dense(operator, event)
    prior = torch.diag_embed(scale.flatten(1).square())
    y_covariance = a @ prior @ a.mT + 0.16 * torch.eye(len(a))
    gain = prior @ a.mT @ torch.linalg.inv(y_covariance)
    residual = y.flatten(1) - loc.flatten(1) @ a.mT
    mean = loc.flatten(1) + (gain @ residual.unsqueeze(-1)).squeeze(-1)
    covariance = prior - gain @ a @ prior
    exact = MultivariateNormal(loc.flatten(1) @ a.mT, y_covariance)
    torch.testing.assert_close(seen.log_prob(value), exact.log_prob(y.flatten(1)))
    torch.testing.assert_close(restored.mean.flatten(1), mean)
    x = restored.sample()
    exact = MultivariateNormal(mean, (covariance + covariance.mT) / 2)
    torch.testing.assert_close(restored.log_prob(x), exact.log_prob(x.flatten(1)))
    # If draws have this covariance, their whitened squares have mean 1.
    draws = torch.stack([restored.sample() for _ in range(400)]).flatten(2)
    assert_unbiased(draws, mean)
    off = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), (draws - mean).unsqueeze(-1), upper=False
    ).squeeze(-1)
    assert_unbiased(off.square(), torch.ones(num, size))


def test_masks_replace_missing_entries_by_nan() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert torch.equal(Mask().observe(x), x.float())
    seen = torch.tensor([True, False, True])
    for mask in (seen, seen.expand(2, 3)):
        y = Mask(mask).observe(x)
        assert y[:, 1].isnan().all()
        assert torch.equal(y[:, ::2], x[:, ::2].float())
    with pytest.raises(InputError, match=r"observed has shape \(4,\)"):
        Mask(torch.ones(4, dtype=torch.bool)).observe(x)


@pytest.mark.parametrize(
    "operator",
    [Noise(0.5), Noise(0.5, of="mean"), Downsample(2, 0.5), Blur(1.0, 0.5)],
    ids=lambda operator: f"{type(operator).__name__} of {operator.of}",
)
def test_observations_have_the_right_noise_and_repeat_with_the_seed(operator: Any) -> None:
    x = torch.randn(200, *IMAGE)
    torch.manual_seed(1)
    y = operator.observe(x)
    torch.manual_seed(1)
    assert torch.equal(operator.observe(x), y)
    off = (y - operator.apply(x)).double().flatten()
    assert off.mean().abs() < 4.5 * 0.5 / len(off) ** 0.5
    assert abs(off.square().mean().item() - 0.25) < 4.5 * 0.25 * (2 / len(off)) ** 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(0.0), "above 0 in units of y, or None"),
        (lambda: Noise(float("inf")), "noise is inf"),
        (lambda: Noise(float("nan")), "noise is nan"),
        (lambda: Noise(0.1, of="x"), "of is 'x'"),
        (lambda: Noise(None).observe(torch.ones(2, 3)), "unknown size cannot be simulated"),
        (lambda: Linear(torch.eye(2), -0.1), "0 or more in units of y"),
        (lambda: Linear(torch.eye(2), 0.0, of="mean"), "above 0 in units of y"),
        (lambda: Linear(torch.ones(2, 2), 0.0), "2 rows of the matrix are linearly dependent"),
        (lambda: Linear(torch.full((1, 2), torch.nan), 0.1), "with finite entries"),
        (lambda: Linear(torch.eye(2), 0.1, event_shape=(3,)), "2 columns, for data of shape"),
        (lambda: Downsample(1, 0.1), "factor is 1; it must be 2 or more"),
        (lambda: Downsample(3, 0.1).observe(torch.ones(1, *IMAGE)), "must divide the height"),
        (lambda: Downsample(2, 0.1).observe(torch.ones(4, 4)), "images"),
        (lambda: Blur(0.0, 0.1), "width is 0.0"),
        (lambda: Blur(float("inf"), 0.1), "width is inf"),
        (lambda: Blur(1.0, 0.1).shape((3, 64, 64)), "too large a matrix"),
        (lambda: Blur(1.0, 0.1).observe(torch.ones(4, 4)), "images"),
    ],
)
def test_operators_refuse_bad_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


NORMAL_FAMILIES = {"LowRankNormal", "MultivariateNormal", "Normal"}
NOISE_FAMILIES = {"Bernoulli", "BetaBinomial", "Binomial", "Categorical"} | NORMAL_FAMILIES
"""Families for which p(y | z) is known when the noise is on x itself."""

TOTAL_FAMILIES = {"Multinomial", "DirichletMultinomial"}


def restore(
    name: str, operator: Operator | None, y: Callable[[Tensor], Tensor], method: Any = "amortised"
) -> Any:
    """Draw x from that family, and the posterior of a VAE given y(x)."""
    layer, eta = layer_and_eta(declared(name))
    x = layer(eta.expand(4, *layer.in_shape)).sample().float()
    vae = VAE((3,), 2, declared(name))
    return x, vae.posterior(y(x), operator=operator, method=method, num_samples=30)


def with_gaps(x: Tensor) -> Tensor:
    y = x.clone()
    y[0, 1] = torch.nan
    y[2] = torch.nan
    return y


def assert_restored(name: str, x: Tensor, result: Any) -> None:
    assert result.x.shape == (30, 4, 3)
    assert result.mean.shape == (4, 3)
    assert result.x.isfinite().all()
    assert result.mean.isfinite().all()
    layer, _ = layer_and_eta(declared(name))
    assert layer.in_support(result.x).all()
    assert result.log_prob(x).isfinite().all()


@pytest.mark.parametrize("name", SHIPPED)
def test_mask_under_every_family(name: str) -> None:
    if name in TOTAL_FAMILIES:
        with pytest.raises(InputError, match="joint distribution over all features"):
            restore(name, None, with_gaps, ENDLESS)
        return
    x, result = restore(name, None, with_gaps)
    assert_restored(name, x, result)
    y = with_gaps(x)
    seen = ~y.isnan()
    assert torch.equal(result.mean[seen], y[seen])
    assert torch.equal(result.x[:, seen], y[seen].expand(30, -1))
    assert result.sd[seen].eq(0).all()
    torch.testing.assert_close(result.log_prob(x)[[1, 3]], torch.zeros(2), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", SHIPPED)
def test_noise_on_x_under_every_family(name: str) -> None:
    if name not in NOISE_FAMILIES:
        with pytest.raises(InputError, match=r"of='mean'|joint distribution over all features"):
            restore(name, Noise(0.3), lambda x: x, ENDLESS)
        return
    x, result = restore(name, Noise(0.3), with_gaps)
    assert_restored(name, x, result)


@pytest.mark.parametrize("name", SHIPPED)
def test_matrix_of_x_under_every_family(name: str) -> None:
    matrix = torch.tensor([[1.0, 1.0, 0.0], [0.0, -0.5, 2.0]])
    if name not in NORMAL_FAMILIES:
        with pytest.raises(InputError, match=r"of='mean'|joint distribution over all features"):
            restore(name, Linear(matrix, 0.3), lambda x: x @ matrix.mT, ENDLESS)
        return
    x, result = restore(name, Linear(matrix, 0.3), lambda x: x @ matrix.mT)
    assert_restored(name, x, result)


@pytest.mark.parametrize("name", SHIPPED)
def test_noise_on_the_mean_under_every_family(name: str) -> None:
    matrix = torch.tensor([[1.0, 1.0, 0.0], [0.0, -0.5, 2.0]])
    linear = Linear(matrix, 0.3, of="mean")
    noisy = Noise(0.3, of="mean")
    if name in TOTAL_FAMILIES:
        with pytest.raises(InputError, match="counts given their total"):
            restore(name, noisy, lambda x: x, ENDLESS)
        return
    for operator, y in ((noisy, with_gaps), (linear, lambda x: x @ matrix.mT)):
        x, result = restore(name, operator, y)
        assert result.x.shape == (30, 4, 3)
        torch.testing.assert_close(result.x.mean(0), result.mean)
        with pytest.raises(InputError, match="its density is not known"):
            result.log_prob(x)
