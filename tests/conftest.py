"""For the whole suite: shapes and types in signatures are checked as the code runs."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each; read when torch is loaded
    os.environ["OMP_NUM_THREADS"] = "1"

import pyro
import pytest
import torch
from jaxtyping import install_import_hook

from tests import typechecking

install_import_hook("pyrovae", f"{typechecking.__name__}.typechecked")


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """A fixed seed, and Pyro's global store empty before and, but for Pyro's own SVI, after."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision, for comparisons to round-off."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def data_root() -> Path:
    """Folder of torchvision's data sets."""
    if not os.environ.get("PYROVAE_DATA"):
        pytest.skip("set PYROVAE_DATA to a folder that holds MNIST to run this test")
    return Path(os.environ["PYROVAE_DATA"])


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def pyrovae(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """Run a command line in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    from pyrovae import cli  # whose types are checked once the hook is in place

    def run(*arguments: str) -> Outcome:
        try:
            cli.main(arguments)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run
