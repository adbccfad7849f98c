"""What users import is where they look for it, and comes without further imports."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae

PACKAGES = (
    "data",
    "disentanglement",
    "distributions",
    "errors",
    "gmm",
    "infer",
    "inverse",
    "likelihoods",
    "models",
    "nn",
    "posteriors",
    "priors",
    "runs",
    "tables",
    "training",
)
ROOT = Path(pyrovae.__file__).parent


def test_packages_come_with_an_import_of_pyrovae_alone() -> None:
    """In a process of its own, as other tests import them."""
    names = ["infer.IWAE", "gmm.GaussianMixture", "inverse.Mask", "priors.VampPrior", "VAE", "fit"]
    names += [*PACKAGES, "errors.InputError"]
    code = "\n".join(["import pyrovae", *(f"pyrovae.{name}" for name in names)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("package", ["", *(f".{name}" for name in PACKAGES)])
def test_every_public_name_can_be_imported(package: str) -> None:
    module = importlib.import_module(f"pyrovae{package}")
    public = getattr(module, "__all__", ())
    assert all(getattr(module, name) is not None for name in public)
    assert set(public) <= set(dir(module))


@pytest.mark.parametrize("stub", [ROOT / "__init__.pyi", ROOT / "infer" / "__init__.pyi"], ids=str)
def test_stubs_name_what_is_there(stub: Path) -> None:
    """Lazy imports follow the stubs, so that a wrong line fails only where it is used."""
    package = ".".join(["pyrovae", *stub.parent.relative_to(ROOT).parts])
    lines = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert len(lines) > 10
    for line in lines:
        module = importlib.import_module(f"{package}.{line.module or ''}".rstrip("."))
        for alias in line.names:
            assert hasattr(module, alias.name)
            assert alias.asname == alias.name


def test_what_has_no_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        pyrovae.nothing  # type: ignore[attr-defined]  # noqa: B018
