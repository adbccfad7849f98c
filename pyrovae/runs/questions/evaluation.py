"""Evaluate a trained model on test data: its ELBO, and estimates of log p(x) with their errors."""

import warnings
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from rich.console import Console

from ...errors import InputError
from ...infer import (
    Estimate,
    ImportanceEstimate,
    annealed_importance_sample,
    bidirectional_check,
    importance_sample,
    latent_report,
)
from ...infer import evaluate as evaluate_pair
from ...infer.estimators.pareto import MAX_PARETO_K, USELESS_PARETO_K, HeavyTailWarning
from ...models.hierarchical import HierarchicalVAE
from ...models.mixture import MixtureVAE
from ...models.semi_supervised import SemiSupervisedVAE
from ..prepare import NOISE_SEED
from ..report import evaluation_record, print_annealed, print_evaluation, print_log_likelihood
from ..trained import Trained, make_ordered_batches, refuse_non_finite
from .families import compute_family_metrics, describe_family_metrics

__all__ = ["evaluate_annealed", "evaluate_elbo", "evaluate_log_likelihood"]

_SEED = 0
_MASS_BOUND = "lower bound on log probability mass"
_BOUNDS = (1, 10, 100, 1000)
"""Numbers of samples whose bounds are reported, to show how the estimate rises."""

_REPORTED = 2000
"""Number of test data for the report on the use of latents, which compares all pairs."""

_ANNEALED = 100
"""Number of test data for annealing, which needs thousands of gradients per datum."""

_SIMULATED = 20
"""Number of simulated data for the bidirectional check of annealing."""

_SEVERAL_LATENTS = (HierarchicalVAE, MixtureVAE, SemiSupervisedVAE)
"""Models with several latents that depend on each other; they have metrics of their own."""


def evaluate_elbo(trained: Trained, console: Console) -> None:
    """Evaluate the test ELBO and the use of latents; print them, and write ``evaluation.json``."""
    with torch.random.fork_rng(), refuse_non_finite(trained.run.path):
        torch.manual_seed(_SEED)
        evaluation = evaluate_pair(
            trained.family.model,
            trained.family.guide,
            make_ordered_batches(trained.test, trained.device),
            size=trained.about.num["training"],
            num_particles=trained.config.num_particles,
        )
    kind = _find_kind(trained)
    is_whole = kind in (_MASS_BOUND, "log probability mass")
    size = None if trained.config.missing or not is_whole else prod(trained.family.event_shape)
    likelihood = str(trained.family.likelihood.likelihood)
    record = evaluation_record(evaluation, likelihood, _describe_data(trained), kind, size)
    record["latents"], sentence = _report_latents(trained)
    metrics = compute_family_metrics(trained)
    record |= metrics
    trained.write_record("evaluation", record)
    print_evaluation(record, console, "Test set" if trained.rows is None else trained.test_name)
    for line in filter(None, (sentence, *describe_family_metrics(metrics))):
        console.print(line, highlight=False, soft_wrap=True)


def _report_latents(trained: Trained) -> tuple[dict[str, Any] | None, str]:
    """Return how far the model uses its latents, as numbers and in words, or why not known."""
    if not trained.family.has_prior:
        return (
            None,
            "the use of latents is not reported: an autoencoder has no p(z) to compare codes with",
        )
    if isinstance(trained.family, _SEVERAL_LATENTS):
        return None, ""
    try:
        (latents,) = latent_report(
            trained.family.model,
            trained.family.guide,
            make_ordered_batches(trained.test, trained.device),
            max_data=_REPORTED,
            seed=_SEED,
        )
    except InputError as error:
        return None, f"the use of latents is not reported: {error}"
    numbers = {
        "num_dimensions": len(latents.active),
        "num_active": latents.num_active,
        "has_collapsed": latents.is_collapsed,
        "mutual_information": latents.mutual_information,
        "aggregate_kl": latents.aggregate_kl,
        "kl_of_dimensions": latents.kl.tolist(),
        "num_data": latents.num_data,
    }
    return numbers, latents.sentence


def evaluate_log_likelihood(
    trained: Trained, num_samples: int, console: Console
) -> ImportanceEstimate:
    """Estimate log p(x) of the test data by importance sampling.

    Prints a table, and writes ``log_likelihood.json`` with the results and the protocol, and
    ``log_likelihood.csv`` with a line for each datum.
    """
    _refuse_autoencoders(trained)
    with refuse_non_finite(trained.run.path), warnings.catch_warnings():
        warnings.simplefilter("ignore", HeavyTailWarning)  # the report says it
        estimate = importance_sample(
            trained.family.model,
            trained.family.guide,
            make_ordered_batches(trained.test, trained.device),
            num_samples=num_samples,
            bounds=[k for k in _BOUNDS if k < num_samples],
            seed=_SEED,
        )
    record = {
        **_summarise(estimate),
        "unit": "nats per datum",
        "kind": _find_kind(trained),
        "estimator": f"importance sampling, {num_samples:,} samples of z per datum from q(z|x)",
        "num_samples": num_samples,
        "seed": _SEED,
        "num_data": len(estimate.log_likelihood),
        "likelihood": str(trained.family.likelihood.likelihood),
        "data": _describe_data(trained),
    }
    trained.write_record("log_likelihood", record)
    print_log_likelihood(record, console)
    if trained.rows is not None:
        return estimate
    trained.run.write_table("log_likelihood", _rows(estimate))
    path = trained.run.path / "log_likelihood.csv"
    console.print(f"wrote the log-likelihood of each datum to {path}", soft_wrap=True)
    return estimate


