"""Ask a trained run about data: codes, scores, classes, reconstructions; a row for each datum."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ...data.rows import Rows
from ...errors import InputError
from ...infer.estimators.pareto import (
    MAX_PARETO_K,
    USELESS_PARETO_K,
    HeavyTailWarning,
    describe_heavy_tails,
)
from ..trained import Trained, refuse_non_finite
from .causes import column_surprise
from .held_out import HELD_OUT, HeldOut
from .output import Output, Target

__all__ = ["encode", "predict", "reconstruct", "sample", "score"]

_NUM_NAMED = 3
"""Number of columns that are named for a low score."""

_LEAST_NATS = 2.0
"""Columns that are less unexpected are not named; a normal draw is so in 2.5 of 100 cases."""

_MAX_COLUMNS = 100
"""No columns are named in wider tables, since each takes an inference of its own."""

_MAX_ROWS = 100
"""Columns are named for so many rows, those with the lowest log p(x)."""

_NUM_WORDS = 200
"""Number of draws of x' of which the commonest word is taken."""

_LOW = 5.0
"""Percentile up to which columns are named, unless you flag outliers."""


def encode(trained: Trained, target: Target, num_draws: int, seed: int, console: Console) -> None:
    """Write the mean and the standard deviation of q(z | x) of each datum, and draws."""
    with refuse_non_finite(trained.run.path):
        encoding = trained.family.encode(trained.test_rows, num_draws=num_draws, seed=seed)
    output = _start(trained, "mean")
    names = _name_latents(encoding.mean)
    output.add("mean", _as_array(encoding.mean), [f"{name}_mean" for name in names])
    output.add("sd", _as_array(encoding.sd), [f"{name}_sd" for name in names])
    if encoding.draws is not None:
        draws = _as_array(encoding.draws.movedim(0, 1))
        numbered = [f"{name}_draw{i + 1}" for i in range(num_draws) for name in names]
        output.add("draws", draws, numbered)
    _write(trained, target, output, "codes", console)


def score(
    trained: Trained,
    target: Target,
    num_samples: int,
    flag: float | None,
    seed: int,
    console: Console,
) -> None:
    """Write log p(x) of each datum, its error, and how unusual it is among held-out data.

    Arguments:
        trained: the run, and the data.
        target: the file to write.
        num_samples: number of samples of z for each datum.
        flag: share of held-out data with the lowest log p(x); data below are marked.
        seed: seed of the samples.
        console: to print to.
    """
    if not trained.family.has_prior:
        raise InputError(
            f"{trained.run.path} is an autoencoder, which has no p(z), so there is no p(x); train "
            "a vae instead"
        )
    held_out = _find_held_out(trained, num_samples, flag, console)
    rows = trained.test_rows
    with refuse_non_finite(trained.run.path), warnings.catch_warnings():
        warnings.simplefilter("ignore", HeavyTailWarning)  # the console says it
        estimate = trained.family.score(rows, num_samples=num_samples, seed=seed)
    output = _start(trained, "log_likelihood")
    scores = _as_array(estimate.log_likelihood)
    output.add("log_likelihood", scores)
    output.add("standard_error", _as_array(estimate.standard_error))
    output.add("pareto_k", _as_array(estimate.pareto_k))
    output.add("elbo", _as_array(estimate.elbo))
    if held_out is not None:
        percentiles = held_out.percentiles(scores)
        output.add("percentile", percentiles)
        limit = _LOW if flag is None else 100 * flag
        is_low = percentiles <= limit
        if flag is not None:
            output.add("outlier", is_low)
        with refuse_non_finite(trained.run.path):
            causes = _name_causes(trained, scores, is_low)
        if causes is not None:
            output.add("unexpected", causes)
        console.print(
            f"{int(is_low.sum()):,} of {len(scores):,} data have a log p(x) as low as the lowest "
            f"{limit:g} percent of {len(held_out.scores):,} held-out data",
            highlight=False,
            soft_wrap=True,
        )
    num_incomplete = int(rows.x.isnan().flatten(1).any(1).sum())
    if num_incomplete:
        console.print(
            f"{num_incomplete:,} data have missing entries: their log p(x) is that of the others, "
            "so compare it only with data that lack the same entries",
            highlight=False,
            soft_wrap=True,
        )
    _print_doubts(estimate.pareto_k, console)
    _write(trained, target, output, "scores", console)


