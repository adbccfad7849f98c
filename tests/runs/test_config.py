"""Options from YAML and the command line; invalid ones get one sentence each."""

from pathlib import Path
from typing import Any

import pytest

from pyrovae.errors import InputError
from pyrovae.runs.config import RunConfig, read_config, to_yaml


def test_yaml_is_overridden_and_written_back(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("epochs: 7\nhidden: [20, 10]\nlikelihood: {family: Normal, scale: 0.1}\n")
    config = read_config(path, {"epochs": 9})
    assert (config.epochs, config.hidden, config.lr) == (9, (20, 10), 1e-3)
    assert config.likelihood == {"family": "Normal", "scale": 0.1}
    path.write_text(to_yaml(config))
    assert read_config(path, {}) == config


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# nothing yet\n")
    assert read_config(path, {}) == read_config(None, {}) == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown option 'epoch': did you mean 'epochs'"),
        ("latent-dim: 3", "unknown option 'latent-dim': did you mean 'latent_dim'"),
        ("epochs: ten", "epochs cannot be 'ten': input should be a valid integer"),
        ("epochs: 2.5", "epochs cannot be 2.5"),
        ("network: con", "network cannot be 'con': did you mean 'conv'"),
        ("schedule: linear", "schedule cannot be 'linear': choose from constant, cosine"),
        ("hidden: [3, x]", "hidden cannot be 'x'"),
        ("hidden: [3, 0]", "hidden cannot be 0"),
        ("validation_fraction: 1.5", "validation_fraction cannot be 1.5"),
        ("hidden: 400", r"hidden cannot be 400: it must be a list, as in \[400\]"),
        ("output: 3", "output cannot be 3: it must be a path"),
        ("likelihood: 3", "likelihood cannot be 3"),
        ("lr: .nan", "lr cannot be nan"),
        ("lr: .inf", "lr cannot be inf"),
        ("1: 2", "unknown option '1'"),
        ("- 3", "must hold options"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_invalid_options_get_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config(path, {})
    assert "\n" not in str(caught.value)
    assert "run.yaml" in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*No such file"):
        read_config(tmp_path / "none.yaml", {})
    with pytest.raises(InputError, match=r"cannot read .*directory"):
        read_config(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes(b"data: \xe9")
    with pytest.raises(InputError, match="is not YAML"):
        read_config(tmp_path / "latin.yaml", {})


@pytest.mark.parametrize("name", RunConfig.model_fields)
def test_every_option_is_explained(name: str) -> None:
    description: Any = RunConfig.model_fields[name].description
    assert description.endswith((".", "given."))
