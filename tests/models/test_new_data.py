"""What a trained model says about data agrees with closed forms and enumeration."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae import (
    VAE,
    Autoencoder,
    ConditionalVAE,
    HierarchicalVAE,
    InputError,
    Likelihood,
    Mixed,
    MixtureVAE,
    ProbabilisticPCA,
    SemiSupervisedVAE,
)
from pyrovae.data import Dataset, Split
from pyrovae.data.description import DataDescription
from pyrovae.models import LatentVariableModel
from pyrovae.nn import MLP
from pyrovae.posteriors import POSTERIORS, DiagonalNormal
from pyrovae.runs.questions.causes import column_surprise
from tests.models.test_saved import MODELS, X

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def make(name: str) -> tuple[LatentVariableModel, tuple[Tensor, ...]]:
    model = MODELS[name]()
    given = (LABELS,) if model.num_conditions else ()
    model.standardise(X, *given)
    return model.eval(), given


@pytest.mark.parametrize("name", MODELS)
def test_outputs_carry_no_graph_and_follow_the_seed(name: str) -> None:
    model, given = make(name)
    state = torch.get_rng_state()
    encoding = model.encode(X, *given, num_draws=3)
    assert encoding.draws is not None
    outputs = [encoding.mean, encoding.sd, encoding.draws, model.reconstruct(X, *given)]
    assert torch.equal(torch.get_rng_state(), state)
    again = model.encode(X, *given, num_draws=3)
    assert again.draws is not None
    outputs_again = [again.mean, again.sd, again.draws, model.reconstruct(X, *given)]
    for one, other in zip(outputs, outputs_again, strict=True):
        assert not one.requires_grad
        assert torch.equal(one, other)
    other_seed = model.encode(X, *given, num_draws=3, seed=1).draws
    assert other_seed is not None
    assert name == "autoencoder" or not torch.equal(other_seed, encoding.draws)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "autoencoder"])
def test_moments_are_those_of_the_draws(name: str) -> None:
    model, given = make(name)
    num = 4000
    encoding = model.encode(X, *given, num_draws=num, seed=5)
    draws = encoding.draws
    assert draws is not None
    # A bottom-up guide has moments from 1,000 draws of its own.
    error = draws.std(0) * (1 / num + 1 / 1000) ** 0.5
    assert bool(((draws.mean(0) - encoding.mean).abs() < 5 * error + 1e-6).all())
    # The variance of a sample variance is (kurtosis - 1) / num of its square; 10 is far above a
    # normal's kurtosis of 3.
    spread = draws.std(0) * ((10 - 1) / 4 * (1 / num + 1 / 1000)) ** 0.5
    assert bool(((draws.std(0) - encoding.sd).abs() < 5 * spread + 1e-6).all())


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_moments_of_each_posterior(posterior: str) -> None:
    model = VAE((4,), 3, "Normal", posterior=posterior).eval()
    num = 4000
    encoding = model.encode(X, num_draws=num, seed=5)
    assert encoding.draws is not None
    error = encoding.draws.std(0) * (1 / num + 1 / 1000) ** 0.5
    difference = (encoding.draws.mean(0) - encoding.mean).abs()
    assert bool((difference < 5 * error + 1e-6).all())


def test_codes_of_missing_labels_mix_over_classes() -> None:
    vae = SemiSupervisedVAE((4,), 2, num_classes=3, likelihood="Normal").eval()
    inputs = vae.guide.encoder_input(X)
    weight = vae.classify(X)
    mean = torch.zeros(6, 2)
    square = torch.zeros(6, 2)
    for label in range(3):
        q: Any = vae.q(X, torch.full((6,), label))
        mean += weight[:, label, None] * q.mean.detach()
        square += weight[:, label, None] * (q.variance + q.mean.square()).detach()
    encoding = vae.encode(X)
    torch.testing.assert_close(encoding.mean, mean)
    torch.testing.assert_close(encoding.sd, (square - mean.square()).sqrt(), rtol=1e-4, atol=1e-4)
    known: Any = vae.q(X, LABELS)
    torch.testing.assert_close(vae.encode(X, LABELS).mean, known.mean.detach())
    assert inputs.shape == (6, 4)


@pytest.mark.usefixtures("float64")
def test_scores_are_the_evidence_of_a_linear_model() -> None:
    x = torch.randn(50, 3) @ torch.randn(3, 3) + 1
    ppca = ProbabilisticPCA((3,), 2)
    ppca.fit(x)
    scores = ppca.eval().score(x)
    torch.testing.assert_close(scores.log_likelihood, ppca.log_prob(x).detach())
    w = ppca.loadings.detach()
    covariance = w @ w.mT + ppca.scale.detach() ** 2 * torch.eye(3)
    exact = MultivariateNormal(ppca.loc.detach(), covariance).log_prob(x)
    torch.testing.assert_close(scores.log_likelihood, exact)
    assert bool((scores.standard_error < 1e-6).all())


class FromPrior(DiagonalNormal):
    """The prior as q(z | x), under which importance weights are bounded."""

    def forward(self, h: Tensor) -> Any:
        loc, _ = h.unbind(-2)
        return Normal(torch.zeros_like(loc), 1.0).to_event(1)


@pytest.mark.usefixtures("float64")
def test_scores_with_an_inexact_guide_cover_the_evidence() -> None:
    torch.manual_seed(3)
    likelihood = Likelihood("Normal", scale=1.0)
    vae = VAE((3,), 2, likelihood, decoder=MLP((2,), (1, 3), hidden=())).eval()
    x = torch.randn(40, 3)
    decoder: Any = vae.model.decoder
    w, bias = decoder.layers[0].weight.detach(), decoder.layers[0].bias.detach()
    exact = MultivariateNormal(bias, w @ w.mT + torch.eye(3)).log_prob(x)
    vae.guide.posterior = FromPrior(2)
    scores = vae.score(x, num_samples=2000)
    good = scores.pareto_k < 0.5
    assert good.all()
    z = (scores.log_likelihood - exact)[good] / scores.standard_error[good]
    assert z.abs().max() < 5
    assert z.square().mean() < 2


def test_reconstructions_are_expectations() -> None:
    likelihood = Likelihood("Normal", scale=1.0, links={"loc": "exp"})
    vae = VAE((4,), 2, likelihood, decoder=MLP((2,), (1, 4), hidden=())).eval()
    with torch.no_grad():
        decoder: Any = vae.model.decoder
        decoder.layers[0].weight.mul_(3)
    q: Any = vae.q(X)
    w, bias = decoder.layers[0].weight, decoder.layers[0].bias
    # E[exp(a' z + b)] of a normal z, and its variance, in closed form.
    mean = q.mean @ w.T + bias
    variance = q.variance @ w.T.square()
    exact = (mean + variance / 2).exp().detach()
    sd = exact * (variance.exp() - 1).sqrt().detach()
    num = 20_000
    estimate = vae.reconstruct(X, num_samples=num)
    light = variance < 0.5  # where the Monte Carlo error is known well
    assert light.any()
    assert bool((((estimate - exact).abs() < 5 * sd / num**0.5) | ~light).all())
    at_centre = vae.reconstruct(X, num_samples=0)
    torch.testing.assert_close(at_centre, mean.exp().detach())
    assert bool((at_centre < exact).all())


def test_exact_reconstructions_need_no_draws() -> None:
    ppca = ProbabilisticPCA((4,), 2)
    ppca.standardise(X)
    assert torch.equal(ppca.reconstruct(X), ppca.reconstruct(X, num_samples=0))
    one = Autoencoder((4,), 2, "Normal").eval()
    assert torch.equal(one.reconstruct(X), one.reconstruct(X, num_samples=0))


def test_predictions_of_classes_and_clusters() -> None:
    vae = SemiSupervisedVAE((4,), 2, num_classes=3, likelihood="Normal").eval()
    prediction = vae.predict(X)
    torch.testing.assert_close(prediction.probabilities, vae.classify(X))
    assert torch.equal(prediction.label, vae.classify(X).argmax(-1))
    assert prediction.words == [str(each) for each in prediction.label.tolist()]
    mixture = MixtureVAE((4,), 2, 3, "Normal").eval()
    torch.testing.assert_close(
        mixture.predict(X).probabilities, mixture.component_probabilities(X).detach()
    )
    with_prior = VAE((4,), 2, "Normal", prior={"name": "mixture", "num_components": 5}).eval()
    prior: Any = with_prior.model.prior
    expected = prior.posterior(with_prior.embed(X)).probs.detach()
    torch.testing.assert_close(with_prior.predict(X).probabilities, expected)
    with pytest.raises(InputError, match="neither classes nor clusters"):
        VAE((4,), 2, "Normal").predict(X)


def test_hierarchical_codes_are_the_top_layer() -> None:
    vae = HierarchicalVAE((4,), [3, 2], "Normal", guide="top_down", hidden=[5]).eval()
    q: Any = vae.guide.evidence(X)[-1]
    torch.testing.assert_close(vae.encode(X).mean, q.mean.detach())
    torch.testing.assert_close(vae.encode(X).sd, q.stddev.detach())


# Data frames and files.


def table(num: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": draw.gamma(2.0, 3.0, num).round(3),
            "visits": draw.poisson(4, num),
            "colour": draw.choice(["blue", "red", "white"], num),
        }
    )


def model_of_table(missing: bool = True, **about: Any) -> VAE:
    frame = table()
    codes = {word: code for code, word in enumerate(["blue", "red", "white"])}
    x = torch.tensor(frame.assign(colour=frame.colour.map(codes)).to_numpy(dtype=float)).float()
    part = Split(x)
    dataset = Dataset(
        "table",
        part,
        part,
        part,
        features=tuple(frame.columns),
        categories={"colour": ("blue", "red", "white")},
    )
    blocks = {
        "size": "Gamma",
        "visits": "Poisson",
        "colour": {"family": "Categorical", "num_classes": 3},
    }
    torch.manual_seed(0)
    vae = VAE((3,), 2, Mixed(blocks), missing=missing)
    vae.about = DataDescription.of(dataset, **about)
    vae.standardise(x)
    return vae.eval()


def as_numbers(frame: pd.DataFrame) -> Tensor:
    codes = {"blue": 0, "red": 1, "white": 2}
    return torch.tensor(frame.assign(colour=frame.colour.map(codes)).to_numpy(dtype=float)).float()


SOURCES: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "tensor": lambda frame, _: as_numbers(frame),
    "array": lambda frame, _: as_numbers(frame).numpy(),
    "pandas": lambda frame, _: frame[["colour", "size", "visits"]],
    "index": lambda frame, _: frame.set_index(pd.Index(range(100, 100 + len(frame)))),
    "categorical": lambda frame, _: frame.astype({"colour": "category"}),
    "polars": lambda frame, _: pl.DataFrame({k: list(v) for k, v in frame.items()}),
    "csv": lambda frame, path: (frame.to_csv(path / "new.csv", index=False), path / "new.csv")[1],
    "str": lambda frame, path: (
        frame.to_csv(path / "new.csv", index=False),
        str(path / "new.csv"),
    )[1],
    "parquet": lambda frame, path: (
        pl.DataFrame({k: list(v) for k, v in frame.items()}).write_parquet(path / "new.parquet"),
        path / "new.parquet",
    )[1],
    "npy": lambda frame, path: (
        np.save(path / "new.npy", as_numbers(frame).numpy()),
        path / "new.npy",
    )[1],
}


@pytest.mark.parametrize("source", SOURCES)
def test_all_sources_of_data_mean_the_same(source: str, tmp_path: Path) -> None:
    vae, frame = model_of_table(), table(12)
    data = SOURCES[source](frame, tmp_path)
    expected = vae.encode(as_numbers(frame))
    torch.testing.assert_close(vae.encode(data).mean, expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        vae.score(data).log_likelihood,
        vae.score(as_numbers(frame)).log_likelihood,
        rtol=1e-5,
        atol=1e-5,
    )


WRONG: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "other columns": (
        lambda frame: frame.rename(columns={"size": "sise"}),
        "no column 'size': did you mean 'sise'",
    ),
    "more columns": (lambda frame: frame.assign(a=1, b=2), "has columns 'a', 'b', which the tr"),
    "a new word": (
        lambda frame: frame.assign(colour="mauve"),
        "column 'colour' holds 'mauve' in row 1, a word that the training data never held; known "
        "are blue, red, white",
    ),
    "words for numbers": (
        lambda frame: frame.assign(visits="many"),
        "column 'visits' holds 'many' in row 1",
    ),
    "outside the support": (lambda frame: frame.assign(visits=-1), "visits"),
    "no rows": (lambda frame: frame.iloc[:0], "has no rows"),
    "width": (lambda frame: as_numbers(frame)[:, :2], r"x has shape \(12, 2\)"),
    "dates": (lambda frame: frame.assign(size=pd.Timestamp("2020-01-01")), "holds datetime64"),
    "infinite": (lambda frame: frame.assign(size=np.inf), "infinite|inf"),
    "a long name": (lambda frame: "x" * 5000 + ".csv", "xxx.* cannot be read: File name too long"),
    "no file": (lambda frame: "nowhere.csv", "there is no file 'nowhere.csv'"),
    "a list": (lambda frame: [1.0, 2.0, 3.0], "x is .*it must be a tensor"),
}


@pytest.mark.parametrize("verb", ["encode", "score", "reconstruct", "impute", "posterior"])
@pytest.mark.parametrize("wrong", WRONG)
def test_data_that_do_not_fit_are_refused_in_one_sentence(verb: str, wrong: str) -> None:
    change, message = WRONG[wrong]
    with pytest.raises(InputError, match=message) as caught:
        getattr(model_of_table(), verb)(change(table(12)))
    assert "\n" not in str(caught.value)


def test_missing_cells_need_a_model_that_takes_them() -> None:
    frame = table(12).astype({"visits": float})
    frame.loc[3, "visits"] = np.nan
    assert model_of_table().encode(frame).mean.isfinite().all()
    with pytest.raises(InputError, match=r"missing \(NaN\).*column 'visits'"):
        model_of_table(missing=False).encode(frame)


def test_impute_fills_frames_with_cells_of_their_kind() -> None:
    vae, frame = model_of_table(), table(12).astype({"visits": float})
    frame.loc[1, "size"] = np.nan
    frame.loc[2, "visits"] = np.nan
    frame.loc[3, "colour"] = None
    filled = vae.impute(frame)
    assert frame.isna().to_numpy().sum() == 3
    assert not filled.isna().to_numpy().any()
    kept = frame.notna()
    assert filled.where(kept).equals(frame.where(kept))
    drawn = vae.posterior(frame.iloc[[1]])
    assert filled.loc[1, "size"] == pytest.approx(drawn.mean[0, 0].item(), rel=0.2)
    assert filled.loc[2, "visits"] == round(filled.loc[2, "visits"])
    assert filled.loc[3, "colour"] in ("blue", "red", "white")
    other = vae.impute(
        pl.from_dict({k: [None if v != v else v for v in c] for k, c in frame.items()})
    )
    assert isinstance(other, pl.DataFrame)
    assert other.null_count().sum_horizontal()[0] == 0
    assert other["colour"].to_list() == list(filled["colour"])
    np.testing.assert_allclose(other["size"].to_numpy(), filled["size"].to_numpy(), rtol=1e-6)
    x = as_numbers(table(12))
    x[0, 1] = math.nan
    assert isinstance(vae.impute(x.numpy()), np.ndarray)
    assert torch.equal(vae.impute(as_numbers(table(12))), as_numbers(table(12)))


def test_imputed_values_are_conditional_expectations() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 2) @ torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0]])
    x = x + 0.3 * torch.randn(500, 3)
    ppca = ProbabilisticPCA((3,), 2, missing=True)
    ppca.fit(x, "em")
    few = x[:20].clone()
    few[:, 2] = math.nan
    w, loc, sigma = ppca.loadings.detach(), ppca.loc.detach(), ppca.scale.detach()
    covariance = w @ w.mT + sigma**2 * torch.eye(3)
    gain = covariance[2, :2] @ covariance[:2, :2].inverse()
    expected = loc[2] + (few[:, :2] - loc[:2]) @ gain
    sd = (covariance[2, 2] - gain @ covariance[:2, 2]).sqrt()
    filled = ppca.eval().impute(few, num_samples=400)
    assert torch.equal(filled[:, :2], few[:, :2])
    assert bool(((filled[:, 2] - expected).abs() < 5 * sd / 400**0.5).all())


# Grey levels and classes.


def grey_model(**options: Any) -> VAE:
    x = torch.randint(0, 17, (20, 1, 4, 4), dtype=torch.uint8)
    part = Split(x)
    vae = VAE((1, 4, 4), 2, "Bernoulli").eval()
    vae.about = DataDescription.of(Dataset("grey", part, part, part, levels=16.0), **options)
    return vae


def test_grey_levels_are_binarised_as_in_training() -> None:
    vae = grey_model(binarise="dynamic")
    grey = torch.randint(0, 17, (2000, 1, 4, 4))
    rows = vae.as_rows(grey)
    assert set(rows.x.unique().tolist()) == {0.0, 1.0}
    # Each pixel is a Bernoulli draw with probability grey / 16.
    for level in (0, 4, 16):
        chosen = rows.x[grey == level]
        p = level / 16
        assert abs(chosen.mean().item() - p) <= 5 * (p * (1 - p) / len(chosen)) ** 0.5
    binary = (grey > 8).float()
    assert torch.equal(vae.as_rows(binary).x, binary)
    with pytest.raises(InputError, match="not whole; the model was trained on grey levels from 0"):
        vae.encode(grey / 16)
    with pytest.raises(InputError, match="ranges from 0 to 160"):
        vae.encode(grey * 10)


def test_whole_numbers_are_dequantised_as_in_training() -> None:
    vae = grey_model(dequantise=True)
    grey = torch.randint(0, 17, (50, 1, 4, 4))
    noise = vae.as_rows(grey).x - grey
    assert bool(((noise >= 0) & (noise < 1)).all())
    assert abs(noise.mean().item() - 0.5) < 5 * (1 / 12 / noise.numel()) ** 0.5
    with pytest.raises(InputError, match="not whole"):
        vae.as_rows(grey + 0.5)
    incomplete = grey.float()
    incomplete[0, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match="would change the entries that are there"):
        vae.impute(incomplete)


def test_data_that_are_dequantised_already_are_not_dequantised_again() -> None:
    frame = table(30)[["size", "visits"]].assign(size=lambda t: t["size"].round())
    x = torch.tensor(frame.to_numpy(dtype=float)).float()
    dataset = Dataset("t", *[Split(x)] * 3, features=("size", "visits"))
    vae = VAE((2,), 2, "Normal").eval()
    vae.standardise(x)
    vae.about = DataDescription.of(dataset, dequantise=True)
    rows = vae.as_rows(frame)
    assert column_surprise(vae, rows[:5]).isfinite().all()


def test_classes_come_from_a_column_and_are_needed_where_x_depends_on_them() -> None:
    frame = table(30)
    codes = {"blue": 0, "red": 1, "white": 2}
    x = torch.tensor(frame[["size", "visits"]].to_numpy()).float()
    part = Split(x, torch.tensor(frame.colour.map(codes).to_numpy()))
    dataset = Dataset(
        "t", part, part, part, features=("size", "visits"), classes=("blue", "red", "white")
    )
    cvae = ConditionalVAE((2,), 2, "Normal", num_classes=3)
    cvae.standardise(x, part.y)
    cvae.about = DataDescription.of(dataset, label="colour")
    cvae.eval()
    torch.testing.assert_close(cvae.encode(frame).mean, cvae.encode(x, part.y).mean)
    with pytest.raises(InputError, match=r"needs the class y of each datum.*column 'colour'"):
        cvae.encode(frame.drop(columns="colour"))
    with pytest.raises(InputError, match="needs the class y of each datum"):
        cvae.encode(frame.assign(colour=frame.colour.where(frame.index > 3, None)))
    with pytest.raises(InputError, match="holds 'mauve' in row 1, a class"):
        cvae.encode(frame.assign(colour="mauve"))
    vae = SemiSupervisedVAE((2,), 2, num_classes=3, likelihood="Normal")
    vae.about = cvae.about
    vae.eval()
    assert set(vae.predict(frame).words) <= {"blue", "red", "white"}
    # Labels in a table are not used unless given: all rows are scored by p(x).
    unlabelled = vae.score(x).log_likelihood
    torch.testing.assert_close(vae.score(frame).log_likelihood, unlabelled)
