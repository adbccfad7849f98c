"""Degrade test images of a run and restore them; write pictures, arrays and quality metrics."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ...data.rows import Rows
from ...declared import parse_declaration
from ...errors import InputError
from ...infer import Estimate
from ...infer.estimators.pareto import MAX_PARETO_K
from ...inverse import METHODS, Downsample, Noise, Posterior
from .. import plots
from ..directory import RunDirectory
from ..prepare import arrange_data, load_data
from ..trained import Trained, open_run
from .degradation import Degradation
from .quality import calibration_error, psnr

__all__ = ["describe_doubts", "restore"]

_LEVEL = 0.9
_BATCH_PIXELS = 2**14
"""Number of pixels in a batch, which is low because an image may have thousands of proposals."""

_NUM_SHOWN = 10
"""Number of images in the picture."""

_DIAGNOSTICS = {
    "effective_samples": (10.0, False, "fewer than 10 effective samples"),
    "pareto_k": (
        MAX_PARETO_K,
        True,
        f"heavy-tailed importance weights (Pareto k above {MAX_PARETO_K})",
    ),
    "r_hat": (1.1, True, "chains that disagree (R-hat above 1.1)"),
    "divergences": (0.0, True, "divergent trajectories in their chains"),
}
"""For each diagnostic: a bound, whether values above it (else below it) make draws unreliable, and
words for this. The bounds of Pareto k and R-hat are from Vehtari et al. (2024) and Gelman et al.
(2013).
"""


def restore(
    path: Path,
    degradation: Degradation,
    *,
    num: int,
    method: str | Mapping[str, Any],
    num_samples: int,
    seed: int,
    console: Console,
    device: str | None = None,
    data: str | None = None,
    output: Path | None = None,
) -> None:
    """Degrade images and restore them by p(x | y).

    Writes to the run directory, or to another folder: ``restorations-TASK.npz`` (x, y, mean, sd,
    low, high, and each latent as latent_NAME), ``.json`` (metrics and protocol) and ``.png``.

    Images are in units of the data. If the run was trained on binarised images, pixels are removed
    from the binarised images, but noise and block means apply to the grey levels as shares of
    white, which the model predicts as E[x | z]. They also apply to E[x | z] if p(y | z) has no
    closed form for x itself.

    Arguments:
        path: run directory.
        degradation: how to degrade the images.
        num: number of test images.
        method: how to sample from p(z | y), by name or settings; see
            :data:`pyrovae.inverse.METHODS`.
        num_samples: number of draws from p(x | y) for each image.
        seed: seed of the degradation and of the draws.
        console: to print to.
        device: where to compute; None for that of the training.
        data: file of the images; None for the test images of the run.
        output: the folder to write to; None for the run directory.

    Raises:
        InputError: before any work, if the data are not complete images, or its model
            does not support the method or the degradation.
    """
    parse_declaration("method", METHODS, method)
    trained = open_run(path, device)
    trained.use(data)
    _check_supported(trained)
    if output is not None:
        RunDirectory.refuse_used(output)
    x, limits = _load_originals(trained, degradation, num)
    is_binarised = trained.config.binarise != "none"
    operator = _choose_operator(trained, degradation, limits[1] - limits[0], x[:1], is_binarised)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        y = operator.observe(x) if operator else degradation.remove(x)
    parts = (part[: len(x)].to(trained.device) for part in trained.test.parts[1:])
    observed: Tensor | Rows = y.to(trained.device)
    if operator is None:  # images as the model sees them, without some of their pixels
        observed = Rows("the images", y)
    result = trained.family.posterior(
        observed,
        *parts,
        operator=operator,
        method=method,
        num_samples=num_samples,
        batch_size=min(100, max(1, _BATCH_PIXELS // x[0].numel())),
        seed=seed,
    )
    low, high = result.interval(_LEVEL)
    arrays = {"x": x, "y": y, "mean": result.mean, "sd": result.sd, "low": low, "high": high}
    arrays |= {f"latent_{name}": values for name, values in result.latents.items()}
    arrays = {name: values.cpu() for name, values in arrays.items()}
    metrics = _compute_metrics(degradation, result, arrays, limits[1] - limits[0])
    record = {
        "task": degradation.task,
        "degradation": str(degradation),
        "of": "binarised test images" if is_binarised and not operator else "test images",
        "observed": "E[x|z]" if operator and operator.of == "mean" else "x",
        "figures": {
            name: each if isinstance(each, float) else _as_dict(each)
            for name, each in metrics.items()
        },
        "diagnostics": {name: _summarise(values) for name, values in result.diagnostics.items()},
        "method": method if isinstance(method, str) else dict(method),
        "num_samples": num_samples,
        "num_data": len(x),
        "level": _LEVEL,
        "seed": seed,
        "range": limits[1] - limits[0],
        "likelihood": str(trained.family.likelihood.likelihood),
        "data": trained.test_name,
    }
    name = f"restorations-{degradation.task}"
    folder = trained.run if output is None else RunDirectory.create(output)
    folder.write_arrays(name, **{key: values.numpy() for key, values in arrays.items()})
    folder.write_record(name, record)
    shown = {key: arrays[key][:_NUM_SHOWN] for key in ("x", "y", "mean", "sd")}
    title = f"{trained.test_name}: {degradation}"
    figure = plots.restorations(**shown, limits=limits, title=title)
    folder.write_figure(name, figure)
    _print(record, console)
    for sentence in describe_doubts(result.diagnostics):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(
        f"wrote {len(x):,} restorations to {folder.path / name}.npz, .json and .png", soft_wrap=True
    )


def describe_doubts(diagnostics: Mapping[str, Float[Tensor, "data"]]) -> Iterator[str]:
    """Describe each diagnostic that shows unreliable draws from p(z | y), in a sentence each.

    Arguments:
        diagnostics: by name, as in :class:`~pyrovae.inverse.Posterior`.
    """
    for name, (bound, is_above, words) in _DIAGNOSTICS.items():
        if name in diagnostics:
            values = diagnostics[name]
            num_bad = int((values > bound if is_above else values < bound).sum())
            if num_bad:
                yield f"{num_bad:,} of {len(values):,} images have {words}"


def _check_supported(trained: Trained) -> None:
    """Refuse runs without complete images, or without a prior."""
    if not plots.is_image(trained.family.event_shape):
        raise InputError(
            f"the data of {trained.run.path} have shape {trained.family.event_shape} and are not "
            "images (1 or 3 channels, height, width); fill the missing cells of a table with "
            "pyrovae impute"
        )
    if not trained.family.has_prior:
        raise InputError(
            f"{trained.run.path} is an autoencoder, which has no p(z) to restore images with; "
            "train a vae instead"
        )
    if bool(trained.test.x.isnan().any()):
        raise InputError(
            f"the images of {trained.test_name} have missing (NaN) pixels, so restorations cannot "
            "be compared with them; use a run with complete images"
        )


def _load_originals(
    trained: Trained, degradation: Degradation, num: int
) -> tuple[Float[Tensor, "num channels height width"], plots.Limits]:
    """Return test images in the units of the observations, and the values of black and white."""
    about, real = trained.about, torch.get_default_dtype()
    if trained.config.binarise != "none" and degradation.task != "inpaint":
        if trained.rows is not None and trained.rows.as_read is not None:
            grey = trained.rows.as_read[:num]
        else:
            grey = arrange_data(trained.config, load_data(trained.config)).test.x[:num]
        return grey.to(real) / (about.levels or 1.0), (0.0, 1.0)
    x = trained.test.x[:num].to(real)
    if trained.config.binarise != "none":
        return x, (0.0, 1.0)
    if about.levels is not None:
        return x, (0.0, about.levels)
    return x, about.limits or (0.0, 1.0)


def _choose_operator(
    trained: Trained,
    degradation: Degradation,
    range_: float,
    x: Float[Tensor, "1 channels height width"],
    is_binarised: bool,
) -> Noise | Downsample | None:
    """Return the operator from x to y; None for removed pixels.

    It acts on x itself if p(y | z) has a closed form then, and on E[x | z] otherwise.
    """
    if degradation.task == "inpaint":
        return None
    assert degradation.noise is not None
    noise = degradation.noise * range_
    make: Callable[..., Noise | Downsample] = partial(Noise, noise)
    if degradation.factor is not None:
        make = partial(Downsample, degradation.factor, noise)
    if is_binarised:
        return make(of="mean")
    on_datum = make(of="datum")
    y = on_datum.apply(x)
    likelihood = trained.family.likelihood
    device = trained.device
    p = likelihood(torch.zeros(1, *likelihood.in_shape, device=device))
    try:
        on_datum.seen(p, y.to(device), torch.full((1,), noise, device=device), x.to(device))
    except InputError:
        return make(of="mean")
    return on_datum


def _compute_metrics(
    degradation: Degradation, result: Posterior, arrays: Mapping[str, Tensor], range_: float
) -> dict[str, Estimate | float]:
    """Compute quality metrics over images, by their names in the record."""
    x, y, mean = (arrays[name] for name in ("x", "y", "mean"))
    covered = (arrays["low"] <= x) & (x <= arrays["high"])
    if degradation.task != "inpaint":
        repeated = y.repeat_interleave(x.shape[-2] // y.shape[-2], -2)
        repeated = repeated.repeat_interleave(x.shape[-1] // y.shape[-1], -1)
        return {
            "psnr_observed": Estimate.of(psnr(x, repeated, range_)),
            "psnr": Estimate.of(psnr(x, mean, range_)),
            "coverage": Estimate.of(covered.flatten(1).double().mean(1)),
        }
    missing = y.isnan()
    num_missing = missing.flatten(1).sum(1)
    log_prob = result.log_prob(x.to(result.mean.device)).cpu() / num_missing
    metrics: dict[str, Estimate | float] = {
        "log_likelihood": Estimate.of(log_prob),
        "psnr": Estimate.of(psnr(x, mean, range_, missing)),
    }
    if bool(((x == 0) | (x == 1)).all()):
        return metrics | {"calibration_error": calibration_error(x[missing], mean[missing])}
    share = (covered & missing).flatten(1).sum(1) / num_missing
    return metrics | {"coverage": Estimate.of(share)}


def _as_dict(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "standard_error": estimate.standard_error}


def _summarise(values: Float[Tensor, "data"]) -> dict[str, float | None]:
    """Summarise the finite values; None if there are none."""
    finite = values[values.isfinite()].double()
    if not len(finite):
        return dict.fromkeys(("median", "smallest", "largest"))
    return {
        "median": finite.median().item(),
        "smallest": finite.min().item(),
        "largest": finite.max().item(),
    }


def _print(record: Mapping[str, Any], console: Console) -> None:
    """Print the metrics as a table, with the protocol below it."""
    labels = {
        "psnr_observed": "PSNR of the observation (dB)",
        "psnr": "PSNR of E[x|y] (dB)",
        "log_likelihood": "log p(x_missing|y), nats per missing pixel",
        "coverage": f"share of pixels in their {_LEVEL:.0%} interval",
        "calibration_error": "calibration error of P(x=1|y)",
    }
    if record["task"] == "inpaint":
        labels["psnr"] = "PSNR of missing pixels (dB)"
    if record["observed"] != "x":
        labels["coverage"] += " of E[x|z]"
    table = Table(title="Restored test images", title_justify="left")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("standard error", justify="right")
    for name, each in record["figures"].items():
        pair = (each, None) if isinstance(each, float) else each.values()
        form = ".2f" if "psnr" in name else ".4f"
        table.add_row(
            Text(labels[name]), *("" if value is None else format(value, form) for value in pair)
        )
    console.print(table)
    console.print(
        f"{record['num_data']:,} {record['of']} of {record['data']}, {record['degradation']}; "
        f"{record['likelihood']}, degraded: {record['observed']}; "
        f"method {_describe_method(record['method'])}, {record['num_samples']:,} draws per image",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _describe_method(method: str | dict[str, Any]) -> str:
    return method if isinstance(method, str) else json.dumps(method)
