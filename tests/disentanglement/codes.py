"""Factors, and codes with known scores."""

from math import sqrt

import torch
from torch import Tensor

SIZES = [3, 4, 5]
HADAMARD = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).float()


def identity(factors: Tensor) -> Tensor:
    return factors


def draw_factors(num: int, sizes: list[int]) -> Tensor:
    return torch.stack([torch.randint(size, (num,)) for size in sizes], 1)


def rotate(factors: Tensor) -> Tensor:
    """Codes of four factors of four values each; each latent mixes all factors equally."""
    return (factors - 1.5) @ HADAMARD


def encode_imperfectly(factors: Tensor) -> Tensor:
    """Real codes that are neither perfect nor useless, as a function of the factors."""
    z = factors.double() @ torch.tensor(
        [[1.0, 0.3, 0.0, 0.2], [0.0, 1.0, 0.1, 0.1], [0.2, 0.0, 1.0, 0.0]], dtype=torch.float64
    )
    return z + 0.5 * (z * 12.9898).sin()


def sap_of_perfect_codes(sizes: list[int], num_test: int) -> tuple[float, float]:
    """Expected SAP if the best latent is always right and the next by chance, and its tolerance."""
    expected = sum(1 - 1 / size for size in sizes) / len(sizes)
    return expected, 4.5 * 0.5 / sqrt(num_test)
