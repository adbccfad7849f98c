"""Which calls share a graph, and which get one of their own."""

from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from pyrovae.infer.compiler import specialisations
from pyrovae.infer.compiler.call import Unwatchable
from pyrovae.infer.compiler.specialisations import (
    MOST_SPECIALISATIONS,
    Compiled,
    Specialisation,
    Specialisations,
    TooManySpecialisations,
)
from pyrovae.infer.compiler.tiered import TieredFunction
from pyrovae.infer.compiler.watch import Watch

X = torch.ones(3)


class Program:
    def __init__(self) -> None:
        self.scale = 1.0
        self.mode = "a"
        self.data = torch.ones(3)


@dataclass
class Options:
    number: int


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
    program.mode = "b"
    assert find(found, X) is not before
    program.mode = "a"
    assert find(found, X) is before


def test_a_float_of_the_program_that_changes_is_an_input(
    found: Specialisations, program: Program
) -> None:
    find(found, X)
    program.scale = 2.0
    second = find(found, X)
    for scale in (3.0, 4.5, 1.0):
        program.scale = scale
        assert find(found, X) is second
        assert found.inputs(found.as_call((X,), {}))[1:] == [torch.tensor(scale)]
    program.scale = 1
    assert find(found, X) is not second


def test_a_tensor_of_the_program_that_is_replaced_is_an_input(
    found: Specialisations, program: Program
) -> None:
    first = find(found, X)
    program.data = torch.zeros(3)
    second = find(found, X)
    assert second is not first
    for number in range(3):
        program.data = torch.full((3,), float(number))
        assert find(found, X) is second
        assert found.inputs(found.as_call((X,), {}))[1] is program.data
    for other in (torch.ones(4), torch.ones(3).double(), torch.ones(6)[::2]):
        program.data = other
        assert find(found, X) is not second


def test_a_float_that_changes_beside_something_else_is_none(
    found: Specialisations, program: Program
) -> None:
    find(found, X)
    program.scale, program.mode = 2.0, "b"
    find(found, X)
    assert len(found.inputs(found.as_call((X,), {}))) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda number: Namespace(size=number),
        lambda number: Options(number),
        lambda number: lambda: number,
        lambda number: partial(max, number),
        lambda number: {1, number},
    ],
    ids=["namespace", "data class", "function", "partial", "set"],
)
def test_objects_among_arguments_count_by_what_is_in_them(
    found: Specialisations, make: Any
) -> None:
    first = find(found, X, make(3))
    assert find(found, X, make(3)) is first
    assert find(found, X, make(4)) is not first
    things = make(3)
    assert find(found, X, things) is first


def test_an_object_among_arguments_that_changes_is_followed(found: Specialisations) -> None:
    options = Namespace(size=3, inner=Options(2))
    first = find(found, X, options)
    options.inner.number = 5
    assert find(found, X, options) is not first


def test_functions_of_other_code_are_other_arguments(found: Specialisations) -> None:
    assert find(found, X, lambda x: x) is not find(found, X, lambda x: x + 1)
    assert find(found, X, torch.sin) is not find(found, X, torch.cos)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, X.requires_grad_(False), iter([])],), r"argument 1\[2\] is a list_iterator"),
        ((X, np.zeros(3)), "argument 2 is a NumPy array"),
        ((X, torch.ones(2, requires_grad=True)), "argument 2 is a tensor that needs a gradient"),
    ],
)
def test_arguments_that_may_change_unseen_are_named(
    found: Specialisations, arguments: Any, message: str
) -> None:
    with pytest.raises(Unwatchable, match=message):
        find(found, *arguments)
    with pytest.raises(Unwatchable, match="argument 'y' is a list_iterator"):
        find(found, X, y=iter([]))


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


def test_a_float_that_changes_is_read_anew_in_each_call() -> None:
    program = Program()
    tiered = TieredFunction(lambda x: x * program.scale + 1, (lambda: program,), compile=True)
    tiered.can_compile = False
    for number in range(12):
        program.scale = 0.1 * number
        torch.testing.assert_close(tiered((X,), {}), X * program.scale + 1)
    assert tiered.num_graphs == (1, 0)


def test_a_tensor_that_is_replaced_is_read_anew_in_each_call() -> None:
    program = Program()
    tiered = TieredFunction(lambda x: x * program.data.sum(), (lambda: program,), compile=True)
    tiered.can_compile = False
    for number in range(12):
        program.data = torch.full((3,), float(number))
        torch.testing.assert_close(tiered((X,), {}), X * 3.0 * number)
    assert tiered.num_graphs == (1, 0)


