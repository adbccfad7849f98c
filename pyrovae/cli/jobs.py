"""What the command line can be asked to do, from a configuration or a run directory."""

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
from ..runs.pictures import picture_reconstructions, picture_samples
from ..runs.prepare import arrange_data, build_model, check_data, load_data, prepare_data
from ..runs.report import print_comparison
from ..runs.resolve import resolve_options
from ..runs.train import run_name, train
from ..runs.trained import finite, in_chunks, open_run

__all__ = ["compare", "evaluate", "reconstruct", "sample"]


def sample(path: Path, num: int, seed: int, console: Console) -> None:
    """Draw from a trained model: ``samples.npz`` (draws x, means) and ``samples.png``."""
    trained = open_run(path)
    torch.manual_seed(seed)
    with finite(path):
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
    with finite(path):
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
        settled = resolve_options(each, dataset, parent / name, console)
        dataset = arrange_data(settled, dataset)
        check_data(build_model(settled, dataset), prepare_data(settled, dataset))
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
