"""Commands that ask a trained model about new data: what they write, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image

import pyrovae as package
from pyrovae.data import load
from tests.cli.helpers import SMALL
from tests.cli.test_moved import write_counts

OPTIONS = ("--label", "kind", "--likelihood", "infer", "--latent-dim", "2", "--hidden", "8")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs on a table with words, and on binarised digits."""
    from pyrovae import cli

    folder = tmp_path_factory.mktemp("kept")
    write_counts(folder / "counts.csv", with_words=True)
    run = ("train", str(folder / "counts.csv"), *OPTIONS, "--epochs", "5")
    cli.main((*run, "--output", str(folder / "table")))
    digits = ("train", "digits", "--likelihood", "Bernoulli", "--binarise", "dynamic", *SMALL)
    cli.main((*digits, "--output", str(folder / "digits")))
    return folder


@pytest.fixture
def table(kept: Path, tmp_path: Path) -> str:
    write_counts(tmp_path / "new.csv", num=30, with_words=True, seed=1, key=True)
    return str(kept / "table")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".npz"])
def test_the_name_of_the_output_says_what_is_written(
    suffix: str, table: str, pyrovae: Any, tmp_path: Path
) -> None:
    output = tmp_path / f"z{suffix}"
    words = ("encode", table, "new.csv", "--id", "key", "--draws", "2", "--output", str(output))
    outcome = pyrovae(*words)
    assert outcome.code == 0, outcome.err
    expected = package.open(table).encode(pd.read_csv("new.csv").drop(columns="key"), num_draws=2)
    mean = expected.mean.numpy()
    keys = [f"k{i}" for i in range(30)]
    if suffix == ".npy":
        np.testing.assert_allclose(np.load(output), mean, rtol=1e-6)
    elif suffix == ".npz":
        arrays = np.load(output)
        assert sorted(arrays) == ["draws", "key", "mean", "row", "sd"]
        np.testing.assert_allclose(arrays["mean"], mean, rtol=1e-6)
        assert arrays["draws"].shape == (30, 2, 2)
        assert list(arrays["key"]) == keys
    else:
        read: Any = pd.read_csv if suffix == ".csv" else pl.read_parquet
        frame = read(output)
        names = [f"z{d}_{what}" for what in ("mean", "sd", "draw1", "draw2") for d in (1, 2)]
        assert list(frame.columns) == ["row", "key", *names]
        assert list(frame["key"]) == keys
        assert list(frame["row"]) == list(range(1, 31))
        np.testing.assert_allclose(frame[["z1_mean", "z2_mean"]].to_numpy(), mean, rtol=1e-6)


@pytest.mark.slow
def test_scores_say_how_unusual_a_row_is_and_why(table: str, pyrovae: Any, tmp_path: Path) -> None:
    frame = pd.read_csv("new.csv")
    frame.loc[3, "pears"] = 60
    frame.loc[7, "quinces"] = 90
    frame.to_csv("new.csv", index=False)
    words = ("score", table, "new.csv", "--id", "key", "--flag", "0.02", "--output", "s.csv")
    outcome = pyrovae(*words)
    assert outcome.code == 0, outcome.err
    scores = pd.read_csv("s.csv")
    held_out = json.loads((Path(table) / "held_out.json").read_text())
    expected = package.open(table).score(frame.drop(columns="key"))
    np.testing.assert_allclose(scores.log_likelihood, expected.log_likelihood, rtol=1e-6)
    np.testing.assert_allclose(scores.standard_error, expected.standard_error, rtol=1e-4)
    np.testing.assert_allclose(scores.elbo, expected.elbo, rtol=1e-6)
    as_low = np.array(held_out["scores"])[None] <= scores.log_likelihood.to_numpy()[:, None]
    np.testing.assert_allclose(scores.percentile, 100 * as_low.mean(1))
    assert scores.outlier[[3, 7]].all()
    assert scores.unexpected[3].startswith("pears (-")
    assert scores.unexpected[7].startswith("quinces (-")
    assert scores.unexpected[~scores.outlier].isna().all()
    assert (scores.outlier == (scores.percentile <= 2)).all()
    assert (
        f"{scores.outlier.sum()} of 30 data have a log p(x) as low as the lowest 2" in outcome.out
    )