def predict(trained: Trained, target: Target, console: Console) -> None:
    """Write the most probable class or cluster of each datum, and the probabilities of all."""
    with refuse_non_finite(trained.run.path):
        prediction = trained.family.predict(trained.test_rows)
    output = _start(trained, "label")
    words = prediction.words
    is_class = bool(trained.family.num_conditions)
    kind = "class" if is_class else "cluster"
    output.arrays["label"] = _as_array(prediction.label)
    output.add_column(kind, words if prediction.names else output.arrays["label"])
    num = prediction.probabilities.shape[1]
    names = prediction.names or tuple(map(str, range(num)))
    columns = [f"probability_{name}" for name in names]
    output.add("probabilities", _as_array(prediction.probabilities), columns)
    _write(trained, target, output, "classes" if is_class else "clusters", console)


def reconstruct(
    trained: Trained, target: Target, num: int | None, num_samples: int, console: Console
) -> None:
    """Write E[x' | x] of each datum; a table as a table, with the most probable words."""
    with refuse_non_finite(trained.run.path):
        rows = trained.test_rows[:num]
        mean = trained.family.reconstruct(rows, num_samples=num_samples)
        words = _draw_words(trained, rows)
    output = _start(trained, "mean", num)
    add_data(output, trained, "mean", mean, words)
    _write(trained, target, output, "reconstructions", console)


def sample(trained: Trained, target: Target, num: int, label: int | None, console: Console) -> None:
    """Write draws from p(x): a table as a table, with its names, words and whole numbers.

    Arguments:
        trained: the run.
        target: the file to write.
        num: number of draws.
        label: class of all draws; None to draw classes as they are in the training data.
        console: to print to.
    """
    about = trained.about
    with refuse_non_finite(trained.run.path):
        z, drawn, means, labels = trained.draw(num, label)
    output = Output("x")
    x = drawn.double()
    for place, is_whole in enumerate(about.whole or ()):
        if is_whole:
            x[:, place] = x[:, place].round()
    add_data(output, trained, "x", x, as_whole=True)
    output.arrays |= {"mean": _as_array(means), "z": _as_array(z)}
    if labels is not None:
        codes = labels.tolist()
        names = [about.classes[code] if about.classes else code for code in codes]
        output.add(about.label or "label", np.array(names))
    target.write(output)
    console.print(f"wrote {num:,} samples to {target.path}", soft_wrap=True)


def add_data(
    output: Output,
    trained: Trained,
    name: str,
    x: Tensor,
    codes: Tensor | None = None,
    as_whole: bool = False,
) -> None:
    """Add data in the form of the training data: columns with their names and words.

    Arguments:
        output: where to add them.
        trained: the run, which knows the columns.
        name: name of the array.
        x: data.
        codes: data whose columns of words hold codes; x by default.
        as_whole: whether columns of whole numbers are written as such.
    """
    about = trained.about
    features, values = about.features, _as_array(x)
    if features is None:
        num = values[0].size
        output.add(name, values, [f"x{i + 1}" for i in range(num)] if num > 1 else ["x1"])
        return
    output.arrays[name] = values
    codes = x if codes is None else codes
    for place, feature in enumerate(features):
        words = about.categories.get(feature)
        column: Any = values[:, place]
        if words is not None:
            column = np.array(words, dtype=object)[codes[:, place].long().cpu().numpy()]
        elif as_whole and about.whole is not None and about.whole[place]:
            column = column.astype(np.int64)
        output.add_column(feature, column)


