"""Conjugate priors of a Gaussian mixture, and posteriors of the same family.

::

    weights ~ Dirichlet(concentration)
    Lambda_k = Sigma_k^-1 ~ Wishart(df, scatter^-1)
    locs_k | Lambda_k ~ Normal(loc, (precision Lambda_k)^-1)

which is the normal-inverse-Wishart prior on (locs_k, Sigma_k). Tied covariances share one Lambda.
Diagonal and spherical covariances use Wishart variables of dimension one, which have the
distribution Gamma(df / 2, scatter / 2).
"""

from dataclasses import dataclass, replace
from math import inf, log
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import MultivariateStudentT, StudentT
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from ...arguments import TensorLike, as_whole
from ...errors import InputError, did_you_mean
from ..em import floored_cholesky, mean_and_covariance
from ..missing import complete, has_missing
from ..mixture import CovarianceType, Mixture, check_covariance_type
from ..points import as_double, as_points

__all__ = ["Posterior", "Prior"]

_FLOOR = 1e-6

_ATTRIBUTES = ("concentration", "loc", "precision", "df", "scatter")


@dataclass(frozen=True, eq=False)
class Prior:
    """p(weights) p(locs, Lambda), the same for each component.

    Attributes:
        concentration: concentration of the Dirichlet, for each component.
        loc: expected value of locs.
        precision: weight of loc, as a number of data.
        df: weight of the scatter, as a number of data; above d - 1 for full and tied covariances,
            above 0 for diag and spherical ones.
        scatter: df times the inverse of the expected Lambda: ``(d, d)`` if the type is full or
            tied, ``(d,)`` if it is diag, ``()`` if it is spherical.
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
                f"the scatter of a {kind} prior in {d} dimensions must have shape {shape}; got "
                f"{tuple(self.scatter.shape)}"
            )
        blocks = self.blocks
        if (
            not torch.allclose(blocks, blocks.mT, rtol=1e-9, atol=0)
            or torch.linalg.cholesky_ex(blocks).info.any()
        ):
            raise InputError(
                f"the scatter of a {kind} prior must be symmetric and positive definite; if "
                "columns of the data are linearly dependent, leave some out, or use diag"
            )
        least = d - 1 if kind in ("full", "tied") else 0
        for name, low in (("concentration", 0), ("precision", 0), ("df", least)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and low < value < inf):
                raise InputError(
                    f"{name} of a {kind} prior must be a number above {low}; got {value!r}"
                )

    @classmethod
    def of(
        cls,
        x: TensorLike,
        num_components: int,
        covariance_type: CovarianceType = "full",
        weights: Float[Tensor, "n"] | None = None,
        **given: Any,
    ) -> "Prior":
        """Make a weak prior from the mean and covariance of the data.

        It has ``concentration = 1 / K``, ``precision = 1`` and the mean as ``loc``. Full and tied:
        ``df = d`` and the covariance as ``scatter``, as in scikit-learn, so that Sigma is expected
        near 1/d of the covariance. Diag and spherical: ``df = 1`` and the variances, or their mean,
        as ``scatter``, so that Sigma is expected near these. If columns are linearly dependent, the
        covariance is raised to 1e-6 of the variances.

        Arguments:
            x: data.
            num_components: K.
            covariance_type: full, tied, diag or spherical.
            weights: how many times each datum counts; once unless given.
            given: attributes that replace these.

        Raises:
            InputError: if there is no such attribute, or its value is out of range.
        """
        unknown = given.keys() - _ATTRIBUTES
        if unknown:
            name = min(unknown)
            raise InputError(
                f"a prior has no attribute {name!r}: {did_you_mean(name, _ATTRIBUTES)}"
            )
        check_covariance_type(covariance_type)
        num_components = as_whole("num_components", num_components, 1)
        x = as_points(x, missing=True)
        d = x.shape[1]
        mean, covariance = mean_and_covariance(x.double(), weights)
        loc = as_double("loc", given.get("loc", mean)).to(mean)
        if tuple(loc.shape) != (d,):
            raise InputError(
                f"loc of a prior in {d} dimensions must have shape ({d},); got {loc.shape}"
            )
        variances = covariance.diagonal()
        if covariance_type == "diag":
            scatter, df = variances, 1.0
        elif covariance_type == "spherical":
            scatter, df = variances.mean(), 1.0
        else:
            factor, low = floored_cholesky(covariance, _FLOOR * variances)
            scatter, df = factor @ factor.mT if low else covariance, float(d)
        derived = {"concentration": 1 / num_components, "precision": 1.0, "df": df}
        scatter = as_double("scatter", given.get("scatter", scatter)).to(mean)
        values = {**derived, **given, "loc": loc, "scatter": scatter}
        return cls(**values, covariance_type=covariance_type)

    @property
    def blocks(self) -> Float[Tensor, "... p p"]:
        """The scatter as matrices, one for each Wishart variable of a Lambda."""
        return _blocks(self.scatter, self.covariance_type)


@dataclass(frozen=True, eq=False)
class Posterior:
    """q(weights) q(locs, Lambda), in the family of the prior.

    Attributes:
        concentration: concentration of the Dirichlet.
        locs: expected locs.
        precision: precision of locs_k given Lambda_k, as a multiple of Lambda_k.
        df: degrees of freedom of the Wishart variables: ``(K,)``, or ``()`` if tied.
        scatter: inverse scales of the Wishart variables: ``(K, d, d)`` if full, ``(d, d)`` if
            tied, ``(K, d)`` if diag, ``(K,)`` if spherical.
        prior: the prior.
    """

    concentration: Float[Tensor, "k"]
    locs: Float[Tensor, "k d"]
    precision: Float[Tensor, "k"]
    df: Float[Tensor, "..."]
    scatter: Float[Tensor, "..."]
    prior: Prior

    @property
    def covariance_type(self) -> CovarianceType:
        """The covariance type of the prior."""
        return self.prior.covariance_type

    @property
    def mean(self) -> Mixture:
        """The mixture at E[weights], E[locs] and Sigma = E[Lambda]^-1 = scatter / df."""
        blocks = self._blocks / self._df[..., None, None]
        if self.covariance_type in ("full", "tied"):
            scales = torch.linalg.cholesky(blocks)
        else:
            scales = blocks[..., 0, 0].sqrt()
        return Mixture(self._log_mean_weights, self.locs, scales, self.covariance_type)

    def expected_log_joint(self) -> Mixture:
        """A mixture whose log joint is E[log p(x, z | theta)]; its weights do not sum to one.

        ::

            E[log p(x, z = k)] = E[log weights_k] + E[log |Lambda_k|] / 2 - d log(2 pi) / 2
                                 - (d / precision_k + squared distance under E[Lambda_k]) / 2

        The optimal q(z) is therefore the posterior of this mixture (Bishop 2006, eq. 10.46).
        """
        mean = self.mean
        d = self.locs.shape[1]
        log_weights = self.concentration.digamma() - self.concentration.sum().digamma()
        # E[log |Lambda|] - log |E[Lambda]|
        deficit = self.expected_log_det() - self._sum_over_blocks(
            self._p * self._df.log() - torch.logdet(self._blocks)
        )
        log_weights = log_weights + 0.5 * (deficit - d / self.precision)
        return replace(mean, log_weights=log_weights)

    def expected_log_det(self) -> Float[Tensor, "k"]:
        """E[log |Lambda_k|] (Bishop 2006, eq. 10.65)."""
        return self._sum_over_blocks(_wishart_log_det(self._df, self._blocks))

    def kl(self) -> Float[Tensor, ""]:
        """KL(q(theta) || p(theta)), in nats (Bishop 2006, eqs. 10.73, 10.74, 10.76 and 10.77)."""
        prior, d = self.prior, self.locs.shape[1]
        kl_weights = kl_divergence(
            Dirichlet(self.concentration),
            Dirichlet(torch.full_like(self.concentration, prior.concentration)),
        )
        ratio = prior.precision / self.precision
        distance = self.mean.squared_distances(prior.loc.unsqueeze(0)).squeeze(0)
        kl_locs = 0.5 * (d * (ratio - 1 - ratio.log()) + prior.precision * distance)
        blocks, prior_blocks = self._blocks, prior.blocks
        df, df0 = self._df, torch.as_tensor(prior.df, dtype=blocks.dtype, device=blocks.device)
        traces = (
            torch.linalg.solve(blocks, prior_blocks.expand_as(blocks))
            .diagonal(dim1=-2, dim2=-1)
            .sum(-1)
        )
        kl_precisions = (
            _log_wishart_normaliser(df0, prior_blocks)
            - _log_wishart_normaliser(df, blocks)
            + 0.5 * (df - df0) * _wishart_log_det(df, blocks)
            - 0.5 * df * (self._p - traces)
        )
        kl: Tensor = kl_weights + kl_locs.sum() + kl_precisions.sum()
        return kl

    def predictive(self, x: TensorLike) -> Float[Tensor, "n"]:
        """log p(x | data) in nats, with theta integrated out under q (Bishop 2006, eq. 10.81).

        This is a mixture of Student t distributions with ``df - p + 1`` degrees of freedom. Entries
        that are NaN are missing, and integrated out.
        """
        x = as_points(x, missing=True)
        if x.shape[1] != self.locs.shape[1]:
            raise InputError(
                f"x has {x.shape[1]} columns; the posterior has {self.locs.shape[1]} dimensions"
            )
        if has_missing(x) and self.covariance_type != "diag":
            return self._predictive_of_present(x)
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
            filled = torch.where(x.isnan(), self.locs, x)
            log_density = StudentT(df, self.locs, scale).log_prob(filled)
            log_density = log_density.masked_fill(x.isnan(), 0.0).sum(-1)
        else:
            scale = (spread * self.scatter / df).sqrt()
            eye = torch.eye(d, dtype=x.dtype, device=x.device)
            log_density = MultivariateStudentT(df, self.locs, scale.view(-1, 1, 1) * eye).log_prob(
                x
            )
        log_joint: Tensor = self._log_mean_weights + log_density
        return log_joint.logsumexp(1)

    def _predictive_of_present(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """A marginal of a Student t distribution is one with the same degrees of freedom."""
        k, d = self.locs.shape
        spread = (self.precision + 1) / self.precision
        kind: CovarianceType = "full"  # for tied too, as the spreads differ
        if self.covariance_type == "spherical":
            freedom = self._df
            scales, kind = (spread * self.scatter / freedom).sqrt(), "spherical"
        else:
            freedom = (self._df - d + 1).expand(k)
            squares = spread.view(-1, 1, 1) * self.scatter / freedom.view(-1, 1, 1)
            scales = torch.linalg.cholesky(squares)
        rows, values = [], []
        for part in complete(
            x, Mixture(self._log_mean_weights, self.locs, scales, kind), self.locs
        ):
            num_present = (~x[part.rows].isnan()).sum(1, keepdim=True)
            log_density = (
                ((freedom + num_present) / 2).lgamma()
                - (freedom / 2).lgamma()
                - num_present / 2 * (freedom / 2).log()
                - part.log_scale
                - (freedom + num_present) / 2 * (part.squared_distances / freedom).log1p()
            )
            rows.append(part.rows)
            values.append((self._log_mean_weights + log_density).logsumexp(1))
        return torch.cat(values)[torch.cat(rows).argsort()]

    @property
    def _log_mean_weights(self) -> Tensor:
        return self.concentration.log() - self.concentration.sum().log()

    @property
    def _p(self) -> int:
        """Dimension of the Wishart variables."""
        return self._blocks.shape[-1]

    @property
    def _blocks(self) -> Tensor:
        return _blocks(self.scatter, self.covariance_type)

    @property
    def _df(self) -> Tensor:
        """Degrees of freedom for each block."""
        return self.df.unsqueeze(-1) if self.covariance_type == "diag" else self.df

    def _sum_over_blocks(self, blocks: Tensor) -> Tensor:
        """Convert log determinants of blocks to log determinants of each Lambda_k."""
        k, d = self.locs.shape
        if self.covariance_type == "diag":
            return blocks.expand(k, d).sum(-1)
        return (blocks * d if self.covariance_type == "spherical" else blocks).expand(k)


def _blocks(scatter: Tensor, covariance_type: CovarianceType) -> Tensor:
    return scatter if covariance_type in ("full", "tied") else scatter[..., None, None]


def _wishart_log_det(df: Tensor, scatter: Tensor) -> Tensor:
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