@pytest.mark.slow
def test_scores_of_incomplete_rows_say_so(pyrovae: Any, tmp_path: Path) -> None:
    write_counts(tmp_path / "counts.csv")
    options = ("--label", "kind", "--likelihood", "Poisson", "--missing", "--hidden", "4")
    outcome = pyrovae("train", "counts.csv", *options, "--epochs", "1", "--output", "run")
    assert outcome.code == 0, outcome.err
    frame = pd.read_csv("counts.csv").astype({"pears": float})
    frame.loc[:4, "pears"] = np.nan
    frame.to_csv("gaps.csv", index=False)
    outcome = pyrovae("score", "run", "gaps.csv", "--flag", "0.5", "--output", "s.csv")
    assert outcome.code == 0, outcome.err
    assert "5 data have missing entries: their log p(x) is that of the others" in outcome.out
    assert pd.read_csv("s.csv").unexpected[:5].isna().all()


@pytest.mark.slow
def test_an_autoencoder_has_no_scores(pyrovae: Any, tmp_path: Path) -> None:
    options = ("--model", "autoencoder", "--hidden", "4", "--epochs", "1", "--output", "run")
    assert pyrovae("train", "iris", *options).code == 0
    outcome = pyrovae("score", "run", "--output", "s.csv")
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert "is an autoencoder, which has no p(z)" in outcome.err


@pytest.mark.slow
def test_without_a_file_the_test_data_are_meant(table: str, pyrovae: Any) -> None:
    outcome = pyrovae("score", table, "--output", "s.csv")
    assert outcome.code == 0, outcome.err
    scores = pd.read_csv("s.csv")
    held_out = json.loads((Path(table) / "held_out.json").read_text())["scores"]
    np.testing.assert_allclose(np.sort(scores.log_likelihood), held_out, atol=1e-3)
    assert scores.percentile.max() == 100


@pytest.mark.slow
def test_samples_of_a_table_are_a_table(table: str, pyrovae: Any) -> None:
    outcome = pyrovae("sample", table, "--num", "200", "--output", "s.csv")
    assert outcome.code == 0, outcome.err
    drawn, real = pd.read_csv("s.csv"), pd.read_csv("new.csv")
    assert list(drawn.columns) == ["apples", "pears", "quinces", "colour"]
    assert set(drawn.colour) <= {"green", "red", "blue"}
    assert (drawn.dtypes[:3] == real.dtypes[:3]).all()


@pytest.mark.slow
def test_samples_of_one_class(pyrovae: Any, tmp_path: Path) -> None:
    write_counts(tmp_path / "counts.csv")
    options = ("--label", "kind", "--model", "conditional", "--likelihood", "Poisson")
    few = ("--hidden", "16", "--epochs", "25", "--lr", "0.03", "--batch-size", "16")
    assert pyrovae("train", "counts.csv", *options, *few, "--output", "run").code == 0
    means = {}
    for kind in ("plum", "lime"):  # 2 and 12 apples, on average
        words = ("sample", "run", "--num", "300", "--given", f"kind={kind}", "--output", "s.csv")
        outcome = pyrovae(*words, "--overwrite")
        assert outcome.code == 0, outcome.err
        drawn = pd.read_csv("s.csv")
        assert (drawn.kind == kind).all()
        means[kind] = drawn.apples.mean()
    assert means["plum"] + 3 < means["lime"]
    for given, words in {
        "kind=mango": "there is no class 'mango' in kind",
        "sort=lime": "give the class as kind=CLASS",
        "lime": "give the class as kind=CLASS",
    }.items():
        outcome = pyrovae("sample", "run", "--given", given, "--output", "no.csv")
        assert outcome.code == 2
        assert words in outcome.err
        assert not (tmp_path / "no.csv").exists()


