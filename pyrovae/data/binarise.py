"""Random binarisation of grey images, and dequantisation of whole numbers."""

from dataclasses import replace

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ..arguments import TensorLike, as_generator, as_real, as_tensor
from ..errors import InputError
from .dataset import Dataset, Split

__all__ = [
    "binarise",
    "check_binarisable",
    "check_whole",
    "dequantise",
    "static_binarisation",
    "static_dequantisation",
]


def binarise(
    x: TensorLike, levels: float = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """Draw x' ~ Bernoulli(x / levels), on the device of x.

    Called on each batch, this is dynamic binarisation (Salakhutdinov and Murray 2008).
    Probabilities are rounded to multiples of 2**-16, so that one random 64-bit word serves four
    pixels: drawing random numbers takes most of the time.

    Arguments:
        x: grey levels from 0 to levels.
        levels: the level of white, which becomes 1 with certainty.
        generator: source of randomness; torch's default generator unless given.

    Raises:
        InputError: if x are no real numbers, or levels is not positive.

    Example:
        >>> binarise(torch.tensor([0, 255], dtype=torch.uint8), levels=255)
        tensor([0., 1.])
    """
    x, levels = as_tensor("x", x), as_real("levels", levels, above=0)
    generator = as_generator("generator", generator)
    real = torch.get_default_dtype()
    num_words = (x.numel() + 3) // 4
    words = torch.randint(-(2**63), 2**63 - 1, (num_words,), generator=generator, device=x.device)
    pairs = words.view(torch.int32)
    noise = torch.cat([pairs & 0xFFFF, pairs >> 16 & 0xFFFF])[: x.numel()].reshape(x.shape)
    drawn: Tensor = (noise < (x.to(real) * (2**16 / levels)).round()).to(real)
    return drawn


def dequantise(
    x: Num[Tensor, "*shape"], generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """Draw x' = x + u, u ~ Uniform[0, 1), so that a density can model whole numbers.

    E_u[log p(x + u)] <= log integral p(x + u) du = log P(x): the log-density is a lower bound on a
    log-probability mass, and comparable with one (Theis et al. 2016, sec. 3.1).

    Arguments:
        x: whole numbers.
        generator: source of randomness; torch's default generator unless given.
    """
    noise = torch.rand(x.shape, generator=generator, device=x.device)
    return x.to(torch.get_default_dtype()) + noise


def check_whole(dataset: Dataset) -> None:
    """Check that a data set holds whole numbers only, so that it can be dequantised.

    Raises:
        InputError: if it does not; the message names the first split with other numbers.
    """
    for name, part in dataset.splits.items():
        x = part.x
        if x.is_floating_point() and not bool(((x == x.round()) | x.isnan()).all()):
            raise InputError(
                f"the {name} data of {dataset.name} are not whole numbers, so they cannot be "
                "dequantised; turn dequantisation off"
            )


def check_binarisable(dataset: Dataset) -> float:
    """Check that a data set can be binarised, and return its highest grey level.

    Raises:
        InputError: if its values are not grey levels.
    """
    levels = 1.0 if dataset.levels is None else dataset.levels
    for name, part in dataset.splits.items():
        low, high = part.x.min().item(), part.x.max().item()
        if not (low >= 0 and high <= levels):
            raise InputError(
                f"the {name} data of {dataset.name} range from {low:.4g} to {high:.4g}; "
                f"binarisation needs grey levels from 0 to {levels:g}"
            )
    return levels


def static_binarisation(part: Split, levels: float, seed: int) -> Split:
    """Binarise data once, identically for the same seed (not Larochelle's published files)."""
    generator = torch.Generator().manual_seed(seed)
    return replace(part, x=binarise(part.x, levels, generator))


def static_dequantisation(part: Split, seed: int) -> Split:
    """Dequantise data once, identically for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return replace(part, x=dequantise(part.x, generator))
