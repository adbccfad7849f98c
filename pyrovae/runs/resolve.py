"""Options that follow from the data: the likelihood, binarisation, numbers of classes and of data.

:func:`resolve_options` fills in what a run keeps in its config.yaml; :func:`resolve_parts` adds
what is computed anew from the data each time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ..data import Dataset
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..likelihoods.likelihood import propose
from ..models.catalogue import MODELS, check_declared
from .config import RunConfig

__all__ = ["INFER", "LABELLED", "as_settings", "resolve_options", "resolve_parts"]

INFER = "infer"
"""Given in place of a likelihood: choose one for each column from the data."""

LABELLED = ("conditional", "semi_supervised")
"""Models that use labels."""

_DIGITS_LEVELS = 16

_ALPHA = 0.1
"""The classification loss has weight 0.1 N for N data, as in Kingma et al. (2014)."""


def resolve_options(config: RunConfig, dataset: Dataset, path: Path, console: Console) -> RunConfig:
    """Return the configuration with every option filled in that a run keeps.

    Arguments:
        config: the options that were given.
        dataset: the data.
        path: the run directory.
        console: prints the likelihood that is chosen for each column.

    Raises:
        InputError: if options do not fit each other or the data.
    """
    likelihood = _choose_likelihood(config, dataset, console)
    resolve_parts(config, dataset)
    is_bernoulli = likelihood == Likelihood("Bernoulli")
    if config.dequantise and (
        isinstance(likelihood, Mixed) or likelihood.build(dataset.event_shape).is_discrete
    ):
        raise InputError(
            f"{likelihood} models whole numbers directly, in some columns or all; leave out "
            "dequantise, which is for densities"
        )
    data = Path(config.data)
    return config.model_copy(
        update={
            "data": str(data.resolve()) if data.suffix and data.is_file() else config.data,
            "data_root": None if config.data_root is None else config.data_root.resolve(),
            "likelihood": likelihood.to_dict(),
            "binarise": config.binarise
            or ("dynamic" if dataset.levels is not None and is_bernoulli else "none"),
            "missing": dataset.has_missing if config.missing is None else config.missing,
            "output": path,
        }
    )


def resolve_parts(config: RunConfig, dataset: Dataset) -> RunConfig:
    """Return the configuration with settings of its parts that depend on the data, such as the
    number of classes.

    A run does not keep these, so that its config.yaml can be reused with other options.

    Raises:
        InputError: if a part is unknown, or the parts do not fit each other or the data.
    """
    model = _resolve_model(config, dataset)
    return config.model_copy(
        update={
            "model": model,
            "inference": _resolve_inference(config, dataset),
            "objective": config.objective or MODELS[model["name"]].objective,
        }
    )


def as_settings(declared: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a part that is declared by its name, or by settings, as settings with a name."""
    return {"name": declared} if isinstance(declared, str) else dict(declared)


def _resolve_model(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Return the model's settings with those that follow from the data."""
    model = as_settings(config.model)
    name = check_declared(
        model, prior=config.prior, posterior=config.posterior, inference=config.inference
    )
    if config.num_labels is not None and name != "semi_supervised":
        raise InputError(
            f"num_labels is an option of the semi_supervised model, not of {name!r}; leave it out"
        )
    if name == "hierarchical":
        model.setdefault("latent_dims", [config.latent_dim, max(1, config.latent_dim // 2)])
        model.setdefault("hidden", list(config.hidden) or [config.latent_dim])
    if name in LABELLED:
        labels = [_find_labels(dataset, part, name) for part in dataset.splits]
        model.setdefault("num_classes", max(int(y.max()) for y in labels) + 1)
        model.setdefault("width", (config.hidden or (config.latent_dim,))[-1])
    if name == "semi_supervised":
        known = config.num_labels or int((labels[0] >= 0).sum())
        model.setdefault("weight", _ALPHA * len(dataset.train) / max(1, known))
    return model


def _find_labels(dataset: Dataset, part: str, name: str) -> Tensor:
    y = dataset.splits[part].y
    if y is None:
        raise InputError(
            f"model {name!r} needs labels, and the {part} data of {dataset.name} have none; in a "
            "CSV, name their column with label"
        )
    if name == "conditional" and bool((y < 0).any()):
        raise InputError(
            f"{int((y < 0).sum())} labels of the {part} data of {dataset.name} are missing (-1); a "
            "conditional model needs all of them: use semi_supervised"
        )
    return y


def _resolve_inference(config: RunConfig, dataset: Dataset) -> str | dict[str, Any]:
    """Return how q(z | x) is found, with the number of data if each has its own q."""
    inference = as_settings(config.inference)
    if inference["name"] == "free":
        inference["num_data"] = len(dataset.train)
    return inference if len(inference) > 1 else config.inference


def _choose_likelihood(config: RunConfig, dataset: Dataset, console: Console) -> Likelihood | Mixed:
    x = dataset.train.x
    if as_settings(config.model)["name"] == "ppca":
        return _find_ppca_likelihood(config)
    if config.likelihood == INFER:
        return _infer_likelihoods(dataset, console)
    if config.likelihood is not None:
        likelihood = Likelihood.of(config.likelihood)
        if ("exposure" in likelihood.given) != (config.exposure is not None):
            raise InputError(
                "an exposure column and a likelihood with exposure=true go together; got "
                f"exposure {config.exposure!r} and {likelihood!r}"
            )
        return likelihood
    if config.exposure is not None:
        return Likelihood("NegativeBinomial", exposure=True)
    if dataset.levels == _DIGITS_LEVELS:
        return Likelihood("Binomial", total_count=16)
    if dataset.is_grey or bool(((x == 0) | (x == 1) | x.isnan()).all()):
        return Likelihood("Bernoulli")
    if len(dataset.event_shape) == 1:
        return Likelihood("Normal", scale="per_feature")
    return Likelihood("Normal", scale="shared")


def _find_ppca_likelihood(config: RunConfig) -> Likelihood:
    """Return the only likelihood of probabilistic PCA; refuse any other."""
    normal = Likelihood("Normal", scale="shared", links={"scale": "exp"})
    declared = config.likelihood
    if declared is not None and (declared == INFER or Likelihood.of(declared) != normal):
        raise InputError(
            "probabilistic PCA has a normal likelihood with one shared scale, and is fitted in "
            "closed form; leave likelihood out, or choose another model"
        )
    if config.exposure is not None:
        raise InputError("probabilistic PCA takes no exposure; leave it out, or choose a vae")
    return normal


def _infer_likelihoods(dataset: Dataset, console: Console) -> Mixed:
    """Choose a likelihood for each column from all splits, and print each with its reason."""
    if dataset.features is None:
        raise InputError(
            f"likelihood 'infer' chooses one for each column of a table; {dataset.name} is not a "
            "table, so name a likelihood"
        )
    x = torch.cat([part.x for part in dataset.splits.values()])
    blocks: dict[str | tuple[str, ...], Likelihood] = {}
    for i, name in enumerate(dataset.features):
        words = dataset.categories.get(name)
        blocks[name], reason = propose(name, x[:, i], None if words is None else len(words))
        console.print(f"{name}: {blocks[name]}, as {reason}", highlight=False, soft_wrap=True)
    return Mixed(blocks)
