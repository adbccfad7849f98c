"""``pyrovae train`` and the commands that use its run: the files they write, and their results."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pyrovae import load
from tests.cli.helpers import SMALL, find_pictures


@pytest.mark.slow
def test_train_then_sample_reconstruct_evaluate(pyrovae: Any, tmp_path: Path) -> None:
    outcome = pyrovae("train", "--output", "run", *SMALL)
    assert outcome.code == 0, outcome.err
    for words in (
        "1,294 training, 144 validation, 359 test",
        "ELBO",
        "KL",
        "wrote pictures to run",
    ):
        assert words in outcome.out
    run = tmp_path / "run"
    assert find_pictures(run) == {
        "training",
        "reconstructions",
        "samples",
        "latent_space",
        "traversals",
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["likelihood"] == {
        "family": "Binomial",
        "total_count": 16,
        "logits": "predicted",
    }
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2]
    np.testing.assert_allclose(metrics.loss, metrics.reconstruction + metrics.kl, rtol=1e-5)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["kind"] == "log probability mass"
    latents = evaluation["latents"]
    assert latents["num_dimensions"] == len(latents["kl_of_dimensions"]) == 20
    assert f"{latents['num_active']} of 20 dimensions are active" in outcome.out
    assert evaluation["num_data"] == 359
    # The last validation loss is that of like data, within what 144 and 359 data vary by.
    error = evaluation["elbo"]["standard_error"] * (1 + 359 / 144) ** 0.5
    assert -evaluation["elbo"]["mean"] == pytest.approx(
        metrics.validation_loss.iloc[-1], abs=4.5 * error
    )

    again = pyrovae("evaluate", "run")
    assert again.code == 0, again.err
    assert json.loads((run / "evaluation.json").read_text()) == evaluation
    fewer = pyrovae("evaluate", "run", "--num-particles", "2")
    assert "2 samples of z per datum" in fewer.out

    sampled = pyrovae("evaluate", "run", "--num-samples", "50")
    assert sampled.code == 0, sampled.err
    assert "importance sampling, 50 samples" in sampled.out
    figures = json.loads((run / "log_likelihood.json").read_text())
    bounds = [figures["bounds"][k]["mean"] for k in ("1", "10")]
    assert bounds[0] < bounds[1] < figures["log_likelihood"]["mean"]
    assert figures["kind"] == "log probability mass"
    assert figures["data"] == "digits, values as they are"
    rows = pd.read_csv(run / "log_likelihood.csv")
    assert len(rows) == 359
    assert rows.log_likelihood.mean() == pytest.approx(figures["log_likelihood"]["mean"])

    assert pyrovae("sample", "run", "--num", "5").code == 0
    drawn = np.load(run / "samples.npz")
    assert drawn["x"].shape == drawn["mean"].shape == (5, 1, 8, 8)
    assert drawn["z"].shape == (5, 20)
    assert set(np.unique(drawn["x"])) <= set(range(17))
    first = drawn["x"]
    pyrovae("sample", "run", "--num", "5")
    assert (np.load(run / "samples.npz")["x"] == first).all()
    pyrovae("sample", "run", "--num", "5", "--seed", "1")
    assert not (np.load(run / "samples.npz")["x"] == first).all()

    assert pyrovae("reconstruct", "run", "--num", "7").code == 0
    kept = np.load(run / "reconstructions.npz")
    assert (kept["x"] == load("digits").test.x[:7].numpy()).all()
    assert kept["mean"].shape == (7, 1, 8, 8)

    used = pyrovae("train", "--output", "run", *SMALL)
    assert (used.code, used.out) == (2, "")
    assert "run exists already; give another --output" in used.err


@pytest.mark.slow
def test_the_config_of_a_run_reproduces_it(pyrovae: Any, tmp_path: Path) -> None:
    assert pyrovae("train", "--output", "one", "--seed", "3", *SMALL).code == 0
    assert pyrovae("train", "--config", "one/config.yaml", "--output", "two").code == 0
    one, two = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-5)


VARIANTS = {
    "two latents": (["--latent-dim", "2"], {"manifold"}),
    "one latent": (["--latent-dim", "1"], set()),
    "convolutions": (["--network", "conv"], {"traversals"}),
    "bernoulli": (["--likelihood", "Bernoulli"], {"traversals"}),
    "static": (["--likelihood", "Bernoulli", "--binarise", "static"], {"traversals"}),
    "json": (["--likelihood", '{"family": "Normal", "scale": "per_feature"}'], {"traversals"}),
    "yaml": (
        ["--likelihood", "{family: Categorical, num_classes: 17}"],
        {"traversals"},
    ),
    "the rest": (["--schedule", "cosine", "--clip-norm", "10", "--patience", "1"], {"traversals"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_options_of_the_model_and_the_training(name: str, pyrovae: Any, tmp_path: Path) -> None:
    options, extra = VARIANTS[name]
    outcome = pyrovae("train", "--output", "run", *SMALL, *options)
    assert outcome.code == 0, outcome.err
    assert find_pictures(tmp_path / "run") - extra == {
        "training",
        "reconstructions",
        "samples",
        "latent_space",
    }
    assert pyrovae("evaluate", "run").code == 0
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    if name == "json":
        assert record["kind"] == "log density"
    if name == "bernoulli":
        assert "fresh binarisation" in record["data"]


@pytest.mark.slow
def test_mnist(pyrovae: Any, tmp_path: Path, data_root: Path) -> None:
    options = ["--epochs", "1", "--hidden", "8", "--data-root", str(data_root)]
    outcome = pyrovae("train", "mnist", "--output", "run", *options)
    assert outcome.code == 0, outcome.err
    assert "54,000 training, 6,000 validation, 10,000 test" in outcome.out


def test_a_diverging_run_advises_and_leaves_an_empty_directory(
    pyrovae: Any, tmp_path: Path
) -> None:
    outcome = pyrovae("train", "--output", "run", "--lr", "1e30", "--epochs", "3", "--hidden", "8")
    assert outcome.code == 1
    assert "lower the learning rate" in outcome.err
    assert list((tmp_path / "run").iterdir()) == []  # so the name is free for another try


@pytest.mark.slow
def test_an_interrupted_run_keeps_its_last_complete_epoch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "pyrovae", "train", "--epochs", "100000", "--hidden", "16"]
    with subprocess.Popen(
        [*command, "--output", str(run)],
        stderr=subprocess.PIPE,
        # A parent that runs in the background may have left the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        while not (run / "model.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    said = rf"pyrovae: stopped after epoch \d+ and \d+ steps; continue with: .* --resume {run}\n"
    assert re.fullmatch(said, err.decode())
    assert len(pd.read_csv(run / "metrics.csv")) >= 1
    done = subprocess.run([sys.executable, "-m", "pyrovae", "evaluate", str(run)], timeout=60)
    assert done.returncode == 0
