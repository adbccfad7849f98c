"""Save and restore the random state of Python, NumPy and torch."""

import random
from typing import Any

import numpy as np
import torch

from ..infer.svi.state import State
from .generators import RandomSource

__all__ = ["random_state", "set_random_state"]

_NUM_WORDS = 624
"""Words of the Mersenne twister; NumPy does not check where in them a state says that it is."""


def random_state(*own: RandomSource) -> State:
    """The state of all global generators, those of CUDA devices included, and of the given ones.

    Arguments:
        own: further generators, such as the one of a DataLoader.
    """
    of_torch = [each for each in own if isinstance(each, torch.Generator)]
    others = [each for each in own if not isinstance(each, torch.Generator)]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    state = State()
    state.add("torch", [torch.get_rng_state()])
    state.add("cuda", [each.cpu() for each in cuda])
    state.add("own", [each.get_state() for each in of_torch])
    sources = (np.random, random, *others)
    state.record["others"] = [_to_plain(_read(each)) for each in sources]
    return state


def set_random_state(state: State, *own: RandomSource) -> None:
    """Restore a state that :func:`random_state` returned.

    Raises:
        ValueError: if it is of other generators, or not valid.
    """
    generators = [each for each in own if isinstance(each, torch.Generator)]
    rest = [each for each in own if not isinstance(each, torch.Generator)]
    others = [np.random, random, *rest]
    (of_torch,) = state.tensors_of("torch")
    torch.set_rng_state(of_torch)
    cuda = state.tensors_of("cuda")
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)
    for generator, saved in zip(generators, state.tensors_of("own"), strict=True):
        generator.set_state(saved)
    for source, plain in zip(others, state.record["others"], strict=True):
        _write(source, _like(_read(source), plain))


def _read(source: Any) -> Any:
    """The state of a generator of NumPy or Python, or of the module with a global one."""
    if isinstance(source, np.random.Generator):
        return source.bit_generator.state
    if source is np.random or isinstance(source, np.random.RandomState):
        return source.get_state(legacy=False)
    return source.getstate()


def _write(source: Any, state: Any) -> None:
    if isinstance(state, dict) and not 0 <= state["state"].get("pos", 0) <= _NUM_WORDS:
        raise ValueError("the state of NumPy's random numbers is not valid")
    if isinstance(source, np.random.Generator):
        source.bit_generator.state = state
    elif source is np.random or isinstance(source, np.random.RandomState):
        source.set_state(state)
    else:
        source.setstate(state)


def _to_plain(value: Any) -> Any:
    """A state as numbers, strings, lists and dicts."""
    if isinstance(value, dict):
        return {name: _to_plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_to_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _like(state: Any, plain: Any) -> Any:
    """A saved state in the form of the present one of the same generator.

    Raises:
        ValueError: if it has another form; NumPy would read out of bounds.
    """
    if isinstance(state, dict):
        if not isinstance(plain, dict) or state.keys() != plain.keys():
            raise ValueError("the state of a random generator is of another kind")
        return {name: _like(each, plain[name]) for name, each in state.items()}
    if isinstance(state, tuple | list):
        if not isinstance(plain, list) or len(state) != len(plain):
            raise ValueError("the state of a random generator is of another kind")
        return type(state)(_like(*pair) for pair in zip(state, plain, strict=True))
    if isinstance(state, np.ndarray):
        values = np.asarray(plain, dtype=state.dtype)
        if values.shape != state.shape:
            raise ValueError("the state of a random generator has another size")
        return values
    is_number = isinstance(plain, int | float) and not isinstance(plain, bool)
    if not (plain is None or is_number or type(plain) is type(state)):
        raise ValueError("the state of a random generator is of another kind")
    return plain
