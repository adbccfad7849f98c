"""The command line: what it answers, what it leaves on disk, and how it refuses."""

import gzip
import io
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
import sklearn.datasets
import yaml
from PIL import Image

from pyrovae import load
from pyrovae.likelihoods.families import FAMILIES
from pyrovae.runs.config import RunConfig

SMALL = ["--epochs", "2", "--hidden", "16"]


def pictures(run: Path) -> set[str]:
    for path in run.glob("*.png"):
        with Image.open(path) as image:
            low, high = image.convert("L").getextrema()
            assert high - low > 100, f"{path.name} is blank"
            assert image.width > 500
    return {path.stem for path in run.glob("*.png")}


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
    assert pictures(run) == {
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


def test_a_run_is_repeated_by_its_own_configuration(pyrovae: Any, tmp_path: Path) -> None:
    assert pyrovae("train", "--output", "one", "--seed", "3", *SMALL).code == 0
    assert pyrovae("train", "--config", "one/config.yaml", "--output", "two").code == 0
    one, two = (
        pd.read_csv(tmp_path / name / "metrics.csv").drop(columns="seconds")
        for name in ("one", "two")
    )
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


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, pyrovae: Any, tmp_path: Path) -> None:
    options, extra = VARIANTS[name]
    outcome = pyrovae("train", "--output", "run", *SMALL, *options)
    assert outcome.code == 0, outcome.err
    assert pictures(tmp_path / "run") - extra == {
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


def test_table(pyrovae: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 3)) * [1, 20, 300], columns=["a", "b", "c"])
    table["kind"] = ["x", "y"] * 30
    table.to_csv(tmp_path / "table.csv", index=False)
    outcome = pyrovae("train", "table.csv", "--label", "kind", "--output", "run", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "log density" in outcome.out
    assert pictures(tmp_path / "run") == {"training", "reconstructions", "samples", "latent_space"}
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"] == str(
        tmp_path / "table.csv"
    )
    assert pyrovae("sample", "run", "--num", "100").code == 0
    assert np.load(tmp_path / "run" / "samples.npz")["x"].shape == (100, 3)


def titanic() -> pd.DataFrame:
    """Passengers of the Titanic as scikit-learn ships them for its own tests, in ARFF."""
    folder = Path(sklearn.datasets.__file__).parent / "tests" / "data" / "openml" / "id_40945"
    with gzip.open(next(folder.glob("*.arff.gz")), "rt") as file:
        head, data = re.split("@data", file.read(), maxsplit=1, flags=re.IGNORECASE)
    names = re.findall(r"(?im)^@attribute\s+\W?([\w.]+)", head)
    table = pd.read_csv(io.StringIO(data.strip()), names=names, na_values="?")
    return table.drop(columns=["name", "ticket", "cabin", "boat", "body", "home.dest"])


def test_a_real_table_of_mixed_types_with_missing_cells(pyrovae: Any, tmp_path: Path) -> None:
    table = titanic()
    assert table.shape == (1309, 8)
    assert (
        table.isna().sum().to_dict() | {"age": 263, "embarked": 2} == table.isna().sum().to_dict()
    )
    table.to_csv(tmp_path / "titanic.csv", index=False)
    outcome = pyrovae(
        "train",
        "titanic.csv",
        "--likelihood",
        "infer",
        "--output",
        "run",
        "--epochs",
        "15",
        "--lr",
        "0.01",
        "--latent-dim",
        "3",
    )
    assert outcome.code == 0, outcome.err
    for line in ("age: Likelihood('Normal'", "sex: Likelihood('Bernoulli'", "as it has 3 classes"):
        assert line in outcome.out
    run = tmp_path / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["missing"] is True
    assert config["likelihood"]["family"] == "Mixed"
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics.validation_loss.iloc[-1] < metrics.validation_loss.iloc[0] - 0.5
    assert json.loads((run / "evaluation.json").read_text())["kind"].startswith(
        "log density of age, fare; log"
    )
    assert pyrovae("reconstruct", "run").code == 0
    assert np.isfinite(np.load(run / "reconstructions.npz")["mean"]).all()
    again = pyrovae("train", "--config", "run/config.yaml", "--output", "two", "--epochs", "1")
    assert again.code == 0, again.err
    words = pyrovae("train", "titanic.csv", "--output", "three")
    assert words.code == 2
    assert "column 'sex' holds 'female'" in words.err
    gaps = pyrovae("train", "titanic.csv", "--likelihood", "infer", "--no-missing")
    assert gaps.code == 2
    assert "missing (NaN) values, the first in datum" in gaps.err


