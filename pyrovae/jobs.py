"""What the command line can be asked to do, from a configuration or a run directory."""

from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from . import plots
from .checkpoint import RunDirectory
from .config import RunConfig
from .data import Batches, Dataset
from .device import find_device
from .errors import InputError
from .evaluation import evaluate_annealed, evaluate_elbo, evaluate_log_likelihood
from .history import History
from .infer import objective_of
from .likelihoods import Likelihood, Mixed
from .models.base import LatentVariableModel
from .models.catalogue import check_declared
from .models.pca import ProbabilisticPCA
from .pictures import picture, picture_reconstructions, picture_samples
from .prepare import (
    INFER,
    arrange,
    build,
    check,
    load_data,
    prepare,
    resolve,
    settle,
    training_batches,
)
from .report import print_comparison
from .train import fit
from .trained import Trained, in_chunks, in_order, open_run

__all__ = ["compare", "evaluate", "reconstruct", "sample", "train"]


def train(config: RunConfig, console: Console) -> Path:
    """Train a model, evaluate it on test data, and leave numbers and pictures in a run directory.

    Returns:
        The run directory.

    Raises:
        InputError: if the configuration, the data or the directory cannot be used; before training.
        FloatingPointError: if the loss becomes infinite or NaN.
    """
    if config.likelihood not in (None, INFER):
        Likelihood.of(config.likelihood)
    if config.objective is not None:
        objective_of(config.objective)
    check_declared(
        config.model, prior=config.prior, posterior=config.posterior, inference=config.inference
    )
    device = find_device(config.device)
    path = config.output or Path("runs") / _run_name(config)
    RunDirectory.refuse_used(path)
    dataset = load_data(config)
    config = resolve(config, dataset, path, console)
    dataset = arrange(config, dataset)
    torch.manual_seed(config.seed)
    prepared = prepare(config, dataset)
    family = build(config, dataset).to(device)
    check(family, prepared)
    family.standardise(*(part.to(device) for part in prepared.train.parts))
    run = RunDirectory.create(path)
    _announce(config, dataset, family, console)
    trained = Trained(run, config, prepared, family, device)
    if isinstance(family, ProbabilisticPCA):
        method = "em" if config.missing else "exact"
        family.fit(prepared.train.x.to(device), method)
        _keep(trained)
        console.print("fitted by EM" if config.missing else "fitted in closed form")
    else:
        batches = training_batches(config, dataset, prepared, device)
        _train(trained, settle(config, dataset).objective or "elbo", batches, console)
    family.eval()
    evaluate_elbo(trained, console)
    picture(trained)
    pictures = ", ".join(sorted(picture.name for picture in path.glob("*.png")))
    console.print(f"pictures in {path}: {pictures}", soft_wrap=True)
    return path


def _train(
    trained: Trained, objective: str | dict[str, Any], batches: Batches, console: Console
) -> None:
    """Train by SVI, keeping each epoch."""
    config, family = trained.config, trained.family

    def keep(history: History) -> None:
        _keep(trained)
        trained.run.write_metrics(history.rows())

    history = fit(
        family.model,
        family.guide,
        batches,
        validation=in_order(trained.data.validation, trained.device),
        epochs=config.epochs,
        lr=config.lr,
        schedule=config.schedule,
        objective=objective,
        clip_norm=config.clip_norm,
        compile=config.compile,
        patience=config.patience,
        progress=True,
        on_epoch=keep,
    )
    keep(history)
    seconds = sum(history["seconds"])
    console.print(
        f"trained {len(history.epochs)} epochs in {seconds:.1f} s"
        + (f"; stopped early, kept epoch {history.best.epoch}" if history.stopped_early else "")
    )
    trained.run.write_figure("training", plots.training_curves(history.rows()))


def _keep(trained: Trained) -> None:
    """Write what is needed to open the run again."""
    data = trained.data
    trained.run.write_config(trained.config)
    trained.run.write_weights(
        trained.family, {"event_shape": data.event_shape, "features": data.features}
    )


def sample(path: Path, num: int, seed: int, console: Console) -> None:
    """Draw from a trained model: ``samples.npz`` (draws x, means) and ``samples.png``."""
    trained = open_run(path)
    torch.manual_seed(seed)
    z, drawn, means = trained.draw(num)
    trained.run.write_arrays("samples", x=drawn.numpy(), mean=means.numpy(), z=z.numpy())
    picture_samples(trained, drawn, means)
    console.print(
        f"{num:,} samples in {path / 'samples.npz'}, {path / 'samples.png'}", soft_wrap=True
    )


