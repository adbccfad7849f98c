"""Fill the missing cells of a table with a VAE that is trained on its observed cells."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.optim import LBFGS, AdamW, Optimizer

from ..arguments import as_flag, as_real, as_whole, as_wholes
from ..data.rows import Rows
from ..errors import InputError
from ..infer.compiler.tiered import Compile
from ..likelihoods import Likelihood, Mixed
from ..models.base import LatentVariableModel
from ..models.vae import VAE
from ..nn.factor import FactorDecoder, FactorEncoder
from ..posteriors import FullRankNormal
from ..training.fit import fit
from ..training.history import History
from .columns import Column, as_frame, choose_columns
from .imputed import Cells, Imputation, collect_results

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NUM_SAMPLES", "check_level", "impute", "sample_missing"]

NUM_SAMPLES = 500
"""Default number of draws of each missing cell."""

_BATCH = 64
_LEARNING_RATE = 1e-2
_NUM_PROPOSALS = 1000
_MAX_PROPOSED = 2**22
"""How many numbers are proposed at a time."""

_MAX_STORED = 4 * _MAX_PROPOSED
"""How many drawn numbers, of missing and observed cells, are held in double precision at a time."""

_MIN_EFFECTIVE = 20
"""With fewer effective samples, intervals are rough."""

_HELD_OUT = 0.1
_MIN_HELD_OUT = 10
"""If fewer rows than this would be held out, none are."""

_MIN_CELLS = 10
"""A note warns about columns with fewer observed cells."""

_MAX_SKEWNESS = 2.0
"""A note warns about normal columns with more skewness; an exponential distribution has this."""

_JITTER = 0.1
"""Standard deviation of the noise on real numbers, in standard deviations of the column.

