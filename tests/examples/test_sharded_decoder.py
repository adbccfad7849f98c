"""The example with a sharded decoder gives the same result in one process and in two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import EXAMPLES, load_example

_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_sharded_decoder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    load_example("sharded_decoder").main(epochs=1)
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
    num_sharded, elbo_sharded = _parse_output(both.stdout)
    num_alone, elbo_alone = _parse_output(alone)
    assert num_alone == 2 * num_sharded
    assert elbo_sharded == pytest.approx(elbo_alone, abs=0.02)  # in single precision


def _parse_output(out: str) -> tuple[int, float]:
    """Return the number of decoder parameters and the test ELBO."""
    found = re.search(r"^([\d,]+) parameters .* ELBO (-\d+\.\d\d)", out, re.MULTILINE)
    assert found is not None, out
    return int(found[1].replace(",", "")), float(found[2])
