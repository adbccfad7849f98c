"""Test images of a run, degraded and restored: pictures, arrays, and figures of how well."""

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

from ..declared import parse_declaration
from ..errors import InputError
from ..infer import Estimate
from ..inverse import METHODS, Downsample, Noise, Posterior
from . import plots
from .degradation import Degradation
from .prepare import arrange_data, load_data
from .quality import calibration_error, psnr
from .trained import Trained, open_run

__all__ = ["doubts", "restore"]

_LEVEL = 0.9
_AT_ONCE = 2**14
"""Pixels of the images in a batch, as there may be thousands of proposals for each."""

_SHOWN = 10
"""Images in the picture."""

_SIGNS = {
    "effective_samples": (10.0, False, "fewer than 10 effective samples"),
    "pareto_k": (0.7, True, "weights with a heavy tail (Pareto k above 0.7)"),
    "r_hat": (1.1, True, "chains that disagree (R-hat above 1.1)"),
    "divergences": (0.0, True, "divergent trajectories among their chains"),
}
"""Diagnostics with the bound beyond which draws are not to be trusted: of Pareto k that of Vehtari
et al. (2024), of R-hat that of Gelman et al. (2013).
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
) -> None:
    """Degrade test images of a run and restore them by p(x | y): ``restorations-TASK.npz`` (x, y,
    mean, sd, low, high, and each latent as latent_NAME), ``.json`` (figures and protocol) and
    ``.png`` in the run directory.

    Images are in units of the data. Of a run that was trained on binarised ones, pixels are removed
    from the binarised image, but noise and block means are of the grey levels as shares of white,
    which its model has as E[x | z]. They are of E[x | z], too, where p(y | z) is not known for x
    itself.

    Arguments:
        path: run directory.
        degradation: what is done to the images.
        num: number of test images.
        method: how p(z | y) is drawn from, by name or settings; see
            :data:`pyrovae.inverse.METHODS`.
        num_samples: draws from p(x | y) of each image.
        seed: of the degradation and of the draws.
        console: to print to.

    Raises:
        InputError: if the run is not of complete images, or the method or the operator cannot serve
            its model; before any work.
    """
    parse_declaration("method", METHODS, method)
    trained = open_run(path)
    _refuse_others(trained)
    x, limits = _originals(trained, degradation, num)
    of_grey = trained.config.binarise != "none"
    operator = _operator(trained, degradation, limits[1] - limits[0], x[:1], of_grey)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        y = operator.observe(x) if operator else degradation.remove(x)
    parts = (part[: len(x)].to(trained.device) for part in trained.data.test.parts[1:])
    result = trained.family.posterior(
        y.to(trained.device),
        *parts,
        operator=operator,
        method=method,
        num_samples=num_samples,
        batch_size=min(100, max(1, _AT_ONCE // x[0].numel())),
        seed=seed,
    )
    low, high = result.interval(_LEVEL)
    arrays = {"x": x, "y": y, "mean": result.mean, "sd": result.sd, "low": low, "high": high}
    arrays |= {f"latent_{name}": values for name, values in result.latents.items()}
    found = {name: values.cpu() for name, values in arrays.items()}
    figures = _figures(degradation, result, found, limits[1] - limits[0])
    record = {
        "task": degradation.task,
        "degradation": str(degradation),
        "of": "binarised test images" if of_grey and not operator else "test images",
        "observed": "E[x|z]" if operator and operator.of == "mean" else "x",
        "figures": {
            name: each if isinstance(each, float) else _of(each) for name, each in figures.items()
        },
        "diagnostics": {name: _summary(values) for name, values in result.diagnostics.items()},
        "method": method if isinstance(method, str) else dict(method),
        "num_samples": num_samples,
        "num_data": len(x),
        "level": _LEVEL,
        "seed": seed,
        "range": limits[1] - limits[0],
        "likelihood": str(trained.family.likelihood.likelihood),
        "data": trained.data.name,
    }
    name = f"restorations-{degradation.task}"
    trained.run.write_arrays(name, **{key: values.numpy() for key, values in found.items()})
    trained.run.write_record(name, record)
    shown = {key: found[key][:_SHOWN] for key in ("x", "y", "mean", "sd")}
    title = f"{trained.data.name}: {degradation}"
    figure = plots.restorations(**shown, limits=limits, title=title)
    trained.run.write_figure(name, figure)
    _print(record, console)
    for sentence in doubts(result.diagnostics):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"{len(x):,} restorations in {path / name}.npz, .json and .png", soft_wrap=True)


def doubts(diagnostics: Mapping[str, Float[Tensor, "data"]]) -> Iterator[str]:
    """In a sentence each, which diagnostics say that draws are not those of p(z | y).

    Arguments:
        diagnostics: as :class:`~pyrovae.inverse.Posterior` has them.
    """
    for name, (bound, is_above, words) in _SIGNS.items():
        if name in diagnostics:
            values = diagnostics[name]
            num_bad = int((values > bound if is_above else values < bound).sum())
            if num_bad:
                yield f"{num_bad:,} of {len(values):,} images have {words}"


def _refuse_others(trained: Trained) -> None:
    """Runs that are not of complete images."""
    if not plots.is_image(trained.family.event_shape):
        raise InputError(
            f"{trained.run.path} is a run of data of shape {trained.family.event_shape}, which are "
            "no images (channels, height, width); fill the missing cells of a table with "
            "pyrovae impute"
        )
    if not trained.family.has_prior:
        raise InputError(
            f"{trained.run.path} is an autoencoder, which has no p(z) to restore images by; train "
            "a vae"
        )
    if trained.data.has_missing:
        raise InputError(
            f"the images of {trained.data.name} have missing (NaN) pixels themselves, so that "
            "restorations could not be compared with them; give a run of complete images"
        )


def _originals(
    trained: Trained, degradation: Degradation, num: int
) -> tuple[Float[Tensor, "num channels height width"], plots.Limits]:
    """Test images in the units in which they are observed, and the values of black and white."""
    data = trained.data
    real = torch.get_default_dtype()
    if trained.config.binarise != "none" and degradation.task != "inpaint":
        grey = arrange_data(trained.config, load_data(trained.config)).test.x[:num]
        return grey.to(real) / (data.levels or 1.0), (0.0, 1.0)
    x = data.test.x[:num].to(real)
    if trained.config.binarise != "none":
        return x, (0.0, 1.0)
    if data.levels is not None:
        return x, (0.0, data.levels)
    return x, (data.train.x.min().item(), data.train.x.max().item())


def _operator(
    trained: Trained,
    degradation: Degradation,
    range_: float,
    x: Float[Tensor, "1 channels height width"],
    of_grey: bool,
) -> Noise | Downsample | None:
    """How y comes from x: of x itself where p(y | z) is known for it; None for removed pixels."""
    if degradation.task == "inpaint":
        return None
    assert degradation.noise is not None
    noise = degradation.noise * range_
    make: Callable[..., Noise | Downsample] = partial(Noise, noise)
    if degradation.factor is not None:
        make = partial(Downsample, degradation.factor, noise)
    if of_grey:
        return make(of="mean")
    of_datum = make(of="datum")
    y = of_datum.apply(x)
    likelihood = trained.family.likelihood
    device = trained.device
    p = likelihood(torch.zeros(1, *likelihood.in_shape, device=device))
    try:
        of_datum.seen(p, y.to(device), torch.full((1,), noise, device=device), x.to(device))
    except InputError:
        return make(of="mean")
    return of_datum


def _figures(
    degradation: Degradation, result: Posterior, found: Mapping[str, Tensor], range_: float
) -> dict[str, Estimate | float]:
    """How well, over images, by the names under which they are kept."""
    x, y, mean = (found[name] for name in ("x", "y", "mean"))
    covered = (found["low"] <= x) & (x <= found["high"])
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
    figures: dict[str, Estimate | float] = {
        "log_likelihood": Estimate.of(log_prob),
        "psnr": Estimate.of(psnr(x, mean, range_, missing)),
    }
    if bool(((x == 0) | (x == 1)).all()):
        return figures | {"calibration_error": calibration_error(x[missing], mean[missing])}
    of_each = (covered & missing).flatten(1).sum(1) / num_missing
    return figures | {"coverage": Estimate.of(of_each)}


def _of(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "standard_error": estimate.standard_error}


def _summary(values: Float[Tensor, "data"]) -> dict[str, float | None]:
    """Of the numbers that are finite; None where none is."""
    finite = values[values.isfinite()].double()
    if not len(finite):
        return dict.fromkeys(("median", "smallest", "largest"))
    return {
        "median": finite.median().item(),
        "smallest": finite.min().item(),
        "largest": finite.max().item(),
    }


def _print(record: Mapping[str, Any], console: Console) -> None:
    """The figures as a table, with their protocol beneath."""
    labels = {
        "psnr_observed": "PSNR of the observation, dB",
        "psnr": "PSNR of E[x|y], dB",
        "log_likelihood": "log p(x_missing|y), nats a missing pixel",
        "coverage": f"share of pixels in their {_LEVEL:.0%} interval",
        "calibration_error": "calibration error of P(x=1|y)",
    }
    if record["task"] == "inpaint":
        labels["psnr"] = "PSNR of missing pixels, dB"
    if record["observed"] != "x":
        labels["coverage"] += " of E[x|z]"
    table = Table(title="Test images restored", title_justify="left")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("± s.e.", justify="right")
    for name, each in record["figures"].items():
        pair = (each, None) if isinstance(each, float) else each.values()
        form = ".2f" if "psnr" in name else ".4f"
        table.add_row(
            Text(labels[name]), *("" if value is None else format(value, form) for value in pair)
        )
    console.print(table)
    console.print(
        f"{record['num_data']:,} {record['of']} of {record['data']}, {record['degradation']}; "
        f"{record['likelihood']}, observed: {record['observed']}; "
        f"method {_said(record['method'])}, {record['num_samples']:,} draws an image",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _said(method: str | dict[str, Any]) -> str:
    return method if isinstance(method, str) else json.dumps(method)