def test_a_program_that_replaces_its_tensors_is_not_recorded() -> None:
    program = Program()

    def function(x: torch.Tensor) -> torch.Tensor:
        program.data, program.scale = program.data + x, program.scale + 0.5
        return program.data * program.scale

    tiered = TieredFunction(function, (function,), compile="auto")
    tiered._break_even.of_recording = lambda *_: True  # type: ignore[method-assign]
    with pytest.warns(RuntimeWarning, match="changes as the program runs"):
        results = [tiered((X,), {}) for _ in range(9)]
    want = [X * (number + 2) * (1.5 + number / 2) for number in range(9)]
    torch.testing.assert_close(results, want)


def test_a_program_that_writes_to_tensors_given_to_it_is_not_recorded() -> None:
    program = Program()

    def function(x: torch.Tensor) -> torch.Tensor:
        program.data.add_(x)
        return program.data * 1

    tiered = TieredFunction(function, (function,), compile="auto")
    tiered._break_even.of_recording = lambda *_: True  # type: ignore[method-assign]
    for number in range(12):
        program.data = torch.full((3,), float(number))
        torch.testing.assert_close(tiered((X,), {}), X + number)
        torch.testing.assert_close(program.data, X + number)
    assert len(found_inputs(tiered)) == 1


def found_inputs(tiered: TieredFunction) -> list[torch.Tensor]:
    found = tiered._specialisations
    return found.inputs(found.as_call((X,), {}))


def test_floats_are_given_to_compiled_graphs_in_a_steady_loop() -> None:
    program = Program()

    def compiler(recording: Any, outputs: Any, inputs: list[torch.Tensor]) -> Compiled:
        return Compiled(lambda *inputs: outputs.unflatten(recording(*inputs)), [])

    function = lambda x: x * program.scale  # noqa: E731
    tiered = TieredFunction(function, (function,), compile=True, compiler=compiler)
    for number in (1.0, 2.0, 3.0):
        program.scale = number
        tiered((X,), {})
    with tiered.steady():
        for _ in range(9):
            torch.testing.assert_close(tiered((X,), {}), X * 3.0)
    assert tiered.num_graphs == (1, 1)


def run_modes(tiered: TieredFunction, program: Program, modes: list[str]) -> None:
    for mode in modes:
        program.mode = mode
        torch.testing.assert_close(tiered((X,), {}), X + len(mode))


def test_a_program_whose_kinds_never_come_again_is_let_alone() -> None:
    program = Program()
    function = lambda x: x + len(program.mode)  # noqa: E731
    tiered = TieredFunction(function, (function,), compile="auto")
    with pytest.warns(RuntimeWarning, match="mode changes again and again") as caught:
        run_modes(tiered, program, [str(number) for number in range(150)])
    assert len(caught) == 1
    assert tiered._refusal


def test_kinds_without_room_run_beside_others_that_have_a_graph() -> None:
    program = Program()
    function = lambda x: x + len(program.mode)  # noqa: E731
    tiered = TieredFunction(function, (function,), compile=True)
    tiered.can_compile = False
    modes = ["a" if number % 2 else str(number) for number in range(300)]
    with pytest.warns(RuntimeWarning, match="mode changes again and again"):
        run_modes(tiered, program, modes)
    assert not tiered._refusal
    assert tiered.num_graphs[0] == MOST_SPECIALISATIONS - 1  # all but that of the first call


def test_a_program_that_cannot_be_recorded_is_not_looked_at_again() -> None:
    program = Program()

    def function(x: torch.Tensor) -> torch.Tensor:
        program.mode = "b"  # as the first step makes the optimiser
        return x * float(torch.randn(()))

    tiered = TieredFunction(function, (function,), compile="auto")
    tiered._break_even.of_recording = lambda *_: True  # type: ignore[method-assign]
    tiered((X,), {})
    with pytest.warns(RuntimeWarning, match="reads the value"):
        tiered((X,), {})
    assert tiered._refusal


def test_kinds_without_room_are_no_error_where_the_program_can_be_recorded() -> None:
    program = Program()
    function = lambda x: x + len(program.mode)  # noqa: E731
    tiered = TieredFunction(function, (function,), compile=True)
    tiered.can_compile = False
    with pytest.warns(RuntimeWarning, match="mode changes again and again"):
        run_modes(tiered, program, [str(number) for number in range(150)])
    assert not tiered._refusal


def test_values_are_useless_if_nearly_all_calls_have_new_ones() -> None:
    def variants(*calls: int) -> list[Specialisation]:
        made = [Specialisation([]) for _ in calls]
        for each, num in zip(made, calls, strict=True):
            each.calls = num
        return made

    most = specialisations._MOST_UNUSED
    assert specialisations._are_useless(variants(*[1] * most))
    assert not specialisations._are_useless(variants(*[1] * (most - 1)))
    assert not specialisations._are_useless(variants(50, *[1] * most))
