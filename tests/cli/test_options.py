"""Options of the command line: settings, help, versions, and mistakes."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pyrovae.runs.config import RunConfig
from pyrovae.storage.versions import versions
from tests.cli.helpers import SMALL


def test_settings_may_be_options_of_their_own_and_names_in_lower_case(pyrovae: Any) -> None:
    by_parts = pyrovae(
        "train", "--likelihood", "normal", "--likelihood.scale", "per_feature", "--print-config"
    )
    at_once = pyrovae(
        "train", "--likelihood={family: normal, scale: per_feature}", "--print-config"
    )
    assert by_parts.code == at_once.code == 0
    assert by_parts.out == at_once.out


def test_settings_can_be_nested(pyrovae: Any) -> None:
    by_parts = pyrovae(
        "train", "--objective=beta", "--objective.beta.steps=10", "--objective.beta.end", "4",
        "--print-config",
    )  # fmt: skip
    config = yaml.safe_load(by_parts.out)
    assert config["objective"] == {"name": "beta", "beta": {"steps": 10, "end": 4}}
    twice = pyrovae("train", "--objective.beta=2", "--objective.beta.steps=10")
    assert twice.code == 2
    assert "beta is 2 already" in twice.err


@pytest.mark.slow
def test_settings_of_an_objective(pyrovae: Any, tmp_path: Path) -> None:
    outcome = pyrovae(
        "train", "--objective", "beta", "--objective.beta={steps: 9, end: 4}", "--output", "run",
        *SMALL,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["objective"] == {"name": "beta", "beta": {"steps": 9, "end": 4}}
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics.loss[1] == pytest.approx(metrics.reconstruction[1] + 4 * metrics.kl[1], rel=1e-4)
    elbo = metrics.validation_reconstruction + metrics.validation_kl
    np.testing.assert_allclose(metrics.validation_loss, elbo, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], 'Did you mean "train"'),
        (["train", "--epoch", "3"], "Did you mean --epochs"),
        (["train", "--likelihood", "Bernouli"], "unknown likelihood 'Bernouli': did you mean"),
        (["train", "mnst"], "unknown data set 'mnst': did you mean 'mnist'"),
        (["train", "--network", "cnov"], "network cannot be 'cnov': did you mean 'conv'"),
        (["train", "--latent-dim", "x"], "latent_dim cannot be 'x'"),
        (["train", "--lr", "-1"], "lr cannot be '-1'"),
        (["train", "--device", "tpu"], "device 'tpu' cannot be used"),
        (["train", "--config", "none.yaml"], "cannot read none.yaml"),
        (["train", "none.csv"], "there is no file none.csv"),
        (["train", "--likelihood", '{"family": "Normal", "scal": 1}'], "did you mean 'scale'"),
        (
            [
                "train",
                "--likelihood",
                "Poisson",
                "--binarise",
                "dynamic",
                "--output",
                "/dev/null/x",
            ],
            "cannot write to /dev/null/x",
        ),
        (
            [
                "train",
                "--network",
                "conv",
                "--likelihood",
                "Bernoulli",
                "--binarise",
                "none",
            ],
            "Bernoulli cannot have produced the training data of digits",
        ),
        (
            ["train", "--likelihood", "{family: Categorical, num_classes: 16}"],
            "Categorical(num_classes=17)",
        ),
        (["train", "--likelihood", "{family"], "likelihood cannot be '{family'"),
        (["train", "--likelihood", "Delta"], "Delta cannot be declared"),
        (["train", "--label", "x"], "digits is not one"),
        (["train", "--device", "meta"], "choose auto, cpu, cuda, cuda:1 or mps"),
        (["train", "--seed", "99999999999999999999"], "seed cannot be"),
        (["sample", "nowhere", "--seed", "-1"], "--seed is -1"),
        (["sample"], "requires an argument"),
        (["sample", "nowhere"], "nowhere is not a run directory"),
        (["sample", "nowhere", "--num", "0"], "--num is 0"),
        (["evaluate", "nowhere", "--num-particles", "0"], "--num-particles is 0"),
        (["evaluate", "nowhere", "--num-samples", "1"], "--num-samples is 1"),
        (["train", "--objective", "iwea"], "did you mean 'iwae'?"),
        (["train", "--objective.beta", "2"], "objective cannot be {'beta': 2}: choose from elbo"),
        (["train", "a", "b"], "b"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    pyrovae: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    outcome = pyrovae(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("pyrovae: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_print_config(pyrovae: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("epochs: 7\nlr: 0.01\n")
    outcome = pyrovae("train", "mnist", "--config", "run.yaml", "--lr", "0.1", "--print-config")
    printed = yaml.safe_load(outcome.out)
    assert (printed["data"], printed["epochs"], printed["lr"]) == ("mnist", 7, 0.1)
    assert set(printed) == set(RunConfig.model_fields)
    # An option that is given overrides the file, even where it is the default.
    default = pyrovae("train", "--config", "run.yaml", "--epochs", "100", "--print-config")
    assert yaml.safe_load(default.out)["epochs"] == 100


def test_help_names_every_option(pyrovae: Any) -> None:
    shown = pyrovae("train", "--help").out
    for name in RunConfig.model_fields:
        option = "--from" if name == "from_run" else f"--{name.replace('_', '-')}"
        assert name == "data" or option in shown
    assert "[DATA]" in shown or "DATA" in shown


@pytest.mark.slow
def test_help_and_invalid_options_do_not_import_torch() -> None:
    program = (
        "import sys\n"
        "from pyrovae.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'pyro', 'numpy', 'matplotlib'} & set(sys.modules)\n"
    )
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["train", "--epoch", "3"],
        ["--version"],
        ["train", "--print-config"],
    ):
        subprocess.run(
            [sys.executable, "-c", program, *arguments],
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.mark.slow
def test_module_and_console_script_print_the_same_version() -> None:
    version = versions()
    expected = (
        f"pyrovae {version['pyrovae']} (Python {platform.python_version()}, "
        f"torch {version['torch']}, Pyro {version['pyro-ppl']})"
    )
    script = Path(sys.executable).parent / "pyrovae"
    for command in ([sys.executable, "-m", "pyrovae"], [str(script)]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout.strip()) == (0, expected)