def _draw_words(trained: Trained, rows: Rows) -> Tensor | None:
    """The commonest of draws from p(x' | x), for columns of words; None if there are none."""
    if not trained.about.categories:
        return None
    family = trained.family

    def commonest(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        drawn: Any = family.likelihood(*family.decode_draws(_NUM_WORDS, x, given))
        return (drawn.sample().mode(0).values,)

    x, given = family.read(rows, ())
    size = _NUM_WORDS * x[0].numel()
    with torch.no_grad():
        parts = family.map(commonest, x, given, size, 0, "words", True)
    return torch.cat([part for (part,) in parts])


def _find_held_out(
    trained: Trained, num_samples: int, flag: float | None, console: Console
) -> HeldOut | None:
    """The scores of held-out data that the run keeps, or computed now from its test data.

    Raises:
        InputError: if outliers are to be flagged, and there are no scores.
    """
    held_out = HeldOut.read(trained.run)
    if held_out is not None and held_out.num_samples == num_samples:
        return held_out
    try:
        with refuse_non_finite(trained.run.path):
            found = HeldOut.of(trained, num_samples)
        if held_out is None:
            found.write(trained.run)
        return found
    except InputError as error:
        if held_out is not None:
            advice = f"leave out --num-samples, as {HELD_OUT}.json holds scores of "
            advice += f"{held_out.num_samples}"
        else:
            advice = "run pyrovae score once where the data are"
        sentence = f"there are no percentiles of {num_samples} samples: {error}; {advice}"
        if flag is not None:
            raise InputError(sentence) from None
        console.print(sentence, highlight=False, soft_wrap=True)
        return None


def _name_causes(
    trained: Trained, scores: NDArray[np.float64], is_low: NDArray[np.bool_]
) -> NDArray[Any] | None:
    """For the data with the lowest scores, the columns that the others do not let expect.

    None if this is no table, or the likelihood has no p(x_d | other columns), or there are too many
    columns. Rows with missing cells have no names.
    """
    features = trained.about.features
    if features is None or len(features) > _MAX_COLUMNS:
        return None
    causes = np.full(len(is_low), "", dtype=object)
    is_complete = ~trained.test_rows.x.isnan().any(1).numpy()
    chosen = np.flatnonzero(is_low & is_complete)
    rows = torch.from_numpy(chosen[np.argsort(scores[chosen])[:_MAX_ROWS]])
    if not len(rows):
        return causes
    try:
        surprise = column_surprise(trained.family, trained.test_rows[rows]).numpy()
    except InputError:
        return None
    for row, lost in zip(rows.tolist(), surprise, strict=True):
        worst = [d for d in np.argsort(lost)[:_NUM_NAMED] if lost[d] < -_LEAST_NATS]
        causes[row] = "; ".join(f"{features[d]} ({lost[d]:.1f})" for d in worst)
    return causes


def _start(trained: Trained, main: str, num: int | None = None) -> Output:
    """Results with the number of each row, from 1, and its key."""
    output = Output(main)
    rows = trained.test_rows[:num]
    output.add("row", np.arange(1, len(rows) + 1))
    if rows.keys is not None:
        output.add(str(trained.key), rows.keys)
    return output


def _name_latents(codes: Tensor) -> Sequence[str]:
    return [f"z{i + 1}" for i in range(codes[0].numel())]


def _as_array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.cpu().numpy()
    return array


def _print_doubts(pareto_k: Tensor, console: Console) -> None:
    num_heavy = int((pareto_k > MAX_PARETO_K).sum())
    num_useless = int((pareto_k > USELESS_PARETO_K).sum())
    sentence = describe_heavy_tails(len(pareto_k), num_heavy, num_useless)
    if sentence:
        console.print(sentence, highlight=False, soft_wrap=True)


def _write(trained: Trained, target: Target, output: Output, what: str, console: Console) -> None:
    target.write(output)
    num = len(next(iter(output.columns.values())))
    console.print(
        f"wrote {what} of {num:,} data of {trained.test_name} to {target.path}", soft_wrap=True
    )
