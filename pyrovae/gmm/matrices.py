"""Factors of matrices."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["root_of_inverse"]


def root_of_inverse(matrices: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    """The lower Cholesky factors of the inverses of positive definite matrices."""
    # If R R^T is the matrix, with R upper triangular, then R^-T is the factor of its inverse.
    factor = torch.linalg.cholesky(matrices.flip(-2, -1)).flip(-2, -1)
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    root: Tensor = torch.linalg.solve_triangular(factor.mT, eye, upper=False)
    return root
