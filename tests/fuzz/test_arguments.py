"""Public functions with nonsense for some arguments; ``python -m benchmarks.arguments`` makes
thousands of such calls.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae
from benchmarks.fuzz.call_harness import NonsenseCall, make_call
from benchmarks.fuzz.calls import CALLS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_calls_succeed_or_refuse_in_one_line() -> None:
    """In a process of its own, as the types in signatures are checked in this one."""
    command = [sys.executable, "-m", "benchmarks.arguments", "--num", "300", "--seed", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout


def test_valid_calls_succeed() -> None:
    """Otherwise the calls with nonsense would show nothing."""
    for name in ("VAE", "nn.MLP", "Batches", "Likelihood", "infer.IWAE", "inverse.Noise"):
        result = make_call(NonsenseCall(name, {}))
        assert result.kind == "success", (name, result)


@pytest.mark.parametrize(
    ("value", "kind"),
    [("int '0'", "refused"), ("int '3'", "success"), ("str 'x'", "TypeCheckError")],
)
def test_the_harness_tells_how_a_call_ended(value: str, kind: str) -> None:
    """The last one is raised by the checks of types in tests; an exception of any other kind."""
    result = make_call(NonsenseCall("data.load_sprites", {"num": value}))
    assert (result.kind, result.is_good) == (kind, kind != "TypeCheckError")


def test_public_functions_of_the_package_are_called() -> None:
    called = {name.partition(" ")[0].partition(".")[0] for name in CALLS}
    others = {"Imputation", "History", "InputError"}  # results and errors
    modules = {name for name in pyrovae.__all__ if name.islower() and name not in called}
    functions = set(pyrovae.__all__) - others - modules
    assert {"fit", "impute", "VAE", "SVI"} <= functions
    assert functions <= called
