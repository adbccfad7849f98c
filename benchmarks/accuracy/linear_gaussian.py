"""What a normal distribution fitted to the images makes of what is left of one: no network."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["LinearGaussian"]


@dataclass
class LinearGaussian:
    """x ~ Normal(mu, C) of probabilistic PCA, whose E[x | y] for y = A x + noise is linear in y.

    Arguments:
        mean: mu.
        vectors: eigenvectors of the covariance of the data, a column each, the largest last.
        values: eigenvalues, in the same order.
    """

    mean: Float[Tensor, "pixels"]
    vectors: Float[Tensor, "pixels pixels"]
    values: Float[Tensor, "pixels"]

    @classmethod
    def fit(cls, x: Float[Tensor, "data pixels"]) -> "LinearGaussian":
        """With all components: moments of the data."""
        x = x.double()
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        return cls(x.mean(0), vectors, values.clamp_min(0.0))

    def of(self, num_components: int) -> "LinearGaussian":
        """With so many components, and the mean of the other eigenvalues as noise (Tipping and
        Bishop 1999).
        """
        values = self.values.clone()
        values[:-num_components] = values[:-num_components].mean()
        return LinearGaussian(self.mean, self.vectors, values)

    @property
    def covariance(self) -> Float[Tensor, "pixels pixels"]:
        """C."""
        return (self.vectors * self.values) @ self.vectors.T

    def restored(
        self, y: Float[Tensor, "data seen"], matrix: Float[Tensor, "seen pixels"], noise: float
    ) -> Float[Tensor, "data pixels"]:
        """E[x | y] for y = A x + noise."""
        matrix = matrix.double()
        cross = self.covariance @ matrix.T
        of_y = matrix @ cross + noise**2 * torch.eye(len(matrix), dtype=cross.dtype)
        residual = y.double() - self.mean @ matrix.T
        return (self.mean + torch.linalg.solve(of_y, residual.T).T @ cross.T).to(y.dtype)

    def filled(
        self, y: Float[Tensor, "data pixels"], missing: Bool[Tensor, "data pixels"]
    ) -> Float[Tensor, "data pixels"]:
        """E[x | y] for x without what is missing, another part of each image."""
        eye = torch.eye(y.shape[1])
        rows = [
            self.restored(each[~gap][None], eye[~gap], 0.0)
            for each, gap in zip(y, missing, strict=True)
        ]
        return torch.where(missing, torch.cat(rows), y)

    def noise_of(self, y: Float[Tensor, "data pixels"]) -> float:
        """The sd of noise on whole images at which p(y) is highest, out of 0.02, 0.04, ..., 1."""
        squares = ((y.double() - self.mean) @ self.vectors).square().mean(0)
        sizes = torch.linspace(0.02, 1.0, 50, dtype=torch.double)
        variances = self.values + sizes[:, None].square()
        log_prob = -(variances.log() + squares / variances).sum(1)
        return sizes[log_prob.argmax()].item()
