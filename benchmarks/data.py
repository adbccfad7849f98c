"""Images for the benchmarks: MNIST if ``PYROVAE_DATA`` is set, else random images."""

import os

import torch
from torch import Tensor

__all__ = ["binary_batches", "images", "test_images"]


def images() -> Tensor:
    """Return 60,000 grey training images of 784 pixels, as bytes."""
    return _load_or_draw(is_train=True, num=60_000)


def test_images() -> Tensor:
    """Return 10,000 grey test images of 784 pixels, as bytes."""
    return _load_or_draw(is_train=False, num=10_000)


def _load_or_draw(is_train: bool, num: int) -> Tensor:
    if os.environ.get("PYROVAE_DATA"):
        from torchvision.datasets import MNIST

        return MNIST(os.environ["PYROVAE_DATA"], train=is_train).data.flatten(1)
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(784, generator=generator) ** 4 * 255
    return (mean * torch.rand(num, 784, generator=generator)).to(torch.uint8)


def binary_batches(batch_size: int, num: int = 100) -> list[Tensor]:
    """Return batches of binarised images."""
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(60_000, generator=generator)[: num * batch_size] % 60_000
    grey = images()[order].float() / 255
    return list(torch.bernoulli(grey, generator=generator).split(batch_size))
