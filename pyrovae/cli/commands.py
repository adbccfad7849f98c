"""The commands of ``pyrovae`` and their options.

This module does not import torch; a command imports it only once there is work to do.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from ..errors import InputError
from ..runs.config import RunConfig, from_yaml, read_config, to_yaml
from ..storage.versions import describe_versions
from ..training.launch import is_first

__all__ = ["DECLARED", "app", "check_at_least", "check_seed", "make_console"]


app = App(
    name="pyrovae",
    help="Train and use variational autoencoders: likelihoods, priors and posteriors by name.",
    help_format="plaintext",
    version=describe_versions,
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)

DECLARED = {
    "model": "name",
    "prior": "name",
    "posterior": "name",
    "inference": "name",
    "likelihood": "family",
    "objective": "name",
}
"""Options that take settings, each with the setting that a single word stands for."""


def _describe(name: str) -> Parameter:
    return Parameter(help=RunConfig.model_fields[name].description)


_SEEDS = 2**62
"""Seeds are below this."""


@app.command
def train(
    data: Annotated[
        str | None,
        Parameter(
            help="Data set: digits, mnist, fashion-mnist, kmnist, omniglot, sprites, dsprites, "
            "iris, wine, or the path of a .npz, .npy or .csv file. Default: digits."
        ),
    ] = None,
    /,
    *,
    model: Annotated[str | None, _describe("model")] = None,
    prior: Annotated[str | None, _describe("prior")] = None,
    posterior: Annotated[str | None, _describe("posterior")] = None,
    inference: Annotated[str | None, _describe("inference")] = None,
    likelihood: Annotated[str | None, _describe("likelihood")] = None,
    objective: Annotated[str | None, _describe("objective")] = None,
    config: Annotated[
        Path | None,
        Parameter(help="YAML file of options. Options on the command line override it."),
    ] = None,
    print_config: Annotated[
        bool, Parameter(help="Print the options as YAML and exit, without training.", negative=())
    ] = False,
    resume: Annotated[
        Path | None,
        Parameter(
            help="Run directory of an interrupted run to continue, with its own options; with a "
            "larger --epochs, also of a finished one."
        ),
    ] = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
) -> None:
    """Train a model, evaluate it on test data, and save weights, results and pictures."""
    given: dict[str, Any] = {name: getattr(options, name) for name in options.model_fields_set}
    if data is not None:
        given["data"] = data
    declared = (model, prior, posterior, inference, likelihood, objective)
    for name, text in zip(DECLARED, declared, strict=True):
        if text is not None:
            given[name] = from_yaml(text, name)
    if resume is not None:
        epochs = given.pop("epochs", None)
        if given or config is not None:
            other = next(iter(given), "config")
            raise InputError(f"--resume uses the options of the run; leave out {other}")
        from ..runs.train import resume as resume_run

        resume_run(resume, make_console(), epochs)
        return
    if options.from_run is not None:
        from ..runs.start import options_from

        resolved = options_from(options.from_run, config, given)
    else:
        resolved = read_config(config, given)
    if print_config:
        print(to_yaml(resolved), end="")
        return
    from ..runs.train import train as train_run

    train_run(resolved, make_console())


def _several(what: str) -> Parameter:
    return Parameter(help=f"{what} to compare, separated by commas; a single one is used by all.")


@app.command
def compare(
    *targets: Annotated[
        str,
        Parameter(help="A data set or file to train on, as for pyrovae train; or finished runs."),
    ],
    likelihoods: Annotated[
        str | None,
        Parameter(
            help='Likelihoods to compare, as in "normal,poisson,{family: binomial, total_count: '
            '16}".'
        ),
    ] = None,
    model: Annotated[str | None, _several("Models")] = None,
    prior: Annotated[str | None, _several("Priors")] = None,
    posterior: Annotated[str | None, _several("Posteriors")] = None,
    objective: Annotated[str | None, _several("Objectives")] = None,
    config: Annotated[
        Path | None,
        Parameter(help="YAML file of options. Options on the command line override it."),
    ] = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
) -> None:
    """Compare the test ELBOs of runs, or of new models that differ in one part."""
    given: dict[str, Any] = {name: getattr(options, name) for name in options.model_fields_set}
    texts = {
        "likelihood": likelihoods,
        "model": model,
        "prior": prior,
        "posterior": posterior,
        "objective": objective,
    }
    parts = {name: from_yaml(f"[{text}]", name) for name, text in texts.items() if text is not None}
    from . import comparing

    if len(targets) > 1:
        if parts or given or config is not None:
            raise InputError("finished runs are compared as they are; leave out all options")
        comparing.compare_runs([Path(each) for each in targets], make_console())
        return
    if not targets:
        raise InputError("compare needs data to train on, or two or more run directories")
    several = [name for name, specs in parts.items() if len(specs) > 1]
    if len(several) != 1:
        found = ", ".join(several) or "none"
        raise InputError(
            "compare varies one part: give two or more of likelihoods, model, prior, posterior or "
            f"objective, separated by commas; got {found}"
        )
    (varied,) = several
    fixed = {name: specs[0] for name, specs in parts.items() if name != varied and specs}
    resolved = read_config(config, {**given, **fixed, "data": targets[0]})
    comparing.compare(resolved, varied, parts[varied], make_console())


@app.command
def compare_em_vi(
    data: Annotated[
        str, Parameter(help="Data set: toy, iris, wine, or a .csv, .npy or .npz file with a table.")
    ] = "toy",
    /,
    *,
    components: Annotated[
        int | None, Parameter(help="Number of components. Default: the number of classes.")
    ] = None,
    covariance_type: Annotated[
        str, Parameter(help="Shape of the covariances: full, tied, diag or spherical.")
    ] = "full",
    label: Annotated[
        str | None,
        Parameter(help="CSV column with the class of each row, to compare clusters with."),
    ] = None,
    steps: Annotated[int, Parameter(help="Number of steps of each gradient method.")] = 1000,
    hidden: Annotated[
        tuple[int, ...],
        Parameter(help="Widths of the hidden layers of the network that predicts q(z|x)."),
    ] = (32,),
    draws: Annotated[
        int | None,
        Parameter(
            help="Number of NUTS draws, or 0 to skip NUTS. Default: 200 for small data, else 0."
        ),
    ] = None,
    seed: Annotated[
        int, Parameter(help="Seed of the starting point, the network and all draws.")
    ] = 0,
    output: Annotated[
        Path | None, Parameter(help="Directory for the results. Default: runs/em-vi-DATA-TIME.")
    ] = None,
) -> None:
    """Fit a Gaussian mixture by EM and by VI from the same start, and compare them."""
    from ..gmm.compare import Settings
    from .compare_em_vi import compare_em_vi

    settings = Settings(
        data=data,
        label=label,
        num_components=components,
        covariance_type=covariance_type,
        num_steps=steps,
        hidden=hidden,
        num_draws=draws,
        seed=seed,
    )
    compare_em_vi(settings, output, make_console())


def check_at_least(lowest: int, **given: int) -> None:
    for name, value in given.items():
        if value < lowest:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least {lowest}")


def check_seed(seed: int) -> None:
    if not 0 <= seed < _SEEDS:
        raise InputError(f"--seed is {seed}; it must be a whole number from 0 to 2^62 - 1")


def make_console() -> Any:
    from .console import PlainConsole

    # Names of columns and files may look like markup or emoji codes.
    return PlainConsole(quiet=not is_first(), markup=False, emoji=False)
