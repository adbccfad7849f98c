"""Degraded and restored images: masks, metrics, and models with exact answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from pyrovae import load
from pyrovae.errors import InputError
from pyrovae.models.pca import ProbabilisticPCA
from pyrovae.runs import plots
from pyrovae.runs.config import RunConfig
from pyrovae.runs.directory import RunDirectory
from pyrovae.runs.prepare import arrange_data, build_model, prepare_data
from pyrovae.runs.questions.degradation import Degradation
from pyrovae.runs.questions.quality import calibration_error, psnr
from pyrovae.runs.questions.restoration import describe_doubts, restore
from pyrovae.runs.resolve import resolve_options
from pyrovae.runs.trained import open_run

QUIET = Console(quiet=True)


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 24), (0.001, 1), (0.999, 47)])
def test_the_same_number_of_pixels_is_removed_from_each_image_in_all_channels(
    fraction: float, count: int
) -> None:
    removed = Degradation("inpaint", fraction=fraction).draw_mask(torch.Size((9, 3, 6, 8)))
    assert removed.shape == (9, 3, 6, 8)
    assert (removed.flatten(2).sum(2) == count).all()
    assert (removed == removed[:, :1]).all()
    assert count == 1 or len(removed[:, 0].unique(dim=0)) > 1


@pytest.mark.parametrize(
    ("region", "rows", "columns"),
    [
        ("lower", range(3, 7), range(8)),
        ("upper", range(3), range(8)),
        ("left", range(7), range(4)),
        ("right", range(7), range(4, 8)),
        ("centre", range(1, 5), range(2, 6)),
    ],
)
def test_regions(region: Any, rows: range, columns: range) -> None:
    x = torch.rand(2, 1, 7, 8)
    y = Degradation("inpaint", region=region).remove(x)
    inside = torch.zeros(7, 8, dtype=torch.bool)
    inside[rows.start : rows.stop, columns.start : columns.stop] = True
    assert y[:, 0, inside].isnan().all()
    assert (y[:, 0, ~inside] == x[:, 0, ~inside]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "denoise", "fraction": 0.5}, "--fraction is not an option of denoise"),
        ({"task": "inpaint", "noise": 0.1}, "which has --fraction, --region"),
        ({"task": "denoise", "factor": 2}, "not an option of denoise, which has --noise"),
        ({"task": "inpaint", "fraction": 0.5, "region": "lower"}, "give one of them"),
        ({"task": "inpaint", "fraction": 1.0}, "--fraction is 1.0"),
        ({"task": "super-resolve", "noise": 0.0}, "--noise is 0.0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Degradation(**settings)


def test_psnr_of_noise_of_known_size() -> None:
    """10 log10(L^2 / s^2), the error of whose mean square is s^2 (2 / D)^1/2."""
    x = torch.rand(3, 1, 100, 100) * 255
    noise = 20 * torch.randn_like(x)
    where = torch.rand_like(x) < 0.5
    expected = 20 * np.log10(255 / 20)
    error = 10 / np.log(10) * (2 / 5000) ** 0.5
    for found in (psnr(x, x + noise, 255.0), psnr(x, x + noise, 255.0, where)):
        assert (found - expected).abs().max() < 4.5 * error
    elsewhere = psnr(x, torch.where(where, x + noise, 0.0), 255.0, where)
    torch.testing.assert_close(elsewhere, psnr(x, x + noise, 255.0, where))


def test_calibration_error_is_how_far_probabilities_are_from_frequencies() -> None:
    p = torch.rand(200_000)
    # Ten gaps of sd (1/6 x 20,000)^1/2 about zero, whose absolute values add up.
    assert calibration_error(torch.bernoulli(p), p) < 10 * 4.5 * (20_000 / 6) ** 0.5 / 200_000
    # Ones come with p^2: the gap of a bin is the mean of p - p^2, and the error that of all.
    assert calibration_error(torch.bernoulli(p**2), p) == pytest.approx(1 / 6, abs=0.006)
    assert calibration_error(torch.ones(4), torch.tensor([1.0, 1.0, 0.95, 0.05])) == pytest.approx(
        0.25
    )


def test_doubts_name_diagnostics_beyond_their_bounds() -> None:
    diagnostics = {
        "effective_samples": torch.tensor([3.0, 20.0, 9.0]),
        "pareto_k": torch.tensor([0.51, 0.49, float("nan")]),
        "r_hat": torch.tensor([1.0, 1.01, 1.05]),
        "elbo": torch.tensor([-900.0, 0.0, 900.0]),
    }
    sentences = list(describe_doubts(diagnostics))
    assert [sentence[:15] for sentence in sentences] == ["2 of 3 images h", "1 of 3 images h"]
    assert "effective" in sentences[0]
    assert "Pareto" in sentences[1]


def test_pictures_of_restorations() -> None:
    x = torch.tensor([0.0, 16.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    y = torch.where(torch.eye(4, dtype=torch.bool), torch.nan, x)
    sd = torch.arange(16.0).reshape(1, 1, 4, 4).expand(2, 1, 4, 4)
    figure = plots.restorations(x, y, x / 2, sd, (0.0, 16.0), "a title")
    shown = [axes.images[0].get_array() for axes in figure.axes[:8]]
    assert (shown[1] == 1).all()
    assert (shown[3][~np.eye(4, dtype=bool)] == 1).all()
    assert len(np.unique(shown[3][np.eye(4, dtype=bool)], axis=0)) == 1  # the colour of a gap
    assert not (shown[3][0, 0] == shown[3][0, 0, 0]).all()
    assert (shown[5] == 0.5).all()
    np.testing.assert_array_equal(shown[6], sd[0, 0])
    assert figure.axes[6].images[0].get_clim() == (0, 15)
    assert len(figure.axes) == 9  # and a bar of colours
    small = plots.restorations(
        *(t.expand(2, 3, -1, -1) for t in (x, y[..., :2, :2], x, torch.zeros_like(sd))),
        (0.0, 16.0),
        "flat",
    )
    small.canvas.draw()
    assert small.axes[2].images[0].get_array().shape == (2, 2, 3)


def run_of(path: Path, **options: Any) -> Path:
    """A run without its pictures: a fitted PCA, or a network as it starts."""
    options = {"data": "digits", **options}
    dataset = load(options["data"])
    config = resolve_options(RunConfig(**options), dataset, path, QUIET)
    dataset = arrange_data(config, dataset)
    family = build_model(config, dataset)
    family.standardise(*prepare_data(config, dataset).train.parts)
    if isinstance(family, ProbabilisticPCA):
        family.fit(dataset.train.x)
    run = RunDirectory.create(path)
    run.write_config(config)
    run.write_weights(family, {"event_shape": dataset.event_shape, "features": dataset.features})
    return path


def restored(path: Path, *arguments: Any, **settings: Any) -> tuple[Any, dict[str, Any]]:
    degradation = Degradation(*arguments)
    restore(path, degradation, num_samples=200, seed=0, console=QUIET, **settings)
    name = f"restorations-{degradation.task}"
    return np.load(path / f"{name}.npz"), json.loads((path / f"{name}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inpaint", "denoise", "super-resolve"])
def test_restorations_of_a_linear_model_are_the_exact_ones(task: Any, tmp_path: Path) -> None:
    """x ~ Normal(mu, C), C = W W' + s^2 I; y = A x + noise: E[x | y] in closed form, in units of
    the data. Each method draws 200 z, which errors of the mean are due to.
    """
    path = run_of(tmp_path / "run", model="ppca", latent_dim=3)
    family: Any = open_run(path).family
    degradation = (task, None, None, None, 2 if task == "super-resolve" else None)
    method = {"name": "refined", "posterior": "full_rank", "num_steps": 150}
    arrays, record = restored(path, *degradation, num=4, method=method)
    mu, weight = family.loc.detach().double().flatten(), family.loadings.detach().double()
    weight = weight.reshape(64, -1)
    covariance = weight @ weight.T + family.scale.detach().double() ** 2 * torch.eye(64).double()
    x, y = (torch.from_numpy(arrays[name]).double().flatten(1) for name in ("x", "y"))
    assert (x == load("digits").test.x[:4].flatten(1)).all()
    noise = {"inpaint": 0.0, "denoise": 0.3 * 16, "super-resolve": 0.05 * 16}[task]
    blocks = torch.kron(torch.eye(4), torch.ones(1, 2) / 2).double()
    for i in range(4):
        matrix = torch.eye(64).double()
        if task != "denoise":
            matrix = torch.kron(blocks, blocks) if task != "inpaint" else matrix[~y[i].isnan()]
        seen = y[i][~y[i].isnan()]
        cross = covariance @ matrix.T
        of_y = matrix @ cross + noise**2 * torch.eye(len(matrix)).double()
        exact = mu + cross @ torch.linalg.solve(of_y, seen - matrix @ mu)
        left = covariance - cross @ torch.linalg.solve(of_y, cross.T)
        sd = left.diagonal().clamp_min(0).sqrt()
        mean = torch.from_numpy(arrays["mean"][i]).double().flatten()
        # Some for the draws, and some for q, which is found by 150 steps.
        assert ((mean - exact).abs() < (4.5 / 200**0.5 + 0.1) * sd + 1e-3).all()
        drawn_sd = torch.from_numpy(arrays["sd"][i]).double().flatten()
        assert ((drawn_sd - sd).abs() < (4.5 / 400**0.5 + 0.1) * sd + 1e-3).all()
    assert record["observed"] == "x"
    assert record["range"] == 16
    where = y.isnan() if task == "inpaint" else None
    expected = psnr(x, torch.from_numpy(arrays["mean"]).double().flatten(1), 16.0, where)
    assert record["figures"]["psnr"]["mean"] == pytest.approx(expected.mean().item(), rel=1e-4)


@pytest.mark.slow
def test_binarised_runs_have_grey_levels_in_their_mean(tmp_path: Path) -> None:
    path = run_of(tmp_path / "run", likelihood="Bernoulli", hidden=(16,))
    grey = load("digits").test.x[:5].numpy() / 16
    arrays, record = restored(path, "denoise", num=5, method="amortised")
    np.testing.assert_allclose(arrays["x"], grey, rtol=1e-6)
    assert record["observed"] == "E[x|z]"
    noise = (arrays["y"] - grey).std()
    assert noise == pytest.approx(0.3, abs=4.5 * 0.3 / (2 * 320) ** 0.5)
    assert (arrays["low"] <= arrays["high"]).all()
    arrays, record = restored(path, "inpaint", num=5, method="amortised")
    assert set(np.unique(arrays["x"])) == {0, 1}
    missing = np.isnan(arrays["y"])
    assert (missing.sum((1, 2, 3)) == 32).all()
    assert (arrays["mean"] == arrays["x"])[~missing].all()
    assert set(record["figures"]) == {"log_likelihood", "psnr", "calibration_error"}
    assert -2 < record["figures"]["log_likelihood"]["mean"] < 0
    assert record["of"] == "binarised test images"


def test_an_autoencoder_is_refused(tmp_path: Path) -> None:
    path = run_of(tmp_path / "run", hidden=(4,), model="autoencoder")
    files = set(path.iterdir())
    with pytest.raises(InputError, match="which has no p"):
        restored(path, "denoise", num=2, method="amortised")
    assert set(path.iterdir()) == files


LATENTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "hierarchical": ({"model": "hierarchical"}, {"z1", "z2"}),
    "conditional": ({"model": "conditional"}, {"z"}),
    "semi_supervised": ({"model": "semi_supervised"}, {"y_unobserved", "z"}),
    "mixture": ({"model": "mixture"}, {"y", "z"}),
    "free": ({"inference": "free"}, {"z"}),
    "semi_amortised": ({"inference": "semi_amortised"}, {"z"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LATENTS)
def test_every_other_model_restores(name: str, tmp_path: Path) -> None:
    options, expected = LATENTS[name]
    path = run_of(tmp_path / "run", hidden=(8,), latent_dim=4, **options)
    arrays, _ = restored(path, "denoise", num=2, method="amortised")
    assert np.isfinite(arrays["mean"]).all()
    latents = {each for each in arrays if each.startswith("latent_")}
    assert latents == {f"latent_{each}" for each in expected}
    assert all(arrays[each].shape[:2] == (200, 2) for each in latents)
