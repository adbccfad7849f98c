"""The Gaussian mixture p(x, z): its parameters, densities, responsibilities and draws."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import log, pi
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..arguments import TensorLike, as_device, as_generator, as_instance, as_whole, as_word
from ..errors import InputError
from .missing import MAX_ENTRIES, log_joint_of_present
from .points import as_double, as_points

__all__ = [
    "ROUND_OFF",
    "CovarianceType",
    "Mixture",
    "as_mixture",
    "check_covariance_type",
]

CovarianceType = Literal["full", "tied", "diag", "spherical"]
"""A matrix for each component, one for all, diagonal matrices, or multiples of the identity."""

_TOLERANCE = 1e-5
"""How far the sum of weights may be from one; they may come in single precision."""

ROUND_OFF = 1e-11
"""Largest round-off of a squared distance that a faster formula may have, relative to 1."""


def check_covariance_type(covariance_type: Any) -> None:
    """Check that this is one of the covariance types.

    Raises:
        InputError: if it is not.
    """
    as_word("covariance_type", covariance_type, get_args(CovarianceType))


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

    def __post_init__(self) -> None:
        check_covariance_type(self.covariance_type)
        for name in ("log_weights", "locs", "scales"):
            value = as_instance(name, getattr(self, name), Tensor, "a tensor; see Mixture.of")
            if value.dtype != torch.float64:  # squares of differences need the digits
                value = value.double()
                object.__setattr__(self, name, value)
            # Parameters that are learned may overflow in a step, which their method reports.
            low = value.isnan() | (value == torch.inf)
            if not value.requires_grad and low.any():
                raise InputError(f"{name} of a mixture holds NaN or infinity; they must be finite")
        if self.log_weights.ndim != 1 or self.locs.ndim != 2:
            raise _shape_error(self.log_weights, self.locs)
        k, d = self.locs.shape
        expected = _scale_shape(k, d, self.covariance_type)
        if len(self.log_weights) != k:
            raise _shape_error(self.log_weights, self.locs)
        if tuple(self.scales.shape) != expected:
            raise InputError(
                f"{self.covariance_type} scales of {k} components in {d} dimensions must have "
                f"shape {expected}; got {tuple(self.scales.shape)}"
            )

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
        given = {"weights": weights, "locs": locs, "covariances": covariances}
        weights, locs, covariances = (as_double(*item) for item in given.items())
        if weights.ndim != 1 or locs.ndim != 2 or len(weights) != len(locs) or not locs.numel():
            raise _shape_error(weights, locs)
        k, d = locs.shape
        expected = _scale_shape(k, d, covariance_type)
        if tuple(covariances.shape) != expected:
            raise InputError(
                f"{covariance_type} covariances of {k} components in {d} dimensions must have "
                f"shape {expected}; got {tuple(covariances.shape)}"
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

    def squared_distances(self, x: TensorLike) -> Float[Tensor, "n k"]:
        """(x - locs_k)^T Sigma_k^-1 (x - locs_k).

        If all locs are near the mean of the mixture, in standard deviations, the difference or its
        square is expanded around this mean, which takes one matrix product. The round-off of an
        expanded square is 1e-16 times the squared distance from locs to this mean, so it stays
        below 1e-11. For other mixtures the difference is computed first, and then squared.
        """
        x = self._as_rows(x).to(self.locs.dtype)
        if not self.is_compact:
            return self._whiten(x.unsqueeze(1) - self.locs).square().sum(-1)
        x = x - self.centre
        if self.covariance_type == "full":
            k, d = self.locs.shape
            whitened: Tensor = torch.addmm(-self._whitened_locs.reshape(-1), x, self._whitening)
            return whitened.view(-1, k, d).square().sum(-1)
        if self.covariance_type == "tied":
            x = x @ self._whitening
        return torch.addmm(
            self._distance_constants, torch.cat([x.square(), x], 1), self._distance_coefficients
        )

    @cached_property
    def is_compact(self) -> bool:
        """Whether squared distances may be expanded around the mean of the mixture.

        The first-order round-off of a squared distance that is expanded is
        eps |Sigma_k^-1/2| |locs_k - centre|, or its square; for the components that have weight.
        """
        locs = self.locs.detach() - self.centre
        if self._has_matrices:
            inverse = self._inverse_scales.detach().abs()
            offset = (inverse @ locs.abs().unsqueeze(-1)).squeeze(-1)
        else:
            offset = locs / self._deviations.detach()
        size = offset.square().sum(1)
        if self.covariance_type == "full":
            size = size.sqrt()
        size = size[self.log_weights.detach() > -torch.inf]
        return bool((size <= ROUND_OFF / torch.finfo(size.dtype).eps).all())

    def _whiten(self, differences: Float[Tensor, "n k d"]) -> Float[Tensor, "n k d"]:
        """Sigma_k^-1/2 (x - locs_k)."""
        if self.covariance_type == "full":
            return (differences.transpose(0, 1) @ self._inverse_scales.mT).transpose(0, 1)
        if self.covariance_type == "tied":
            return differences @ self._whitening
        return differences / self._deviations

    def log_density(self, x: TensorLike) -> Float[Tensor, "n k"]:
        """log Normal(x; locs_k, Sigma_k), in nats, with missing (NaN) entries integrated out."""
        x = self._as_rows(x)
        if x.isnan().any():
            return replace(self, log_weights=torch.zeros_like(self.log_weights)).log_joint(x)
        return self._log_normaliser - 0.5 * self.squared_distances(x)

    def log_joint(self, x: TensorLike) -> Float[Tensor, "n k"]:
        """log p(x, z = k) = log weights_k + log Normal(x; locs_k, Sigma_k), in nats.

        Entries of x that are NaN are missing, and integrated out.
        """
        x = self._as_rows(x)
        if x.isnan().any():
            return log_joint_of_present(x, self)
        return self.log_joint_of_complete(x)

    def log_joint_of_complete(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """:meth:`log_joint` without a check for missing entries."""
        return torch.sub(self._log_joint_constant, self.squared_distances(x), alpha=0.5)

    def log_prob(self, x: Any) -> Float[Tensor, "n"]:
        """log p(x) = log sum_k p(x, z = k), in nats, computed in chunks.

        Raises:
            InputError: if x is not a matrix of real numbers with a column for each dimension, or
                has infinite values.
        """
        chunks = self._as_rows(as_points(x, missing=True)).to(self.locs).split(self.chunk_size)
        return torch.cat([self.log_joint(chunk).logsumexp(1) for chunk in chunks])

    @property
    def chunk_size(self) -> int:
        """Data in a chunk, so that intermediate results stay in the cache of a core."""
        k, d = self.locs.shape
        differences = self.covariance_type == "full" or not self.is_compact
        widest = k * d if differences else max(k, 2 * d)
        return max(MAX_ENTRIES // widest, 64)

    def to(self, device: torch.device | str) -> "Mixture":
        """Copy the mixture to a device."""
        device = as_device("device", device)
        parts = (self.log_weights.to(device), self.locs.to(device), self.scales.to(device))
        return Mixture(*parts, self.covariance_type)

    def log_responsibilities(self, x: TensorLike) -> Float[Tensor, "n k"]:
        """log p(z = k | x) = log p(x, z = k) - log p(x): Bayes' rule."""
        return self.log_joint(x).log_softmax(1)

    def sample(
        self, num: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
        """Draw ``num`` points x, and the component z of each."""
        num = as_whole("num", num, 1)
        generator = as_generator("generator", generator)
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

    def _as_rows(self, x: Any) -> Float[Tensor, "n d"]:
        """x as a matrix with a column for each dimension."""
        d = self.locs.shape[1]
        points = (
            x if isinstance(x, Tensor) and x.is_floating_point() else as_points(x, missing=True)
        )
        if points.ndim != 2 or points.shape[1] != d:
            raise InputError(
                f"x has shape {tuple(points.shape)}; a mixture in {d} dimensions needs (n, {d})"
            )
        return points

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
        return torch.einsum("kij,kj->ki", self._inverse_scales, self.locs - self.centre)

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


def _scale_shape(k: int, d: int, covariance_type: CovarianceType) -> tuple[int, ...]:
    shapes: dict[str, tuple[int, ...]] = {
        "full": (k, d, d),
        "tied": (d, d),
        "diag": (k, d),
        "spherical": (k,),
    }
    return shapes[covariance_type]


def _shape_error(weights: Tensor, locs: Tensor) -> InputError:
    return InputError(
        "a mixture of K components in d dimensions needs weights of shape (K,) and locs of shape "
        f"(K, d); got {tuple(weights.shape)} and {tuple(locs.shape)}"
    )


def as_mixture(start: Any, x: Float[Tensor, "n d"]) -> Mixture:
    """A start of a fit to the data.

    Raises:
        InputError: if it is no mixture, or one in another number of dimensions.
    """
    mixture = as_instance("start", start, Mixture, "a Mixture, such as k_means_plus_plus gives")
    if mixture.locs.shape[1] != x.shape[1]:
        raise InputError(
            f"start is a mixture in {mixture.locs.shape[1]} dimensions; the data have "
            f"{x.shape[1]} columns"
        )
    return mixture
