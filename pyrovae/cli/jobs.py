"""What the commands do, given a configuration or a run directory."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..runs import answers, plots
from ..runs.config import RunConfig
from ..runs.directory import RunDirectory
from ..runs.evaluation import evaluate_annealed, evaluate_elbo, evaluate_log_likelihood
from ..runs.output import JSON, Target
from ..runs.pictures import draw_reconstructions, draw_samples
from ..runs.prepare import arrange_data, build_model, check_data, load_data, prepare_data
from ..runs.report import print_comparison
from ..runs.resolve import resolve_options
from ..runs.train import run_name, train
from ..runs.trained import Trained, open_run, refuse_non_finite

__all__ = ["answers", "ask", "compare", "evaluate", "reconstruct", "sample"]


def ask(
    path: Path,
    data: str | None,
    key: str | None,
    output: Path,
    overwrite: bool,
    device: str | None,
) -> tuple[Trained, Target]:
    """Open a run, read new data for it, and check the file that results are to go to.

    Arguments:
        path: run directory.
        data: file of new data, or the name of a data set; None for the test data of the run.
        key: column of a table that identifies each row.
        output: file to write.
        overwrite: whether to replace it if it is there.
        device: where to compute; None for that of the training.

    Raises:
        InputError: before any work, if one of these cannot be used.
    """
    target = Target(output, overwrite, *([] if data is None else [Path(data)]))
    trained = open_run(path, device)
    trained.use(data, key)
    return trained, target


def sample(
    path: Path,
    num: int,
    given: str | None,
    seed: int,
    output: Path | None,
    overwrite: bool,
    device: str | None,
    console: Console,
) -> None:
    """Draw from a trained model: ``samples.npz`` (draws x, means, z) and ``.png``, or a file.

    Arguments:
        path: run directory.
        num: number of draws.
        given: ``COLUMN=CLASS`` for draws of one class; None for all classes.
        seed: seed of the draws.
        output: file to write; None for those in the run directory.
        overwrite: whether to replace it if it is there.
        device: where to compute; None for that of the training.
        console: to print to.
    """
    target = None if output is None else Target(output, overwrite)
    trained = open_run(path, device)
    label = None if given is None else _find_class(trained, given)
    torch.manual_seed(seed)
    if target is not None:
        answers.sample(trained, target, num, label, console)
        return
    with refuse_non_finite(path):
        z, drawn, means, labels = trained.draw(num, label)
    arrays = {"x": drawn.numpy(), "mean": means.numpy(), "z": z.numpy()}
    if labels is not None:
        arrays["label"] = labels.numpy()
    trained.run.write_arrays("samples", **arrays)
    draw_samples(trained, drawn, means)
    console.print(
        f"wrote {num:,} samples to {path / 'samples.npz'} and {path / 'samples.png'}",
        soft_wrap=True,
    )


def _find_class(trained: Trained, given: str) -> int:
    """The number of the class in ``COLUMN=CLASS``."""
    column, equals, word = given.partition("=")
    name = trained.about.label or "label"
    if not equals or column not in (name, "label"):
        raise InputError(f"--given is {given!r}; give the class as {name}=CLASS")
    return trained.find_class(word)


def reconstruct(
    path: Path, num: int, num_samples: int, device: str | None, console: Console
) -> None:
    """Reconstruct test data: ``reconstructions.npz`` (x, mean, z) and ``reconstructions.png``."""
    trained = open_run(path, device)
    rows = trained.test_rows[:num]
    with refuse_non_finite(path):
        z = trained.family.encode(rows).mean.cpu()
        mean = trained.family.reconstruct(rows, num_samples=num_samples).cpu()
    x = rows.x.float()
    trained.run.write_arrays("reconstructions", x=x.numpy(), mean=mean.numpy(), z=z.numpy())
    draw_reconstructions(trained)
    console.print(
        f"wrote {len(x):,} reconstructions to {path / 'reconstructions.npz'} and "
        f"{path / 'reconstructions.png'}",
        soft_wrap=True,
    )


def evaluate(
    path: Path,
    data: str | None,
    key: str | None,
    *,
    num_particles: int | None,
    num_samples: int | None,
    ais: bool,
    output: Path | None,
    overwrite: bool,
    device: str | None,
    console: Console,
) -> None:
    """Evaluate the ELBO, and log p(x) by importance sampling and by AIS if asked for.

    Arguments:
        path: run directory.
        data: file of new data, or the name of a data set; None for the test data of the run.
        key: column of a table that identifies each row.
        num_particles: samples of z per datum in the ELBO; those of the run if None.
        num_samples: samples of z per datum in importance sampling, which is left out if None.
        ais: whether to run annealed importance sampling.
        output: JSON file for results on new data; None to print them only.
        overwrite: whether to replace it if it is there.
        device: where to compute; None for that of the training.
        console: to print to.
    """
    target = None if output is None else Target(output, overwrite, Path(data or ""), ends=JSON)
    trained = open_run(path, device)
    trained.use(data, key)
    if num_particles is not None:
        trained.config = trained.config.model_copy(update={"num_particles": num_particles})
    evaluate_elbo(trained, console)
    estimate = None
    if num_samples is not None:
        estimate = evaluate_log_likelihood(trained, num_samples, console)
    if ais:
        evaluate_annealed(trained, estimate, console)
    if target is not None:
        target.write_record(trained.records)
        console.print(f"wrote the results to {target.path}", soft_wrap=True)


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
