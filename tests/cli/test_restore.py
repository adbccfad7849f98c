"""``pyrovae restore``: the files it writes, and its error messages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.helpers import find_pictures
from tests.runs.test_restoration import run_of

QUICK = ["--num", "6", "--num-samples", "21", "--method", "refined", "--method.num_steps", "5"]


@pytest.mark.slow
def test_restore_by_each_task(pyrovae: Any, tmp_path: Path) -> None:
    run_of(tmp_path / "run", hidden=(16,))
    for task, options, seen in (
        ("inpaint", ["--region", "lower"], (1, 8, 8)),
        ("denoise", ["--noise", "0.1"], (1, 8, 8)),
        ("super-resolve", ["--factor", "4"], (1, 2, 2)),
    ):
        outcome = pyrovae("restore", "run", "--task", task, *options, *QUICK)
        assert outcome.code == 0, outcome.err
        name = f"restorations-{task}"
        assert name in find_pictures(tmp_path / "run")
        arrays = np.load(tmp_path / "run" / f"{name}.npz")
        assert set(arrays) == {"x", "y", "mean", "sd", "low", "high", "latent_z"}
        assert arrays["y"].shape == (6, *seen)
        assert arrays["latent_z"].shape == (21, 6, 20)
        record = json.loads((tmp_path / "run" / f"{name}.json").read_text())
        assert record["method"] == {"name": "refined", "num_steps": 5}
        assert {"median", "smallest", "largest"} == set(record["diagnostics"]["elbo"])
        assert f"{record['figures']['psnr']['mean']:.2f}" in outcome.out
        assert "wrote 6 restorations to run/" in outcome.out
        assert "images have" in outcome.out  # after five steps q is not p(z | y)
    assert record["observed"] == "E[x|z]"  # block means of a binomial are in no closed form
    assert "degraded: E[x|z]" in outcome.out
    again = pyrovae("restore", "run", "--task", task, *options, *QUICK)
    assert again.out == outcome.out
    np.testing.assert_array_equal(np.load(tmp_path / "run" / f"{name}.npz")["mean"], arrays["mean"])

    for arguments, message in (
        (["super-resolve", "--factor", "3"], "factor is 3; it must divide"),
        (["denoise", "--method", "importence"], "did you mean 'importance'?"),
        (["denoise", "--method.num_step", "3", "--method", "refined"], "did you mean 'num_steps'?"),
        (["super-resolve", "--method", "pseudo_gibbs"], "use refined, importance or nuts"),
        (["denoise", "--fraction", "0.1"], "--fraction is not an option of denoise"),
    ):
        refused = pyrovae("restore", "run", "--task", *arguments)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.count("\n") == 1
        assert message in refused.err


def test_runs_of_tables_are_refused(pyrovae: Any, tmp_path: Path) -> None:
    run_of(tmp_path / "run", data="iris", hidden=(4,))
    outcome = pyrovae("restore", "run", "--task", "inpaint")
    assert (outcome.code, outcome.out) == (2, "")
    assert "fill the missing cells of a table with pyrovae impute" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "inpant"], "inpant"),
        ([], "--task"),
        (["--task", "inpaint", "--num", "0"], "--num is 0"),
        (["--task", "inpaint", "--num-samples", "20"], "--num-samples is 20"),
        (["--task", "inpaint"], "nowhere is not a run directory"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    pyrovae: Any, arguments: list[str], message: str
) -> None:
    outcome = pyrovae("restore", "nowhere", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
