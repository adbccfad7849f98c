"""Each check returns the plain form of a value, or says in one line what was expected."""

import fractions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyrovae import InputError
from pyrovae.arguments import (
    as_callable,
    as_flag,
    as_instance,
    as_path,
    as_real,
    as_shape,
    as_text,
    as_whole,
    as_wholes,
    as_word,
    describe,
)

NAN, INF = float("nan"), float("inf")

NOT_NUMBERS = [None, True, np.True_, "1", b"1", [1], {1}, {}, object(), lambda: 1, 1j,
               torch.tensor(1), np.array(1), np.array([1.0]), torch.tensor(True)]  # fmt: skip


@pytest.mark.parametrize("kind", [int, np.int8, np.int64, np.uint8, np.uint64])
def test_whole_numbers_of_python_and_numpy_become_int(kind: Any) -> None:
    number = as_whole("n", kind(7), 1)
    assert (number, type(number)) == (7, int)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 1.0, np.float32(1), NAN, INF])
def test_other_values_are_no_whole_numbers(value: Any) -> None:
    with pytest.raises(InputError, match=r"^n is .*; it must be a whole number, 1 or more$"):
        as_whole("n", value, 1)


@pytest.mark.parametrize(
    ("value", "low", "high", "end"),
    [
        (0, 1, None, "0; it must be 1 or more"),
        (np.int64(-3), 0, None, "-3; it must be 0 or more"),
        (5, 1, 4, "5; it must be at most 4"),
        (0, 1, 4, "0; it must be from 1 to 4"),
        (2**70, 1, 2**31 - 1, f"{2**70}; it must be at most {2**31 - 1}"),
    ],
)
def test_whole_numbers_have_bounds(value: Any, low: int, high: int | None, end: str) -> None:
    with pytest.raises(InputError) as caught:
        as_whole("n", value, low, high)
    assert str(caught.value) == f"n is {end}"


def test_bounds_are_included() -> None:
    assert as_whole("n", 1, 1, 4) == 1
    assert as_whole("n", 4, 1, 4) == 4
    assert as_real("n", 1, 1, 4) == 1
    assert as_real("n", 4, 1, 4) == 4


@pytest.mark.parametrize("kind", [int, float, np.float16, np.float64, np.int32, fractions.Fraction])
def test_real_numbers_of_python_and_numpy_become_float(kind: Any) -> None:
    number = as_real("lr", kind(2))
    assert (number, type(number)) == (2.0, float)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_other_values_are_no_real_numbers(value: Any) -> None:
    with pytest.raises(InputError, match=r"^lr is .*; it must be a number, positive and finite$"):
        as_real("lr", value, above=0)


@pytest.mark.parametrize("value", [NAN, INF, -INF, np.float32(NAN), 10**400, -(10**400)])
def test_nan_and_infinity_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="it must be finite"):
        as_real("lr", value)


def test_infinity_is_taken_where_it_may_be() -> None:
    assert as_real("every", INF, 0, finite=False) == INF
    with pytest.raises(InputError, match="every is nan; it must be 0 or more"):
        as_real("every", NAN, 0, finite=False)


@pytest.mark.parametrize(
    ("value", "limits"),
    [(0, {"above": 0}), (1, {"below": 1}), (-0.1, {"low": 0}), (1.1, {"high": 1})],
)
def test_real_numbers_have_bounds(value: float, limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"^p is -?[\d.]+; it must be "):
        as_real("p", value, **limits)


def test_flags() -> None:
    for value in (True, np.True_):
        assert as_flag("missing", value) is True
    for value in (1, 0, None, "yes", np.array(True), torch.tensor(True)):
        with pytest.raises(InputError, match=r"missing is .*; it must be True or False"):
            as_flag("missing", value)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (6, (6,)),
        (np.int64(6), (6,)),
        ((1, 8, 8), (1, 8, 8)),
        ([np.int32(2), 3], (2, 3)),
        (torch.Size([4]), (4,)),
        (np.array([2, 3]), (2, 3)),
        (torch.tensor([2, 3]), (2, 3)),
    ],
)
def test_shapes(value: Any, shape: tuple[int, ...]) -> None:
    assert as_shape("event_shape", value) == shape
    assert all(type(size) is int for size in as_shape("event_shape", value))


@pytest.mark.parametrize(
    "value",
    [None, True, "6", (), (0,), (-1,), (2.0,), (True,), ("a",), [[1]], {3}, {3: 1}, NAN, 6.0,
     (1,) * 17, (2**21, 2**20), 2**70, torch.empty(2, device="meta"), np.array(3.0)],
)  # fmt: skip
def test_other_values_are_no_shapes(value: Any) -> None:
    with pytest.raises(InputError, match=r"^event_shape is .*; it "):
        as_shape("event_shape", value)


def test_the_empty_shape_is_taken_where_it_may_be() -> None:
    assert as_shape("out_shape", (), empty=True) == ()


def test_sequences_of_whole_numbers() -> None:
    assert as_wholes("hidden", [np.int64(4), 2]) == (4, 2)
    assert as_wholes("hidden", ()) == ()
    for value, message in [
        ((0,), r"hidden\[0\] is 0; it must be 1 or more"),
        ((4, 2.5), r"hidden\[1\] is 2.5; it must be a whole number"),
        (400, r"hidden is 400; it must be a sequence of whole numbers"),
        ("ab", r"hidden is 'ab'; it must be a sequence"),
        ((1,) * 1001, r"hidden has 1001 numbers; give at most 1000"),
    ]:
        with pytest.raises(InputError, match=message):
            as_wholes("hidden", value)


def test_words_paths_texts_and_callables() -> None:
    assert as_word("schedule", "cosine", ["constant", "cosine"]) == "cosine"
    assert as_path("output", "a/b") == as_path("output", Path("a/b")) == Path("a/b")
    assert as_text("plate", "data") == "data"
    assert as_callable("report", print) is print
    assert as_instance("x", 3, int, "a number") == 3
    for check in (
        lambda: as_word("schedule", None, ["constant"]),
        lambda: as_path("output", ""),
        lambda: as_path("output", b"a"),
        lambda: as_path("output", "a\0b"),
        lambda: as_path("output", 3),
        lambda: as_text("plate", ""),
        lambda: as_text("plate", 3),
        lambda: as_callable("report", 3),
        lambda: as_instance("x", "3", int, "a number"),
    ):
        with pytest.raises(InputError, match=r"^(schedule|output|plate|report|x) "):
            check()


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [_Unprintable(), torch.zeros(200, 200), np.zeros((200, 200)), "a\nb" * 1000, [[1] * 100] * 100,
     {i: i for i in range(1000)}, object(), print, lambda: 0, torch.empty(2, 2).to_sparse(),
     torch.empty(3, device="meta"), b"x" * 1000, {1, 2}, torch.zeros(2, dtype=torch.complex64)],
)  # fmt: skip
def test_descriptions_are_one_short_line(value: Any) -> None:
    text = describe(value)
    assert "\n" not in text
    assert 0 < len(text) < 300


def test_integers_of_too_many_digits_are_described() -> None:
    with pytest.raises(InputError, match="n is a value of type int; it must be at most 9"):
        as_whole("n", 10**5000, 1, 9)
