"""The posterior and maximum likelihood of x ~ Normal(W z + mu, sigma^2 I), z ~ Normal(0, I).

This is the algebra of probabilistic PCA (Tipping and Bishop 1999; Roweis 1998), without modules.
Data are rows of features that are centred and of order one. No matrix of D by D features is made.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError

__all__ = ["MaximumLikelihood", "fit_closed_form", "fit_em", "posterior"]

_MIN_VARIANCE = 1e-12
"""Least variance of the noise, in units of the mean variance of the data."""


def posterior(
    residual: Float[Tensor, "*batch features"],
    observed: Float[Tensor, "*batch features"] | None,
    weight: Float[Tensor, "features latent"],
    variance: Float[Tensor, ""],
) -> tuple[Float[Tensor, "*batch latent"], Float[Tensor, "... latent latent"]]:
    """Mean and covariance of p(z | x). If nothing is missing, there is one covariance for all data.

    Arguments:
        residual: x - mu, 0 where x is missing.
        observed: 1 where x is observed and 0 where it is missing; None if nothing is missing.
        weight: W.
        variance: sigma^2.
    """
    if observed is None:
        gram = weight.mT @ weight
    else:
        products = weight.unsqueeze(2) * weight.unsqueeze(1)
        gram = (observed @ products.flatten(1)).unflatten(-1, products.shape[1:])
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(identity + gram / variance))
    mean = torch.einsum("...kl,...l->...k", covariance, residual @ weight / variance)
    return mean, covariance


@dataclass(frozen=True)
class MaximumLikelihood:
    """The parameters that maximise the likelihood, and the history of the fit.

    Attributes:
        weight: W.
        bias: mu.
        variance: sigma^2.
        history: mean of log p(x), in nats per datum, before each EM iteration and at the end.
    """

    weight: Float[Tensor, "features latent"]
    bias: Float[Tensor, "features"]
    variance: Float[Tensor, ""]
    history: list[float]


def fit_closed_form(x: Float[Tensor, "data features"], latent_dim: int) -> MaximumLikelihood:
    """Maximise the likelihood of complete data of mean zero, by their singular values.

    With the L largest eigenvalues Lambda_L of the covariance, and their eigenvectors U_L,

        sigma^2 = mean of the other eigenvalues,   W = U_L (Lambda_L - sigma^2 I)^1/2.

    Raises:
        InputError: if sigma is zero.
    """
    _, singular, vectors = torch.linalg.svd(x, full_matrices=False)
    values = singular.square() / len(x)
    num_features = x.shape[1]
    largest, num_others = values[:latent_dim], num_features - latent_dim
    variance = _check_variance(values[latent_dim:].sum() / num_others)
    weight = vectors[:latent_dim].mT * (largest - variance).clamp_min(0).sqrt()
    log_det = largest.log().sum() + num_others * variance.log()
    log_p = -0.5 * (num_features * (log(2 * pi) + 1) + log_det)
    return MaximumLikelihood(weight, x.new_zeros(num_features), variance, [log_p.item()])


def fit_em(
    x: Float[Tensor, "data features"],
    latent_dim: int,
    observed: Float[Tensor, "data features"] | None,
    max_iter: int,
    tol: float,
) -> MaximumLikelihood:
    """Maximise the likelihood by EM from a random W.

    An iteration costs O(N D L), or O(N D L^2) if entries are missing. The E-step computes the
    posterior. The M-step regresses each feature on z, over the data that have it. log p(x) never
    falls. The M-step also fits the moments of z, z ~ Normal(m, A), which W and mu then absorb. The
    maximum is the same, but plain EM takes many iterations to find the length of W if there is
    little noise (PX-EM; Liu, Rubin and Wu 1998).

    Arguments:
        x: data, 0 where missing; of mean zero if complete.
        latent_dim: number of latent dimensions L.
        observed: 1 where x is observed and 0 where it is missing; None if nothing is missing.
        max_iter: maximal number of iterations.
        tol: stop when an iteration raises log p(x) by less than this, in nats per datum.

    Raises:
        InputError: if sigma goes to zero.
    """
    num = len(x)
    # Complete data share one covariance; otherwise each datum has its own.
    num_repeats = num if observed is None else 1
    weight = torch.randn(x.shape[1], latent_dim, dtype=x.dtype, device=x.device)
    bias, variance = x.new_zeros(x.shape[1]), x.new_ones(())
    count = float(x.numel()) if observed is None else observed.sum().item()
    history: list[float] = []
    while True:
        residual = x - bias if observed is None else (x - bias) * observed
        mean, covariance = posterior(residual, observed, weight, variance)
        # (x - mu)^T (W W^T + sigma^2 I)^-1 (x - mu) and its log-determinant, from matrices of z.
        distance = (residual.square().sum() - (residual @ weight * mean).sum()) / variance
        log_det = count * (2 * pi * variance).log() - num_repeats * covariance.logdet().sum()
        history.append(-0.5 * (log_det + distance).item() / num)
        if len(history) > max_iter or (len(history) > 1 and history[-1] - history[-2] < tol):
            return MaximumLikelihood(weight, bias, variance, history)
        # Regress each feature on (z, 1), with E[(z, 1)(z, 1)^T] and x E[(z, 1)]^T.
        total = num * covariance if observed is None else covariance.sum(0)
        first = pad(mean, (0, 1), value=1.0)
        cross = x.mT @ first
        if observed is None:
            moments = pad(total, (0, 1, 0, 1)) + first.mT @ first
            coefficients = torch.linalg.solve(moments, cross.mT).mT
        else:
            second = pad(covariance, (0, 1, 0, 1)) + first.unsqueeze(2) * first.unsqueeze(1)
            moments = (observed.mT @ second.flatten(1)).unflatten(1, second.shape[1:])
            coefficients = torch.linalg.solve(moments, cross)
        variance = _check_variance((x.square().sum() - (coefficients * cross).sum()) / count)
        # Fit z ~ Normal(m, A), then change W and mu so that z ~ Normal(0, I) again.
        centre = mean.mean(0)
        centred = mean - centre
        factor = torch.linalg.cholesky((total + centred.mT @ centred) / num)
        bias = coefficients[:, -1] + coefficients[:, :-1] @ centre
        weight = coefficients[:, :-1] @ factor


def _check_variance(variance: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the variance, or raise InputError if it is close to zero."""
    if variance.item() > _MIN_VARIANCE:
        return variance
    raise InputError(
        "the data lie in an affine space of latent_dim dimensions, so sigma goes to zero and the "
        "likelihood has no maximum; use fewer latent dimensions, or PCA"
    )
