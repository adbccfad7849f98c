"""The mixture of diagonal normals against scipy, torch and scikit-learn."""

import numpy as np
import pytest
import torch
from pyro.distributions import Categorical, Independent, MixtureSameFamily, Normal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pyrovae import InputError
from pyrovae.distributions import DiagonalNormalMixture
from pyrovae.priors import NormalMixture


def arguments(components: int, dims: int, scale: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, locations between -4 and 4, and scales near the given one."""
    loc = 8 * torch.rand(components, dims) - 4
    return torch.randn(components), loc, scale * (0.5 + torch.rand(components, dims))


def pyro_mixture(logits: Tensor, loc: Tensor, scale: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(), (5,), (4, 5)])
def test_density_is_the_sum_over_components(shape: tuple[int, ...]) -> None:
    logits, loc, scale = arguments(3, 2)
    x = 3 * torch.randn(*shape, 2)
    terms = [
        multivariate_normal(m, np.diag(s**2)).logpdf(x.numpy()) + log_weight
        for m, s, log_weight in zip(
            loc.numpy(), scale.numpy(), logits.log_softmax(0).tolist(), strict=True
        )
    ]
    p = DiagonalNormalMixture(logits, loc, scale)
    np.testing.assert_allclose(p.log_prob(x).numpy(), logsumexp(terms, axis=0), rtol=1e-12)
    expanded = p.expand(torch.Size((6, *shape)))
    assert expanded.batch_shape == (6, *shape)
    torch.testing.assert_close(expanded.log_prob(x), p.log_prob(x).expand(6, *shape))


def test_single_precision_is_accurate_for_narrow_components_far_apart() -> None:
    """Locations up to 4, scales of 0.05: terms of a million nats cancel in 40 dimensions."""
    parts = arguments(500, 40, scale=0.05)
    _, loc, scale = parts
    k = torch.randint(500, (200,))
    x = loc[k] + scale[k] * torch.randn(200, 40)
    exact = pyro_mixture(*(part.double() for part in parts)).log_prob(x.double())
    log_prob = DiagonalNormalMixture(*parts).log_prob(x)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), exact, rtol=0, atol=5e-5)


@pytest.mark.usefixtures("float64")
def test_density_integrates_to_one() -> None:
    z = torch.linspace(-12, 12, 4001)
    p = DiagonalNormalMixture(*arguments(5, 1)).log_prob(z[:, None]).exp()
    assert torch.trapezoid(p, z).item() == pytest.approx(1, abs=1e-10)


@pytest.mark.usefixtures("float64")
def test_draws_have_the_moments_and_the_entropy_of_the_density() -> None:
    parts = arguments(4, 2)
    p, same = DiagonalNormalMixture(*parts), pyro_mixture(*parts)
    torch.testing.assert_close(p.mean, same.mean)
    torch.testing.assert_close(p.variance, same.variance)
    assert p.expand(torch.Size((3,))).mean.shape == (3, 2)
    num = 100_000
    drawn = p.expand(torch.Size((5,))).sample(torch.Size((num // 5,)))
    assert drawn.shape == (num // 5, 5, 2)
    drawn = drawn.reshape(num, 2)
    reference = same.sample((num,))
    for statistic in (lambda z: z, lambda z: z.square(), lambda z: p.log_prob(z)[:, None]):
        own, other = statistic(drawn), statistic(reference)
        error = ((own.var(0) + other.var(0)) / num).sqrt()
        assert ((own.mean(0) - other.mean(0)).abs() < 4.5 * error).all()


@pytest.mark.usefixtures("float64")
def test_gradients_match_finite_differences() -> None:
    logits, loc, scale = (part.requires_grad_() for part in arguments(3, 2))
    x = torch.randn(4, 2, requires_grad=True)

    def log_prob(*parts: Tensor) -> Tensor:
        return DiagonalNormalMixture(*parts[1:]).log_prob(parts[0])

    assert torch.autograd.gradcheck(log_prob, (x, logits, loc, scale))


def test_invalid_arguments_are_refused() -> None:
    logits, loc, scale = arguments(3, 2)
    with pytest.raises(ValueError, match="parameter scale"):
        DiagonalNormalMixture(logits, loc, -scale)
    with pytest.raises(ValueError, match="within the support"):
        DiagonalNormalMixture(logits, loc, scale).log_prob(torch.tensor([0.0, torch.nan]))
    with pytest.raises(InputError, match="num_components is 0"):
        NormalMixture(2, 0)


@pytest.mark.usefixtures("float64")
def test_components_start_spread_out_with_the_variance_of_a_standard_normal() -> None:
    p = NormalMixture(2, num_components=20_000)()
    assert torch.pdist(p.loc[:500]).min() > 0
    assert torch.equal(p.scale, p.scale[:1].expand_as(p.scale))
    # The mean of 20,000 squares of normals of variance 1/2, about its expectation.
    error = 0.5 * (2 / 20_000) ** 0.5
    assert ((p.loc.square().mean(0) + p.scale[0].square()) - 1).abs().max() < 4.5 * error


@pytest.mark.usefixtures("float64")
def test_maximum_likelihood_matches_scikit_learn() -> None:
    truth = DiagonalNormalMixture(
        torch.tensor([0.3, 0.7]).log(),
        torch.tensor([[2.0, 0.0], [-1.0, 1.0]]),
        torch.tensor([[0.3, 1.0], [0.6, 0.4]]),
    )
    z = truth.sample(torch.Size((200,)))
    reference = GaussianMixture(
        2, covariance_type="diag", reg_covar=0, tol=1e-12, max_iter=2000, random_state=0
    ).fit(z.numpy())
    prior = NormalMixture(2, num_components=2)
    optimiser = torch.optim.LBFGS(
        prior.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -prior().log_prob(z).mean()
        value.backward()
        return value

    optimiser.step(loss)
    p = prior()
    assert p.log_prob(z).mean().item() == pytest.approx(reference.score(z.numpy()), abs=1e-8)
    weights = p.logits.softmax(0).detach()
    order = weights.argsort()
    reference_order = reference.weights_.argsort()
    np.testing.assert_allclose(weights[order], reference.weights_[reference_order], atol=1e-4)
    np.testing.assert_allclose(p.loc.detach()[order], reference.means_[reference_order], atol=1e-3)
