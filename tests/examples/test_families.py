"""The examples on models, priors and posteriors run, and what they claim is true."""

import re
from math import log, pi
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from sklearn.linear_model import LogisticRegression
from torch.distributions import Normal

from pyrovae import VAE, fit, load

from . import load_example

WITH_ERROR = re.compile(r"(-?\d+\.\d+) ± (\d+\.\d+)")


def parse_rows(printed: str, names: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Return the means and standard errors in each row of a table, by the name of the row."""
    found = {}
    for line in printed.splitlines():
        start = line.strip(" │").lstrip()
        for name in names:
            if start.startswith(f"{name} ") and "±" in line:
                found[name] = [(float(mean), float(se)) for mean, se in WITH_ERROR.findall(line)]
    assert list(found) == names
    return found


@pytest.mark.slow
def test_semi_supervised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    module = load_example("semi_supervised")
    y = load("digits").train.y
    labelled, unlabelled = module.choose_labelled(y, 30)
    assert y[labelled].bincount().tolist() == [3] * 10
    assert sorted(torch.cat([labelled, unlabelled]).tolist()) == list(range(len(y)))

    output = tmp_path / "picture.png"
    module.main(labels=(100,), draws=2, epochs=6, picture_epochs=1, output=output)
    ((m2, logistic, network, over_logistic, over_network),) = parse_rows(
        capsys.readouterr().out, ["100"]
    ).values()
    for other, difference in ((logistic, over_logistic), (network, over_network)):
        assert difference[0] == pytest.approx(m2[0] - other[0], abs=0.151)  # all are rounded
        assert difference[0] > 0
    assert imread(output).std() > 0.05


@pytest.mark.slow
def test_conditional(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    module = load_example("conditional")
    output = tmp_path / "picture.png"
    module.main(epochs=6, num_samples=5, output=output)
    names = ["given the class: log p(x | y)", "the same: log p(x), by the sum over y"]
    accuracies = ["Bayes' rule, log p(x | y)", "logistic regression"]
    found = parse_rows(capsys.readouterr().out, [*names, *accuracies])
    # p(x) is at least p(y) p(x | y).
    assert found[names[0]][0][0] - found[names[1]][0][0] <= log(10) + 0.01
    assert found[accuracies[0]][0][0] > 60
    assert imread(output).std() > 0.05

    # A classifier agrees that the same z, decoded with another class, is a digit of that class.
    digits = load("digits")
    x, y = digits.train.x.float(), digits.train.y
    classifier = LogisticRegression(max_iter=1000).fit(x.flatten(1) / 16, y)
    torch.manual_seed(0)
    cvae = module.ConditionalVAE(module.DIGIT, 2, module.COUNTS, num_classes=10)
    module.train(cvae, (x, y), 10)
    other = cvae.transfer(digits.test.x.float(), digits.test.y, torch.arange(10).unsqueeze(1))
    images = other.flatten(0, 1).flatten(1) / 16
    predicted = torch.as_tensor(classifier.predict(images)).view(10, -1)
    assert (predicted == torch.arange(10).unsqueeze(1)).double().mean() > 0.6


@pytest.mark.slow
def test_priors_and_posteriors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    module = load_example("priors_and_posteriors")

    # A two-dimensional standard normal has a share s of its mass where the density exceeds
    # (1 - s) / (2 pi).
    points, area = module.grid(torch.full((2,), -6.0), torch.full((2,), 6.0), 401)
    density = Normal(0.0, 1.0).log_prob(points).sum(-1).exp()
    exact = [(1 - share) / (2 * pi) for share in module.SHARES]
    assert module.contour_levels(density, area) == pytest.approx(exact, rel=0.03)

    # KL(q(z | x) || p(z | x)) from the grid equals log p(x) - ELBO, estimated from draws.
    digits = load("digits")
    x, test = digits.train.x.float(), digits.test.x[:1].float()
    torch.manual_seed(0)
    vae = VAE(module.SHAPE, 2, module.COUNTS, **module.POSTERIORS["IAF"]())
    vae.standardise(x)
    fit(vae.model, vae.guide, x, epochs=3, progress=False)
    kl = module.draw_posterior(Figure().subplots(), vae.eval(), test)
    with torch.no_grad():
        q, p = vae.q(test), vae.model.prior()
        log_joint = (p.log_prob(points) + vae.decode(points).log_prob(test)).double()
        z = q.sample((10_000,))
        ratio = vae.decode(z).log_prob(test) + p.log_prob(z) - q.log_prob(z)
    log_px = log_joint.logsumexp((0, 1)).item() + log(area)
    error = ratio.std().item() / 10_000**0.5
    assert abs(kl - (log_px - ratio.mean().item())) < 4.5 * error + 1e-3

    # A learned prior is closer to the aggregate posterior than the standard normal.
    aggregate = {}
    for name in (module.PLAIN, "VampPrior"):
        parts, x_test = module.PRIORS[name], digits.test.x.float()
        result = module.train_and_evaluate(parts, x, x_test, fits=2, epochs=8, num_samples=5)
        aggregate[name] = result.aggregate_kl
    assert aggregate["VampPrior"].max() < aggregate[module.PLAIN].min()

    output = tmp_path / "picture.png"
    module.main(fits=2, epochs=1, num_samples=5, output=output)
    found = parse_rows(capsys.readouterr().out, [*module.PRIORS, *module.POSTERIORS])
    assert len(found.pop(module.PLAIN)) == 4
    for *_, gap, kl, aggregate_kl in found.values():
        assert gap[0] >= 0
        assert kl[0] > aggregate_kl[0]
    assert imread(output).std() > 0.05
