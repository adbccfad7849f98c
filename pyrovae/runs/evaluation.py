"""Test figures of a trained model: its ELBO, and log p(x) with what is known of its error."""

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from rich.console import Console

from ..errors import InputError
from ..infer import (
    Estimate,
    ImportanceEstimate,
    annealed_importance_sample,
    bidirectional_check,
    importance_sample,
    latent_report,
)
from ..infer import evaluate as evaluate_pair
from ..models.hierarchical import HierarchicalVAE
from ..models.mixture import MixtureVAE
from ..models.semi_supervised import SemiSupervisedVAE
from .families import figures_of_family, sentences_of
from .prepare import NOISE_SEED
from .report import evaluation_record, print_annealed, print_evaluation, print_log_likelihood
from .trained import Trained, finite, in_order

__all__ = ["evaluate_annealed", "evaluate_elbo", "evaluate_log_likelihood"]

_SEED = 0
_MASS_BOUND = "lower bound on log probability mass"
_BOUNDS = (1, 10, 100, 1000)
"""Numbers of samples whose bounds show how the estimate rises."""

_REPORTED = 2000
"""Test data by which it is told how far the latents are used, all pairs of them."""

_ANNEALED = 100
"""Test data whose log p(x) is had by annealing, which takes thousands of gradients for each."""

_SIMULATED = 20
"""Simulated data on which annealing is checked from both sides."""

_SEVERAL_LATENTS = (HierarchicalVAE, MixtureVAE, SemiSupervisedVAE)
"""Families whose latents are drawn given one another; they have figures of their own."""

_HEAVY_TAIL = 0.7
"""Pareto k above which a standard error is not to be trusted (Vehtari et al. 2024)."""


def evaluate_elbo(trained: Trained, console: Console) -> None:
    """The test ELBO, and how far the latents are used, as a table and as ``evaluation.json``."""
    with torch.random.fork_rng(), finite(trained.run.path):
        torch.manual_seed(_SEED)
        evaluation = evaluate_pair(
            trained.family.model,
            trained.family.guide,
            in_order(trained.data.test, trained.device),
            size=len(trained.data.train),
            num_particles=trained.config.num_particles,
        )
    kind = _kind(trained)
    whole = kind in (_MASS_BOUND, "log probability mass")
    size = None if trained.config.missing or not whole else prod(trained.family.event_shape)
    likelihood = str(trained.family.likelihood.likelihood)
    record = evaluation_record(evaluation, likelihood, _protocol(trained), kind, size)
    record["latents"], used = _latents(trained)
    own = figures_of_family(trained)
    record |= own
    trained.run.write_evaluation(record)
    print_evaluation(record, console)
    for sentence in filter(None, (used, *sentences_of(own))):
        console.print(sentence, highlight=False, soft_wrap=True)


def _latents(trained: Trained) -> tuple[dict[str, Any] | None, str]:
    """How far the latents are used, as figures and in words; or why that cannot be told."""
    if not trained.family.has_prior:
        return None, "an autoencoder has no p(z), from which its codes could differ"
    if isinstance(trained.family, _SEVERAL_LATENTS):
        return None, ""
    try:
        (latents,) = latent_report(
            trained.family.model,
            trained.family.guide,
            in_order(trained.data.test, trained.device),
            max_data=_REPORTED,
            seed=_SEED,
        )
    except InputError as error:
        return None, f"how far the latents are used is not told: {error}"
    figures = {
        "num_dimensions": len(latents.active),
        "num_active": latents.num_active,
        "has_collapsed": latents.is_collapsed,
        "mutual_information": latents.mutual_information,
        "aggregate_kl": latents.aggregate_kl,
        "kl_of_dimensions": latents.kl.tolist(),
        "num_data": latents.num_data,
    }
    return figures, latents.sentence


