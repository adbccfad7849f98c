"""Variational Bayes in closed form: EM with a posterior of theta (Bishop 2006, sec. 10.2).

The approximate posterior is q(z) q(weights) prod_k q(locs_k, Lambda_k). Coordinate ascent sets each
factor in turn to its optimum, which stays in the family of the conjugate :class:`Prior`. The update
of q(z) is the E-step of EM with other weights; the update of q(theta) is the M-step with
pseudo-counts.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...arguments import TensorLike, as_instance, as_real, as_whole, as_word
from ...errors import InputError
from ..climb import State
from ..mixture import CovarianceType, Mixture, as_mixture
from ..moments import Statistics, expectation, second_moments
from ..points import as_points
from .conjugate import Posterior, Prior

__all__ = [
    "check_prior",
    "coordinate_ascent",
    "evidence_bound",
    "make_state",
    "restrict",
    "rounds",
    "update",
]


def update(statistics: Statistics, prior: Prior) -> Posterior:
    """The optimal q(theta), given statistics of the data under q(z) (Bishop, eqs. 10.58-63).

    ::

        concentration_k = concentration + n_k
        precision_k     = precision + n_k
        locs_k          = (precision loc + n_k means_k) / precision_k
        df_k            = df + n_k
        scatter_k       = scatter + scatters_k
                          + precision n_k / precision_k (means_k - loc) (means_k - loc)^T

    If tied, df and scatter add up the terms of all k, so df grows by N. If spherical, df adds
    d n_k, and the scatter adds traces.
    """
    n, kind = statistics.counts, prior.covariance_type
    d = statistics.means.shape[1]
    precision = prior.precision + n
    locs = (prior.precision * prior.loc + n.unsqueeze(1) * statistics.means) / precision[:, None]
    pulled = second_moments(statistics.means - prior.loc, prior.precision * n / precision, kind)
    df = prior.df + {"tied": n.sum(), "spherical": d * n}.get(kind, n)
    scatter = prior.scatter + statistics.scatters + pulled
    return Posterior(prior.concentration + n, locs, precision, df, scatter, prior)


def restrict(posterior: Posterior, to: CovarianceType) -> Posterior:
    """The optimal q in a smaller family, where the Wishart factors are equal or simple.

    Given the optimal q(Lambda_k) = Wishart(df_k, scatter_k^-1) of a full mixture, the optimum has
    one df and one scatter for all k (tied: their means), diagonal scatters (diag: the diagonals),
    or multiples of the identity (spherical: the mean of the diagonal). The model still has a full
    covariance for each component.

    These restrictions of q are the covariance types of scikit-learn's BayesianGaussianMixture;
    their bounds are all on the evidence of the full model. For a model with tied, diagonal or
    spherical covariances, use a :class:`Prior` of that type.

    Raises:
        InputError: if the posterior is not of a full mixture.
    """
    if posterior.covariance_type != "full":
        raise InputError(
            "q can only be restricted if the covariances of the model are full; these are "
            f"{posterior.covariance_type}"
        )
    df, scatter = posterior.df, posterior.scatter
    diagonal = scatter.diagonal(dim1=-2, dim2=-1)
    if to == "tied":
        df, scatter = df.mean().expand_as(df), scatter.mean(0).expand_as(scatter)
    elif to == "diag":
        scatter = diagonal.diag_embed()
    elif to == "spherical":
        scatter = diagonal.mean(-1, keepdim=True).expand_as(diagonal).diag_embed()
    return replace(posterior, df=df, scatter=scatter)


def rounds(
    x: Float[Tensor, "n d"],
    start: Mixture,
    prior: Prior,
    restrict_to: CovarianceType = "full",
    weights: Float[Tensor, "n"] | None = None,
) -> Iterator[tuple[Posterior, Float[Tensor, ""]]]:
    """Yield rounds of coordinate ascent without end: q(theta), and the bound at its optimal q(z).

    The first q(z) is the posterior of the start. Data are processed in chunks, as in EM. Entries
    that are NaN are missing: q has a factor for them given z, at its optimum.

    Arguments:
        x: data.
        start: initial mixture.
        prior: p(theta).
        restrict_to: a smaller family for q; see :func:`restrict`.
        weights: how many times each datum counts; once unless given.

    Raises:
        InputError: if start and prior have different covariance types.
    """
    check_prior(prior, start)
    return _rounds(x, start, prior, restrict_to, weights)


def check_prior(prior: Any, start: Mixture) -> None:
    """Check that a prior and a start are of one kind.

    Raises:
        InputError: if they are not.
    """
    as_instance("prior", prior, Prior, "a Prior; see Prior.of")
    if start.covariance_type != prior.covariance_type:
        raise InputError(
            f"the start has {start.covariance_type} covariances, the prior "
            f"{prior.covariance_type} ones; use the same type for both"
        )
    if len(prior.loc) != start.locs.shape[1]:
        raise InputError(
            f"the start has {start.locs.shape[1]} dimensions, the prior {len(prior.loc)}"
        )


def _rounds(
    x: Tensor,
    start: Mixture,
    prior: Prior,
    restrict_to: CovarianceType,
    weights: Tensor | None,
) -> Iterator[tuple[Posterior, Float[Tensor, ""]]]:
    statistics = expectation(x, start, weights)
    while True:
        posterior = update(statistics, prior)
        if restrict_to != "full":
            posterior = restrict(posterior, restrict_to)
        statistics = expectation(x, posterior.expected_log_joint(), weights)
        yield posterior, statistics.log_normaliser - posterior.kl()


def coordinate_ascent(
    x: TensorLike,
    start: Mixture,
    prior: Prior,
    *,
    restrict_to: CovarianceType = "full",
    max_iter: int = 200,
    tol: float = 1e-9,
) -> Iterator[State]:
    """Mean-field variational Bayes, with a state for each half-step.

    Arguments:
        x: data.
        start: initial mixture; the first q(z) is its posterior.
        prior: p(theta).
        restrict_to: a smaller family for q; see :func:`restrict`.
        max_iter: most rounds to run.
        tol: stop when a round raises the bound by less than this, in nats per datum.

    Raises:
        InputError: if start and prior have different covariance types, max_iter is below 1, or
            another argument is not what is said here.
    """
    x = as_points(x, missing=True)
    start = as_mixture(start, x)
    check_prior(prior, start)
    as_word("restrict_to", restrict_to, get_args(CovarianceType))
    max_iter, tol = as_whole("max_iter", max_iter, 1), as_real("tol", tol, finite=False)
    return _coordinate_ascent(x, start, prior, restrict_to, max_iter, tol)


def _coordinate_ascent(
    x: Tensor,
    start: Mixture,
    prior: Prior,
    restrict_to: CovarianceType,
    max_iter: int,
    tol: float,
) -> Iterator[State]:
    highest = float("-inf")
    log_q = start.log_responsibilities(x)
    for number, (posterior, total) in enumerate(rounds(x, start, prior, restrict_to), start=1):
        yield make_state("M", x, log_q, posterior)
        log_q = posterior.expected_log_joint().log_responsibilities(x)
        yield make_state("E", x, log_q, posterior)
        bound = total.item() / len(x)
        if number == max_iter or bound - highest < tol:
            return
        highest = bound


@torch.no_grad()
def evidence_bound(
    x: Float[Tensor, "n d"], log_q: Float[Tensor, "n k"], posterior: Posterior
) -> Float[Tensor, ""]:
    """E[log p(x, z | theta)] - E[log q(z)] - KL(q(theta) || p(theta)), in nats for all data."""
    expected = posterior.expected_log_joint().log_joint(x) - log_q
    q = log_q.exp()
    return torch.where(q > 0, q * expected, 0.0).sum() - posterior.kl()


def make_state(phase: str, x: Tensor, log_q: Tensor, posterior: Posterior) -> State:
    """Make a state, with the bound at these factors of q."""
    bound = evidence_bound(x, log_q, posterior)
    return State(phase, posterior.mean, log_q, evidence_bound=bound, posterior=posterior)
