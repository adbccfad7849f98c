"""The device to compute on."""

import torch

from .arguments import as_device, describe
from .errors import InputError

__all__ = ["find_device"]


def find_device(name: str) -> torch.device:
    """The device of that name, after a test that it works; ``auto`` is CUDA if available, else CPU.

    Raises:
        InputError: if the device cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return as_device("device", name)
    except InputError as error:
        raise InputError(
            f"device {describe(name)} cannot be used on this machine; choose auto, cpu, cuda, "
            "cuda:1 or mps"
        ) from error
