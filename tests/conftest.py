"""Fixtures for the whole suite, and run-time checks of the shapes and types in signatures."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # one core per worker; torch reads this on import
    os.environ["OMP_NUM_THREADS"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells have it in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pyro
import pytest
import torch
from jaxtyping import install_import_hook

from tests import typechecking

install_import_hook("pyrovae", f"{typechecking.__name__}.typechecked")


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Fix the seed, and empty Pyro's global parameter store before and after each test."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def float64() -> Iterator[None]:
    """Make double precision the default, for comparisons up to rounding errors."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def data_root() -> Path:
    """Folder of the torchvision data sets; skips the test if it is not set."""
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
    """Returns a function that runs a command line in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    from pyrovae import cli  # imported after the hook, so that its types are checked

    def run(*arguments: str) -> Outcome:
        try:
            cli.main(arguments)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run
