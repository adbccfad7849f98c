"""``pyrovae train DATA --from RUN`` starts a new run from the weights of an earlier one."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyrovae as package
from pyrovae.runs.trained import open_run

OPTIONS = ("--likelihood", "infer", "--label", "kind", "--hidden", "8", "--latent-dim", "2")


def write(path: Path, colours: list[str], kinds: list[str], num: int = 100) -> None:
    draw = np.random.default_rng(len(colours))
    table = pd.DataFrame(
        {
            "size": draw.normal(size=num).round(3),
            "colour": draw.choice(colours, num),
            "kind": draw.choice(kinds, num),
        }
    )
    table.to_csv(path, index=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["semi_supervised", "conditional"])
def test_weights_units_and_codes_are_those_of_the_run(
    name: str, pyrovae: Any, tmp_path: Path
) -> None:
    write(tmp_path / "first.csv", ["blue", "red", "white"], ["a", "b"])
    write(tmp_path / "second.csv", ["red", "white"], ["b"])
    model = ("--model", name)
    outcome = pyrovae("train", "first.csv", *OPTIONS, *model, "--epochs", "2", "--output", "first")
    assert outcome.code == 0, outcome.err
    outcome = pyrovae(
        "train", "second.csv", "--from", "first", "--lr", "1e-30", "--epochs", "1", "--output", "s"
    )
    assert outcome.code == 0, outcome.err
    first, second = package.open("first"), package.open("s")
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    assert second.about is not None
    assert first.about is not None
    # The new data alone would have the codes red 0, white 1, and the class b 0.
    assert second.about.categories == first.about.categories
    assert second.about.classes == first.about.classes == ("a", "b")
    assert second.about.class_counts == (0, 72)
    outcome = pyrovae("evaluate", "s")  # the data have the same digests when read again
    assert outcome.code == 0, outcome.err
    reopened = open_run(tmp_path / "s")
    labels = reopened.data.train.label
    assert labels is not None
    assert set(labels.tolist()) == {1}
    assert pyrovae("train", "--resume", "s", "--epochs", "2").code == 0


@pytest.mark.slow
def test_a_start_that_was_killed_goes_on_without_the_first_run(
    pyrovae: Any, tmp_path: Path
) -> None:
    write(tmp_path / "first.csv", ["blue", "red"], ["a", "b"])
    for arguments in (
        ("first.csv", *OPTIONS, "--epochs", "1", "--output", "first"),
        ("first.csv", "--from", "first", "--epochs", "1", "--output", "second"),
    ):
        assert pyrovae("train", *arguments).code == 0
    (tmp_path / "first").rename(tmp_path / "gone")
    outcome = pyrovae("train", "--resume", "second", "--epochs", "2")
    assert outcome.code == 0, outcome.err
    assert len(pd.read_csv(tmp_path / "second" / "metrics.csv")) == 2
    assert pyrovae("sample", "second").code == 0


@pytest.mark.slow
def test_starts_that_cannot_be_are_refused_in_one_sentence(pyrovae: Any, tmp_path: Path) -> None:
    write(tmp_path / "first.csv", ["blue", "red"], ["a", "b"])
    assert pyrovae("train", "first.csv", *OPTIONS, "--epochs", "1", "--output", "first").code == 0
    pyrovae("train", "iris", "--model", "ppca", "--latent-dim", "2", "--output", "closed")
    write(tmp_path / "mauve.csv", ["blue", "mauve"], ["a", "b"])
    pd.read_csv(tmp_path / "first.csv").rename(columns={"size": "sise"}).to_csv(
        tmp_path / "renamed.csv", index=False
    )
    (tmp_path / "other.yaml").write_text("from_run: first\nlatent_dim: 3\n")
    refused = {
        "whose likelihood is {'blocks'": ("iris", "--config", "other.yaml"),
        "leave out --hidden": ("first.csv", "--from", "first", "--hidden", "9"),
        "--from needs data to train on": ("--from", "first"),
        "nowhere is not a run directory": ("first.csv", "--from", "nowhere"),
        "holds 'mauve', which the model was not trained with": ("mauve.csv", "--from", "first"),
        "'sise'": ("renamed.csv", "--from", "first"),
        "fitted in closed form": ("iris", "--from", "closed"),
    }
    for words, arguments in refused.items():
        outcome = pyrovae("train", *arguments, "--output", "new")
        assert outcome.code == 2, words
        assert words in outcome.err
        assert outcome.err.count("\n") == 1
        assert not (tmp_path / "new").exists()
