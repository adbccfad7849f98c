"""Compare all methods on one table of data, from the same start."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..arguments import as_text, as_whole, as_wholes
from ..data import load
from ..data.files import SUFFIXES
from ..errors import InputError, did_you_mean
from ..infer.estimators.pareto import USELESS_PARETO_K, HeavyTailWarning
from ..progress import LateProgress
from .bayesian.conjugate import Prior
from .bayesian.coordinate_ascent import coordinate_ascent
from .bayesian.evidence import MIN_EFFECTIVE_SAMPLES, log_evidence
from .bayesian.program import Draws, bayesian_svi, nuts
from .climb import Climb, State, record
from .em import em, floor_of, monte_carlo_em
from .gradient import amortised_vi, free_vi
from .mixture import Mixture, check_covariance_type
from .points import as_points, check_fittable
from .start import k_means_plus_plus
from .toy import toy

__all__ = ["Comparison", "Points", "Result", "Settings", "compare", "load_points"]

_TOY = "toy"

_TABLES = ("iris", "wine")

_COVARIANCE_FLOOR = 1e-6

_NUM_DRAWS = 200

_MAX_WATCHED = 1000
"""Most data whose q is kept at each step, for pictures."""

_NUM_MEASUREMENTS = 12
"""Measurements of the gradient variance in a run."""


@dataclass(frozen=True)
class Points:
    """A standardised table in double precision, split into training and test data.

    Attributes:
        name: name of the data.
        train: training data.
        test: held-out data.
        train_labels: the class of each training datum, if known.
        features: names of the columns.
    """

    name: str
    train: Float[Tensor, "n d"]
    test: Float[Tensor, "m d"]
    train_labels: Int[Tensor, "n"] | None
    features: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """The data and options of a comparison.

    Attributes:
        data: ``toy``, ``iris``, ``wine``, or the path of a table.
        label: column of a CSV that holds the class.
        num_components: K; the number of classes unless given.
        covariance_type: full, tied, diag or spherical.
        num_steps: steps of each gradient method.
        hidden: widths of the hidden layers of the amortised guide.
        num_draws: draws of NUTS to keep, after half as many in warm-up; 0 skips NUTS. Unless given,
            200 for up to 1,000 points in up to 3 columns, where NUTS is fast, and otherwise 0.
        seed: seed of the start, the networks and all draws.

    Raises:
        InputError: if a number is out of its range, or there is no such covariance type.
    """

    data: str = _TOY
    label: str | None = None
    num_components: int | None = None
    covariance_type: str = "full"
    num_steps: int = 1000
    hidden: tuple[int, ...] = (32,)
    num_draws: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_covariance_type(self.covariance_type)
        as_text("data", self.data)
        if self.label is not None:
            as_text("label", self.label)
        if self.num_components is not None:
            as_whole("num_components", self.num_components, 1)
        as_whole("num_steps", self.num_steps, 1)
        as_wholes("hidden", self.hidden)
        as_whole("seed", self.seed, 0, 2**32 - 1)
        if self.num_draws is not None:
            num_draws = as_whole("num_draws", self.num_draws, 0)
            if 0 < num_draws < 4:
                raise InputError(f"num_draws is {num_draws}; it must be 4 or more, or 0 for none")


@dataclass(frozen=True)
class Result:
    """The result of a method.

    Attributes:
        name: name of the method.
        climb: the record of the fit; None for NUTS.
        num_steps: rounds, steps or draws.
        seconds: time that the method took, measured as in :class:`Climb`.
        train: mean log density of the training data, in nats per datum: under theta or, if theta
            has a posterior, under the posterior predictive.
        test: mean log density of the held-out data.
        rand: adjusted Rand index between the most probable components and the true classes, over
            the training data; NaN if the classes are not known.
    """

    name: str
    climb: Climb | None
    num_steps: int
    seconds: float
    train: float
    test: float
    rand: float

    def row(self) -> dict[str, Any]:
        """The row of this method in the table of results."""
        last = self.climb
        nan = float("nan")
        return {
            "method": self.name,
            "log_likelihood": self.train,
            "held_out": self.test,
            "elbo": nan if last is None else last.elbo[-1],
            "gap": nan if last is None else last.kl[-1],
            "steps": self.num_steps,
            "seconds": self.seconds,
            "adjusted_rand": self.rand,
        }


@dataclass(frozen=True)
class Comparison:
    """The results of all methods, from the same start.

    Attributes:
        points: the data.
        settings: the options of the comparison.
        start: the mixture that methods start from.
        results: results by the name of the method, in order.
        log_evidence: log p(x) of the Bayesian model, in nats per datum, and its standard error;
            NaN if it could not be estimated.
    """

    points: Points
    settings: Settings
    start: Mixture
    results: dict[str, Result]
    log_evidence: tuple[float, float]


def load_points(settings: Settings) -> tuple[Points, int]:
    """Load the data, and find the number of components.

    Raises:
        InputError: if there are no such data, or a mixture cannot be fitted to them.
    """
    is_toy = settings.data == _TOY
    table = _read_toy(settings.label) if is_toy else _read_table(settings.data, settings.label)
    classes = 0 if table.train_labels is None else len(table.train_labels.unique())
    num_components = settings.num_components or classes
    if not num_components:
        raise InputError(
            f"{table.name} has no classes, so the number of components is not known; give "
            "--components, or name the column of the class with --label"
        )
    train, test = (as_points(x, table.features).double() for x in (table.train, table.test))
    check_fittable(train, num_components, table.features)
    loc, scale = train.mean(0), train.std(0, correction=0)
    standardised = replace(table, train=(train - loc) / scale, test=(test - loc) / scale)
    return standardised, num_components


def _read_toy(label: str | None) -> Points:
    if label is not None:
        raise InputError("label names a column of a CSV file; the toy has none")
    x, z = toy(400, seed=0)
    return Points(_TOY, x, toy(1000, seed=1)[0], z, ("x1", "x2"))


def _read_table(data: str, label: str | None) -> Points:
    if data not in _TABLES and Path(data).suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{data!r} is not a table: {did_you_mean(data, (_TOY, *_TABLES))} (a file of your own "
            f"must end in {', '.join(SUFFIXES)})"
        )
    dataset = load(data, label=label, dtype=torch.float64)
    if len(dataset.event_shape) != 1:
        raise InputError(
            f"a Gaussian mixture needs a table; {dataset.name} has data of shape "
            f"{dataset.event_shape}"
        )
    parts = (dataset.train, dataset.validation)
    labels = [part.y for part in parts if part.y is not None]
    width = dataset.event_shape[0]
    return Points(
        dataset.name,
        torch.cat([part.x for part in parts]),
        dataset.test.x,
        torch.cat(labels) if labels else None,
        dataset.features or tuple(f"x{i + 1}" for i in range(width)),
    )


def compare(settings: Settings) -> Comparison:
    """Fit by every method from the same start, except that NUTS starts where CAVI ended.

    Raises:
        InputError: if there are no such data, or a mixture cannot be fitted to them.
    """
    points, k = load_points(settings)
    x = points.train
    kind: Any = settings.covariance_type
    floor = floor_of(x, _COVARIANCE_FLOOR)
    start = k_means_plus_plus(x, k, kind, floor, settings.seed)
    prior = Prior.of(x, k, kind)
    steps, seed = settings.num_steps, settings.seed
    every = ceil(steps / _NUM_MEASUREMENTS)
    watched = torch.arange(min(len(x), _MAX_WATCHED))

    def amortised(gradient: Any) -> Iterator[State]:
        return amortised_vi(
            x,
            start,
            floor,
            hidden=settings.hidden,
            gradient=gradient,
            num_steps=steps,
            measure_every=None if gradient == "enumerated" else every,
            seed=seed,
        )

    methods: dict[str, tuple[Callable[[], Iterator[State]], int]] = {
        "EM": (lambda: em(x, start, floor, max_iter=1000), 2001),
        "Monte Carlo EM": (lambda: monte_carlo_em(x, start, floor, seed=seed), 200),
        "VI, free q": (lambda: free_vi(x, start, floor, num_steps=steps), steps + 1),
        "VI, amortised q": (lambda: amortised("enumerated"), steps + 1),
        "VI, score": (lambda: amortised("score"), steps + 1),
        "VI, score, baseline": (lambda: amortised("score with baseline"), steps + 1),
        "VB, CAVI": (
            lambda: coordinate_ascent(x, start, prior, max_iter=1000),
            2000,
        ),
        "VB, SVI": (
            lambda: bayesian_svi(x, start, prior, num_steps=steps, seed=seed),
            steps + 1,
        ),
    }
    results = {}
    for name, (method, total) in methods.items():
        with LateProgress(name, total) as bar:
            climb = record(method(), x, watch=watched, on_step=bar.advance)
        results[name] = _make_result(name, climb, points)
    evidence = (float("nan"), float("nan"))
    best = results["VB, CAVI"].climb
    assert best is not None
    if k == 1:  # the family of q contains the posterior
        evidence = (best.elbo[-1], 0.0)
    elif k <= 7:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeavyTailWarning)
            estimate = log_evidence(x, best.last.posterior, seed=seed)
        if (
            estimate.pareto_k <= USELESS_PARETO_K
            and estimate.effective_samples >= MIN_EFFECTIVE_SAMPLES
        ):
            evidence = (estimate.log_evidence / len(x), estimate.standard_error / len(x))
    for name, result in results.items():
        if result.climb is not None and result.climb.last.posterior is not None:
            climb = result.climb.with_evidence(evidence[0])
            results[name] = replace(result, climb=climb)
    num_draws = settings.num_draws
    if num_draws is None:
        num_draws = _NUM_DRAWS if x.shape[0] <= 1000 and x.shape[1] <= 3 else 0
    if num_draws:
        results["NUTS"] = _run_nuts(points, best.last.mixture, prior, num_draws, seed)
    return Comparison(points, settings, start, results, evidence)


def _make_result(name: str, climb: Climb, points: Points) -> Result:
    last = climb.last
    density = last.mixture.log_prob if last.posterior is None else last.posterior.predictive
    rounds = climb.phases.count("M") or climb.phases.count("gradient")
    return Result(
        name,
        climb,
        rounds,
        climb.seconds[-1],
        density(points.train).mean().item(),
        density(points.test).mean().item(),
        _adjusted_rand_index(points.train_labels, last.log_q),
    )


def _run_nuts(points: Points, start: Mixture, prior: Prior, num_draws: int, seed: int) -> Result:
    num_warmup = ceil(num_draws / 2)
    began = perf_counter()
    with LateProgress("NUTS", num_draws + num_warmup) as bar:
        draws = nuts(
            points.train,
            start,
            prior,
            num_draws=num_draws,
            num_warmup=num_warmup,
            seed=seed,
            on_step=bar.advance,
        )
    seconds = perf_counter() - began
    return Result(
        "NUTS",
        None,
        num_draws,
        seconds,
        draws.predictive(points.train).mean().item(),
        draws.predictive(points.test).mean().item(),
        _adjusted_rand_index(points.train_labels, _align_components(draws, points.train, start)),
    )


def _align_components(draws: Draws, x: Tensor, start: Mixture) -> Tensor:
    """Mean responsibilities over draws, with components matched to those of the start."""
    from scipy.optimize import linear_sum_assignment

    reference = start.log_responsibilities(x).exp()
    total = torch.zeros_like(reference)
    for mixture in draws.mixtures:
        q = mixture.log_responsibilities(x).exp()
        _, order = linear_sum_assignment(-(reference.mT @ q).cpu().numpy())
        total += q[:, order]
    return total


def _adjusted_rand_index(labels: Tensor | None, log_q: Tensor) -> float:
    if labels is None:
        return float("nan")
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(labels.numpy(), log_q.argmax(1).cpu().numpy()))
