"""Every example has a test, and the short ones run and print the right results."""

import re
from pathlib import Path

import pytest

from . import EXAMPLES, load_example


def test_each_example_is_tested() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    tested = re.findall(r"^def test_(\w+)", text, re.MULTILINE)
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= set(tested)


@pytest.mark.slow
def test_vae(capsys: pytest.CaptureFixture[str]) -> None:
    load_example("vae").main(epochs=2)
    out = capsys.readouterr().out
    assert re.search(r"test ELBO -\d+\.\d\d ± \d\.\d\d nats per digit", out)
    assert len(out.splitlines()[-8:][0]) == 16


@pytest.mark.slow
def test_compiled_svi(capsys: pytest.CaptureFixture[str]) -> None:
    load_example("compiled_svi").main(num_steps=30)
    eager, compiled = re.findall(
        r"([\d.]+) ms per step, .* (-?\d+\.\d\d)$", capsys.readouterr().out, re.M
    )
    assert eager[1] == compiled[1]


@pytest.mark.slow
def test_own_model_and_guide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_example("own_model_and_guide")
    module.main(epochs=40)
    rows = re.findall(
        r"exact posterior (\S+) ± (\S+), variational (\S+) ±", capsys.readouterr().out
    )
    assert len(rows) == 3
    for exact, scale, variational in rows:
        assert abs(float(exact) - float(variational)) < 2 * float(scale)


def test_plain_pyro_svi(capsys: pytest.CaptureFixture[str]) -> None:
    load_example("plain_pyro_svi").main(epochs=3)
    losses = [float(loss) for loss in re.findall(r"loss (\S+) nats", capsys.readouterr().out)]
    assert len(losses) == 3
    assert losses[2] < losses[0]


@pytest.mark.slow
def test_swap_likelihood(capsys: pytest.CaptureFixture[str]) -> None:
    load_example("swap_likelihood").main(epochs=2)
    out = capsys.readouterr().out
    table = out[out.index("kind of ELBO") :]
    order = re.findall(r"Binomial|Categorical|Normal|Bernoulli", table)
    # The two masses of grey levels are in one section, best first; the others are in their own.
    assert set(order[:2]) == {"Binomial", "Categorical"}
    assert order[2:] == ["Normal", "Bernoulli"]
    elbos = [float(v) for v in re.findall(r"(-\d+\.\d+) ±", table)]
    assert elbos[0] > elbos[1]


@pytest.mark.slow
def test_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    module = load_example("objectives")
    module.main(epochs=1, num_samples=20)
    out = capsys.readouterr().out
    rows = re.findall(r"(-\d+\.\d+) ± \d+\.\d+\D+\d+\.\d+\D+?(-\d+\.\d+)\D+(\d+)", out)
    assert len(rows) == len(module.OBJECTIVES)
    for log_likelihood, elbo, active in rows:
        assert float(elbo) < float(log_likelihood) < 0
        assert 0 < int(active) <= 20


@pytest.mark.slow
def test_gmm_em_vs_vi(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    load_example("gmm_em_vs_vi").main(steps=20, output=tmp_path / "pictures")
    out = capsys.readouterr().out
    assert "one round by hand: log p(x) -3.27" in out
    assert re.search(r"EM, \d+ rounds: log p\(x\) -3\.15", out)
    assert len(re.findall(r"hidden layers", out)) == 5
    assert "bounds.png, densities.png, gradient_variance.png, motion.gif" in out
