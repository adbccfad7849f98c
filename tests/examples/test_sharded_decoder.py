"""The example of a decoder that two processes share, in one process and in two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import EXAMPLES, example

_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_sharded_decoder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    example("sharded_decoder").main(epochs=1)
    alone = capsys.readouterr().out
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    script = [str(EXAMPLES / "sharded_decoder.py"), "--epochs", "1"]
    both = subprocess.run(
        [*_TORCHRUN, *script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert both.returncode == 0, both.stderr
    assert "Warning" not in both.stderr
    held, all_held = (_numbers(out) for out in (both.stdout, alone))
    assert all_held[0] == 2 * held[0]
    assert held[1] == pytest.approx(all_held[1], abs=0.02)  # in single precision


def _numbers(out: str) -> tuple[int, float]:
    found = re.search(r"^([\d,]+) parameters .* ELBO (-\d+\.\d\d)", out, re.MULTILINE)
    assert found is not None, out
    return int(found[1].replace(",", "")), float(found[2])
