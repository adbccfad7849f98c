"""Which calls share a graph, and which get one of their own."""

from typing import Any

import pytest
import torch

from pyrovae.infer.compiler.specialisations import (
    MOST_SPECIALISATIONS,
    Specialisation,
    Specialisations,
    TooManySpecialisations,
)
from pyrovae.infer.compiler.watch import Watch

X = torch.ones(3)


class Program:
    def __init__(self) -> None:
        self.scale = 1.0


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def found(program: Program) -> Specialisations:
    return Specialisations(Watch(program))


def find(found: Specialisations, *args: Any, key: Any = (), **kwargs: Any) -> Specialisation:
    return found.find(found.as_call(args, kwargs), key)


def test_values_of_tensors_share_a_graph(found: Specialisations) -> None:
    assert find(found, X) is find(found, X + 1)


def test_layouts_keys_and_words_do_not(found: Specialisations) -> None:
    calls = [
        find(found, X),
        find(found, X.double()),
        find(found, torch.ones(4)),
        find(found, torch.ones(6)[::2]),
        find(found, X, key="another"),
        find(found, X, mode="a"),
        find(found, X, mode="b"),
    ]
    assert len(set(map(id, calls))) == len(calls)


def test_the_state_of_the_program_counts(found: Specialisations, program: Program) -> None:
    before = find(found, X)
    program.scale = 2.0
    assert find(found, X) is not before
    program.scale = 1.0
    assert find(found, X) is before


def test_settings_of_torch_count(found: Specialisations) -> None:
    before = find(found, X)
    with torch.autocast("cpu", torch.bfloat16):
        assert find(found, X) is not before
    torch.set_default_dtype(torch.float64)
    try:
        assert find(found, X) is not before
    finally:
        torch.set_default_dtype(torch.float32)
    assert find(found, X) is before


def test_a_float_that_changes_becomes_an_input(found: Specialisations) -> None:
    find(found, X, rate=0.1)
    changed = find(found, X, rate=0.2)
    assert find(found, X, rate=0.3) is changed
    inputs = found.as_call((X,), {"rate": 0.3}).inputs()
    assert [value.tolist() for value in inputs] == [[1.0, 1.0, 1.0], pytest.approx(0.3)]


def test_there_are_only_so_many(found: Specialisations, program: Program) -> None:
    for size in range(1, MOST_SPECIALISATIONS + 1):
        find(found, torch.ones(size))
    find(found, torch.ones(1))
    with pytest.raises(TooManySpecialisations, match="the arguments"):
        find(found, torch.ones(100))
    program.scale = 3.0
    with pytest.raises(TooManySpecialisations, match="scale"):
        find(found, X)
