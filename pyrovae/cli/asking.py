"""Commands that ask a trained model about data, or draw from it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import InputError
from .commands import app, check_at_least, check_seed, make_console
from .options import Data, Device, Key, Output, Overwrite, Run, Seed

__all__ = ["encode", "evaluate", "predict", "reconstruct", "sample", "score"]


@app.command
def encode(
    run: Run,
    data: Data = None,
    /,
    *,
    output: Output,
    draws: Annotated[int, Parameter(help="Number of draws from q(z|x) to write too.")] = 0,
    key: Key = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Write the latent code of each datum: mean and standard deviation of q(z|x), and draws.

    A .npy holds the means alone.
    """
    check_at_least(0, draws=draws)
    check_seed(seed)
    from . import jobs

    trained, target = jobs.ask(run, data, key, output, overwrite, device)
    jobs.answers.encode(trained, target, draws, seed, make_console())


@app.command
def score(
    run: Run,
    data: Data = None,
    /,
    *,
    output: Output,
    num_samples: Annotated[
        int, Parameter(help="Number of samples of z for each datum, of importance sampling.")
    ] = 100,
    flag: Annotated[
        float | None,
        Parameter(
            help="Mark data as outliers whose log p(x) is as low as that of this share of held-out "
            "data, such as 0.01."
        ),
    ] = None,
    key: Key = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Write log p(x) of each datum, its error, and how unusual it is among held-out data.

    For tables, the columns that contribute most to a low log p(x) are named.
    """
    check_at_least(2, num_samples=num_samples)
    check_seed(seed)
    if flag is not None and not 0 < flag < 1:
        raise InputError(f"--flag is {flag}; it must be a share between 0 and 1, such as 0.01")
    from . import jobs

    trained, target = jobs.ask(run, data, key, output, overwrite, device)
    jobs.answers.score(trained, target, num_samples, flag, seed, make_console())


@app.command
def predict(
    run: Run,
    data: Data = None,
    /,
    *,
    output: Output,
    key: Key = None,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Write the class of each datum (semi_supervised) or its cluster (mixture), by probability."""
    from . import jobs

    trained, target = jobs.ask(run, data, key, output, overwrite, device)
    jobs.answers.predict(trained, target, make_console())


@app.command
def reconstruct(
    run: Run,
    data: Data = None,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            help="File to write all reconstructions to. Default: some, as reconstructions.npz and "
            ".png in the run directory."
        ),
    ] = None,
    num: Annotated[
        int | None, Parameter(help="Number of data to reconstruct. Default: all; 64 for pictures.")
    ] = None,
    num_samples: Annotated[
        int, Parameter(help="Number of draws from q(z|x) to average over; 0 decodes its centre.")
    ] = 50,
    key: Key = None,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Reconstruct data: E[x'|x], the average over q(z|x)."""
    check_at_least(0, num_samples=num_samples)
    if num is not None:
        check_at_least(1, num=num)
    if data is not None and output is None:
        raise InputError("reconstructions of new data need a file to go to; give --output")
    from . import jobs

    if output is None:
        jobs.reconstruct(run, num or 64, num_samples, device, make_console())
        return
    trained, target = jobs.ask(run, data, key, output, overwrite, device)
    jobs.answers.reconstruct(trained, target, num, num_samples, make_console())


@app.command
def sample(
    run: Run,
    /,
    *,
    num: Annotated[int, Parameter(help="Number of samples.")] = 64,
    given: Annotated[
        str | None,
        Parameter(
            help="Class of all samples, as in label=3. Default: as frequent as in training data."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        Parameter(
            help="File to write, ending in .csv, .parquet, .npy or .npz; a table as a table. "
            "Default: samples.npz and .png in the run directory."
        ),
    ] = None,
    seed: Annotated[int, Parameter(help="Random seed.")] = 0,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Draw samples from a trained model. The training data are not needed."""
    check_at_least(1, num=num)
    check_seed(seed)
    from . import jobs

    jobs.sample(run, num, given, seed, output, overwrite, device, make_console())


@app.command
def evaluate(
    run: Run,
    data: Data = None,
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
    output: Annotated[
        Path | None,
        Parameter(help="JSON file for results on new data, which are not written to the run."),
    ] = None,
    key: Key = None,
    overwrite: Overwrite = False,
    device: Device = None,
) -> None:
    """Evaluate a trained model on test data, or on new data: its ELBO, and optionally log p(x)."""
    if output is not None and data is None:
        raise InputError("results on the test data go to the run directory; leave out --output")
    if num_particles is not None:
        check_at_least(1, num_particles=num_particles)
    if num_samples is not None:
        check_at_least(2, num_samples=num_samples)
    from . import jobs

    jobs.evaluate(
        run,
        data,
        key,
        num_particles=num_particles,
        num_samples=num_samples,
        ais=ais,
        output=output,
        overwrite=overwrite,
        device=device,
        console=make_console(),
    )
