"""The programs of ``benchmarks.programs`` give the same under our SVI as under Pyro's."""

import pytest
from pyro.infer import SVI as PyroSVI

from benchmarks.programs.compare import largest_difference, train, train_ours
from benchmarks.programs.families import load_all
from benchmarks.programs.program import PROGRAMS

load_all()

STEPS = 6

NOT_RECORDED: frozenset[str] = frozenset()
"""Programs whose steps run as ordinary Python, at least some of them."""

SHORT = frozenset()
"""Programs that take less than half a second."""


@pytest.mark.parametrize(
    "name",
    [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS],
)
@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_same_as_pyro(name: str) -> None:
    theirs = train(PROGRAMS[name], PyroSVI, STEPS)
    ours, reason = train_ours(PROGRAMS[name], STEPS, can_compile=False)
    assert largest_difference({"loss": theirs.losses}, {"loss": ours.losses}) < 1e-9
    assert largest_difference(theirs.state, ours.state) < 1e-9
    assert bool(reason) == (name in NOT_RECORDED), reason


def test_lists_name_programs() -> None:
    assert PROGRAMS.keys() >= NOT_RECORDED | SHORT
