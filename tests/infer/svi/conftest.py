"""A machine without a compiler, for tests of steps that are recorded alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def no_compiler(tmp_path: Path) -> Iterator[None]:
    """A machine without a C++ compiler, and without what one compiled before."""
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    with fresh_cache(), config.patch({"cpp.cxx": (None, str(tmp_path / "no-compiler"))}):
        yield
