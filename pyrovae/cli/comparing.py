"""Compare runs, or train several models that differ in one part and compare them."""

from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import InputError, short_repr
from ..likelihoods import Likelihood, Mixed
from ..runs import plots
from ..runs.config import RunConfig, validate
from ..runs.directory import RunDirectory
from ..runs.prepare import arrange_data, build_model, check_data, load_data, prepare_data
from ..runs.report import print_comparison
from ..runs.resolve import as_settings, resolve_options
from ..runs.train import run_name, train

__all__ = ["compare", "compare_runs"]


def compare_runs(paths: list[Path], console: Console) -> None:
    """Print a table of the test ELBOs of finished runs, ranked where they can be compared.

    Raises:
        InputError: if one is not a finished run, or they were evaluated on different data.
    """
    records = {str(path): RunDirectory.open(path).read_evaluation() for path in paths}
    if len(records) < len(paths):
        raise InputError("a run is named twice; name different runs")
    names = {
        path: str(record.get("data", "")).partition(",")[0] for path, record in records.items()
    }
    if len(set(names.values())) > 1:
        (one, its), *rest = names.items()
        other, others = next(each for each in rest if each[1] != its)
        raise InputError(
            f"{one} was evaluated on {its}, and {other} on {others}; their ELBOs cannot be compared"
        )
    for path, record in records.items():
        if not {"elbo", "kind", "bits_per_dimension", "data"} <= record.keys():
            raise InputError(f"{path} holds no test results; run pyrovae evaluate again")
    print_comparison(records, console)


def compare(config: RunConfig, part: str, specs: list[Any], console: Console) -> Path:
    """Train one model for each choice of a part with the same options, and print their test ELBOs.

    Runs are ranked only among those whose ELBOs bound the same quantity: a density in the units of
    the data, a probability mass of the values, or a probability mass of binarised pixels.

    Arguments:
        config: the options that are the same in all runs.
        part: what differs: likelihood, model, prior, posterior or objective.
        specs: two or more choices.
        console: to print to.

    Returns:
        The directory that holds a run directory for each.

    Raises:
        InputError: before any training, if a choice or the data cannot be used.
    """
    choices = [_choose(config, part, spec, number) for number, spec in enumerate(specs, start=1)]
    parent = config.output or Path("runs") / f"compare-{run_name(config)}"
    RunDirectory.refuse_used(parent)
    configs = {}
    for name, changes in choices:
        each = config.model_copy(update={**changes, "output": parent / name})
        each = each.model_copy(update={"dequantise": config.dequantise and _is_density(each)})
        dataset = load_data(each)
        resolved = resolve_options(each, dataset, parent / name, console)
        dataset = arrange_data(resolved, dataset)
        check_data(build_model(resolved, dataset), prepare_data(resolved, dataset))
        configs[name] = each
    records = {}
    for name, each in configs.items():
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
    pictures = [parent / name / "reconstructions.png" for name in configs]
    RunDirectory(parent).write_figure("comparison", plots.gallery(pictures, list(configs)))
    console.print(
        f"wrote the reconstructions of all runs to {parent / 'comparison.png'}", soft_wrap=True
    )
    return parent


def _choose(config: RunConfig, part: str, spec: Any, number: int) -> tuple[str, dict[str, Any]]:
    """A name for the run with this choice, and the option."""
    if part == "likelihood":
        likelihood = Likelihood.of(spec)
        family = "Mixed" if isinstance(likelihood, Mixed) else likelihood.family.name
        return f"{number}-{family}", {part: likelihood.to_dict()}
    if not isinstance(spec, str | dict):
        raise InputError(f"{part} cannot be {short_repr(spec)}: give a word, or settings in YAML")
    checked = validate({**config.model_dump(), part: spec}, "options")
    name = as_settings(getattr(checked, part)).get("name")
    if not isinstance(name, str):
        raise InputError(f"{part} {short_repr(spec)} has no name; give one, as in {{name: ...}}")
    return f"{number}-{name}", {part: getattr(checked, part)}


def _is_density(config: RunConfig) -> bool:
    """Whether the likelihood is a density, which dequantisation makes comparable with others."""
    if config.likelihood is None:
        return True
    likelihood = Likelihood.of(config.likelihood)
    if isinstance(likelihood, Mixed):
        return False
    return not likelihood.build(load_data(config).event_shape).is_discrete
