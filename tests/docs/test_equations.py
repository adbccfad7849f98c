"""The index of equations names functions and tests that are there; and one identity of its own."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from pyrovae import VAE, Likelihood
from pyrovae.infer import ELBO, BetaELBO

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/background/equations.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TEXT.partition("## Index of equations")[2].partition("\n## ")[0].splitlines()
    if line.startswith("|") and "`" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:30])
def test_what_the_index_names_is_there(row: list[str]) -> None:
    _, where, tested = row
    for name in re.findall(r"`([\w.]+)`", where):
        module, _, attribute = name.rpartition(".")
        found = importlib.import_module(f"pyrovae.{module}")
        assert hasattr(found, attribute)
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tested)
    assert tests
    for path, name in tests:
        assert re.search(rf"def {name}\(", (ROOT / path).read_text())


def test_the_index_is_whole() -> None:
    assert len(ROWS) >= 10


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_beta_is_the_variance_of_the_noise(beta: float) -> None:
    """beta KL beside squared errors over 2 has beta times the gradient of an ELBO whose noise has
    the variance beta.
    """
    x = torch.randn(20, 5)
    gradients = []
    for scale, loss in ((1.0, BetaELBO(beta)), (beta**0.5, ELBO())):
        torch.manual_seed(0)
        vae = VAE((5,), 2, Likelihood("Normal", scale=scale))
        torch.manual_seed(1)
        loss.loss_and_grads(vae.model, vae.guide, x)
        gradients.append([p.grad for p in vae.parameters()])
    for weighted, of_elbo in zip(*gradients, strict=True):
        torch.testing.assert_close(weighted, beta * of_elbo, rtol=1e-9, atol=1e-12)
