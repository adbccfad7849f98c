"""Commands that fill in what is missing: degraded images, and cells of a table."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import InputError
from ..runs.config import from_yaml
from .commands import app, check_at_least, check_seed, make_console
from .options import Data, Device, Overwrite, Run

__all__ = ["impute", "restore"]


@app.command
def restore(
    run: Run,
    data: Data = None,
    /,
    *,
    task: Annotated[
        Literal["inpaint", "denoise", "super-resolve"],
        Parameter(help="How to degrade the images: remove pixels, add noise, or shrink them."),
    ],
    num: Annotated[int, Parameter(help="Number of images to restore.")] = 64,
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
    output: Annotated[
        Path | None, Parameter(help="Folder for the results. Default: the run directory.")
    ] = None,
    device: Device = None,
) -> None:
    """Degrade images and restore them with a trained model.

    Writes restorations-TASK.npz, .json and .png.
    """
    if data is not None and output is None:
        raise InputError("results on new data need a folder; give --output")
    check_at_least(1, num=num)
    check_at_least(21, num_samples=num_samples)
    check_seed(seed)
    declared = from_yaml(method, "method")
    if isinstance(declared, dict):
        declared = {"name": "importance", **declared}
    from ..runs.questions.degradation import Degradation
    from ..runs.questions.restoration import restore
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
            data=data,
            output=output,
            console=make_console(),
        )


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
    model: Annotated[
        Path | None,
        Parameter(
            help="Run of pyrovae train on a table with these columns, whose model fills the cells. "
            "Default: a model is trained on the table itself."
        ),
    ] = None,
    overwrite: Overwrite = False,
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
    steps: Annotated[
        int | None, Parameter(help="Number of training steps, with 64 rows each. Default: 1500.")
    ] = None,
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
    if model is not None and (
        likelihood is not None or latent_dim is not None or steps is not None
    ):
        raise InputError(
            "--likelihood, --latent-dim and --steps are of a model to train; leave them out with "
            "--model"
        )
    steps = 1500 if steps is None else steps
    check_at_least(1, steps=steps)
    check_at_least(0, imputations=imputations)
    check_seed(seed)
    if latent_dim is not None:
        check_at_least(1, latent_dim=latent_dim)
    from ..runs.open import open
    from ..tables.impute_file import impute_file

    training = {} if model else {"latent_dim": latent_dim, "steps": steps}

    impute_file(
        table,
        output,
        make_console(),
        model=None if model is None else open(model),
        overwrite=overwrite,
        level=level,
        likelihood=None if likelihood is None else from_yaml(likelihood, "likelihood"),
        num_imputations=imputations,
        seed=seed,
        **training,
    )
