"""Progress bars appear once the work has taken a while, and end at their totals."""

import re
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
import rich
import torch

from pyrovae import importance_sample, progress
from pyrovae.gmm import BayesianGaussianMixture, GaussianMixture
from pyrovae.infer import (
    annealed_importance_sample,
    bidirectional_check,
    inference_gap,
    latent_report,
)
from pyrovae.progress import LateProgress

from .pairs import linear_gaussian_vae

X = torch.linspace(-1, 2, 15).reshape(5, 3)


@pytest.fixture
def screen() -> Iterator[StringIO]:
    written = StringIO()
    before = dict(vars(rich.get_console()))
    rich.reconfigure(file=written, force_terminal=True, width=80)
    yield written
    vars(rich.get_console()).update(before)


@pytest.mark.parametrize(("delay", "is_shown"), [(0.0, True), (60.0, False)])
def test_bar_appears_after_a_delay(
    screen: StringIO, monkeypatch: pytest.MonkeyPatch, delay: float, is_shown: bool
) -> None:
    monkeypatch.setattr(progress, "_DELAY", delay)
    with LateProgress("polishing", 4) as bar:
        bar.advance()
        bar.finish(3)
        bar.advance()
    assert ("polishing" in screen.getvalue()) == is_shown
    assert ("4/4" in screen.getvalue()) == is_shown


def test_nothing_is_written_unless_the_output_is_a_terminal(
    screen: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    rich.reconfigure(file=screen, force_terminal=False)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    with LateProgress("polishing", 2) as bar:
        bar.advance()
    assert screen.getvalue() == ""


def run_pair(function: Callable[..., Any], **options: Any) -> Callable[[bool], Any]:
    def run(progress: bool) -> None:
        vae = linear_gaussian_vae()
        takes_guide = function not in (annealed_importance_sample, bidirectional_check)
        pair = (vae.model, vae.guide) if takes_guide else (vae.model,)
        function(*pair, X, batch_size=2, progress=progress, **options)

    return run


def run_mixture(estimator: Any) -> Callable[[bool], Any]:
    """Three starts, which end after different numbers of rounds."""

    def run(progress: bool) -> None:
        if progress:
            estimator(2, n_init=3, random_state=0).fit(X.numpy() ** 3)

    return run


ANNEALING = {"num_temperatures": 3, "num_chains": 2, "num_leapfrog": 1}
RUNS: dict[str, tuple[set[str], Callable[[bool], Any]]] = {
    "importance_sample": (
        {"importance sampling"},
        run_pair(importance_sample, num_samples=20, compile=False),
    ),
    "inference_gap": ({"inference gap"}, run_pair(inference_gap, num_steps=3, num_samples=20)),
    "inference_gap, known evidence": (
        {"inference gap"},
        run_pair(inference_gap, num_steps=3, num_samples=20, log_likelihood=torch.zeros(5)),
    ),
    "annealed_importance_sample": (
        {"annealed importance sampling"},
        run_pair(annealed_importance_sample, **ANNEALING),
    ),
    "bidirectional_check": (
        {"annealed importance sampling"},
        run_pair(bidirectional_check, **ANNEALING),
    ),
    "latent_report": ({"latents", "aggregate posterior"}, run_pair(latent_report)),
    "GaussianMixture": ({"fit"}, run_mixture(GaussianMixture)),
    "BayesianGaussianMixture": ({"fit"}, run_mixture(BayesianGaussianMixture)),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", RUNS)
def test_bars_end_at_their_totals(
    name: str, screen: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr("pyrovae.infer.estimators.ais._WARM_UP", 1)
    monkeypatch.setattr("pyrovae.infer.estimators.ais._MIN_TRANSITIONS", 2)
    labels, run = RUNS[name]
    run(False)
    assert screen.getvalue() == ""
    run(True)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue())  # without colours and the like
    bars = re.findall(r"([a-z ]+) \S*\s+(\d+)/(\d+)", text)
    last = {label.strip(): (done, total) for label, done, total in bars}
    assert last.keys() == labels
    assert all(done == total for done, total in last.values())
