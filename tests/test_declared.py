"""Declarations are checked against the signature before a part is built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyrovae import InputError
from pyrovae.declared import build_part, find_parts, parse_declaration


@dataclass(frozen=True)
class Ramp:
    steps: int
    end: float = 1.0


class Normal:
    def __init__(self, latent_dim: int, scale: float | Ramp = 1.0) -> None:
        self.latent_dim, self.scale = latent_dim, scale


class Mixture:
    def __init__(self, num_components: int, **options: Any) -> None:
        self.num_components, self.options = num_components, options


PRIORS: dict[str, Any] = {"normal": Normal, "mixture": Mixture}


def test_name_alone_uses_defaults_and_context() -> None:
    prior = build_part("prior", PRIORS, "normal", latent_dim=3, unused=None)
    assert (prior.latent_dim, prior.scale) == (3, 1.0)


def test_settings_are_converted_and_keyword_arguments_receive_all_context() -> None:
    prior = build_part("prior", PRIORS, {"name": "normal", "scale": "2"}, latent_dim=3)
    assert prior.scale == 2.0
    prior = build_part("prior", PRIORS, {"name": "normal", "scale": {"steps": 5}}, latent_dim=3)
    assert prior.scale == Ramp(5)
    prior = build_part("prior", PRIORS, {"name": "mixture", "num_components": 4}, latent_dim=3)
    assert (prior.num_components, prior.options) == (4, {"latent_dim": 3})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("norml", "prior cannot be 'norml': did you mean 'normal'"),
        (3, "prior cannot be 3: choose from normal, mixture"),
        ({"scale": 1.0}, r"prior cannot be {'scale': 1.0}: choose from"),
        ({"name": "normal", "scal": 1.0}, "unknown setting 'scal' of prior 'normal': did you mean"),
        ({"name": "normal", "latent_dim": 4}, "unknown setting 'latent_dim' of prior 'normal'"),
        ({"name": "normal", "scale": "x"}, "scale of prior 'normal' cannot be 'x': "),
        ({"name": "normal", "scale": {"step": 1}}, r"give its settings as {steps, end}"),
        ("mixture", r"prior 'mixture' needs num_components, as in {name: mixture, num_compon"),
    ],
)
def test_invalid_declarations_are_refused_before_building(declared: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_declaration("prior", PRIORS, declared, "latent_dim")


def write_package(folder: Path, **modules: str) -> str:
    package = f"parts_{folder.name}".replace("-", "_")
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    for name, text in modules.items():
        (folder / package / f"{name}.py").write_text(text)
    return package


def test_parts_are_public_classes_with_a_name_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    text = """
__all__ = ["A", "B", "function"]
class A: name = "first"
class B(A): pass
class Private: name = "private"
def function(): pass
"""
    package = write_package(tmp_path, one=text)
    parts = find_parts(package, [str(tmp_path / package)])
    assert {name: part.__name__ for name, part in parts.items()} == {"first": "A"}


def test_two_parts_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    text = '__all__ = ["A"]\nclass A: name = "first"\n'
    package = write_package(tmp_path, one=text, two=text)
    with pytest.raises(ValueError, match=r"two parts in .* have the name 'first'"):
        find_parts(package, [str(tmp_path / package)])
