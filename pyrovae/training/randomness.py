"""Save and restore the random state of Python, NumPy and torch."""

import random
from typing import Any

import numpy as np
import torch
from torch import Generator

from ..infer.svi.state import State

__all__ = ["random_state", "set_random_state"]


def random_state(*own: Generator) -> State:
    """The state of all global generators, those of CUDA devices included, and of the given ones.

    Arguments:
        own: further generators of torch, such as the one of a DataLoader.
    """
    numpy: Any = np.random.get_state()  # noqa: NPY002
    name, words, position, has_gauss, gauss = numpy
    version, python, python_gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    state = State()
    state.add("torch", [torch.get_rng_state()])
    state.add("cuda", [each.cpu() for each in cuda])
    state.add("own", [each.get_state() for each in own])
    state.add("numpy", [torch.tensor(words.astype(np.int64))])
    state.add("python", [torch.tensor(python)])
    state.record["numpy_rest"] = [name, int(position), int(has_gauss), float(gauss)]
    state.record["python_rest"] = [version, python_gauss]
    return state


def set_random_state(state: State, *own: Generator) -> None:
    """Restore a state that :func:`random_state` returned."""
    (of_torch,) = state.tensors_of("torch")
    torch.set_rng_state(of_torch)
    cuda = state.tensors_of("cuda")
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)
    for generator, saved in zip(own, state.tensors_of("own"), strict=True):
        generator.set_state(saved)
    name, position, has_gauss, gauss = state.record["numpy_rest"]
    (words,) = state.tensors_of("numpy")
    if len(words) != 624 or not 0 <= int(position) <= 624:  # or NumPy would read out of bounds
        raise ValueError("the state of NumPy's random numbers is not valid")
    numpy: Any = (name, words.numpy().astype(np.uint32), position, has_gauss, gauss)
    np.random.set_state(numpy)  # noqa: NPY002
    version, python_gauss = state.record["python_rest"]
    (python,) = state.tensors_of("python")
    random.setstate((version, tuple(python.tolist()), python_gauss))