Without noise, the density of numbers that repeat, or that other columns determine, grows without
bound, and the posterior of z becomes too narrow for the proposals."""

_DECAY = 1.0
"""Weight decay (AdamW) of the networks, but not of the linear maps."""


def impute(
    table: "pd.DataFrame",
    *,
    likelihood: Likelihood | Mixed | str | Mapping[str, Any] | None = None,
    latent_dim: int | None = None,
    hidden: Sequence[int] = (64,),
    steps: int = 1500,
    num_particles: int = 5,
    level: float = 0.9,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    compile: Compile = "auto",
    progress: bool = True,
) -> Imputation:
    """Fill the missing cells of a table from its observed cells.

    The function trains a VAE p(z) prod_d p(x_d | z) on the observed cells of all rows, by the
    importance-weighted bound on log p(observed cells) (MIWAE; Mattei and Frellsen 2019). Importance
    sampling then gives p(missing cells | observed cells) of each row. It assumes that cells are
    missing at random: whether a cell is missing may depend on observed values, but not on the value
    of that cell.

    The decoder is the sum of a linear map and a network. The encoder is factor analysis under each
    row's mask, corrected by a network (:class:`~pyrovae.nn.factor.FactorEncoder`). Three things
    reduce overfitting: the networks' weights decay, each step adds noise of a tenth of the standard
    deviation to real numbers, and a tenth of the rows is held out to choose the epoch with the
    highest bound.

    Words, categories and truth values have a Bernoulli or categorical likelihood, small counts a
    distribution of counts, and other numbers a normal one. If no number of a column is negative, or
    its type has limits, draws, means and the ends of intervals are clipped there. For a skewed
    column, declare a likelihood by name, such as a LogNormal.

    Arguments:
        table: a row for each datum; NaN, None and NA are missing. A frame of polars, an array or a
            tensor becomes a frame of pandas, as the results are.
        likelihood: likelihood of all columns of numbers, including those with two values, or a
            :class:`~pyrovae.Mixed` for the columns that it names. By default it is chosen for each
            column from its values.
        latent_dim: number of latent dimensions; half the number of columns by default.
        hidden: widths of the hidden layers of both networks.
        steps: number of training steps with 64 rows each, rounded up to whole passes through the
            rows. If it is less than one pass, training uses only as many rows as the steps need.
        num_particles: number of samples of z in the bound.
        level: probability that an interval contains the value.
        num_samples: number of draws of each missing cell.
        seed: seed of all random numbers; torch's own random state does not change.
        compile: whether to compile training steps, as :class:`~pyrovae.SVI` explains.
        progress: whether to show progress bars.

    Raises:
        InputError: before any training, if there is nothing to learn from, or an argument is
            invalid.
        FloatingPointError: if the loss is not finite.

    Example:
        >>> import pandas as pd
        >>> x = torch.randn(60, generator=torch.Generator().manual_seed(0)).double().numpy()
        >>> table = pd.DataFrame({"cm": 10 + x, "inch": (10 + x) / 2.54}).mask(
        ...     lambda t: (t.index.to_numpy()[:, None] % 6 == [0, 3])
        ... )
        >>> result = impute(table, steps=200, progress=False)
        >>> result.num_filled, bool(abs(result.filled.cm / result.filled.inch - 2.54).max() < 0.5)
        (20, True)
    """
    _check_settings(hidden, latent_dim, seed, steps=steps, num_particles=num_particles)
    check_level(level, num_samples)
    progress = as_flag("progress", progress)
    table = as_frame(table)
    declared = None if likelihood is None else Likelihood.of(likelihood)
    columns, left_out = choose_columns(table, declared)
    # Columns with the same likelihood form a block.
    kinds = list(dict.fromkeys(column.likelihood for column in columns))
    columns.sort(key=lambda column: kinds.index(column.likelihood))
    x = torch.empty(len(table), len(columns), dtype=torch.double)
    for j, column in enumerate(columns):
        x[:, j] = torch.tensor(column.to_numbers(table))
    if not bool(x.isnan().any()):
        if columns or not bool(table.isna().to_numpy().any()):
            return collect_results(
                table, columns, left_out, (), None, None, torch.empty(0), (), level
            )
        raise InputError(
            f"no column can be used to fill missing cells: {next(iter(left_out.values()))}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = _build_vae(columns, latent_dim, hidden)
        history = _train(vae, columns, x, steps, num_particles, compile, progress)
        cells, effective = sample_missing(vae, columns, x, num_samples, progress)
    notes = tuple(_write_notes(columns, x, effective))
    return collect_results(table, columns, left_out, notes, vae, history, effective, cells, level)


def check_level(level: float, num_samples: int) -> None:
    """Check the level of an interval.

    Raises:
        InputError: if it is not between 0 and 1, or too high for this number of draws.
    """
    level = as_real("level", level, above=0, below=1)
    num_samples = as_whole("num_samples", num_samples, 1)
    if num_samples < 2 / (1 - level):
        raise InputError(
            f"level is {level}, which is too high for {num_samples} draws; choose a level of "
            f"{1 - 2 / num_samples:g} or less, or more draws (num_samples)"
        )


def _check_settings(hidden: Any, latent_dim: Any, seed: Any, **at_least_one: Any) -> None:
    """Check sizes and the seed.

    Raises:
        InputError: naming the invalid setting.
    """
    for name, value in at_least_one.items():
        as_whole(name, value, 1)
    if latent_dim is not None:
        as_whole("latent_dim", latent_dim, 1)
    as_wholes("hidden", hidden)
    as_whole("seed", seed, 0, 2**63 - 1)


def _build_vae(columns: Sequence[Column], latent_dim: int | None, hidden: Sequence[int]) -> VAE:
    """Build the model of these columns, with a block for each likelihood."""
    blocks: dict[Likelihood, list[str]] = {}
    for column in columns:
        blocks.setdefault(column.likelihood, []).append(column.name)
    num = len(columns)
    latent_dim = max(1, (num + 1) // 2) if latent_dim is None else latent_dim
    return VAE(
        (num,),
        latent_dim,
        Mixed([(tuple(names), each) for each, names in blocks.items()]),
        posterior=FullRankNormal(latent_dim),
        encoder=partial(FactorEncoder, hidden=hidden),
        decoder=partial(FactorDecoder, hidden=hidden),
        missing=True,
    ).double()


def _train(
    vae: VAE,
    columns: Sequence[Column],
    x: Float[Tensor, "rows columns"],
    steps: int,
    num_particles: int,
    compile: Compile,
    progress: bool,
) -> History:
    """Train on the rows with observed cells; hold some out to choose the best epoch."""
    x = x[~x.isnan().all(1)]
    vae.standardise(x)
    _initialise(vae, x)
    held_out = round(_HELD_OUT * len(x))
    if held_out < _MIN_HELD_OUT:
        held_out = 0
    order = torch.randperm(len(x))
    train = x[order[held_out:][: steps * _BATCH]]
    epochs = -(-steps // -(-len(train) // _BATCH))
    families: list[Any] = [column.likelihood.family.distribution for column in columns]
    is_real = [family.support is constraints.real for family in families]
    jitter = _JITTER * vae.guide.standardise.scale * torch.tensor(is_real)

    def with_noise(x: Tensor) -> Tensor:
        return x + jitter * torch.randn_like(x)

    parts: Any = vae.model.decoder, vae.guide.encoder
    decayed = {id(p) for part in parts for p in part.network.parameters()}

    def optimiser(parameters: list[Tensor]) -> Optimizer:
        groups = [
            {"params": [p for p in parameters if (id(p) in decayed) is each], "weight_decay": decay}
            for each, decay in ((True, _DECAY), (False, 0.0))
        ]
        return AdamW(groups, lr=_LEARNING_RATE, fused=True)

    return fit(
        vae.model,
        vae.guide,
        train,
        epochs=epochs,
        batch_size=_BATCH,
        optimiser=optimiser,
        transform=with_noise,
        schedule="cosine",
        objective={"name": "iwae", "num_particles": num_particles},
        validation=x[order[:held_out]] if held_out else None,
        patience=epochs if held_out else None,  # run all epochs, then return to the best
        compile=compile,
        progress=progress,
    )


def _initialise(vae: VAE, x: Float[Tensor, "rows columns"]) -> None:
    """Initialise at the marginal distribution of each column, and the principal components."""
    model: Any = vae.model
    decoder: Any = model.decoder
    eta = decoder.bias.detach().clone().zero_().requires_grad_()
    parameters = [eta, *model.likelihood.parameters()]
    optimiser = LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        p, filled = model.observation(x, eta.expand(len(x), -1), {})
        value: Tensor = -p.log_prob(filled).mean()
        value.backward()
        return value

    optimiser.step(loss)
    guide: Any = vae.guide
    with torch.no_grad():
        decoder.bias.copy_(eta)
        standard = guide.standardise(x).nan_to_num(0.0)
        _, sizes, directions = torch.linalg.svd(standard / len(x) ** 0.5, full_matrices=False)
        num = min(vae.latent_dim, len(sizes))
        loadings = directions[:num].mT * sizes[:num]
        guide.encoder.loadings[:, :num].copy_(loadings)
        unexplained = (1 - loadings.square().sum(1)).clamp_min(_JITTER**2).sqrt()
        guide.encoder.unlinked_scale.copy_(unexplained.expm1().log())
        place = column = 0
        for layer in model.likelihood.layers:
            numbers, width = layer.in_shape
            if numbers == 1 and layer.support is constraints.real:
                weight = decoder.linear.layers[-1].weight[place : place + width, :num]
                weight.copy_(loadings[column : column + width])
                parameters_of = dict(layer.named_parameters())
                if "unlinked_scale" in parameters_of:
                    scale = layer.likelihood.links["scale"].inv(
                        unexplained[column : column + width]
                    )
                    parameters_of["unlinked_scale"].copy_(scale)
            place, column = place + numbers * width, column + width


def sample_missing(
    model: LatentVariableModel,
    columns: Sequence[Column],
    x: Float[Tensor, "rows columns"],
    num_samples: int,
    progress: bool,
    *given: Tensor,
) -> tuple[list[Cells], Float[Tensor, "asked"]]:
    """Draw the missing cells of each column; return them and the effective samples per row."""
    absent = x.isnan()
    cells = [
        Cells.allocate(column, values, num_samples)
        for column, values in zip(columns, x.unbind(1), strict=True)
    ]
    done = [0] * len(cells)
    effective = []
    num_numbers = _NUM_PROPOSALS * x.shape[1]
    rows = absent.any(1).nonzero().squeeze(1)
    for part in rows.split(max(1, _MAX_STORED // (num_samples * x.shape[1]))):
        posterior = model.posterior(
            Rows("x", x[part]),
            *(each[part] for each in given),
            method={"name": "importance", "proposal": "amortised", "num_proposals": _NUM_PROPOSALS},
            num_samples=num_samples,
            batch_size=max(1, min(100, _MAX_PROPOSED // num_numbers)),
            seed=int(torch.randint(2**62, ())),
            progress=progress,
        )
        for j, each in enumerate(absent[part].unbind(1)):
            place = slice(done[j], done[j] + int(each.sum()))
            cells[j].store(place, posterior.x[:, each, j], posterior.mean[each, j])
            done[j] = place.stop
        effective.append(posterior.diagnostics["effective_samples"])
    return [each for each in cells if len(each.rows)], torch.cat(effective)


def _write_notes(
    columns: Sequence[Column], x: Float[Tensor, "rows columns"], effective: Float[Tensor, "asked"]
) -> list[str]:
    """Write warnings about the results, in a sentence each."""
    notes = []
    empty = int(x.isnan().all(1).sum())
    if empty:
        notes.append(f"{empty:,} rows have no observed cell; they are filled with typical values")
    few = int((effective < _MIN_EFFECTIVE).sum())
    if few:
        notes.append(
            f"{few:,} of {len(effective):,} rows have fewer than {_MIN_EFFECTIVE} effective "
            "samples, so their intervals are rough"
        )
    for column, present in zip(columns, (~x.isnan()).sum(0).tolist(), strict=True):
        if present < _MIN_CELLS:
            notes.append(f"column {column.name!r} has only {present} observed cells to learn from")
    for column, values in zip(columns, x.unbind(1), strict=True):
        notes += _note_skewness(column, values[~values.isnan()])
    return notes


def _note_skewness(column: Column, x: Float[Tensor, "cells"]) -> list[str]:
    """Return a note if the column is normal, its cells are at least 0, and strongly skewed."""
    if column.likelihood.family.name != "Normal" or x.min() < 0:
        return []
    standard = (x - x.mean()) / x.std(correction=0)
    skewness = standard.pow(3).mean().item()
    if skewness <= _MAX_SKEWNESS:
        return []
    advice = "transform it, as by log(1 + x)"
    if column.is_whole or x.min() > 0:
        family = "NegativeBinomial" if column.is_whole else "LogNormal"
        advice = f"declare a {family} likelihood for it by name"
    return [
        f"column {column.name!r} is strongly skewed (skewness {skewness:.1f}), which a normal "
        f"distribution does not describe; {advice}"
    ]
