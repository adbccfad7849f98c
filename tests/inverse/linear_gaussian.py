"""A linear-Gaussian model, whose p(x | y) is known, and draws against it."""

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae.models.pca import ProbabilisticPCA

LATENT_DIM = 2


def model(num_features: int = 5, *, missing: bool) -> ProbabilisticPCA:
    """Probabilistic PCA with some parameters, in units that are not one."""
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
    of_y = matrix @ prior @ matrix.mT + noise**2 * torch.eye(len(matrix))
    gain = prior @ matrix.mT @ torch.linalg.inv(of_y)
    return loc + gain @ (y - matrix @ loc), prior - gain @ matrix @ prior


def of_missing(ppca: ProbabilisticPCA, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given the entries of y that are there."""
    seen = ~y.isnan()
    return exact(ppca, y[seen], torch.eye(len(y))[seen], 0.0)


def log_density(mean: Tensor, covariance: Tensor, x: Tensor) -> Tensor:
    """log Normal(x; mean, covariance)."""
    return MultivariateNormal(mean, covariance).log_prob(x)


def assert_draws_match_normal(
    draws: Tensor, mean: Tensor, covariance: Tensor, effective: float | None = None
) -> None:
    """Mean and covariance of draws are these, to 4.5 standard errors.

    Arguments:
        draws: of one datum, of shape (samples, features).
        mean: of a normal.
        covariance: of a normal.
        effective: how many independent draws they are worth; as many as they are unless given.
    """
    num = len(draws) if effective is None else effective
    assert num > len(draws) / 20  # or else anything would do
    variance = covariance.diagonal().clamp(min=0)
    round_off = 1e-6 * variance.max()
    of_mean = (variance / num).sqrt()
    off = (draws.mean(0) - mean).abs()
    assert (off <= 4.5 * of_mean + round_off.sqrt() * 1e-3).all(), off / of_mean
    # Of a normal, Var[(x_i - m_i)(x_j - m_j)] = C_ii C_jj + C_ij^2.
    centred = draws - mean
    found = centred.mT @ centred / len(draws)
    of_covariance = ((variance[:, None] * variance + covariance.square()) / num).sqrt()
    off = (found - covariance).abs()
    assert (off <= 4.5 * of_covariance + round_off).all(), off / of_covariance
