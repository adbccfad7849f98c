"""Compiled steps are right, or plain, whatever state the compiler's cache on disk is in."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_SCRIPT = """
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch.optim import Adam

from pyrovae import SVI

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
warnings.simplefilter("ignore")
x = torch.linspace(-1, 1, 64).reshape(16, 4)


def model(x):
    weight = pyro.param("weight", torch.ones(4, 3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((z @ weight.T).tanh(), 0.5).to_event(1), obs=x)


def guide(x):
    loc = pyro.param("loc", torch.zeros(4, 3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ loc, 0.7).to_event(1))


def train(compile):
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi = SVI(model, guide, partial(Adam, lr=0.01), compile=compile)
    losses = torch.stack([svi.step(x).loss for _ in range(12)])
    return torch.cat([losses, pyro.param("weight").detach().flatten()]), svi.num_graphs[1]


(plain, _), (compiled, num_graphs) = train(False), train(True)
torch.testing.assert_close(compiled, plain, rtol=1e-9, atol=1e-9)
print("compiled", num_graphs)
"""


def start(cache: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.splitlines()[-1]


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def overwrite(content: bytes) -> bytes:
    return bytes(len(content))


@pytest.mark.parametrize("damage", [truncate, overwrite])
def test_a_damaged_cache(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert end(start(tmp_path)) == "compiled 1"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".so" for path in files)
    for path in files:
        path.write_bytes(damage(path.read_bytes()))
    assert end(start(tmp_path)) in ("compiled 0", "compiled 1")


def test_a_compilation_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path)
    while not any(path.suffix == ".cpp" for path in tmp_path.rglob("*")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert end(start(tmp_path)) in ("compiled 0", "compiled 1")


def test_two_processes_that_share_a_cache(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(2)]
    assert [end(each) for each in processes] == ["compiled 1", "compiled 1"]
