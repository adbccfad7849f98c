"""What the commands do, given a configuration or a run directory."""

from pathlib import Path

import torch
from rich.console import Console

from ..errors import InputError
from ..runs.pictures import draw_reconstructions, draw_samples
from ..runs.questions import answers
from ..runs.questions.evaluation import evaluate_annealed, evaluate_elbo, evaluate_log_likelihood
from ..runs.questions.output import JSON, Target
from ..runs.trained import Trained, open_run, refuse_non_finite

__all__ = ["answers", "ask", "evaluate", "reconstruct", "sample"]


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
