"""The progress bar appears only once the work has taken a while."""

from collections.abc import Iterator
from io import StringIO

import pytest
import rich

from pyrovae import progress
from pyrovae.progress import LateProgress


@pytest.fixture
def screen() -> Iterator[StringIO]:
    written = StringIO()
    before = dict(vars(rich.get_console()))
    rich.reconfigure(file=written, force_terminal=True, width=80)
    yield written
    vars(rich.get_console()).update(before)


@pytest.mark.parametrize(("delay", "is_shown"), [(0.0, True), (60.0, False)])
def test_bar_appears_after_a_delay(
    screen: StringIO, monkeypatch: pytest.MonkeyPatch, delay: float, is_shown: bool
) -> None:
    monkeypatch.setattr(progress, "_DELAY", delay)
    with LateProgress("polishing", 4) as bar:
        bar.advance()
        bar.finish(3)
        bar.advance()
    assert ("polishing" in screen.getvalue()) == is_shown
    assert ("4/4" in screen.getvalue()) == is_shown


def test_nothing_is_written_unless_the_output_is_a_terminal(
    screen: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich.reconfigure(file=screen, force_terminal=False)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    with LateProgress("polishing", 2) as bar:
        bar.advance()
    assert screen.getvalue() == ""
