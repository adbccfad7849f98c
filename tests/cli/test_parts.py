"""Models, priors and posteriors on the command line: they train, reopen, or are refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from pyrovae.cli import main
from pyrovae.infer import OBJECTIVES, evaluate
from pyrovae.models.base.refinement import INFERENCES
from pyrovae.models.catalogue import MODELS
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs.config import RunConfig
from pyrovae.runs.prepare import arrange_data, load_data
from pyrovae.runs.resolve import resolve_options, resolve_parts
from pyrovae.runs.trained import open_run

SMALL = ["--epochs", "1", "--hidden", "8", "--latent-dim", "2", "--compile", "false"]
SETTINGS = {
    "semi_supervised": ["--num-labels", "30"],
    "vamp": ["--prior.num_components", "7"],
    "straight_through": ["--posterior={name: straight_through, num_classes: 3}"],
}
EACH = [
    *(("--model", name) for name in MODELS if name != "vae"),
    ("--prior", "vamp"),
    ("--posterior", "iaf"),
    ("--posterior", "straight_through"),
    ("--inference", "semi_amortised"),
    ("--inference", "free"),
    ("--network", "residual"),
]
"""All families, and of the other parts those that need something of a run."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small images of three classes."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = generator.poisson(np.where(np.arange(16) // 6 == y[:, None], 4.0, 0.5))
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=x.reshape(-1, 1, 4, 4).clip(0, 16).astype(np.uint8), y=y)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("option", "name"), EACH, ids=lambda word: word.removeprefix("--"))
def test_each_part_trains_and_opens_again(
    option: str, name: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = SETTINGS.get(name, [])
    likelihood = [] if name == "ppca" else ["--likelihood", "poisson"]
    main(["train", str(images), option, name, *settings, *likelihood, *SMALL, "--output", str(run)])
    record = json.loads((run / "evaluation.json").read_text())
    assert np.isfinite(record["elbo"]["mean"])
    trained = open_run(run)
    torch.manual_seed(0)
    again = evaluate(
        trained.family.model,
        trained.family.guide,
        trained.data.test.parts,
        size=len(trained.data.train),
        num_particles=10,
        compile=False,
    )
    assert again.elbo.mean == pytest.approx(record["elbo"]["mean"], rel=1e-5)  # on the same noise
    expected = {
        "semi_supervised": "label_accuracy",
        "mixture": "num_clusters",
        "hierarchical": "kl_of_layers",
    }
    if option == "--model" and name in expected:
        assert expected[name] in record
    config = yaml.safe_load((run / "config.yaml").read_text())
    chosen = config[option.removeprefix("--")]
    assert (chosen if isinstance(chosen, str) else chosen["name"]) == name
    capsys.readouterr()
    if name == "autoencoder":
        with pytest.raises(SystemExit, match="2"):
            main(["sample", str(run)])
        assert "an autoencoder has no p(z)" in capsys.readouterr().err
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", str(run), "--num-samples", "5"])
        assert "so there is no p(x) to estimate" in capsys.readouterr().err
        return
    main(["sample", str(run), "--num", "6"])
    with np.load(run / "samples.npz") as samples:
        assert samples["x"].shape == samples["mean"].shape == (6, 1, 4, 4)
    main(["reconstruct", str(run), "--num", "5"])
    with np.load(run / "reconstructions.npz") as reconstructions:
        assert len(reconstructions["z"]) == 5


def test_a_semi_supervised_model_sees_as_many_labels_of_each_class(images: Path) -> None:
    """As many of each class, the same ones in each run; none of held-out data."""
    options = {"data": str(images), "model": "semi_supervised", "num_labels": 9}
    config = RunConfig.model_validate({**options, "likelihood": "poisson"})
    dataset = load_data(config)
    config = resolve_options(config, dataset, Path("run"), Console())
    one, two = arrange_data(config, dataset), arrange_data(config, dataset)
    assert one.train.label is not None
    assert two.train.label is not None
    assert one.train.y is not None
    assert torch.equal(one.train.label, two.train.label)
    known = one.train.label >= 0
    assert one.train.label[known].bincount().tolist() == [3, 3, 3]
    assert torch.equal(one.train.label[known], one.train.y[known])
    for part in (one.validation, one.test):
        assert part.label is not None
        assert (part.label == -1).all()
    settled = resolve_parts(config, dataset)
    assert isinstance(settled.model, dict)
    # The classification of N data in all counts 0.1 N, as in the paper.
    assert settled.model["weight"] * 9 == pytest.approx(0.1 * len(one.train))
    assert settled.objective == "enumerated"
    assert config.model == "semi_supervised"  # what is kept can be given other options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "hierachical"], "model cannot be 'hierachical': did you mean 'hierarchical'?"),
        (["--model", "hierarchical", "--prior", "vamp"], "has its own prior; leave prior out"),
        (["--model", "ppca", "--inference", "free"], "has its own inference"),
        (["--prior.num_components", "3"], "prior cannot be {'num_components': 3}"),
        (["--prior", "vamp", "--posterior", "iaf"], "cannot be mixed"),
        (["--prior", "mixture", "--posterior", "concrete"], "the prior has latents of shape"),
        (["--posterior", "low_rank", "--posterior.rank", "x"], "rank of posterior 'low_rank'"),
        (["--model", "semi_supervised", "--num-labels", "10"], "a multiple of the 3 classes"),
        (["--model", "ppca", "--likelihood", "poisson"], "normal likelihood with one shared scale"),
        (["--model", "conditional", "--prior", "vamp"], "q depends on y too"),
        (
            ["--model", "semi_supervised", "--posterior", "concrete"],
            "be concatenated with y",
        ),
        (["--model", "semi_supervised", "--model.classifier", "mlp"], "unknown setting 'classifi"),
        (["--num-labels", "9"], "num_labels is an option of the semi_supervised model"),
        (["--inference", "semi_amortised", "--posterior", "spline"], "refine a normal"),
        (["--model", "hierarchical", "--model.guide", "sideways"], "guide cannot be 'sideways'"),
        (["--model.latent_dim", "3", "--model", "vae"], "unknown setting 'latent_dim' of model"),
    ],
)
def test_parts_that_do_not_fit_get_one_line(
    arguments: list[str],
    message: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(images), *arguments, *SMALL, "--output", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_every_part_and_its_settings_are_listed(pyrovae: Any) -> None:
    listed = pyrovae("parts")
    assert listed.code == 0
    parts = {"model": MODELS, "prior": PRIORS, "posterior": POSTERIORS, "inference": INFERENCES}
    for option, names in (parts | {"objective": OBJECTIVES}).items():
        section = listed.out.partition(f"--{option} ")[2].partition("├")[0]
        assert set(names) <= set(re.findall(r"\w+", section))
    assert "num_components = 500" in listed.out
    assert "latent_dim " not in listed.out


def test_the_help_of_options_names_parts_that_exist() -> None:
    parts = {"model": MODELS, "prior": PRIORS, "posterior": POSTERIORS, "inference": INFERENCES}
    for option, names in (parts | {"objective": OBJECTIVES}).items():
        description = RunConfig.model_fields[option].description or ""
        sentence = re.sub(r" \([^)]*\)", "", description).partition(": ")[2].partition(".")[0]
        listed = set(re.findall(r"\w+", sentence)) - {"or"}
        assert listed <= set(names)
        assert len(listed) > 2


def test_a_conditional_model_without_labels_is_refused(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(tmp_path / "x.npy"), "--model", "conditional", *SMALL])
    assert "needs labels, and the training data of x have none" in capsys.readouterr().err
