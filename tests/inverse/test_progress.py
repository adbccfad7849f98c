"""The progress bar ends at the number of steps that it announced."""

import importlib

import pytest
import torch

from pyrovae.inverse import Noise

from .linear_gaussian import model
from .test_posterior import QUICK


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale"), [*((name, 0.5) for name in QUICK), ("amortised", None), ("refined", None)]
)
def test_steps_add_up(name: str, scale: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the steps that find the size of the noise, where it is not known."""
    totals: list[int] = []
    steps: list[None] = []

    class Bar:
        def __init__(self, label: str, total: int) -> None:
            totals.append(total)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def advance(self) -> None:
            steps.append(None)

    monkeypatch.setattr(importlib.import_module("pyrovae.inverse.posterior"), "LateProgress", Bar)
    ppca = model(missing=False)
    y = 10 + torch.randn(5, 5)
    ppca.posterior(
        y, operator=Noise(scale), method=QUICK[name], num_samples=4, batch_size=2, progress=True
    )
    assert totals == [len(steps)]
    assert len(steps) >= 3