def evaluate_annealed(trained: Trained, other: ImportanceEstimate | None, console: Console) -> None:
    """Estimate log p(x) of the first test data by annealed importance sampling.

    The estimate does not depend on the guide. A bidirectional check on simulated data shows how far
    off it may be. Prints the results, and writes ``annealed.json``.

    Arguments:
        trained: the model and its data.
        other: an estimate for all test data, to be reported beside it for the same data.
        console: to print to.
    """
    _refuse_autoencoders(trained)
    model, parts = trained.family.model, trained.test.parts
    data = tuple(part[:_ANNEALED].to(trained.device) for part in parts)
    with refuse_non_finite(trained.run.path):
        estimate = annealed_importance_sample(model, data, seed=_SEED)
        check = bidirectional_check(model, tuple(part[:_SIMULATED] for part in data), seed=_SEED)
    record = {
        "log_likelihood": {
            **_as_dict(estimate.mean),
            "monte_carlo_error": estimate.monte_carlo_error,
        },
        "importance_sampling": other
        and other.log_likelihood[: len(estimate.log_likelihood)].mean().item(),
        "gap": {**_as_dict(check.mean_gap), "num_data": len(check.gap)},
        "acceptance": estimate.acceptance.mean().item(),
        "unit": "nats per datum",
        "kind": _find_kind(trained),
        "estimator": "annealed importance sampling from the prior, "
        f"{estimate.num_chains} chains of {estimate.num_temperatures} temperatures per datum, HMC",
        "seed": _SEED,
        "num_data": len(estimate.log_likelihood),
        "likelihood": str(trained.family.likelihood.likelihood),
        "data": f"the first of {_describe_data(trained)}",
    }
    trained.write_record("annealed", record)
    print_annealed(record, console)


def _refuse_autoencoders(trained: Trained) -> None:
    if not trained.family.has_prior:
        raise InputError(
            "an autoencoder has no p(z), so there is no p(x) to estimate; train a vae instead"
        )


def _summarise(estimate: ImportanceEstimate) -> dict[str, Any]:
    effective, tail = estimate.effective_samples, estimate.pareto_k
    return {
        "log_likelihood": {
            **_as_dict(estimate.mean),
            "monte_carlo_error": estimate.monte_carlo_error,
            "bias": -estimate.bias,
        },
        "bounds": {str(k): _as_dict(Estimate.of(bound)) for k, bound in estimate.bounds.items()},
        "rate": _as_dict(Estimate.of(estimate.kl)),
        "distortion": _as_dict(Estimate.of(estimate.reconstruction)),
        "effective_samples": {
            "median": effective.median().item(),
            "smallest": effective.min().item(),
        },
        "pareto_k": {
            "largest": tail.nan_to_num(nan=-torch.inf).max().item(),
            "num_heavy": int((tail > MAX_PARETO_K).sum()),
            "num_useless": int((tail > USELESS_PARETO_K).sum()),
        },
        "worst": estimate.worst(5).tolist(),
    }


def _as_dict(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "standard_error": estimate.standard_error}


def _rows(estimate: ImportanceEstimate) -> Iterator[dict[str, float]]:
    columns = {
        "log_likelihood": estimate.log_likelihood,
        "standard_error": estimate.standard_error,
        "effective_samples": estimate.effective_samples,
        "pareto_k": estimate.pareto_k,
        "distortion": estimate.reconstruction,
        "rate": estimate.kl,
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    for number, row in enumerate(values):
        yield {"datum": number, **dict(zip(columns, row, strict=True))}


def _find_kind(trained: Trained) -> str:
    """Return what log p(x | z) is the log of, such as a density or a probability mass."""
    if not trained.family.has_prior:
        return f"{trained.family.likelihood.kind} given codes, not of x"
    kind: str = trained.family.likelihood.kind
    return _MASS_BOUND if trained.config.dequantise else kind


def _describe_data(trained: Trained) -> str:
    """Return the name of the data, and how they were binarised or dequantised."""
    name = trained.test_name
    if trained.config.dequantise:
        return f"{name}, dequantised by uniform noise (seed {NOISE_SEED})"
    return {
        "none": f"{name}, values as they are",
        "static": f"{name}, binarised once (seed {NOISE_SEED})",
        "dynamic": f"{name}, trained with fresh binarisation, tested on one draw "
        f"(seed {NOISE_SEED})",
    }[trained.config.binarise or "none"]
