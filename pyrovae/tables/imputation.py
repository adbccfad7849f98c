"""Missing cells of a table, from a VAE that is trained on the cells there are."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.optim import LBFGS, AdamW, Optimizer

from ..errors import InputError
from ..infer.compiler.tiered import Compile
from ..likelihoods import Likelihood, Mixed
from ..models.vae import VAE
from ..nn.factor import FactorDecoder, FactorEncoder
from ..posteriors import FullRankNormal
from ..training.fit import fit
from ..training.history import History
from .columns import Column, columns_of
from .imputed import Cells, Imputation, gathered

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NUM_SAMPLES", "check_level", "impute"]

NUM_SAMPLES = 500
"""Draws of each missing cell, unless said otherwise."""

_BATCH = 64
_LEARNING_RATE = 1e-2
_PROPOSALS = 1000
_AT_ONCE = 2**22
"""Numbers that may be proposed at a time."""

_KEPT = 4 * _AT_ONCE
"""Numbers, of missing cells and others, that may be held in double precision."""

_FEW = 20
"""Effective samples below which a posterior is poorly known."""

_HELD_OUT = 0.1
_FEWEST_HELD_OUT = 10
"""Rows; fewer tell nothing, and none are held out."""

_FEWEST_CELLS = 10
"""Cells of a column below which a note is made of it."""

_SKEWED = 2.0
"""Skewness, that of an exponential distribution, beyond which a note is made of a normal column."""

_JITTER = 0.1
"""Noise on real numbers, in standard deviations, without which densities of numbers that repeat, or
that others fix, grow beyond all bounds, and the posterior of z becomes too narrow to be met."""

_DECAY = 1.0
"""Weight decay (AdamW) of the networks, but not of what is linear."""


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
    """Fill the missing cells of a table with what the cells there are tell of them.

    A VAE p(z) prod_d p(x_d | z) is trained on the rows as they are, by the importance-weighted
    bound on log p(observed cells) (MIWAE; Mattei and Frellsen 2019), and asked for
    p(missing cells | observed cells) of each row by importance sampling. Cells are taken to be
    missing at random: whether one is missing may depend on what was observed, and not on what
    would have stood there.

    A decoder is a linear map and a network; the encoder is factor analysis under each row's mask,
    corrected by a network (:class:`~pyrovae.nn.factor.FactorEncoder`). Against overfitting, the
    networks' weights decay, real numbers are blurred by a tenth of their standard deviation at each
    step, and the epoch is kept at which the bound of a tenth of the rows, held out, was highest.
    Words, categories and truth values have
    probabilities; small counts a distribution of counts; other numbers a normal one. Where no
    number of a column is negative, or its type has limits, draws, means and the ends of intervals
    are cut off there; a likelihood that is declared for the column by name, such as a LogNormal,
    describes skewed ones better.

    Arguments:
        table: a row for each datum; NaN, None and NA are missing.
        likelihood: of all columns of numbers, those of two values included, or a
            :class:`~pyrovae.Mixed` of those that it names; chosen for each column unless given.
        latent_dim: number of latent dimensions; half of that of the columns unless given.
        hidden: widths of the hidden layers of both networks.
        steps: steps of training, with 64 rows each, rounded up to whole passes through the rows;
            where they are fewer than those of a pass, it is of so many rows only.
        num_particles: samples of z in the bound.
        level: probability that an interval holds.
        num_samples: draws of each missing cell.
        seed: of all random numbers; torch's own state is left as it was.
        compile: whether steps are recorded and compiled, as :class:`~pyrovae.SVI` explains.
        progress: show bars.

    Raises:
        InputError: if there is nothing to learn from, or an argument cannot be used; before any
            training.
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
    declared = None if likelihood is None else Likelihood.of(likelihood)
    columns, left_out = columns_of(table, declared)
    # Columns of one likelihood stand together, as blocks.
    kinds = list(dict.fromkeys(column.likelihood for column in columns))
    columns.sort(key=lambda column: kinds.index(column.likelihood))
    x = torch.empty(len(table), len(columns), dtype=torch.double)
    for j, column in enumerate(columns):
        x[:, j] = torch.tensor(column.numbers(table))
    if not bool(x.isnan().any()):
        if columns or not bool(table.isna().to_numpy().any()):
            return gathered(table, columns, left_out, (), None, None, torch.empty(0), (), level)
        raise InputError(f"no column can tell what is missing: {next(iter(left_out.values()))}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = _vae(columns, latent_dim, hidden)
        history = _train(vae, columns, x, steps, num_particles, compile, progress)
        cells, effective = _ask(vae, columns, x, num_samples, progress)
    notes = tuple(_notes(columns, x, effective))
    return gathered(table, columns, left_out, notes, vae, history, effective, cells, level)


def check_level(level: float, num_samples: int) -> None:
    """Refuse what is no level of an interval, or one that so few draws cannot show.

    Raises:
        InputError: if it is so.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it is a probability between 0 and 1")
    _check_whole(num_samples=num_samples)
    if num_samples < 2 / (1 - level):
        raise InputError(
            f"{num_samples} draws have none outside of an interval of level {level}; choose a "
            f"level of {1 - 2 / num_samples:g} or less, or more draws (num_samples)"
        )


def _check_settings(hidden: Any, latent_dim: Any, seed: Any, **at_least_one: Any) -> None:
    """Refuse sizes that are none.

    Raises:
        InputError: naming the setting.
    """
    _check_whole(**at_least_one)
    if latent_dim is not None:
        _check_whole(latent_dim=latent_dim)
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise InputError(f"hidden is {hidden!r}; it holds the widths of layers, as in (64,)")
    for width in hidden:
        _check_whole(**{"a width in hidden": width})
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed!r}; it is a whole number from 0 to 2**63 - 1")


def _check_whole(**settings: Any) -> None:
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} is {value!r}; it must be a whole number, 1 or more")


def _vae(columns: Sequence[Column], latent_dim: int | None, hidden: Sequence[int]) -> VAE:
    """The model of these columns, those of one likelihood standing together."""
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
    """Train on the rows that tell something, some held out to choose the epoch by."""
    x = x[~x.isnan().all(1)]
    vae.standardise(x)
    _start(vae, x)
    held_out = round(_HELD_OUT * len(x))
    if held_out < _FEWEST_HELD_OUT:
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
        patience=epochs if held_out else None,  # all of them, and back to the best
        compile=compile,
        progress=progress,
    )


def _start(vae: VAE, x: Float[Tensor, "rows columns"]) -> None:
    """Start at the marginal distribution of each column, and at the principal components of all."""
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
        left = (1 - loadings.square().sum(1)).clamp_min(_JITTER**2).sqrt()
        guide.encoder.unlinked_scale.copy_(left.expm1().log())
        place = column = 0
        for layer in model.likelihood.layers:
            numbers, width = layer.in_shape
            if numbers == 1 and layer.support is constraints.real:
                weight = decoder.linear.layers[-1].weight[place : place + width, :num]
                weight.copy_(loadings[column : column + width])
                parameters_of = dict(layer.named_parameters())
                if "unlinked_scale" in parameters_of:
                    scale = layer.likelihood.links["scale"].inv(left[column : column + width])
                    parameters_of["unlinked_scale"].copy_(scale)
            place, column = place + numbers * width, column + width


def _ask(
    vae: VAE,
    columns: Sequence[Column],
    x: Float[Tensor, "rows columns"],
    num_samples: int,
    progress: bool,
) -> tuple[list[Cells], Float[Tensor, "asked"]]:
    """Draws of the missing cells of each column, and the effective samples of each row."""
    absent = x.isnan()
    cells = [
        Cells.room(column, of_column, num_samples)
        for column, of_column in zip(columns, x.unbind(1), strict=True)
    ]
    done = [0] * len(cells)
    effective = []
    num_numbers = _PROPOSALS * x.shape[1]
    rows = absent.any(1).nonzero().squeeze(1)
    for part in rows.split(max(1, _KEPT // (num_samples * x.shape[1]))):
        posterior = vae.posterior(
            x[part],
            method={"name": "importance", "proposal": "amortised", "num_proposals": _PROPOSALS},
            num_samples=num_samples,
            batch_size=max(1, min(100, _AT_ONCE // num_numbers)),
            seed=int(torch.randint(2**62, ())),
            progress=progress,
        )
        for j, each in enumerate(absent[part].unbind(1)):
            place = slice(done[j], done[j] + int(each.sum()))
            cells[j].put(place, posterior.x[:, each, j], posterior.mean[each, j])
            done[j] = place.stop
        effective.append(posterior.diagnostics["effective_samples"])
    return [each for each in cells if len(each.rows)], torch.cat(effective)


def _notes(
    columns: Sequence[Column], x: Float[Tensor, "rows columns"], effective: Float[Tensor, "asked"]
) -> list[str]:
    """What is to be doubted, in sentences."""
    notes = []
    empty = int(x.isnan().all(1).sum())
    if empty:
        notes.append(f"{empty:,} rows have no cell to go by, and hold what is typical")
    few = int((effective < _FEW).sum())
    if few:
        notes.append(
            f"{few:,} of {len(effective):,} rows have fewer than {_FEW} effective samples, so that "
            "their intervals are rough"
        )
    for column, present in zip(columns, (~x.isnan()).sum(0).tolist(), strict=True):
        if present < _FEWEST_CELLS:
            notes.append(f"column {column.name!r} has only {present} cells to learn from")
    for column, of_column in zip(columns, x.unbind(1), strict=True):
        notes += _skewed(column, of_column[~of_column.isnan()])
    return notes


def _skewed(column: Column, x: Float[Tensor, "cells"]) -> list[str]:
    """Whether a normal distribution is far from that of the cells, all of them at least 0."""
    if column.likelihood.family.name != "Normal" or x.min() < 0:
        return []
    standard = (x - x.mean()) / x.std(correction=0)
    skewness = standard.pow(3).mean().item()
    if skewness <= _SKEWED:
        return []
    advice = "transform it, as by log(1 + x)"
    if column.is_whole or x.min() > 0:
        family = "NegativeBinomial" if column.is_whole else "LogNormal"
        advice = f"declare a {family} likelihood for it by name"
    return [
        f"column {column.name!r} is strongly skewed (its skewness is {skewness:.1f}), which a "
        f"normal distribution is not; {advice}"
    ]
