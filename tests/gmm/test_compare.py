"""The comparison: its table, pictures, files and errors."""

import csv
import json
from functools import cache
from math import isnan, log
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae import InputError
from pyrovae.cli import main
from pyrovae.data import load
from pyrovae.gmm import Mixture, pictures
from pyrovae.gmm.bayesian.program import Draws
from pyrovae.gmm.compare import (
    Comparison,
    Settings,
    _adjusted_rand_index,
    _align_components,
    compare,
    load_points,
)

from .data import points, start

METHODS = [
    "EM",
    "Monte Carlo EM",
    "VI, free q",
    "VI, amortised q",
    "VI, score",
    "VI, score, baseline",
    "VB, CAVI",
    "VB, SVI",
    "NUTS",
]

_BEGAN = perf_counter()


@cache
def small_comparison() -> Comparison:
    return compare(Settings(num_steps=40, num_draws=8, hidden=(8,)))


@pytest.mark.slow
def test_methods_share_the_start_and_each_has_a_row():
    comparison = small_comparison()
    rows = {name: result.row() for name, result in comparison.results.items()}
    assert list(rows) == METHODS
    for name, result in comparison.results.items():
        if result.climb is not None and not name.startswith("VB"):
            first = result.climb.mixtures[0]
            np.testing.assert_allclose(first.locs, comparison.start.locs)
            np.testing.assert_allclose(first.matrices, comparison.start.matrices, rtol=1e-9)
            np.testing.assert_allclose(
                result.climb.log_likelihood[-1], rows[name]["log_likelihood"], rtol=1e-12
            )
    starts = {comparison.results[name].climb.log_likelihood[0] for name in METHODS[:6]}
    assert max(starts) - min(starts) < 1e-9
    for name, row in rows.items():
        assert isnan(row["elbo"]) == (name == "NUTS")
        assert row["seconds"] > 0
        assert 0.2 < row["adjusted_rand"] < 1
        assert -3 < row["held_out"] < -2.3
        if name != "NUTS":
            bounded = comparison.log_evidence[0] if name.startswith("VB") else row["log_likelihood"]
            assert abs(row["elbo"] + row["gap"] - bounded) < 1e-9
    assert rows["EM"]["gap"] < 1e-12
    assert rows["EM"]["adjusted_rand"] > 0.7
    assert rows["EM"]["log_likelihood"] == max(row["log_likelihood"] for row in rows.values())
    assert 0 < comparison.log_evidence[1] < 0.01


def test_gradient_variance_is_measured_where_z_is_drawn():
    for name, result in small_comparison().results.items():
        if result.climb is not None:
            measured = np.flatnonzero(np.isfinite(result.climb.gradient_variance))
            steps = range(1, 41, 4) if name.startswith("VI, score") else ()
            assert measured.tolist() == list(steps)


def test_seconds_are_those_of_each_method():
    seconds = [result.seconds for result in small_comparison().results.values()]
    assert min(seconds) > 0
    assert sum(seconds) < perf_counter() - _BEGAN


def test_data_are_standardised_by_the_training_data():
    points, num_components = load_points(Settings(data="wine"))
    assert num_components == 3
    assert points.train.shape == (142, 13)
    assert points.test.shape == (36, 13)
    assert points.features[0] == "alcohol"
    np.testing.assert_allclose(points.train.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(points.train.std(0, correction=0), 1)
    raw = load("wine", dtype=torch.float64)
    train = torch.cat([raw.train.x, raw.validation.x])
    test = (raw.test.x - train.mean(0)) / train.std(0, correction=0)
    torch.testing.assert_close(points.test, test)
    assert set(points.train_labels.tolist()) == {0, 1, 2}
    assert len(load_points(Settings(data="iris"))[0].train) == 120


def test_tables_are_read_in_double_precision(tmp_path: Path) -> None:
    table = tmp_path / "time.csv"
    table.write_text("\n".join(["second", *(str(1_700_000_000 + i) for i in range(200))]))
    points, _ = load_points(Settings(data=str(table), num_components=2))
    assert len(points.train.unique()) == 160


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0; it must be 1 or more"),
        ({"num_components": 0}, "num_components is 0"),
        ({"num_draws": 3}, "num_draws is 3; it must be 4 or more, or 0 for none"),
        ({"hidden": (3, 0)}, r"hidden\[1\] is 0"),
        ({"covariance_type": "ful"}, "did you mean 'full'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296; it must be"),
        ({"label": "species"}, "the toy has none"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        load_points(Settings(**settings))


@pytest.mark.parametrize("num_draws", [0, 4, None])
def test_draws_may_be_left_out(num_draws):
    assert Settings(num_draws=num_draws).num_draws == num_draws


def test_pictures_have_the_right_titles_and_curves():
    comparison = small_comparison()
    titles = [axes.get_title() for axes in pictures.plot_bounds(comparison).axes]
    assert titles == [*METHODS[:8], "the gap of each method"]
    gaps = pictures.plot_bounds(comparison).axes[-1].get_legend_handles_labels()[1]
    assert len(gaps) == 8
    em_panel = pictures.plot_bounds(comparison).axes[0]
    elbo = em_panel.get_lines()[1].get_ydata()
    np.testing.assert_allclose(elbo, comparison.results["EM"].climb.elbo)
    titles = [axes.get_title() for axes in pictures.plot_densities(comparison).axes]
    assert titles == [
        "EM: p(x; θ)",
        "EM: p(z | x)",
        "VI, amortised q: p(x; θ)",
        "VI, amortised q: q(z | x)",
    ]
    lines = pictures.plot_gradient_variances(comparison).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["VI, score", "VI, score, baseline"]


@pytest.mark.slow
def test_gap_is_zero_with_one_component():
    comparison = compare(Settings(num_components=1, num_steps=3, num_draws=0))
    for name, result in comparison.results.items():
        if name != "VB, SVI":  # its steps are noisy
            assert abs(result.climb.kl[-1]) < 1e-12
    assert comparison.results["VB, SVI"].climb.kl[-1] > 0
    assert comparison.results["VB, CAVI"].climb.kl[-1] == 0
    assert pictures.plot_gradient_variances(comparison).axes[0].get_lines() == []


def test_labels_are_compared_with_the_most_probable_component() -> None:
    log_q = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]]).log()
    labels = torch.tensor([2, 2, 0, 1])
    assert _adjusted_rand_index(labels, log_q) == 1.0
    assert isnan(_adjusted_rand_index(None, log_q))


