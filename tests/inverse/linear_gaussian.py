"""A linear-Gaussian model with a known p(x | y), and a check of draws against it."""

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae.models.pca import ProbabilisticPCA

LATENT_DIM = 2


def model(num_features: int = 5, *, missing: bool) -> ProbabilisticPCA:
    """Probabilistic PCA with random parameters, for data with units other than one."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ppca = ProbabilisticPCA((num_features,), LATENT_DIM, missing=missing)
        with torch.no_grad():
            for parameter in ppca.parameters():
                parameter.copy_(torch.randn_like(parameter))
            for name, parameter in ppca.named_parameters():
                if "unlinked_scale" in name:
                    parameter.fill_(-1.0)  # sigma is its exponential
    ppca.guide.standardise.set(torch.full((num_features,), 10.0), torch.full((num_features,), 2.0))
    ppca.likelihood.set_units(torch.tensor(10.0), torch.tensor(2.0))
    return ppca


def exact(
    ppca: ProbabilisticPCA, y: Tensor, matrix: Tensor, noise: float, *, of_mean: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x, or of E[x | z], given y = matrix x + noise, of one datum."""
    weight = ppca.loadings.detach()
    prior = weight @ weight.mT
    if not of_mean:
        prior = prior + ppca.scale.detach() ** 2 * torch.eye(len(weight))
    loc = ppca.loc.detach()
    y_covariance = matrix @ prior @ matrix.mT + noise**2 * torch.eye(len(matrix))
    gain = prior @ matrix.mT @ torch.linalg.inv(y_covariance)
    return loc + gain @ (y - matrix @ loc), prior - gain @ matrix @ prior


def exact_given_observed(ppca: ProbabilisticPCA, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given the entries of y that are not NaN."""
    seen = ~y.isnan()
    return exact(ppca, y[seen], torch.eye(len(y))[seen], 0.0)


def log_density(mean: Tensor, covariance: Tensor, x: Tensor) -> Tensor:
    """log Normal(x; mean, covariance)."""
    return MultivariateNormal(mean, covariance).log_prob(x)


def assert_draws_match_normal(
    draws: Tensor, mean: Tensor, covariance: Tensor, effective: float | None = None
) -> None:
    """Assert that mean and covariance of the draws are right to 4.5 standard errors.

    Arguments:
        draws: of one datum, of shape (samples, features).
        mean: mean of the normal.
        covariance: covariance of the normal.
        effective: effective sample size; the number of draws unless given.
    """
    num = len(draws) if effective is None else effective
    assert num > len(draws) / 20  # with fewer the check would accept almost anything
    variance = covariance.diagonal().clamp(min=0)
    round_off = 1e-6 * variance.max()
    mean_error = (variance / num).sqrt()
    off = (draws.mean(0) - mean).abs()
    assert (off <= 4.5 * mean_error + round_off.sqrt() * 1e-3).all(), off / mean_error
    # For a normal, Var[(x_i - m_i)(x_j - m_j)] = C_ii C_jj + C_ij^2.
    centred = draws - mean
    found = centred.mT @ centred / len(draws)
    covariance_error = ((variance[:, None] * variance + covariance.square()) / num).sqrt()
    off = (found - covariance).abs()
    assert (off <= 4.5 * covariance_error + round_off).all(), off / covariance_error
