"""The commands of ``pyrovae`` and their options.

This module does not import torch; a command imports it only once there is work to do.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ..errors import InputError
from ..runs.config import RunConfig, from_yaml, read_config, to_yaml
from ..storage.versions import describe_versions
from ..training.launch import is_first

__all__ = ["DECLARED", "app", "make_console"]


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

Run = Annotated[Path, Parameter(help="Directory of a run of pyrovae train.")]
Device = Annotated[str | None, Parameter(help="As in pyrovae train. Default: that of the run.")]


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
        Parameter(help="Run directory of an interrupted run to continue, with its own options."),
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
        if given or config is not None:
            other = next(iter(given), "config")
            raise InputError(f"--resume uses the options of the run; leave out {other}")
        from ..runs.train import resume as resume_run

        resume_run(resume, make_console())
        return
    resolved = read_config(config, given)
    if print_config:
        print(to_yaml(resolved), end="")
        return
    from ..runs.train import train as train_run

    train_run(resolved, make_console())


@app.command
def compare(
    data: Annotated[str, Parameter(help="Data set or file, as for pyrovae train.")],
    /,
    *,
    likelihoods: Annotated[
        str,
        Parameter(help='Two or more, as in "normal,poisson,{family: binomial, total_count: 16}".'),
    ],
    config: Annotated[
        Path | None,
        Parameter(help="YAML file of options. Options on the command line override it."),
    ] = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
) -> None:
    """Train one model per likelihood on the same data, and compare their test ELBOs."""
    given: dict[str, Any] = {name: getattr(options, name) for name in options.model_fields_set}
    resolved = read_config(config, {**given, "data": data})
    specs = from_yaml(f"[{likelihoods}]", "likelihoods")
    from . import jobs

    jobs.compare(resolved, specs, make_console())


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


@app.command
def sample(
    run: Run,
    /,
    *,
    num: Annotated[int, Parameter(help="Number of samples.")] = 64,
    seed: Annotated[int, Parameter(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Draw samples from a trained model. Writes samples.npz and .png to the run directory.

    The training data are not needed.
    """
    _check_at_least(1, num=num)
    _check_seed(seed)
    from . import jobs

    jobs.sample(run, num, seed, device, make_console())


@app.command
def reconstruct(
    run: Run,
    /,
    *,
    num: Annotated[int, Parameter(help="Number of test data to reconstruct.")] = 64,
    device: Device = None,
) -> None:
    """Reconstruct test data. Writes reconstructions.npz and .png to the run directory."""
    _check_at_least(1, num=num)
    from . import jobs

    jobs.reconstruct(run, num, device, make_console())


@app.command
def restore(
    run: Run,
    /,
    *,
    task: Annotated[
        Literal["inpaint", "denoise", "super-resolve"],
        Parameter(help="How to degrade the images: remove pixels, add noise, or shrink them."),
    ],
    num: Annotated[int, Parameter(help="Number of test images to restore.")] = 64,
    fraction: Annotated[
        float | None,
        Parameter(help="inpaint: share of the pixels to remove at random. Default: 0.5."),
    ] = None,
    region: Annotated[
        Literal["lower", "upper", "left", "right", "centre"] | None,
        Parameter(help="inpaint: half of the image, or square in its centre, to remove instead."),
    ] = None,
    noise: Annotated[
        float | None,
        Parameter(
            help="denoise, super-resolve: standard deviation of the noise, as a share of the range "
            "of grey levels. Default: 0.3 for denoise, 0.05 for super-resolve."
        ),
    ] = None,
    factor: Annotated[
        int | None,
        Parameter(help="super-resolve: how many times to shrink height and width. Default: 2."),
    ] = None,
    method: Annotated[
        str,
        Parameter(
            help="How to sample from p(z|y): amortised, refined, importance, pseudo_gibbs, "
            "metropolis_within_gibbs or nuts. Settings as in --method.num_steps 300."
        ),
    ] = "importance",
    num_samples: Annotated[
        int, Parameter(help="Number of draws per image, for its mean and intervals; at least 21.")
    ] = 200,
    seed: Annotated[int, Parameter(help="Seed of the degradation and of all draws.")] = 0,
    device: Device = None,
) -> None:
    """Degrade test images and restore them with a trained model.

    Writes restorations-TASK.npz, .json and .png to the run directory.
    """
    _check_at_least(1, num=num)
    _check_at_least(21, num_samples=num_samples)
    _check_seed(seed)
    declared = from_yaml(method, "method")
    if isinstance(declared, dict):
        declared = {"name": "importance", **declared}
    from ..runs.degradation import Degradation
    from ..runs.restoration import restore
    from ..runs.trained import refuse_non_finite

    with refuse_non_finite(run):
        restore(
            run,
            Degradation(task, fraction=fraction, region=region, noise=noise, factor=factor),
            num=num,
            method=declared,
            num_samples=num_samples,
            seed=seed,
            device=device,
            console=make_console(),
        )