def test_components_of_draws_are_matched_to_those_of_the_start() -> None:
    """Draws that are the start with its components in another order have its responsibilities."""
    x, first = points("toy"), start("toy", "full")
    orders = ([1, 2, 0], [2, 0, 1], [0, 1, 2])
    mixtures = [
        Mixture(first.log_weights[o], first.locs[o], first.scales[o], "full") for o in orders
    ]
    total = _align_components(Draws(tuple(mixtures), 0), x, first)
    want = first.log_responsibilities(x).exp()
    torch.testing.assert_close(total / total.sum(1, keepdim=True), want)


def run(*arguments: str) -> None:
    main(["compare-em-vi", *arguments])


def run_and_read_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("pyrovae: ")
    assert len(error.splitlines()) == 1
    return error


@pytest.mark.slow
def test_command_writes_a_table_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run("iris", "--steps", "5", "--hidden", "4", "--output", str(out), "--seed", "1")
    printed = capsys.readouterr().out
    assert "120 training and 30 held-out data of 4 standardised columns; 3 components" in printed
    for name in METHODS[:-1]:
        assert f"\n{name} " in printed
    assert "NUTS " not in printed.replace("VB and NUTS", "")
    assert {path.name for path in out.iterdir()} == {
        "bounds.png",
        "comparison.csv",
        "densities.png",
        "gradient_variance.png",
        "iterations.csv",
        "motion.gif",
        "settings.json",
    }
    with (out / "comparison.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == METHODS[:-1]
    with (out / "iterations.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not row["method"].startswith("VB"):
            gap = float(row["log_likelihood"]) - float(row["elbo"]) - float(row["kl"])
            assert abs(gap) < 1e-9
    assert json.loads((out / "settings.json").read_text())["num_components"] == 3
    with Image.open(out / "motion.gif") as picture:
        assert picture.n_frames > 5
    assert "exists already" in run_and_read_error(capsys, "iris", "--output", str(out))


@pytest.mark.slow
def test_command_reads_classes_from_a_column_of_a_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    values = np.r_[random.normal(size=60), random.normal(6, 1, size=40)]
    table = tmp_path / "one.csv"
    lines = [f"{v},{'low' if v < 3 else 'high'}" for v in values]
    table.write_text("\n".join(["height,group", *lines]))
    out = tmp_path / "out"
    arguments = ("--label", "group", "--steps", "3", "--draws", "0", "--output", str(out))
    run(str(table), *arguments, "--covariance-type", "spherical")
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "80 training and 20 held-out data of 1 standardised columns; 2 components" in printed
    assert (out / "densities.png").stat().st_size > 10_000
    with (out / "comparison.csv").open() as file:
        em = next(csv.DictReader(file))
    assert float(em["adjusted_rand"]) == 1.0
    assert -log(10) < float(em["held_out"]) < 0


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a,b\n3,\n" + "1,2\n2,5\n" * 20, ["--components", "1"], "column 'b' holds nan"),
        ("a,b\n" + "1,2\n" * 20, ["--components", "1"], "column 'a' is constant (1)"),
        ("a\n" + "\n".join(map(str, range(20))), [], "give --components"),
        ("a\n" + "\n".join(map(str, range(20))), ["--components", "50"], "use at most 16"),
        ("a\n" + "1\n2\n" * 20, ["--components", "3"], "use at most 2"),
        ("a\n1\nx\n2\n3\n", ["--components", "1"], "columns must be numbers"),
    ],
)
def test_bad_tables_are_refused_before_files_are_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    arguments: list[str],
    message: str,
) -> None:
    table = tmp_path / "bad.csv"
    table.write_text(text)
    out = tmp_path / "out"
    assert message in run_and_read_error(capsys, str(table), *arguments, "--output", str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "'digits' is not a table: did you mean 'iris'"),
        (["iriss"], "did you mean 'iris'"),
        (["nowhere.csv"], "there is no file nowhere.csv"),
        (["--covariance-type", "diagonal"], "did you mean 'diag'"),
        (["--steps", "0"], "num_steps is 0"),
        (["--hidden", "x"], "--hidden"),
        (["iris", "--label", "species"], "iris is not one"),
    ],
)
def test_bad_options_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in run_and_read_error(capsys, *arguments)
