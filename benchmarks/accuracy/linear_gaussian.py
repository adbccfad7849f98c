"""A linear baseline without networks: restoration by one normal distribution of the images."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["LinearGaussian"]


@dataclass
class LinearGaussian:
    """The normal distribution x ~ Normal(mu, C) of probabilistic PCA.

    For an observation y = A x + noise, E[x | y] is linear in y.

    Arguments:
        mean: mu.
        vectors: eigenvectors of the covariance of the data, as columns, by increasing eigenvalue.
        values: eigenvalues, in the same order.
    """

    mean: Float[Tensor, "pixels"]
    vectors: Float[Tensor, "pixels pixels"]
    values: Float[Tensor, "pixels"]

    @classmethod
    def fit(cls, x: Float[Tensor, "data pixels"]) -> "LinearGaussian":
        """Fit all components, by the mean and the covariance of the data."""
        x = x.double()
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        return cls(x.mean(0), vectors, values.clamp_min(0.0))

    def with_components(self, num_components: int) -> "LinearGaussian":
        """Keep the largest components, and replace the other eigenvalues by their mean, the noise
        variance of probabilistic PCA (Tipping and Bishop 1999).
        """
        values = self.values.clone()
        values[:-num_components] = values[:-num_components].mean()
        return LinearGaussian(self.mean, self.vectors, values)

    @property
    def covariance(self) -> Float[Tensor, "pixels pixels"]:
        """C."""
        return (self.vectors * self.values) @ self.vectors.T

    def restore(
        self,
        y: Float[Tensor, "data observed"],
        matrix: Float[Tensor, "observed pixels"],
        noise: float,
    ) -> Float[Tensor, "data pixels"]:
        """E[x | y] for y = A x + noise."""
        matrix = matrix.double()
        cross = self.covariance @ matrix.T
        y_covariance = matrix @ cross + noise**2 * torch.eye(len(matrix), dtype=cross.dtype)
        residual = y.double() - self.mean @ matrix.T
        return (self.mean + torch.linalg.solve(y_covariance, residual.T).T @ cross.T).to(y.dtype)

    def fill_missing(
        self, y: Float[Tensor, "data pixels"], missing: Bool[Tensor, "data pixels"]
    ) -> Float[Tensor, "data pixels"]:
        """E[x | observed pixels], where each image has its own missing pixels."""
        eye = torch.eye(y.shape[1])
        rows = [
            self.restore(each[~gap][None], eye[~gap], 0.0)
            for each, gap in zip(y, missing, strict=True)
        ]
        return torch.where(missing, torch.cat(rows), y)

    def estimate_noise(self, y: Float[Tensor, "data pixels"]) -> float:
        """The noise sd with the highest p(y) on whole images, out of 0.02, 0.04, ..., 1."""
        squares = ((y.double() - self.mean) @ self.vectors).square().mean(0)
        sizes = torch.linspace(0.02, 1.0, 50, dtype=torch.double)
        variances = self.values + sizes[:, None].square()
        log_prob = -(variances.log() + squares / variances).sum(1)
        return sizes[log_prob.argmax()].item()