def reconstruct(path: Path, num: int, console: Console) -> None:
    """Reconstruct test data: ``reconstructions.npz`` (x, mean, z) and ``reconstructions.png``."""
    trained = open_run(path)
    family, parts = trained.family, tuple(part[:num] for part in trained.data.test.parts)
    x = parts[0].float()
    z = in_chunks(family.embed, *parts, device=trained.device)
    mean = in_chunks(family.reconstruct, *parts, device=trained.device)
    trained.run.write_arrays("reconstructions", x=x.numpy(), mean=mean.numpy(), z=z.numpy())
    picture_reconstructions(trained)
    console.print(
        f"{len(x):,} reconstructions in {path / 'reconstructions.npz'}, "
        f"{path / 'reconstructions.png'}",
        soft_wrap=True,
    )


def evaluate(
    path: Path, num_particles: int | None, num_samples: int | None, ais: bool, console: Console
) -> None:
    """The test ELBO of a trained model; and log p(x), by num_samples samples and by annealing."""
    trained = open_run(path)
    if num_particles is not None:
        trained.config = trained.config.model_copy(update={"num_particles": num_particles})
    evaluate_elbo(trained, console)
    estimate = None
    if num_samples is not None:
        estimate = evaluate_log_likelihood(trained, num_samples, console)
    if ais:
        evaluate_annealed(trained, estimate, console)


def compare(config: RunConfig, likelihoods: list[Any], console: Console) -> Path:
    """Train under each likelihood, all else alike, and put the test figures in a fair table.

    Figures are ranked only among those that measure the same thing: a density in the units of
    the data, a probability mass of the values, or one of binarised pixels.

    Returns:
        The directory that holds a run directory for each likelihood.

    Raises:
        InputError: if a likelihood or the data cannot be used; before any training.
    """
    if len(likelihoods) < 2:
        raise InputError(f"compare takes two likelihoods or more; got {len(likelihoods)}")
    declared = [Likelihood.of(spec) for spec in likelihoods]
    names = [_directory_name(likelihood, i) for i, likelihood in enumerate(declared)]
    parent = config.output or Path("runs") / f"compare-{_run_name(config)}"
    RunDirectory.refuse_used(parent)
    shape = load_data(config).event_shape if config.dequantise else None
    configs = []
    for likelihood, name in zip(declared, names, strict=True):
        is_density = (
            shape is not None
            and isinstance(likelihood, Likelihood)
            and not likelihood.build(shape).is_discrete
        )
        changes = {
            "likelihood": likelihood.to_dict(),
            "output": parent / name,
            "dequantise": is_density,
        }
        each = config.model_copy(update=changes)
        dataset = load_data(each)
        settled = resolve(each, dataset, parent / name, console)
        dataset = arrange(settled, dataset)
        check(build(settled, dataset), prepare(settled, dataset))
        configs.append(each)
    records = {}
    for name, each in zip(names, configs, strict=True):
        console.rule(name)
        records[name] = RunDirectory.open(train(each, console)).read_evaluation()
    print_comparison(records, console)
    x = dataset.test.x
    whole = bool(((x == x.round()) | x.isnan()).all())
    if whole and not config.dequantise and len({r["kind"] for r in records.values()}) > 1:
        console.print("the data are whole numbers: with --dequantise, densities bound their mass")
    figure = plots.gallery([parent / name / "reconstructions.png" for name in names], names)
    RunDirectory(parent).write_figure("comparison", figure)
    console.print(f"pictures side by side in {parent / 'comparison.png'}", soft_wrap=True)
    return parent


def _directory_name(likelihood: Likelihood | Mixed, number: int) -> str:
    family = "Mixed" if isinstance(likelihood, Mixed) else likelihood.family.name
    return f"{number + 1}-{family}"


def _announce(
    config: RunConfig, dataset: Dataset, family: LatentVariableModel, console: Console
) -> None:
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in dataset.splits.items())
    console.print(f"{dataset.name}: {sizes} data of shape {dataset.event_shape}", highlight=False)
    binarised = "" if config.binarise == "none" else f", {config.binarise} binarisation"
    parameters = sum(p.numel() for p in family.parameters())
    declared = {part: getattr(config, part) for part in ("prior", "posterior", "inference")}
    said = [f"{part} {_said(of)}" for part, of in declared.items() if of not in (None, "amortised")]
    console.print(
        f"{', '.join([_said(config.model), *said])}; {family.likelihood.likelihood}{binarised}; "
        f"latent_dim {config.latent_dim}, {config.network}, {parameters:,} parameters",
        highlight=False,
        soft_wrap=True,
    )


def _said(declared: str | dict[str, Any]) -> str:
    """A declaration in words: the name, and the settings in brackets."""
    if isinstance(declared, str):
        return declared
    settings = [f"{key} {value}" for key, value in declared.items() if key != "name"]
    return f"{declared['name']} ({', '.join(settings)})" if settings else str(declared["name"])


def _run_name(config: RunConfig) -> str:
    return f"{Path(config.data).stem}-{datetime.now():%Y%m%d-%H%M%S}"