def test_counts_with_an_exposure(pyrovae: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = rng.gamma(2, 2, 200)
    counts = rng.poisson(size[:, None] * [1, 5, 20])
    table = pd.DataFrame(counts, columns=["a", "b", "c"]).assign(size=size)
    table.to_csv(tmp_path / "counts.csv", index=False)
    outcome = pyrovae(
        "train",
        "counts.csv",
        "--exposure",
        "size",
        "--output",
        "run",
        *SMALL,
        "--likelihood",
        "poisson",
        "--likelihood.exposure",
        "true",
    )
    assert outcome.code == 0, outcome.err
    for command in ("evaluate", "reconstruct", "sample"):
        assert pyrovae(command, "run").code == 0
    alone = pyrovae("train", "counts.csv", "--exposure", "size", "--likelihood", "poisson")
    assert alone.code == 2
    assert "go together" in alone.err


def test_a_constant_column_is_refused(pyrovae: Any, tmp_path: Path) -> None:
    table = pd.DataFrame({"a": np.arange(30.0), "b": np.full(30, 7.5)})
    table.to_csv(tmp_path / "table.csv", index=False)
    outcome = pyrovae("train", "table.csv")
    assert outcome.code == 2
    assert "a constant column 'b', always 7.5" in outcome.err


def test_likelihood_by_parts_and_by_any_capitals(pyrovae: Any) -> None:
    by_parts = pyrovae(
        "train", "--likelihood", "normal", "--likelihood.scale", "per_feature", "--print-config"
    )
    at_once = pyrovae(
        "train", "--likelihood={family: normal, scale: per_feature}", "--print-config"
    )
    assert by_parts.code == at_once.code == 0
    assert by_parts.out == at_once.out


def test_settings_within_settings(pyrovae: Any) -> None:
    by_parts = pyrovae(
        "train", "--objective=beta", "--objective.beta.steps=10", "--objective.beta.end", "4",
        "--print-config",
    )  # fmt: skip
    config = yaml.safe_load(by_parts.out)
    assert config["objective"] == {"name": "beta", "beta": {"steps": 10, "end": 4}}
    twice = pyrovae("train", "--objective.beta=2", "--objective.beta.steps=10")
    assert twice.code == 2
    assert "beta is 2 already" in twice.err


def test_objective_by_parts(pyrovae: Any, tmp_path: Path) -> None:
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


def test_likelihoods_lists_every_family(pyrovae: Any) -> None:
    shown = pyrovae("likelihoods")
    assert shown.code == 0
    for name in FAMILIES:
        assert name in shown.out


def test_compare_ranks_like_with_like(pyrovae: Any, tmp_path: Path) -> None:
    specs = "normal,bernoulli,{family: binomial, total_count: 16},discretised-logistic"
    outcome = pyrovae("compare", "digits", "--likelihoods", specs, "--output", "all", *SMALL)
    assert outcome.code == 0, outcome.err
    table = outcome.out[outcome.out.index("Test ELBO") :]
    order = re.findall(r"\d-(Normal|Bernoulli|Binomial|DiscretisedLogistic)", table)
    assert order[0] == "Normal"
    assert order[1] == "Bernoulli"
    assert set(order[2:]) == {"Binomial", "DiscretisedLogistic"}
    assert "Values of different sections cannot be compared" in table
    assert "With --dequantise, densities give bounds" in table
    assert (tmp_path / "all" / "comparison.png").exists()
    runs = sorted(path.name for path in (tmp_path / "all").iterdir() if path.is_dir())
    assert runs == ["1-Normal", "2-Bernoulli", "3-Binomial", "4-DiscretisedLogistic"]

    fair = pyrovae(
        "compare",
        "digits",
        "--likelihoods",
        "normal,{family: binomial, total_count: 16}",
        "--dequantise",
        "--output",
        "fair",
        *SMALL,
    )
    assert fair.code == 0, fair.err
    record = json.loads((tmp_path / "fair" / "1-Normal" / "evaluation.json").read_text())
    assert record["kind"] == "lower bound on log probability mass"
    assert record["bits_per_dimension"] == pytest.approx(-record["elbo"]["mean"] / (64 * np.log(2)))
    assert "different sections" not in fair.out[fair.out.index("Test ELBO") :]
    wrong = pyrovae("compare", "digits", "--likelihoods", "normal,beta", "--output", "no", *SMALL)
    assert wrong.code == 2
    assert "Beta cannot have produced the training data" in wrong.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("few", ["", "normal"])
def test_one_likelihood_cannot_be_compared(pyrovae: Any, few: str) -> None:
    outcome = pyrovae("compare", "digits", "--likelihoods", few)
    assert outcome.code == 2
    assert "compare needs two or more likelihoods" in outcome.err


def test_compare_tables_by_column(pyrovae: Any, tmp_path: Path) -> None:
    """Blocks in an order of their own; another measure for another choice of densities."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "n": rng.poisson(3, 60), "w": ["x", "y"] * 30})
    table.to_csv(tmp_path / "table.csv", index=False)
    blocks = (
        "[{columns: [w], likelihood: Bernoulli}, {columns: [n], likelihood: %s}, "
        "{columns: [a], likelihood: Normal}]"
    )
    specs = ", ".join(f"{{family: Mixed, blocks: {blocks % n}}}" for n in ("Poisson", "Normal"))
    outcome = pyrovae("compare", "table.csv", "--likelihoods", specs, "--output", "all", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "Values of different sections cannot be compared" in outcome.out


def test_mnist(pyrovae: Any, tmp_path: Path, data_root: Path) -> None:
    options = ["--epochs", "1", "--hidden", "8", "--data-root", str(data_root)]
    outcome = pyrovae("train", "mnist", "--output", "run", *options)
    assert outcome.code == 0, outcome.err
    assert "54,000 training, 6,000 validation, 10,000 test" in outcome.out


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
        assert name == "data" or f"--{name.replace('_', '-')}" in shown
    assert "[DATA]" in shown or "DATA" in shown


def test_help_and_mistakes_in_options_do_not_load_torch() -> None:
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


def test_module_and_console_script_are_the_same_program() -> None:
    script = Path(sys.executable).parent / "pyrovae"
    for command in ([sys.executable, "-m", "pyrovae"], [str(script)]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout.strip()) == (0, "0.1.0")


def test_a_diverging_run_says_what_to_do_and_keeps_what_it_has(
    pyrovae: Any, tmp_path: Path
) -> None:
    outcome = pyrovae("train", "--output", "run", "--lr", "1e30", "--epochs", "3", "--hidden", "8")
    assert outcome.code == 1
    assert "lower the learning rate" in outcome.err
    assert list((tmp_path / "run").iterdir()) == []  # so the name is free for another try


def test_an_interrupted_run_keeps_its_last_whole_epoch(tmp_path: Path) -> None:
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


def test_a_table_whose_columns_have_moved_is_refused(pyrovae: Any, tmp_path: Path) -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a", "b"])
    table.to_csv(tmp_path / "table.csv", index=False)
    assert pyrovae("train", "table.csv", "--output", "run", *SMALL).code == 0
    table[["b", "a"]].to_csv(tmp_path / "table.csv", index=False)
    outcome = pyrovae("evaluate", "run")
    assert outcome.code == 2
    assert "now has columns b, a, but the run was trained on a, b" in outcome.err
