"""Ways to degrade an image before it is restored: remove pixels, add noise, shrink it."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import InputError

__all__ = ["Degradation"]

_MAX_NOISE = 100.0

Region = Literal["lower", "upper", "left", "right", "centre"]

_DEFAULTS: dict[str, dict[str, Any]] = {
    "inpaint": {"fraction": 0.5},
    "denoise": {"noise": 0.3},
    "super-resolve": {"factor": 2, "noise": 0.05},
}


@dataclass(frozen=True)
class Degradation:
    """How to degrade images before restoring them. Settings of other tasks are None.

    Arguments:
        task: ``inpaint``, ``denoise`` or ``super-resolve``.
        fraction: share of the pixels to remove at random, the same number from each image and in
            all channels.
        region: what to remove instead: a half, or ``centre``, the rectangle of half the height and
            half the width.
        noise: standard deviation of the noise, as a share of the full range of grey levels.
        factor: side of the blocks that are replaced by their means.

    Raises:
        InputError: if a setting belongs to another task, or is out of its range.
    """

    task: Literal["inpaint", "denoise", "super-resolve"]
    fraction: float | None = None
    region: Region | None = None
    noise: float | None = None
    factor: int | None = None

    def __post_init__(self) -> None:
        given = {
            name: value
            for name in ("fraction", "region", "noise", "factor")
            if (value := getattr(self, name)) is not None
        }
        known = {*_DEFAULTS[self.task], *(("region",) if self.task == "inpaint" else ())}
        for name in given:
            if name not in known:
                raise InputError(
                    f"--{name} is not an option of {self.task}, which has "
                    f"{', '.join(f'--{each}' for each in sorted(known))}"
                )
        if {"fraction", "region"} <= given.keys():
            raise InputError("--fraction and --region both say what to remove; give one of them")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise InputError(f"--fraction is {self.fraction}; it must be between 0 and 1")
        if self.noise is not None and not 0 < self.noise <= _MAX_NOISE:
            raise InputError(
                f"--noise is {self.noise}; it must be above 0 and at most {_MAX_NOISE:g}, as a "
                "share of the range of grey levels"
            )
        for name, value in _DEFAULTS[self.task].items():
            if name not in given and not (name == "fraction" and self.region):
                object.__setattr__(self, name, value)

    def __str__(self) -> str:
        if self.task == "inpaint":
            removed = {"centre": "the square in the centre"}.get(
                str(self.region), f"the {self.region} half"
            )
            share = f"{100 * (self.fraction or 0):.3g}% of the pixels"
            return f"{removed if self.region else share} removed"
        noise = f"noise with standard deviation {self.noise:g} of the range"
        return (
            noise
            if self.task == "denoise"
            else f"height and width divided by {self.factor}, {noise}"
        )

    def remove(
        self, x: Float[Tensor, "num channels height width"]
    ) -> Float[Tensor, "num channels height width"]:
        """Return x with NaN for the pixels to remove."""
        return torch.where(self.draw_mask(x.shape), torch.nan, x)

    def draw_mask(self, shape: torch.Size) -> Bool[Tensor, "num channels height width"]:
        """Return which pixels to remove from images of this shape, using torch's random state."""
        num, _, height, width = shape
        missing = torch.zeros(num, 1, height, width, dtype=torch.bool)
        if self.region is None:
            assert self.fraction is not None
            count = min(max(1, round(self.fraction * height * width)), height * width - 1)
            order = torch.rand(num, height * width).argsort(1)[:, :count]
            missing.flatten(1).scatter_(1, order, True)
        else:
            rows, columns = {
                "lower": (slice(height // 2, None), slice(None)),
                "upper": (slice(height // 2), slice(None)),
                "left": (slice(None), slice(width // 2)),
                "right": (slice(None), slice(width // 2, None)),
                "centre": (_middle(height), _middle(width)),
            }[self.region]
            missing[..., rows, columns] = True
        return missing.expand(shape)


def _middle(size: int) -> slice:
    """Return the middle half of an axis."""
    return slice(size // 4, size // 4 + (size + 1) // 2)
