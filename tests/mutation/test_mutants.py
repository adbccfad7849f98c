"""Mutants of source code: what is changed, what is left alone, and where."""

from pathlib import Path

import pytest

from benchmarks.mutation.mutants import mutants_in, mutants_of
from benchmarks.mutation.search import draw

ROOT = Path(__file__).parents[2]


def changes(source: str) -> set[str]:
    """The mutants of a source, as a whole."""
    data = source.encode()
    return {mutant.apply(data).decode() for mutant in mutants_in(data, "pyrovae/some.py")}


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("x = a + b * c", {"x = (a - b * c)", "x = a + (b / c)"}),
        ("x -= a", {"x += a"}),
        ("x = a < b", {"x = (a <= b)"}),
        ("x = a is None", {"x = (a is not None)"}),
        ("x = a and b", {"x = (a or b)"}),
        ("x = not a", {"x = (a)"}),
        ("x = -a", {"x = (a)"}),
        ("x = f(a, dim=-1)", {"x = f(a, dim=(1))", "x = f(a, dim=(-2))"}),
        ("x = 0.5", {"x = 1.5"}),
        ("x = a if b else c", {"x = (c if b else a)"}),
        ("if a:\n    b()", {"if not (a):\n    b()"}),
        ("if a:\n    raise ValueError(1 + 1)", {"if False:\n    raise ValueError(1 + 1)"}),
        ("x = a.min(b)", {"x = a.max(b)"}),
        ("x = a.clamp(min=b)", {"x = a.clamp(max=b)"}),
        ("x = torch.where(a, b, c)", {"x = torch.where(a, c, b)"}),
        ("x = a.detach()", {"x = a"}),
        ("x = a.T", {"x = a"}),
        (
            "def f() -> Tensor:\n    return a",
            {"def f() -> Tensor:\n    return 2 * (a)"},
        ),
        ("x = _MAX * 2", {"x = (_MAX / 2)", "x = _MAX * 3"}),
        ("_MAX = 4\nx = a < _MAX", {"_MAX = 4\nx = (a <= _MAX)"}),
        ("_MAX = 9999\nx = a == _MAX", {"_MAX = 9999\nx = (a != _MAX)"}),
        (
            "_MAX = 0.1\nx = a < -_MAX",
            {"_MAX = 0.1\nx = (a <= -_MAX)", "_MAX = 0.1\nx = a < (_MAX)"},
        ),
        (
            "def f(a, b=1, *, c=2): ...",
            {"def f(a, b=2, *, c=2): ...", "def f(a, b=1, *, c=3): ..."},
        ),
        ("a: int = 9", {"a: int = 10"}),
        ("é = a + b  # é", {"é = (a - b)  # é"}),
    ],
)
def test_each_kind_of_change(source: str, mutants: set[str]) -> None:
    assert changes(source) == mutants


@pytest.mark.parametrize(
    "source",
    [
        '"""One of 1 + 1."""',
        '__all__ = ["a" + "b"]',
        "def f(x: Float[Tensor, 1 + 1]) -> Literal[1]: ...",
        "x: Literal[1, 2]",
        "Name = int | float",
        "_MAX_BYTES = 2**29",
        "assert x == 1",
        "raise ValueError(f'{x + 1}')",
        "warnings.warn(text, stacklevel=2)",
        "@dataclass(frozen=True)\nclass A: ...",
        "x = isinstance(a, int | float)",
        "x = 'a' + b",
        "for x in zip(a, b, strict=True): ...",
        "def __repr__(self) -> str:\n    return str(1 + 1)",
        "check(x, stacklevel=4)",
        "def f(seed=0, *, num_steps=500): ...",
        "class A:\n    num_steps: int = 500\n    kept: bool = field(repr=False)",
        "_MAX_BYTES = 2**29\nx = a > _MAX_BYTES",
        "_SMALL = 1e-6\nx = a > _SMALL",
        "_LARGEST = 1e100\nx = a <= _LARGEST",
        "def f() -> float:\n    return float('nan')",
    ],
)
def test_what_is_left_alone(source: str) -> None:
    assert changes(source) == set()


def test_mutants_know_the_lines_of_their_statement() -> None:
    source = b"x = f(\n    a,\n    b + c,\n)\ny = 1\n"
    first, second = mutants_in(source, "pyrovae/some.py")
    assert (first.statement, first.line, first.last_line) == (1, 3, 3)
    assert (second.statement, second.line, second.last_line) == (5, 5, 5)


def test_the_same_seed_draws_the_same_mutants() -> None:
    record = draw(ROOT, ("infer/objectives",), 20, seed=3)
    assert record.mutants == draw(ROOT, ("infer/objectives",), 20, seed=3).mutants
    assert record.mutants != draw(ROOT, ("infer/objectives",), 20, seed=4).mutants
    assert len({(m.path, m.start, m.end, m.after) for m in record.mutants}) == 20
    assert all(m.path.startswith("pyrovae/infer/objectives/") for m in record.mutants)
    for mutant in record.mutants:
        source = (ROOT / mutant.path).read_bytes()
        assert mutant.apply(source) != source


def test_unknown_wings_are_refused() -> None:
    with pytest.raises(FileNotFoundError, match="pyrovae/nowhere contains no Python file"):
        mutants_of(ROOT, ("nowhere",))
    (one,) = {mutant.path for mutant in mutants_of(ROOT, ("infer/pair/rows.py",))}
    assert one == "pyrovae/infer/pair/rows.py"
