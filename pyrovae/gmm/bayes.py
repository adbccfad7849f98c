"""Variational Bayes: EM whose parameters have a posterior, in closed form (Bishop 2006, sec. 10.2).

The priors are conjugate,

    weights ~ Dirichlet(concentration),
    Lambda_k = Sigma_k^-1 ~ Wishart(df, scatter^-1),
    locs_k | Lambda_k ~ Normal(loc, (precision Lambda_k)^-1),

which is the normal-inverse-Wishart prior on (locs_k, Sigma_k), and the posterior is taken to be
q(z) q(weights) prod_k q(locs_k, Lambda_k). Coordinate ascent sets each factor in turn to its best,
which keeps the family: q(z) as EM's E-step with other weights, q(theta) as its M-step with
pseudo-counts. Tied covariances share one Lambda. Diagonal and spherical ones are made of Wishart
variables of dimension one, that is of Gamma(df / 2, scatter / 2).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import MultivariateStudentT, StudentT
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from ..errors import InputError, did_you_mean
from .climb import State
from .em import Statistics, expectation, floored_cholesky
from .mixture import CovarianceType, Mixture, check_covariance_type

__all__ = [
    "Posterior",
    "Prior",
    "coordinate_ascent",
    "evidence_bound",
    "restricted",
    "rounds",
    "second_moments",
    "state_of",
    "update",
]


_FLOOR = 1e-6

_GIVEN = ("concentration", "loc", "precision", "df", "scatter")


@dataclass(frozen=True, eq=False)
class Prior:
    """p(weights) p(locs, Lambda), the same for each component.

    Attributes:
        concentration: of the Dirichlet, for each component.
        loc: where locs are expected.
        precision: how many data this expectation is worth.
        df: how many data the scatter is worth; above d - 1 where covariances are matrices, and
            positive where not.
        scatter: df times the inverse of the expected Lambda: ``(d, d)`` where the type is full or
            tied, ``(d,)`` where it is diag, ``()`` where it is spherical.
        covariance_type: full, tied, diag or spherical.
    """

    concentration: float
    loc: Float[Tensor, "d"]
    precision: float
    df: float
    scatter: Float[Tensor, "..."]
    covariance_type: CovarianceType

    def __post_init__(self) -> None:
        d = len(self.loc)
        kind = self.covariance_type
        shape = {"full": (d, d), "tied": (d, d), "diag": (d,), "spherical": ()}[kind]
        if tuple(self.scatter.shape) != shape:
            raise InputError(
                f"the scatter of a {kind} prior in {d} dimensions has shape {shape}; got "
                f"{tuple(self.scatter.shape)}"
            )
        blocks = self.blocks
        if (
            not torch.allclose(blocks, blocks.mT, rtol=1e-9, atol=0)
            or torch.linalg.cholesky_ex(blocks).info.any()
        ):
            raise InputError(
                f"the scatter of a {kind} prior must be symmetric and positive definite; where the "
                "columns of the data depend on each other, leave some out, or use diag"
            )
        least = d - 1 if kind in ("full", "tied") else 0
        for name, low in (("concentration", 0), ("precision", 0), ("df", least)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and low < value < inf):
                raise InputError(f"{name} of a {kind} prior is a number above {low}; got {value!r}")

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "n d"],
        num_components: int,
        covariance_type: CovarianceType = "full",
        **given: Any,
    ) -> "Prior":
        """A weak prior from the mean and covariance of the data.

        ``concentration = 1 / K``, ``loc`` the mean, ``precision = 1``; full and tied: ``df = d``
        and ``scatter`` the covariance, as scikit-learn has it, so that Sigma is expected near the
        d-th part of the covariance; diag and spherical: ``df = 1`` and ``scatter`` the variances,
        or their mean, so that it is expected near these. Where columns depend on each other, the
        covariance is raised to 1e-6 of the variances.

        Arguments:
            x: data.
            num_components: K.
            covariance_type: full, tied, diag or spherical.
            given: attributes to have instead.

        Raises:
            InputError: if there is no such attribute, or the prior is none.
        """
        unknown = given.keys() - _GIVEN
        if unknown:
            name = min(unknown)
            raise InputError(f"a prior has no attribute {name!r}: {did_you_mean(name, _GIVEN)}")
        check_covariance_type(covariance_type)
        points = x.double()
        d = points.shape[1]
        loc = torch.as_tensor(given.get("loc", points.mean(0))).to(points)
        if tuple(loc.shape) != (d,):
            raise InputError(f"loc of a prior in {d} dimensions has shape ({d},); got {loc.shape}")
        covariance = torch.cov(points.mT).reshape(d, d)
        variances = covariance.diagonal()
        if covariance_type == "diag":
            scatter, df = variances, 1.0
        elif covariance_type == "spherical":
            scatter, df = variances.mean(), 1.0
        else:
            factor, low = floored_cholesky(covariance, _FLOOR * variances)
            scatter, df = factor @ factor.mT if low else covariance, float(d)
        derived = {"concentration": 1 / num_components, "precision": 1.0, "df": df}
        scatter = torch.as_tensor(given.get("scatter", scatter)).to(points)
        values = {**derived, **given, "loc": loc, "scatter": scatter}
        return cls(**values, covariance_type=covariance_type)

    @property
    def blocks(self) -> Float[Tensor, "... p p"]:
        """The scatter as matrices of the Wishart variables that make up one Lambda."""
        if self.covariance_type in ("full", "tied"):
            return self.scatter
        return self.scatter[..., None, None]


@dataclass(frozen=True, eq=False)
class Posterior:
    """q(weights) q(locs, Lambda), of the family of the prior.

    Attributes:
        concentration: of the Dirichlet.
        locs: expected locs.
        precision: of locs_k given Lambda_k, as a multiple of it.
        df: degrees of freedom of the Wishart variables: ``(K,)``, or ``()`` where tied.
        scatter: their inverse scales: ``(K, d, d)`` where full, ``(d, d)`` where tied, ``(K, d)``
            where diag, ``(K,)`` where spherical.
        prior: what it is the posterior of.
    """

    concentration: Float[Tensor, "k"]
    locs: Float[Tensor, "k d"]
    precision: Float[Tensor, "k"]
    df: Float[Tensor, "..."]
    scatter: Float[Tensor, "..."]
    prior: Prior

    @property
    def covariance_type(self) -> CovarianceType:
        """That of the prior."""
        return self.prior.covariance_type

    @property
    def mean(self) -> Mixture:
        """The mixture at E[weights], E[locs] and Sigma = E[Lambda]^-1 = scatter / df."""
        blocks = self._blocks / self._df[..., None, None]
        if self.covariance_type in ("full", "tied"):
            scales = torch.linalg.cholesky(blocks)
        else:
            scales = blocks[..., 0, 0].sqrt()
        log_weights = self.concentration.log() - self.concentration.sum().log()
        return Mixture(log_weights, self.locs, scales, self.covariance_type)

    def expected_log_joint(self) -> Mixture:
        """A mixture whose log joint is E[log p(x, z | theta)]; its weights do not sum to one.

        ::

            E[log p(x, z = k)] = E[log weights_k] + E[log |Lambda_k|] / 2 - d log(2 pi) / 2
                                 - (d / precision_k + squared distance under E[Lambda_k]) / 2

        so that the optimal q(z) is the posterior of this mixture (Bishop 2006, eq. 10.46).
        """
        mean = self.mean
        d = self.locs.shape[1]
        log_weights = self.concentration.digamma() - self.concentration.sum().digamma()
        # E[log |Lambda|] - log |E[Lambda]|
        deficit = self._expected_log_det() - self._of_components(
            self._p * self._df.log() - torch.logdet(self._blocks)
        )
        log_weights = log_weights + 0.5 * (deficit - d / self.precision)
        return replace(mean, log_weights=log_weights)

    def kl(self) -> Float[Tensor, ""]:
        """KL(q(theta) || p(theta)), in nats (Bishop 2006, eqs. 10.73, 10.74, 10.76 and 10.77)."""
        prior, d = self.prior, self.locs.shape[1]
        of_weights = kl_divergence(
            Dirichlet(self.concentration),
            Dirichlet(torch.full_like(self.concentration, prior.concentration)),
        )
        ratio = prior.precision / self.precision
        distance = self.mean.squared_distances(prior.loc.unsqueeze(0)).squeeze(0)
        of_locs = 0.5 * (d * (ratio - 1 - ratio.log()) + prior.precision * distance)
        ours, theirs = self._blocks, prior.blocks
        df, df0 = self._df, torch.as_tensor(prior.df, dtype=ours.dtype, device=ours.device)
        traces = torch.linalg.solve(ours, theirs.expand_as(ours)).diagonal(dim1=-2, dim2=-1).sum(-1)
        of_precisions = (
            _log_wishart_normaliser(df0, theirs)
            - _log_wishart_normaliser(df, ours)
            + 0.5 * (df - df0) * _expected_log_det(df, ours)
            - 0.5 * df * (self._p - traces)
        )
        kl: Tensor = of_weights + of_locs.sum() + of_precisions.sum()
        return kl

    def predictive(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """log p(x | data), theta integrated out under q (Bishop 2006, eq. 10.81), in nats.

        A mixture of Student t distributions with ``df - p + 1`` degrees of freedom.
        """
        x = x.to(self.locs.dtype).unsqueeze(1)
        k, d = self.locs.shape
        spread = (self.precision + 1) / self.precision
        kind, df = self.covariance_type, self._df
        log_density: Tensor
        if kind in ("full", "tied"):
            freedom = (df - d + 1).expand(k)
            scale = torch.linalg.cholesky(
                spread.view(-1, 1, 1) * self.scatter / freedom.view(-1, 1, 1)
            )
            log_density = MultivariateStudentT(freedom, self.locs, scale).log_prob(x)
        elif kind == "diag":
            scale = (spread.unsqueeze(1) * self.scatter / df).sqrt()
            log_density = StudentT(df, self.locs, scale).log_prob(x).sum(-1)
        else:
            scale = (spread * self.scatter / df).sqrt()
            eye = torch.eye(d, dtype=x.dtype, device=x.device)
            log_density = MultivariateStudentT(df, self.locs, scale.view(-1, 1, 1) * eye).log_prob(
                x
            )
        log_joint: Tensor = self.mean.log_weights + log_density
        return log_joint.logsumexp(1)

    @property
    def _p(self) -> int:
        """Dimension of the Wishart variables."""
        return self._blocks.shape[-1]

    @property
    def _blocks(self) -> Tensor:
        if self.covariance_type in ("full", "tied"):
            return self.scatter
        return self.scatter[..., None, None]

    @property
    def _df(self) -> Tensor:
        """Degrees of freedom for each block."""
        return self.df.unsqueeze(-1) if self.covariance_type == "diag" else self.df

    def _expected_log_det(self) -> Tensor:
        return self._of_components(_expected_log_det(self._df, self._blocks))

    def _of_components(self, blocks: Tensor) -> Tensor:
        """From log determinants of blocks to those of each Lambda_k."""
        k, d = self.locs.shape
        if self.covariance_type == "diag":
            return blocks.expand(k, d).sum(-1)
        return (blocks * d if self.covariance_type == "spherical" else blocks).expand(k)


def _expected_log_det(df: Tensor, scatter: Tensor) -> Tensor:
    """E[log |Lambda|] of Wishart(df, scatter^-1) (Bishop 2006, eq. B.81)."""
    p = scatter.shape[-1]
    halves = (df.unsqueeze(-1) - torch.arange(p, dtype=df.dtype, device=df.device)) / 2
    return halves.digamma().sum(-1) + p * log(2) - torch.logdet(scatter)


def _log_wishart_normaliser(df: Tensor, scatter: Tensor) -> Tensor:
    """log Z with Wishart(Lambda) = |Lambda|^((df - p - 1) / 2) exp(-tr(scatter Lambda) / 2) / Z."""
    p = scatter.shape[-1]
    return (
        0.5 * df * (p * log(2) - torch.logdet(scatter)) + torch.mvlgamma(df / 2, p)
        if p > 1
        else 0.5 * df * (log(2) - scatter[..., 0, 0].log()) + torch.lgamma(df / 2)
    )


def second_moments(
    values: Float[Tensor, "k d"], weights: Float[Tensor, "k"], covariance_type: CovarianceType
) -> Float[Tensor, "..."]:
    """weights_k values_k values_k^T, in the shape of a scatter of that type."""
    if covariance_type in ("full", "tied"):
        outer = weights.view(-1, 1, 1) * values.unsqueeze(2) * values.unsqueeze(1)
        return outer if covariance_type == "full" else outer.sum(0)
    squares = weights.unsqueeze(1) * values.square()
    return squares if covariance_type == "diag" else squares.sum(1)


def update(statistics: Statistics, prior: Prior) -> Posterior:
    """The best q(theta) for a q(z), of which only the statistics matter (Bishop, eqs. 10.58-63).

    ::

        concentration_k = concentration + n_k
        precision_k     = precision + n_k
        locs_k          = (precision loc + n_k means_k) / precision_k
        df_k            = df + n_k
        scatter_k       = scatter + scatters_k
                          + precision n_k / precision_k (means_k - loc) (means_k - loc)^T

    Where tied, df and scatter gather the terms of all k, and so N; where spherical, df gathers
    d n_k and the scatter the trace.
    """
    n, kind = statistics.counts, prior.covariance_type
    d = statistics.means.shape[1]
    precision = prior.precision + n
    locs = (prior.precision * prior.loc + n.unsqueeze(1) * statistics.means) / precision[:, None]
    pulled = second_moments(statistics.means - prior.loc, prior.precision * n / precision, kind)
    df = prior.df + {"tied": n.sum(), "spherical": d * n}.get(kind, n)
    scatter = prior.scatter + statistics.scatters + pulled
    return Posterior(prior.concentration + n, locs, precision, df, scatter, prior)


def restricted(posterior: Posterior, to: CovarianceType) -> Posterior:
    """The best q of a smaller family: full components whose Wishart factors are alike or simple.

    From the best q(Lambda_k) = Wishart(df_k, scatter_k^-1) of a full mixture, the best with one df
    and one scatter for all k (tied: their means), with diagonal scatters (diag: the diagonals), or
    with multiples of the identity (spherical: the mean of the diagonal). The model keeps a full
    covariance for each component all the same.

    The covariance types of scikit-learn's BayesianGaussianMixture are these restrictions of q;
    their bounds are all on the evidence of the full model. A model whose covariances themselves
    are tied, diagonal or spherical is had from a :class:`Prior` of that type.

    Raises:
        InputError: if the posterior is not that of a full mixture.
    """
    if posterior.covariance_type != "full":
        raise InputError(
            "q is restricted where the covariances of the model are full; these are "
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
) -> Iterator[tuple[Posterior, Float[Tensor, ""]]]:
    """Coordinate ascent without end: q(theta), and the bound once q(z) is set to its best for it.

    The first q(z) is the start's posterior. Data pass in chunks, as in EM.

    Raises:
        InputError: if the covariances of the start are not of the type of the prior's.
    """
    if start.covariance_type != prior.covariance_type:
        raise InputError(
            f"the start has {start.covariance_type} covariances, the prior "
            f"{prior.covariance_type} ones; give both of one type"
        )
    statistics = expectation(x, start)
    while True:
        posterior = update(statistics, prior)
        if restrict_to != "full":
            posterior = restricted(posterior, restrict_to)
        statistics = expectation(x, posterior.expected_log_joint())
        yield posterior, statistics.log_normaliser - posterior.kl()


def coordinate_ascent(
    x: Float[Tensor, "n d"],
    start: Mixture,
    prior: Prior,
    *,
    restrict_to: CovarianceType = "full",
    max_iter: int = 200,
    tol: float = 1e-9,
) -> Iterator[State]:
    """Mean-field variational Bayes, each of its half-steps a state.

    Arguments:
        x: data.
        start: where to start from; the first q(z) is its posterior.
        prior: p(theta).
        restrict_to: a smaller family for q, as :func:`restricted` has it.
        max_iter: rounds at most.
        tol: stop when a round raises the bound by less than this, in nats per datum.

    Raises:
        InputError: if the covariances of the start are not of the type of the prior's.
    """
    if max_iter < 1:
        raise InputError(f"max_iter is {max_iter}; it must be 1 or more")
    highest = float("-inf")
    log_q = start.log_responsibilities(x)
    for number, (posterior, total) in enumerate(rounds(x, start, prior, restrict_to), start=1):
        yield state_of("M", x, log_q, posterior)
        log_q = posterior.expected_log_joint().log_responsibilities(x)
        yield state_of("E", x, log_q, posterior)
        bound = total.item() / len(x)
        if number == max_iter or bound - highest < tol:
            return
        highest = bound


@torch.no_grad()
def evidence_bound(
    x: Float[Tensor, "n d"], log_q: Float[Tensor, "n k"], posterior: Posterior
) -> Float[Tensor, ""]:
    """ELBO = E[log p(x, z | theta)] - E[log q(z)] - KL(q(theta) || p(theta)), nats for all data."""
    expected = posterior.expected_log_joint().log_joint(x) - log_q
    q = log_q.exp()
    return torch.where(q > 0, q * expected, 0.0).sum() - posterior.kl()


def state_of(phase: str, x: Tensor, log_q: Tensor, posterior: Posterior) -> State:
    """A state with the bound that these factors give."""
    bound = evidence_bound(x, log_q, posterior)
    return State(phase, posterior.mean, log_q, evidence_bound=bound, posterior=posterior)