@pytest.mark.slow
def test_evaluation_on_new_data_leaves_the_run_as_it_is(
    table: str, pyrovae: Any, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in Path(table).glob("*.json")}
    words = ("evaluate", table, "new.csv", "--id", "key", "--num-samples", "100")
    outcome = pyrovae(*words, "--output", "e.json")
    assert outcome.code == 0, outcome.err
    assert before == {path: path.read_bytes() for path in Path(table).glob("*.json")}
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["evaluation"]["num_data"] == 30
    assert "new.csv" in record["evaluation"]["data"]
    expected = package.open(table).score(pd.read_csv("new.csv").drop(columns="key"))
    mean = record["log_likelihood"]["log_likelihood"]["mean"]
    assert mean == pytest.approx(expected.mean.mean, abs=0.5)


@pytest.mark.slow
def test_cells_are_filled_by_the_model_of_a_run(table: str, pyrovae: Any) -> None:
    frame = pd.read_csv("new.csv").astype({"apples": float})
    frame.loc[2, "apples"] = np.nan
    frame.loc[5, "colour"] = None
    frame.to_csv("gaps.csv", index=False)
    outcome = pyrovae("impute", "gaps.csv", "--model", table, "--output", "filled.csv")
    assert outcome.code == 0, outcome.err
    filled = pd.read_csv("filled.csv")
    assert not filled[frame.columns].isna().to_numpy().any()
    assert filled.colour[5] in ("green", "red", "blue")
    assert filled.apples_low[2] <= filled.apples[2] <= filled.apples_high[2]
    kept = frame.notna()
    assert (filled[frame.columns].where(kept) == frame.where(kept)).to_numpy()[kept].all()
    outcome = pyrovae("impute", "gaps.csv", "--model", table, "--steps", "5", "--output", "n.csv")
    assert outcome.code == 2
    assert "leave them out with --model" in outcome.err


@pytest.mark.slow
def test_grey_images_are_encoded_and_restored(kept: Path, pyrovae: Any, tmp_path: Path) -> None:
    run = str(kept / "digits")
    grey = load("digits").test.x[:20]
    np.save(tmp_path / "grey.npy", grey.numpy())
    outcome = pyrovae("encode", run, "grey.npy", "--output", "z.npy")
    assert outcome.code == 0, outcome.err
    expected = package.open(run).encode(grey).mean
    np.testing.assert_allclose(np.load("z.npy"), expected, rtol=1e-5, atol=1e-6)
    outcome = pyrovae("reconstruct", run, "digits", "--num", "30", "--output", "r.npz")
    assert outcome.code == 0, outcome.err
    assert np.load("r.npz")["mean"].shape == (30, 1, 8, 8)
    words = ("restore", run, "grey.npy", "--task", "denoise", "--num", "5", "--num-samples", "30")
    assert pyrovae(*words).code == 2
    outcome = pyrovae(*words, "--output", "restored")
    assert outcome.code == 0, outcome.err
    arrays = np.load("restored/restorations-denoise.npz")
    np.testing.assert_allclose(arrays["x"], grey[:5].numpy() / 16, rtol=1e-6)
    assert Image.open("restored/restorations-denoise.png").size[0] > 100
    assert not list(Path(run).glob("restorations*"))


BAD: dict[str, tuple[str, str]] = {
    "other columns": ("apple,pears,quinces,colour,key\n1,2,3,red,a\n", "no column 'apples'"),
    "other width": ("apples,pears,key\n1,2,a\n", "has no columns 'quinces', 'colour'"),
    "more columns": (
        "apples,pears,quinces,colour,key,size\n1,2,3,red,a,9\n",
        "column 'size', which the training data did not have",
    ),
    "a new word": (
        "apples,pears,quinces,colour,key\n1,2,3,red,a\n1,2,3,mauve,b\n",
        "holds 'mauve' in row 2, a word that the training data never held",
    ),
    "a word for a number": (
        "apples,pears,quinces,colour,key\nmany,2,3,red,a\n",
        "column 'apples' holds 'many' in row 1",
    ),
    "empty": ("", "cannot be read as a table"),
    "no rows": ("apples,pears,quinces,colour,key\n", "has no rows"),
    "missing": ("apples,pears,quinces,colour,key\n1,,3,red,a\n", "missing (NaN) values"),
    "outside the support": ("apples,pears,quinces,colour,key\n-1,2,3,red,a\n", "apples"),
    "semicolons": ("apples;pears\n1;2\n", "separates columns by semicolons"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["encode", "score", "reconstruct", "predict", "evaluate"])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    bad: str, command: str, table: str, pyrovae: Any, tmp_path: Path
) -> None:
    text, message = BAD[bad]
    Path("new.csv").write_text(text)
    before = sorted(Path(table).rglob("*"))
    output = "out.json" if command == "evaluate" else "out.csv"
    outcome = pyrovae(command, table, "new.csv", "--id", "key", "--output", output)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert message in outcome.err
    assert sorted(Path().iterdir()) == [Path("new.csv")]
    assert sorted(Path(table).rglob("*")) == before


ARGUMENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "no such file": (("nowhere.csv", "--output", "z.csv"), "there is no file 'nowhere.csv'"),
    "a format": (("new.txt", "--output", "z.csv"), "give a file that ends in"),
    "no key": (("new.csv", "--id", "name", "--output", "z.csv"), "no column 'name'"),
    "key of test data": (("--id", "key", "--output", "z.csv"), "--id names a column of new data"),
    "output": (("new.csv", "--id", "key", "--output", "z.txt"), "end its name in"),
    "itself": (("new.csv", "--id", "key", "--output", "new.csv", "--overwrite"), "is the file of"),
    "there": (("new.csv", "--id", "key", "--output", "there.csv"), "exists already"),
    "no folder": (("new.csv", "--id", "key", "--output", "a/b/z.csv"), "cannot write to"),
    "folder": (("new.csv", "--id", "key", "--output", "folder.csv"), "is a folder"),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ARGUMENTS)
def test_arguments_are_checked_first(wrong: str, table: str, pyrovae: Any) -> None:
    Path("there.csv").write_text("kept")
    Path("folder.csv").mkdir()
    words, message = ARGUMENTS[wrong]
    text = Path("new.csv").read_text()
    outcome = pyrovae("encode", table, *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert Path("there.csv").read_text() == "kept"
    assert Path("new.csv").read_text() == text
    assert not Path("z.csv").exists()


@pytest.mark.slow
def test_scores_of_a_run_without_held_out_scores(kept: Path, pyrovae: Any, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(kept / "table", tmp_path / "old")
    (tmp_path / "old" / "held_out.json").unlink()
    write_counts(tmp_path / "new.csv", num=10, with_words=True, seed=1)
    torch.manual_seed(0)
    outcome = pyrovae("score", "old", "new.csv", "--output", "s.csv")
    assert outcome.code == 0, outcome.err  # computed from the test data, and kept
    assert (tmp_path / "old" / "held_out.json").read_text() == (
        kept / "table" / "held_out.json"
    ).read_text()
    (tmp_path / "old" / "held_out.json").write_text("[]")
    outcome = pyrovae("score", "old", "new.csv", "--output", "s.csv", "--overwrite")
    assert outcome.code == 2
    assert "held_out.json cannot be read" in outcome.err
    outcome = pyrovae("score", str(kept / "table"), "new.csv", "--num-samples", "50", *FLAGGED)
    assert outcome.code == 0, outcome.err


FLAGGED = ("--flag", "0.1", "--output", "flagged.csv")


@pytest.mark.slow
def test_dequantised_images_are_inpainted(pyrovae: Any, tmp_path: Path) -> None:
    options = ("--likelihood", "Normal", "--dequantise", *SMALL)
    assert pyrovae("train", "digits", *options, "--output", "run").code == 0
    words = ("restore", "run", "--task", "inpaint", "--num", "4", "--num-samples", "21")
    outcome = pyrovae(*words)
    assert outcome.code == 0, outcome.err
    arrays = np.load(tmp_path / "run" / "restorations-inpaint.npz")
    seen = ~np.isnan(arrays["y"])
    np.testing.assert_allclose(arrays["mean"][seen], arrays["x"][seen], rtol=1e-5)
