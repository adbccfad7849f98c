"""Data with missing entries (NaN): marginal densities, and expectations given the others.

With o the entries that are present and m those that are missing (Ghahramani and Jordan 1994)::

    log p(x_o, z = k) = log weights_k + log Normal(x_o; locs_ko, Sigma_koo)
    E[x_m | x_o, k]   = locs_km + Sigma_kmo Sigma_koo^-1 (x_o - locs_ko)
    Cov[x_m | x_o, k] = Sigma_kmm - Sigma_kmo Sigma_koo^-1 Sigma_kom = ((Sigma_k^-1)_mm)^-1

For full and tied covariances the matrices are computed once for each set of missing columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, pi
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["MAX_ENTRIES", "Completed", "complete", "has_missing", "log_joint_of_present"]

MAX_ENTRIES = 2**17
"""Most numbers in an array of a chunk: one MiB."""

_FEW = 32
"""A set of missing columns with fewer rows than this shares its matrix products with others."""


@runtime_checkable
class Parameters(Protocol):
    """The parameters of a :class:`~pyrovae.gmm.Mixture`."""

    @property
    def log_weights(self) -> Tensor:
        """Log of the mixing weights."""

    @property
    def locs(self) -> Tensor:
        """Means."""

    @property
    def scales(self) -> Tensor:
        """Square roots of the covariances."""

    @property
    def covariance_type(self) -> Any:
        """full, tied, diag or spherical."""


def has_missing(x: Tensor) -> bool:
    """Whether an entry is NaN."""
    return x.is_floating_point() and bool(x.isnan().any())


@dataclass(frozen=True)
class Completed:
    """Some rows of the data, with what is known of their missing entries.

    Attributes:
        rows: numbers of the rows.
        squared_distances: (x - locs_k)^T Sigma_k^-1 (x - locs_k) of the present entries.
        log_scale: log |2 pi Sigma_k| / 2 of these.
        differences: E[x | x_present, z = k] - centre_k.
        covariance: Cov[x | x_present, z = k], for each set of missing columns: matrices, with one
            for all k if tied; variances, for each row, if diag or spherical.
        pattern: number of the set of missing columns of each row.
    """

    rows: Int[Tensor, "n"]
    squared_distances: Float[Tensor, "n k"]
    log_scale: Float[Tensor, "n k"]
    differences: Float[Tensor, "n k d"]
    covariance: Float[Tensor, "p ..."]
    pattern: Int[Tensor, "n"]

    @property
    def log_density(self) -> Float[Tensor, "n k"]:
        """log p(x_present | z = k)."""
        return -self.log_scale - 0.5 * self.squared_distances

    def expected_covariance(self, q: Float[Tensor, "n k"]) -> Float[Tensor, "..."]:
        """sum_n q_nk Cov[x_n | x_n_present, k]: matrices or diagonals; if tied, summed over k."""
        counts = q.new_zeros(len(self.covariance), q.shape[1]).index_add_(0, self.pattern, q)
        if self.covariance.ndim == 3:
            return (counts.unsqueeze(2) * self.covariance).sum(0)
        if self.covariance.shape[1] == 1:
            return torch.einsum("p,pij->ij", counts.sum(1), self.covariance[:, 0])
        return torch.einsum("pk,pkij->kij", counts, self.covariance)


def log_joint_of_present(x: Float[Tensor, "n d"], mixture: Parameters) -> Float[Tensor, "n k"]:
    """log p(x_present, z = k) of each row, in nats; log weights_k where nothing is present."""
    x = x.to(mixture.locs.dtype)
    rows, values = [], []
    for part in complete(x, mixture, mixture.locs):
        rows.append(part.rows)
        values.append(mixture.log_weights + part.log_density)
    return torch.cat(values)[torch.cat(rows).argsort()]


def complete(
    x: Float[Tensor, "n d"], mixture: Parameters, centre: Float[Tensor, "... d"]
) -> Iterator[Completed]:
    """Yield all rows in chunks, with their missing entries completed.

    Arguments:
        x: data with NaN for missing entries.
        mixture: theta.
        centre: what to subtract from all data, or for each component.
    """
    if mixture.covariance_type in ("full", "tied"):
        for rows, present, pattern in _group(x.isnan(), mixture):
            yield _complete_by_matrices(x, rows, present, pattern, mixture, centre)
    else:
        every = torch.arange(len(x), device=x.device)
        for rows in every.split(max(MAX_ENTRIES // mixture.locs.numel(), 64)):
            yield _complete_by_variances(x, rows, mixture, centre)


def _complete_by_variances(
    x: Tensor, rows: Tensor, mixture: Parameters, centre: Tensor
) -> Completed:
    points = x[rows].to(mixture.locs.dtype)
    present = ~points.isnan()
    filled = points.nan_to_num(0.0).unsqueeze(1)
    observed = present.unsqueeze(1)
    scales = mixture.scales
    deviations = scales if mixture.covariance_type == "diag" else scales.unsqueeze(1)
    deviations = deviations.expand_as(mixture.locs)
    whitened = torch.where(observed, (filled - mixture.locs) / deviations, 0.0)
    log_scale = present.to(deviations) @ (deviations.log() + 0.5 * log(2 * pi)).mT
    squares = whitened.square().sum(-1)
    log_scale = log_scale.expand_as(squares)
    differences = torch.where(observed, filled - centre, mixture.locs - centre)
    covariance = torch.where(observed, 0.0, deviations.square())
    pattern = torch.arange(len(rows), device=rows.device)
    return Completed(rows, squares, log_scale, differences, covariance, pattern)


def _complete_by_matrices(
    x: Tensor, rows: Tensor, present: Tensor, pattern: Tensor, mixture: Parameters, centre: Tensor
) -> Completed:
    factors = _Factors.of(mixture.scales, present.to(mixture.locs))
    points = x[rows].to(mixture.locs.dtype)
    observed = ~points.isnan().unsqueeze(1)
    filled = points.nan_to_num(0.0).unsqueeze(1)
    apart = torch.where(observed, filled - mixture.locs, 0.0)
    whitened = _apply(factors.whitening, pattern, apart)
    num_present = present.sum(1, keepdim=True)
    log_scale = (factors.half_log_det + 0.5 * log(2 * pi) * num_present)[pattern]
    squares = whitened.square().sum(-1)
    log_scale = log_scale.expand_as(squares)
    expected = mixture.locs - centre + _apply(factors.gain, pattern, whitened)
    differences = torch.where(observed, filled - centre, expected)
    return Completed(rows, squares, log_scale, differences, factors.covariance, pattern)


@dataclass(frozen=True)
class _Factors:
    """Matrices for sets of missing columns, with dimensions (set, component, d, d).

    Attributes:
        whitening: S^-1/2 of the present entries; the identity for the others.
        half_log_det: log |Sigma_oo| / 2.
        gain: maps whitened entries to E[x_m | x_o] - locs_m.
        covariance: Cov[x_m | x_o], and zero for present entries.
    """

    whitening: Tensor
    half_log_det: Tensor
    gain: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, scales: Tensor, present: Tensor) -> "_Factors":
        """Triangular factors of blocks by QR, which is as accurate as the scales themselves.

        If S S^T = Sigma, then the R of (P S, I - P)^T has R^T R = P Sigma P + I - P.
        """
        scales = scales if scales.ndim == 3 else scales.unsqueeze(0)
        eye = torch.eye(scales.shape[-1], dtype=scales.dtype, device=scales.device)
        inverse = torch.linalg.solve_triangular(scales, eye, upper=False)
        present, missing = present[:, None, :, None], 1 - present[:, None, :, None]
        upper = _triangle(present * scales, missing * eye)
        whitening = torch.linalg.solve_triangular(upper.mT, eye, upper=False)
        of_precision = _triangle(missing * inverse.mT, present * eye)
        root = missing * torch.linalg.solve_triangular(of_precision, eye, upper=True)
        return cls(
            whitening=whitening,
            half_log_det=upper.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1),
            gain=scales @ (scales.mT @ (present * whitening.mT)),
            covariance=root @ root.mT,
        )


def _triangle(left: Tensor, right: Tensor) -> Tensor:
    """R with R^T R = left left^T + right right^T."""
    both = torch.cat([left, right.expand_as(left)], -1)
    mode = "reduced" if both.requires_grad else "r"  # the gradient needs the Q
    upper: Tensor = torch.linalg.qr(both.mT, mode=mode).R
    return upper


def _apply(matrices: Tensor, pattern: Tensor, vectors: Tensor) -> Tensor:
    """The product of each row's matrices with its vectors."""
    if len(matrices) == 1:
        return (vectors.transpose(0, 1) @ matrices[0].mT).transpose(0, 1)
    return (matrices[pattern] @ vectors.unsqueeze(-1)).squeeze(-1)


def _group(
    missing: Bool[Tensor, "n d"], mixture: Parameters
) -> Iterator[tuple[Int[Tensor, "m"], Bool[Tensor, "p d"], Int[Tensor, "m"]]]:
    """Yield rows by their set of missing columns: rows, the columns present, the set of each row.

    A set with many rows comes alone. Others come together, as many as fit.
    """
    sets, inverse, counts = missing.unique(dim=0, return_inverse=True, return_counts=True)
    order = inverse.argsort(stable=True)
    is_large = counts >= _FEW
    k, d = mixture.locs.shape
    num_large = max(MAX_ENTRIES // (k * d), 64)
    for number in is_large.nonzero().flatten().tolist():
        rows = order[inverse[order] == number]
        for part in rows.split(num_large):
            yield part, ~sets[number : number + 1], torch.zeros_like(part)
    rest = order[~is_large[inverse[order]]]
    for part in rest.split(max(MAX_ENTRIES // (k * d * d), 16)):
        numbers, pattern = inverse[part].unique(return_inverse=True)
        yield part, ~sets[numbers], pattern