@app.command
def evaluate(
    run: Run,
    /,
    *,
    num_particles: Annotated[
        int | None,
        Parameter(help="Number of samples of z per datum, for the ELBO. Default: as in the run."),
    ] = None,
    num_samples: Annotated[
        int | None,
        Parameter(
            help="Also estimate log p(x) by importance sampling, with this many samples of z per "
            "datum. 5000 is usual."
        ),
    ] = None,
    ais: Annotated[
        bool,
        Parameter(
            help="Also estimate log p(x) of the first 100 test data by annealed importance "
            "sampling (slow).",
            negative=(),
        ),
    ] = False,
    device: Device = None,
) -> None:
    """Evaluate a trained model on test data: its ELBO, and optionally log p(x)."""
    if num_particles is not None:
        _check_at_least(1, num_particles=num_particles)
    if num_samples is not None:
        _check_at_least(2, num_samples=num_samples)
    from . import jobs

    jobs.evaluate(run, num_particles, num_samples, ais, device, make_console())


@app.command
def impute(
    table: Annotated[
        Path,
        Parameter(
            help="CSV file whose first line names the columns. Missing cells are empty, NA, nan "
            "or the like."
        ),
    ],
    /,
    *,
    output: Annotated[Path, Parameter(help="CSV file to write.")],
    overwrite: Annotated[
        bool, Parameter(help="Replace output files that exist already.", negative=())
    ] = False,
    level: Annotated[
        float, Parameter(help="Probability that an interval contains the value.")
    ] = 0.9,
    likelihood: Annotated[
        str | None,
        Parameter(
            help="p(x|z) of all numeric columns, or of some by name, as in "
            '"{family: Mixed, blocks: [{columns: [visits], likelihood: Poisson}]}". Default: '
            "chosen for each column from its values."
        ),
    ] = None,
    latent_dim: Annotated[
        int | None,
        Parameter(help="Number of latent dimensions. Default: half the number of columns."),
    ] = None,
    steps: Annotated[int, Parameter(help="Number of training steps, with 64 rows each.")] = 1500,
    imputations: Annotated[
        int,
        Parameter(
            help="Number of further files to write, OUTPUT-1.csv and so on, each with a random "
            "draw of the missing cells (multiple imputation)."
        ),
    ] = 0,
    seed: Annotated[int, Parameter(help="Seed of the networks, the batches and all draws.")] = 0,
) -> None:
    """Fill the missing cells of a CSV file, and add columns with their uncertainty."""
    _check_at_least(1, steps=steps)
    _check_at_least(0, imputations=imputations)
    _check_seed(seed)
    if latent_dim is not None:
        _check_at_least(1, latent_dim=latent_dim)
    from ..tables.impute_file import impute_file

    impute_file(
        table,
        output,
        make_console(),
        overwrite=overwrite,
        level=level,
        likelihood=None if likelihood is None else from_yaml(likelihood, "likelihood"),
        latent_dim=latent_dim,
        steps=steps,
        num_imputations=imputations,
        seed=seed,
    )


def _check_at_least(lowest: int, **given: int) -> None:
    for name, value in given.items():
        if value < lowest:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least {lowest}")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < _SEEDS:
        raise InputError(f"--seed is {seed}; it must be a whole number from 0 to 2^62 - 1")


def make_console() -> Any:
    from .console import PlainConsole

    # Names of columns and files may look like markup or emoji codes.
    return PlainConsole(quiet=not is_first(), markup=False, emoji=False)
