"""x ~ Normal(W z + mu, sigma^2 I), z ~ Normal(0, I): its posterior and its maximum likelihood.

The algebra of probabilistic PCA (Tipping and Bishop 1999; Roweis 1998), without modules. Data are
rows of features that are centred and of order one; no matrix of D by D features is made.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError

__all__ = ["Maximum", "closed_form", "em", "posterior"]

_NO_NOISE = 1e-12
"""Least variance of the noise, in units of the mean variance of the data."""


def posterior(
    residual: Float[Tensor, "*batch features"],
    observed: Float[Tensor, "*batch features"] | None,
    weight: Float[Tensor, "features latent"],
    variance: Float[Tensor, ""],
) -> tuple[Float[Tensor, "*batch latent"], Float[Tensor, "... latent latent"]]:
    """Mean and covariance of p(z | x), the latter one for all where nothing is missing.

    Arguments:
        residual: x - mu, zero where missing.
        observed: 1 where it is not missing.
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
class Maximum:
    """Where the likelihood is highest, and the way there.

    Attributes:
        weight: W.
        bias: mu.
        variance: sigma^2.
        history: the mean of log p(x), in nats a datum, before each round, and at the end.
    """

    weight: Float[Tensor, "features latent"]
    bias: Float[Tensor, "features"]
    variance: Float[Tensor, ""]
    history: list[float]


def closed_form(x: Float[Tensor, "data features"], latent_dim: int) -> Maximum:
    """The maximum for complete data of mean zero, by their singular values.

    With Lambda_L the L greatest eigenvalues of the covariance, and U_L their vectors,

        sigma^2 = mean of the others,   W = U_L (Lambda_L - sigma^2 I)^1/2.

    Raises:
        InputError: if nothing is left for sigma.
    """
    _, singular, vectors = torch.linalg.svd(x, full_matrices=False)
    values = singular.square() / len(x)
    num_features = x.shape[1]
    kept, rest = values[:latent_dim], num_features - latent_dim
    variance = _noisy(values[latent_dim:].sum() / rest)
    weight = vectors[:latent_dim].mT * (kept - variance).clamp_min(0).sqrt()
    log_det = kept.log().sum() + rest * variance.log()
    log_p = -0.5 * (num_features * (log(2 * pi) + 1) + log_det)
    return Maximum(weight, x.new_zeros(num_features), variance, [log_p.item()])


def em(
    x: Float[Tensor, "data features"],
    latent_dim: int,
    observed: Float[Tensor, "data features"] | None,
    max_iter: int,
    tol: float,
) -> Maximum:
    """EM from a W drawn at random: O(N D L) a round, and O(N D L^2) where entries are missing.

    The E-step is the posterior; the M-step regresses each feature on z, by the data of which it is
    observed. log p(x) never falls. The M-step fits the moments of z too, z ~ Normal(m, A), which
    W and mu then absorb: the same maximum, without EM's many rounds to settle the length of W where
    there is little noise (PX-EM; Liu, Rubin and Wu 1998).

    Arguments:
        x: data, zero where missing; of mean zero where complete.
        latent_dim: L.
        observed: 1 where not missing; None where nothing is.
        max_iter: rounds at most.
        tol: stop when a round raises log p(x) by less than this, in nats a datum.

    Raises:
        InputError: if sigma goes to zero.
    """
    num = len(x)
    num_spreads = num if observed is None else 1  # that of one datum, or those of all
    weight = torch.randn(x.shape[1], latent_dim, dtype=x.dtype, device=x.device)
    bias, variance = x.new_zeros(x.shape[1]), x.new_ones(())
    count = float(x.numel()) if observed is None else observed.sum().item()
    history: list[float] = []
    while True:
        residual = x - bias if observed is None else (x - bias) * observed
        mean, covariance = posterior(residual, observed, weight, variance)
        # (x - mu)^T (W W^T + sigma^2 I)^-1 (x - mu), and the log-determinant, by those of z
        distance = (residual.square().sum() - (residual @ weight * mean).sum()) / variance
        log_det = count * (2 * pi * variance).log() - num_spreads * covariance.logdet().sum()
        history.append(-0.5 * (log_det + distance).item() / num)
        if len(history) > max_iter or (len(history) > 1 and history[-1] - history[-2] < tol):
            return Maximum(weight, bias, variance, history)
        # Of each feature the regression on (z, 1), by E[(z, 1)(z, 1)^T] and x E[(z, 1)]^T.
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
        variance = _noisy((x.square().sum() - (coefficients * cross).sum()) / count)
        # z ~ Normal(m, A) with the moments of z, then W and mu for which it is Normal(0, I).
        centre = mean.mean(0)
        centred = mean - centre
        factor = torch.linalg.cholesky((total + centred.mT @ centred) / num)
        bias = coefficients[:, -1] + coefficients[:, :-1] @ centre
        weight = coefficients[:, :-1] @ factor


def _noisy(variance: Float[Tensor, ""]) -> Float[Tensor, ""]:
    if variance.item() > _NO_NOISE:
        return variance
    raise InputError(
        "the data lie in an affine space of latent_dim dimensions, where sigma goes to zero and "
        "the likelihood has no maximum; use fewer latent dimensions, or PCA"
    )
