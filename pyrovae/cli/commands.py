"""The commands of ``pyrovae`` and their options. Torch is loaded only once there is work to do."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ..errors import InputError
from ..runs.config import RunConfig, from_yaml, read_config, to_yaml
from ..training.launch import is_first

__all__ = ["DECLARED", "app"]

app = App(
    name="pyrovae",
    help="Variational autoencoders as probabilistic programs, in Pyro.",
    help_format="plaintext",
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
"""Options that take settings, and the setting that a word alone is."""


def _described(name: str) -> Parameter:
    return Parameter(help=RunConfig.model_fields[name].description)


_SEEDS = 2**62

Run = Annotated[Path, Parameter(help="Run directory that train has made.")]


@app.command
def train(
    data: Annotated[
        str | None,
        Parameter(
            help="digits, mnist, fashion-mnist, kmnist, omniglot, sprites, dsprites, iris, wine, "
            "or a .npz, .npy or .csv file; digits unless given."
        ),
    ] = None,
    /,
    *,
    model: Annotated[str | None, _described("model")] = None,
    prior: Annotated[str | None, _described("prior")] = None,
    posterior: Annotated[str | None, _described("posterior")] = None,
    inference: Annotated[str | None, _described("inference")] = None,
    likelihood: Annotated[str | None, _described("likelihood")] = None,
    objective: Annotated[str | None, _described("objective")] = None,
    config: Annotated[
        Path | None, Parameter(help="YAML file of options; those given here override it.")
    ] = None,
    print_config: Annotated[
        bool, Parameter(help="Print the options as YAML and stop.", negative=())
    ] = False,
    resume: Annotated[
        Path | None,
        Parameter(help="Go on with this run, which was interrupted, with the options it has."),
    ] = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
) -> None:
    """Train a model by SVI, evaluate it on test data, and leave numbers and pictures."""
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
            raise InputError(f"--resume takes the options of the run; leave {other} out")
        from ..runs.train import resume as resume_run

        resume_run(resume, _console())
        return
    resolved = read_config(config, given)
    if print_config:
        print(to_yaml(resolved), end="")
        return
    from ..runs.train import train as train_run

    train_run(resolved, _console())


@app.command
def compare(
    data: Annotated[str, Parameter(help="As for train.")],
    /,
    *,
    likelihoods: Annotated[
        str, Parameter(help='A list, as in "normal,poisson,{family: binomial, total_count: 16}".')
    ],
    config: Annotated[
        Path | None, Parameter(help="YAML file of options; those given here override it.")
    ] = None,
    options: Annotated[RunConfig, Parameter(name="*")] = RunConfig(),  # noqa: B008
) -> None:
    """Train under several likelihoods, all else alike, and compare what can be compared."""
    given: dict[str, Any] = {name: getattr(options, name) for name in options.model_fields_set}
    resolved = read_config(config, {**given, "data": data})
    specs = from_yaml(f"[{likelihoods}]", "likelihoods")
    from . import jobs

    jobs.compare(resolved, specs, _console())


@app.command
def likelihoods() -> None:
    """List the likelihoods: their values, their arguments, and what these default to."""
    from ..runs.report import print_likelihoods

    print_likelihoods(_console())


@app.command
def compare_em_vi(
    data: Annotated[
        str, Parameter(help="toy, iris, wine, or a .csv, .npy or .npz file that holds a table.")
    ] = "toy",
    /,
    *,
    components: Annotated[
        int | None, Parameter(help="Number of components; that of the classes unless given.")
    ] = None,
    covariance_type: Annotated[str, Parameter(help="full, tied, diag or spherical.")] = "full",
    label: Annotated[
        str | None, Parameter(help="Column of a CSV that holds the class, to compare with.")
    ] = None,
    steps: Annotated[int, Parameter(help="Steps of each gradient method.")] = 1000,
    hidden: Annotated[
        tuple[int, ...], Parameter(help="Widths of the hidden layers of the amortised guide.")
    ] = (32,),
    draws: Annotated[
        int | None,
        Parameter(help="Draws of NUTS, 0 for none; 200 for small data, else none, unless given."),
    ] = None,
    seed: Annotated[int, Parameter(help="Seed of the start, the network and all draws.")] = 0,
    output: Annotated[
        Path | None, Parameter(help="Directory of the results; runs/em-vi-DATA-TIME unless given.")
    ] = None,
) -> None:
    """EM and VI on a Gaussian mixture, from one start: a table, pictures and an animation."""
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
    compare_em_vi(settings, output, _console())


@app.command
def sample(
    run: Run,
    /,
    *,
    num: Annotated[int, Parameter(help="Number of samples.")] = 64,
    seed: Annotated[int, Parameter(help="Seed of the draws.")] = 0,
) -> None:
    """Draw from a trained model: samples.npz and samples.png in its run directory."""
    _at_least(1, num=num)
    _check_seed(seed)
    from . import jobs

    jobs.sample(run, num, seed, _console())


@app.command
def reconstruct(
    run: Run, /, *, num: Annotated[int, Parameter(help="Number of test data.")] = 64
) -> None:
    """Reconstruct test data: reconstructions.npz and reconstructions.png in the run directory."""
    _at_least(1, num=num)
    from . import jobs

    jobs.reconstruct(run, num, _console())


@app.command
def restore(
    run: Run,
    /,
    *,
    task: Annotated[
        Literal["inpaint", "denoise", "super-resolve"],
        Parameter(help="What is to be undone: removed pixels, noise, or smaller images."),
    ],
    num: Annotated[int, Parameter(help="Number of test images.")] = 64,
    fraction: Annotated[
        float | None,
        Parameter(help="inpaint: share of the pixels removed at random; 0.5 unless given."),
    ] = None,
    region: Annotated[
        Literal["lower", "upper", "left", "right", "centre"] | None,
        Parameter(help="inpaint: half that is removed instead, or the square in the centre."),
    ] = None,
    noise: Annotated[
        float | None,
        Parameter(
            help="Standard deviation, as a share of the full range of grey levels; denoise: 0.3, "
            "super-resolve: 0.05, unless given."
        ),
    ] = None,
    factor: Annotated[
        int | None,
        Parameter(help="super-resolve: how many times smaller each way; 2 unless given."),
    ] = None,
    method: Annotated[
        str,
        Parameter(
            help="amortised, refined, importance, pseudo_gibbs, metropolis_within_gibbs or nuts, "
            "with settings as in --method.num_steps 300."
        ),
    ] = "importance",
    num_samples: Annotated[
        int, Parameter(help="Draws of each restored image, for its mean and intervals.")
    ] = 200,
    seed: Annotated[int, Parameter(help="Seed of the degradation and of all draws.")] = 0,
) -> None:
    """Degrade test images and restore them: restorations-TASK.npz, .json and .png in the run."""
    _at_least(1, num=num)
    _at_least(21, num_samples=num_samples)
    _check_seed(seed)
    declared = from_yaml(method, "method")
    if isinstance(declared, dict):
        declared = {"name": "importance", **declared}
    from ..runs.degradation import Degradation
    from ..runs.restoration import restore
    from ..runs.trained import finite

    with finite(run):
        restore(
            run,
            Degradation(task, fraction=fraction, region=region, noise=noise, factor=factor),
            num=num,
            method=declared,
            num_samples=num_samples,
            seed=seed,
            console=_console(),
        )


@app.command
def evaluate(
    run: Run,
    /,
    *,
    num_particles: Annotated[
        int | None, Parameter(help="Samples of z a datum; as in training unless given.")
    ] = None,
    num_samples: Annotated[
        int | None,
        Parameter(
            help="Estimate log p(x) too, by importance sampling with so many samples of z a "
            "datum; 5000 are usual."
        ),
    ] = None,
    ais: Annotated[
        bool,
        Parameter(
            help="Estimate log p(x) of the first 100 test data by annealed importance sampling "
            "too.",
            negative=(),
        ),
    ] = False,
) -> None:
    """The test ELBO of a trained model, and log p(x), in nats per datum with their errors."""
    if num_particles is not None:
        _at_least(1, num_particles=num_particles)
    if num_samples is not None:
        _at_least(2, num_samples=num_samples)
    from . import jobs

    jobs.evaluate(run, num_particles, num_samples, ais, _console())


@app.command
def impute(
    table: Annotated[
        Path,
        Parameter(
            help="CSV file whose first line names the columns; a cell is missing where it is "
            "empty, NA, nan or the like."
        ),
    ],
    /,
    *,
    output: Annotated[Path, Parameter(help="CSV file to write.")],
    overwrite: Annotated[
        bool, Parameter(help="Whether the output may be there already.", negative=())
    ] = False,
    level: Annotated[float, Parameter(help="Probability that an interval holds.")] = 0.9,
    likelihood: Annotated[
        str | None,
        Parameter(
            help="p(x|z) of all columns of numbers, or of some by name: "
            '"{family: Mixed, blocks: [{columns: [visits], likelihood: Poisson}]}"; chosen for '
            "each column unless given."
        ),
    ] = None,
    latent_dim: Annotated[
        int | None,
        Parameter(help="Number of latent dimensions; half of that of the columns unless given."),
    ] = None,
    steps: Annotated[int, Parameter(help="Steps of training, with 64 rows each.")] = 1500,
    imputations: Annotated[
        int,
        Parameter(
            help="Write so many further files, OUTPUT-1.csv and so on, with missing cells drawn at "
            "random as they may have been (multiple imputation)."
        ),
    ] = 0,
    seed: Annotated[int, Parameter(help="Seed of the networks, the batches and all draws.")] = 0,
) -> None:
    """Fill the missing cells of a CSV file, with intervals in further columns."""
    _at_least(1, steps=steps)
    _at_least(0, imputations=imputations)
    _check_seed(seed)
    if latent_dim is not None:
        _at_least(1, latent_dim=latent_dim)
    from ..tables.impute_file import impute_file

    impute_file(
        table,
        output,
        _console(),
        overwrite=overwrite,
        level=level,
        likelihood=None if likelihood is None else from_yaml(likelihood, "likelihood"),
        latent_dim=latent_dim,
        steps=steps,
        num_imputations=imputations,
        seed=seed,
    )


def _at_least(lowest: int, **given: int) -> None:
    for name, value in given.items():
        if value < lowest:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be {lowest} or more")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < _SEEDS:
        raise InputError(f"--seed is {seed}; it is a whole number from 0 to 2^62 - 1")


def _console() -> Any:
    from rich.console import Console

    # Names of columns and files are not ours.
    return Console(quiet=not is_first(), markup=False, emoji=False)
