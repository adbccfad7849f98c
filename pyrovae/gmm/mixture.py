"""The Gaussian mixture p(x, z): its parameters, densities, responsibilities and draws."""

from dataclasses import dataclass
from functools import cached_property
from math import log, pi
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InputError, did_you_mean

__all__ = ["CovarianceType", "Mixture", "check_covariance_type"]

CovarianceType = Literal["full", "tied", "diag", "spherical"]
"""A matrix for each component, one for all, diagonal matrices, or multiples of the identity."""

_TOLERANCE = 1e-5
"""How far the sum of weights may be from one; they may come in single precision."""

_MAX_ENTRIES = 2**17
"""Most numbers in an array of a chunk: one MiB."""


def check_covariance_type(covariance_type: str) -> None:
    """Check that this is one of the covariance types.

    Raises:
        InputError: if it is not.
    """
    if covariance_type not in get_args(CovarianceType):
        known = get_args(CovarianceType)
        raise InputError(
            f"covariance_type cannot be {covariance_type!r}: {did_you_mean(covariance_type, known)}"
        )


@dataclass(frozen=True, eq=False)
class Mixture:
    """p(z = k) = weights_k and p(x | z = k) = Normal(x; locs_k, Sigma_k).

    Attributes:
        log_weights: log of the mixing weights. They sum to one, except in
            :meth:`Posterior.expected_log_joint`.
        locs: means.
        scales: square roots of the covariances: lower Cholesky factors, ``(K, d, d)`` if the type
            is full and ``(d, d)`` if it is tied; standard deviations, ``(K, d)`` if it is diag and
            ``(K,)`` if it is spherical.
        covariance_type: full, tied, diag or spherical.
    """

    log_weights: Float[Tensor, "k"]
    locs: Float[Tensor, "k d"]
    scales: Float[Tensor, "..."]
    covariance_type: CovarianceType = "full"

    @classmethod
    def of(
        cls, weights: Any, locs: Any, covariances: Any, covariance_type: CovarianceType = "full"
    ) -> "Mixture":
        """Make a mixture from weights, means and covariances, in double precision.

        Arguments:
            weights: K numbers that sum to one, none negative.
            locs: means, of shape (K, d).
            covariances: with the shape of ``scales``: covariance matrices if the type is full or
                tied, variances if it is diag or spherical.
            covariance_type: full, tied, diag or spherical.

        Raises:
            InputError: if shapes do not agree, weights are negative or do not sum to one, or a
                covariance is not positive definite.

        Example:
            >>> Mixture.of([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical").log_prob([[2.0]])
            tensor([-2.9189], dtype=torch.float64)
        """
        check_covariance_type(covariance_type)
        weights, locs, covariances = (_double(v) for v in (weights, locs, covariances))
        if weights.ndim != 1 or locs.ndim != 2 or len(weights) != len(locs):
            raise InputError(
                "a mixture of K components in d dimensions needs weights of shape (K,) and locs of "
                f"shape (K, d); got {tuple(weights.shape)} and {tuple(locs.shape)}"
            )
        k, d = locs.shape
        expected = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
        if tuple(covariances.shape) != expected[covariance_type]:
            raise InputError(
                f"{covariance_type} covariances of {k} components in {d} dimensions must have "
                f"shape {expected[covariance_type]}; got {tuple(covariances.shape)}"
            )
        if not (weights >= 0).all() or abs(weights.sum().item() - 1) > _TOLERANCE:
            raise InputError(f"weights must be 0 or more and sum to one; got {weights.tolist()}")
        if not (locs.isfinite().all() and covariances.isfinite().all()):
            raise InputError(
                "locs and covariances must be finite; some of these are NaN or infinite"
            )
        if covariance_type in ("full", "tied"):
            scales, failed = torch.linalg.cholesky_ex(covariances)
            if failed.any() or not torch.allclose(covariances, covariances.mT, atol=0):
                raise InputError(
                    "covariances must be symmetric and positive definite; some of these are not"
                )
        else:
            if not (covariances > 0).all():
                raise InputError(f"variances must be positive; got {covariances.min().item():g}")
            scales = covariances.sqrt()
        return cls((weights / weights.sum()).log(), locs, scales, covariance_type)

    @property
    def num_components(self) -> int:
        """K."""
        return len(self.log_weights)

    @property
    def weights(self) -> Float[Tensor, "k"]:
        """Mixing weights."""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Float[Tensor, "..."]:
        """Covariance matrices (full, tied) or variances (diag, spherical), shaped like scales."""
        return self.scales @ self.scales.mT if self._has_matrices else self.scales.square()

    @property
    def matrices(self) -> Float[Tensor, "k d d"]:
        """The covariance matrix of each component, for every covariance type."""
        k, d = self.locs.shape
        if self._has_matrices:
            return self.covariances.expand(k, d, d)
        return self._deviations.square().expand(k, d).diag_embed()

    @property
    def num_parameters(self) -> int:
        """The number of free parameters, for information criteria."""
        k, d = self.locs.shape
        triangle = d * (d + 1) // 2
        covariance = {"full": k * triangle, "tied": triangle, "diag": k * d, "spherical": k}
        return covariance[self.covariance_type] + k * d + k - 1

    @cached_property
    def centre(self) -> Float[Tensor, "d"]:
        """The mean of the mixture, which is subtracted before squaring; gradients ignore it."""
        return self.log_weights.softmax(0).detach() @ self.locs.detach()

    def squared_distances(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """(x - locs_k)^T Sigma_k^-1 (x - locs_k).

        If the components share their axes, the square is expanded around the mean of the mixture:
        this takes one matrix product, and the round-off is 1e-16 times the squared distance
        between components in standard deviations. Otherwise the difference is whitened first.
        """
        x = x.to(self.locs.dtype)
        if self.covariance_type == "full":
            k, d = self.locs.shape
            whitened: Tensor = torch.addmm(-self._whitened_locs.reshape(-1), x, self._whitening)
            return whitened.view(-1, k, d).square().sum(-1)
        x = x - self.centre
        if self.covariance_type == "tied":
            x = x @ self._whitening
        return torch.addmm(
            self._distance_constants, torch.cat([x.square(), x], 1), self._distance_coefficients
        )

    def log_density(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """log Normal(x; locs_k, Sigma_k), in nats."""
        return self._log_normaliser - 0.5 * self.squared_distances(x)

    def log_joint(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """log p(x, z = k) = log weights_k + log Normal(x; locs_k, Sigma_k), in nats."""
        return torch.sub(self._log_joint_constant, self.squared_distances(x), alpha=0.5)

    def log_prob(self, x: Any) -> Float[Tensor, "n"]:
        """log p(x) = log sum_k p(x, z = k), in nats, computed in chunks."""
        chunks = _double(x).split(self.chunk_size)
        return torch.cat([self.log_joint(chunk).logsumexp(1) for chunk in chunks])

    @property
    def chunk_size(self) -> int:
        """Data in a chunk, so that intermediate results stay in the cache of a core."""
        k, d = self.locs.shape
        widest = k * d if self.covariance_type == "full" else max(k, 2 * d)
        return max(_MAX_ENTRIES // widest, 64)

    def to(self, device: torch.device | str) -> "Mixture":
        """Copy the mixture to a device."""
        parts = (self.log_weights.to(device), self.locs.to(device), self.scales.to(device))
        return Mixture(*parts, self.covariance_type)

    def log_responsibilities(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """log p(z = k | x) = log p(x, z = k) - log p(x): Bayes' rule."""
        return self.log_joint(x).log_softmax(1)

    def sample(
        self, num: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
        """Draw ``num`` points x, and the component z of each."""
        z = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        eps = torch.randn(
            num,
            self.locs.shape[1],
            dtype=self.locs.dtype,
            device=self.locs.device,
            generator=generator,
        )
        if self.covariance_type == "full":
            noise = (self.scales[z] @ eps.unsqueeze(-1)).squeeze(-1)
        elif self.covariance_type == "tied":
            noise = eps @ self.scales.mT
        else:
            noise = self._deviations[z] * eps
        return self.locs[z] + noise, z

    @property
    def _has_matrices(self) -> bool:
        return self.covariance_type in ("full", "tied")

    @property
    def _deviations(self) -> Tensor:
        """Standard deviations of shape (K, d) or (K, 1), for diag and spherical."""
        return self.scales if self.covariance_type == "diag" else self.scales.unsqueeze(-1)

    @cached_property
    def _inverse_scales(self) -> Tensor:
        eye = torch.eye(self.locs.shape[1], dtype=self.locs.dtype, device=self.locs.device)
        inverse: Tensor = torch.linalg.solve_triangular(self.scales, eye, upper=False)
        return inverse

    @cached_property
    def _whitening(self) -> Tensor:
        """The matrix that whitens rows: (d, K d), or (d, d) if tied."""
        inverse = self._inverse_scales
        if self.covariance_type == "tied":
            return inverse.mT
        return inverse.flatten(0, 1).mT.contiguous()

    @cached_property
    def _whitened_locs(self) -> Tensor:
        return torch.einsum("kij,kj->ki", self._inverse_scales, self.locs)

    @cached_property
    def _expansion(self) -> tuple[Tensor, Tensor]:
        """Constants (K,), and coefficients (2 d, K) of squares and values about the centre."""
        locs = self.locs - self.centre
        if self.covariance_type == "tied":
            locs = locs @ self._whitening
            precisions = torch.ones_like(locs)
        else:
            precisions = self._deviations.square().reciprocal().expand_as(locs)
        constants = (precisions * locs.square()).sum(1)
        return constants, torch.cat([precisions, -2 * precisions * locs], 1).mT

    @property
    def _distance_constants(self) -> Tensor:
        return self._expansion[0]

    @property
    def _distance_coefficients(self) -> Tensor:
        return self._expansion[1]

    @cached_property
    def _log_normaliser(self) -> Tensor:
        d = self.locs.shape[1]
        if self._has_matrices:
            half_log_det = self.scales.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            half_log_det = self._deviations.expand_as(self.locs).log().sum(-1)
        return -half_log_det - 0.5 * d * log(2 * pi)

    @cached_property
    def _log_joint_constant(self) -> Tensor:
        return self.log_weights + self._log_normaliser


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
