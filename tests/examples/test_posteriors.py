"""The examples on posteriors and on disentanglement print figures that agree with each other."""

import re
from pathlib import Path

import pytest
from matplotlib.image import imread

from . import load_example

NUMBER = r"(-?\d+\.\d+)"


@pytest.mark.slow
def test_mcmc_vs_vi(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that no row is broken
    output = tmp_path / "posteriors.png"
    load_example("mcmc_vs_vi").main(
        epochs=8, candidates=8, refinements=80, warmup=50, draws=80, output=output
    )
    out = capsys.readouterr().out

    gaps = re.findall(rf"(\w+) +│ (amortised|refined) +│ {NUMBER} +│ {NUMBER} ± {NUMBER}", out)
    assert len(gaps) == 6
    kls = {}
    for gap, name, kl, difference, error in gaps:
        kls[gap, name] = float(kl)
        # The two columns estimate the same number; both are printed to within 0.0005.
        assert abs(float(kl) - float(difference)) < 4.5 * (float(error) + 0.0005) + 0.001
    for gap in ("smallest", "median", "largest"):
        assert 0 <= kls[gap, "refined"] < kls[gap, "amortised"]
    assert kls["smallest", "refined"] < kls["largest", "refined"]

    mean = rf"{NUMBER} ± {NUMBER}, {NUMBER} ± {NUMBER}"
    chains = re.findall(rf"(\w+) +│ {NUMBER} +│ (\d+) of 320 +│ {mean} +│ {NUMBER}, {NUMBER}", out)
    assert [row[0] for row in chains] == ["smallest", "median", "largest"]
    for row in chains:
        r_hat, draws, first, error, second, second_error, exact, second_exact = map(float, row[1:])
        assert draws > 4
        if r_hat < 1.05:
            assert abs(first - exact) < 4.5 * (error + 0.001)
            assert abs(second - second_exact) < 4.5 * (second_error + 0.001)
    assert float(chains[0][1]) < 1.05  # NUTS samples the simplest posterior well
    assert imread(output).std() > 0.05


@pytest.mark.slow
def test_beta_vae_sprites(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    module = load_example("beta_vae_sprites")
    output = tmp_path / "sprites.png"
    module.main(
        num_train=160,
        epochs=2,
        num_test=150,
        num_judged=8,
        num_samples=8,
        latent_dim=3,
        output=output,
    )
    out = capsys.readouterr().out

    titles = [re.escape(title) for title in module.OBJECTIVES]
    scores, figures = {}, {}
    for title in titles:
        row = re.search(rf"│ {title} +" + rf"│ {NUMBER} +" * 5, out)
        assert row is not None
        scores[title] = [float(score) for score in row.groups()]
        row = re.search(rf"│ {title} +│ {NUMBER} +│ {NUMBER} +│ {NUMBER} ± ", out)
        assert row is not None
        figures[title] = [float(figure) for figure in row.groups()]
        assert all(0 <= score <= 1 for score in scores[title])
        reconstruction, kl, log_likelihood = figures[title]
        assert log_likelihood > -reconstruction - kl - 0.1  # the ELBO is a bound
    base, beta, _ = titles
    assert figures[beta][1] < figures[base][1]  # a larger weight on the KL makes it smaller

    # The printed summary of gains and losses agrees with the tables.
    for title in titles[1:]:
        (summary,) = re.findall(rf"^{title} compared with the ELBO: (.*)$", out, re.M)
        changes = [here - there for here, there in zip(scores[title], scores[base], strict=True)]
        reconstruction, _, log_likelihood = figures[title]
        changes.append(figures[base][0] - reconstruction)
        changes.append(log_likelihood - figures[base][2])
        names = ["MIG", "disentangled", "complete", "informative", "SAP", "reconstruction", "log p"]
        verdicts = dict(re.findall(r"(gained|lost|neither)[^:]*: ([^;]*)", summary))
        for name, change in zip(names, changes, strict=True):
            (verdict,) = (word for word, items in verdicts.items() if name in items)
            printed = re.search(rf"{name}\S* ([+-]\d+\.\d+)", verdicts[verdict])
            assert printed is not None
            assert float(printed[1]) == pytest.approx(change, abs=0.16 if "." in name else 0.11)
            if verdict != "neither":
                assert (float(printed[1]) > 0) == (verdict == "gained")
    assert imread(output).std() > 0.05