def evaluate_log_likelihood(
    trained: Trained, num_samples: int, console: Console
) -> ImportanceEstimate:
    """log p(x) of the test data by importance sampling: a table, ``log_likelihood.json`` with the
    figures and their protocol, and ``log_likelihood.csv`` with a line for each datum.
    """
    _refuse_autoencoders(trained)
    with finite(trained.run.path):
        estimate = importance_sample(
            trained.family.model,
            trained.family.guide,
            in_order(trained.data.test, trained.device),
            num_samples=num_samples,
            bounds=[k for k in _BOUNDS if k < num_samples],
            seed=_SEED,
        )
    record = {
        **_figures(estimate),
        "unit": "nats per datum",
        "kind": _kind(trained),
        "estimator": f"importance sampling, {num_samples:,} samples of z a datum from q(z|x)",
        "num_samples": num_samples,
        "seed": _SEED,
        "num_data": len(estimate.log_likelihood),
        "likelihood": str(trained.family.likelihood.likelihood),
        "data": _protocol(trained),
    }
    trained.run.write_record("log_likelihood", record)
    trained.run.write_table("log_likelihood", _rows(estimate))
    print_log_likelihood(record, console)
    console.print(f"each datum in {trained.run.path / 'log_likelihood.csv'}", soft_wrap=True)
    return estimate


def evaluate_annealed(
    trained: Trained, beside: ImportanceEstimate | None, console: Console
) -> None:
    """log p(x) of the first test data by annealed importance sampling, which owes nothing to the
    guide, and how far it may be off: as sentences and as ``annealed.json``.

    Arguments:
        trained: the model and its data.
        beside: an estimate of all test data, of which the same ones are shown beside it.
        console: to print to.
    """
    _refuse_autoencoders(trained)
    model, parts = trained.family.model, trained.data.test.parts
    data = tuple(part[:_ANNEALED].to(trained.device) for part in parts)
    with finite(trained.run.path):
        estimate = annealed_importance_sample(model, data, seed=_SEED)
        check = bidirectional_check(model, tuple(part[:_SIMULATED] for part in data), seed=_SEED)
    record = {
        "log_likelihood": {
            **_of(estimate.mean),
            "monte_carlo_error": estimate.monte_carlo_error,
        },
        "importance_sampling": beside
        and beside.log_likelihood[: len(estimate.log_likelihood)].mean().item(),
        "gap": {**_of(check.mean_gap), "num_data": len(check.gap)},
        "acceptance": estimate.acceptance.mean().item(),
        "unit": "nats per datum",
        "kind": _kind(trained),
        "estimator": "annealed importance sampling from the prior, "
        f"{estimate.num_chains} chains of {estimate.num_temperatures} temperatures a datum, HMC",
        "seed": _SEED,
        "num_data": len(estimate.log_likelihood),
        "likelihood": str(trained.family.likelihood.likelihood),
        "data": f"the first of {_protocol(trained)}",
    }
    trained.run.write_record("annealed", record)
    print_annealed(record, console)


def _refuse_autoencoders(trained: Trained) -> None:
    if not trained.family.has_prior:
        raise InputError(
            "an autoencoder has no p(z), and so no p(x) whose log could be estimated; train a vae, "
            "which has one"
        )


def _figures(estimate: ImportanceEstimate) -> dict[str, Any]:
    effective, tail = estimate.effective_samples, estimate.pareto_k
    return {
        "log_likelihood": {
            **_of(estimate.mean),
            "monte_carlo_error": estimate.monte_carlo_error,
            "bias": -estimate.bias,
        },
        "bounds": {str(k): _of(Estimate.of(bound)) for k, bound in estimate.bounds.items()},
        "rate": _of(Estimate.of(estimate.kl)),
        "distortion": _of(Estimate.of(estimate.reconstruction)),
        "effective_samples": {
            "median": effective.median().item(),
            "smallest": effective.min().item(),
        },
        "pareto_k": {
            "largest": tail.nan_to_num(nan=-torch.inf).max().item(),
            "num_heavy": int((tail > _HEAVY_TAIL).sum()),
        },
        "worst": estimate.worst(5).tolist(),
    }


def _of(estimate: Estimate) -> dict[str, float]:
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


def _kind(trained: Trained) -> str:
    """What log p(x | z) is the log of; and that an autoencoder has no more than that."""
    if not trained.family.has_prior:
        return f"{trained.family.likelihood.kind} given codes, and none of x"
    kind: str = trained.family.likelihood.kind
    return _MASS_BOUND if trained.config.dequantise else kind


def _protocol(trained: Trained) -> str:
    """What was done to the data."""
    name = trained.data.name
    if trained.config.dequantise:
        return f"{name}, dequantised by uniform noise (seed {NOISE_SEED})"
    return {
        "none": f"{name}, values as they are",
        "static": f"{name}, binarised once (seed {NOISE_SEED})",
        "dynamic": f"{name}, trained with fresh binarisation, tested on one draw "
        f"(seed {NOISE_SEED})",
    }[trained.config.binarise or "none"]
