"""What the commands do, given a configuration or a run directory."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..runs import plots
from ..runs.config import RunConfig
from ..runs.directory import RunDirectory
from ..runs.evaluation import evaluate_annealed, evaluate_elbo, evaluate_log_likelihood
from ..runs.pictures import draw_reconstructions, draw_samples
from ..runs.prepare import arrange_data, build_model, check_data, load_data, prepare_data
from ..runs.report import print_comparison
from ..runs.resolve import resolve_options
from ..runs.train import run_name, train
from ..runs.trained import apply_in_chunks, open_run, refuse_non_finite

__all__ = ["compare", "evaluate", "reconstruct", "sample"]


def sample(path: Path, num: int, seed: int, device: str | None, console: Console) -> None:
    """Draw from a trained model: ``samples.npz`` (draws x, means, z) and ``samples.png``."""
    trained = open_run(path, device)
    torch.manual_seed(seed)
    with refuse_non_finite(path):
        z, drawn, means = trained.draw(num)
    trained.run.write_arrays("samples", x=drawn.numpy(), mean=means.numpy(), z=z.numpy())
    draw_samples(trained, drawn, means)
    console.print(
        f"wrote {num:,} samples to {path / 'samples.npz'} and {path / 'samples.png'}",
        soft_wrap=True,
    )


def reconstruct(path: Path, num: int, device: str | None, console: Console) -> None:
    """Reconstruct test data: ``reconstructions.npz`` (x, mean, z) and ``reconstructions.png``."""
    trained = open_run(path, device)
    family, parts = trained.family, tuple(part[:num] for part in trained.data.test.parts)
    x = parts[0].float()
    with refuse_non_finite(path):
        z = apply_in_chunks(family.embed, *parts, device=trained.device)
        mean = apply_in_chunks(family.reconstruct, *parts, device=trained.device)
    trained.run.write_arrays("reconstructions", x=x.numpy(), mean=mean.numpy(), z=z.numpy())
    draw_reconstructions(trained)
    console.print(
        f"wrote {len(x):,} reconstructions to {path / 'reconstructions.npz'} and "
        f"{path / 'reconstructions.png'}",
        soft_wrap=True,
    )


def evaluate(
    path: Path,
    num_particles: int | None,
    num_samples: int | None,
    ais: bool,
    device: str | None,
    console: Console,
) -> None:
    """Evaluate the test ELBO, and log p(x) by importance sampling and by AIS if asked for.

    Arguments:
        path: run directory.
        num_particles: samples of z per datum in the ELBO; those of the run if None.
        num_samples: samples of z per datum in importance sampling, which is left out if None.
        ais: whether to run annealed importance sampling.
        device: where to compute; None for that of the training.
        console: to print to.
    """
    trained = open_run(path, device)
    if num_particles is not None:
        trained.config = trained.config.model_copy(update={"num_particles": num_particles})
    evaluate_elbo(trained, console)
    estimate = None
    if num_samples is not None:
        estimate = evaluate_log_likelihood(trained, num_samples, console)
    if ais:
        evaluate_annealed(trained, estimate, console)


def compare(config: RunConfig, likelihoods: list[Any], console: Console) -> Path:
    """Train one model per likelihood with the same options, and print a table of test ELBOs.

    Runs are ranked only among those whose ELBOs bound the same quantity: a density in the units of
    the data, a probability mass of the values, or a probability mass of binarised pixels.

    Returns:
        The directory that holds a run directory for each likelihood.

    Raises:
        InputError: before any training, if a likelihood or the data cannot be used.
    """
    if len(likelihoods) < 2:
        raise InputError(f"compare needs two or more likelihoods; got {len(likelihoods)}")
    declared = [Likelihood.of(spec) for spec in likelihoods]
    names = [_directory_name(likelihood, i) for i, likelihood in enumerate(declared)]
    parent = config.output or Path("runs") / f"compare-{run_name(config)}"
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
        resolved = resolve_options(each, dataset, parent / name, console)
        dataset = arrange_data(resolved, dataset)
        check_data(build_model(resolved, dataset), prepare_data(resolved, dataset))
        configs.append(each)
    records = {}
    for name, each in zip(names, configs, strict=True):
        console.rule(name)
        records[name] = RunDirectory.open(train(each, console)).read_evaluation()
    print_comparison(records, console)
    x = dataset.test.x
    is_whole = bool(((x == x.round()) | x.isnan()).all())
    if is_whole and not config.dequantise and len({r["kind"] for r in records.values()}) > 1:
        console.print(
            "The data are whole numbers. With --dequantise, densities give bounds on probability "
            "mass, which you can compare with the others.",
            soft_wrap=True,
        )
    figure = plots.gallery([parent / name / "reconstructions.png" for name in names], names)
    RunDirectory(parent).write_figure("comparison", figure)
    console.print(
        f"wrote the reconstructions of all runs to {parent / 'comparison.png'}", soft_wrap=True
    )
    return parent


def _directory_name(likelihood: Likelihood | Mixed, number: int) -> str:
    family = "Mixed" if isinstance(likelihood, Mixed) else likelihood.family.name
    return f"{number + 1}-{family}"
