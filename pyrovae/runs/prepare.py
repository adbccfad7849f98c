"""From a configuration to what is trained: the data, the likelihood, the model."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ..data import Batches, Dataset, Split, binarise, load
from ..data.binarise import (
    check_binarisable,
    check_whole,
    dequantise,
    static_binarisation,
    static_dequantisation,
)
from ..data.memory import check_fits_memory, memory_guard
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..likelihoods.infer import propose
from ..likelihoods.support import check_values
from ..models.base.model import LatentVariableModel
from ..models.catalogue import MODELS, check_declared, model_of
from ..nn import MLP, ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from .config import RunConfig

__all__ = [
    "INFER",
    "NOISE_SEED",
    "arrange",
    "build",
    "check",
    "check_size",
    "load_data",
    "prepare",
    "resolve",
    "settle",
    "training_batches",
]

NOISE_SEED = 0
"""Held-out data are binarised, or dequantised, once, the same in every run."""

INFER = "infer"
"""In place of a likelihood: one for each column, as the data propose."""

_DIGITS_LEVELS = 16
_LABEL_SEED = 0
"""Which labels are kept back is the same in every run."""

_SMALLER = "lower latent_dim, hidden, or the sizes of its parts"

_COPIES = 4
"""Of each parameter in training: itself, its gradient, and two moments of Adam's."""

_ALPHA = 0.1
"""Weight of the classification of N data, for each of them, in Kingma et al. (2014)."""

_LABELLED = ("conditional", "semi_supervised")
"""Families that are told labels."""


def load_data(config: RunConfig) -> Dataset:
    """The data that the configuration names."""
    return load(
        config.data,
        root=config.data_root,
        download=config.download,
        label=config.label,
        exposure=config.exposure,
        words=_declares_columns(config),
        validation_fraction=config.validation_fraction,
    )


def _declares_columns(config: RunConfig) -> bool:
    """Whether each column has a likelihood of its own, so that words can be numbered."""
    spec = config.likelihood
    return spec == INFER or (isinstance(spec, dict) and spec.get("family") == "Mixed")


def resolve(config: RunConfig, dataset: Dataset, path: Path, console: Console) -> RunConfig:
    """The configuration with every option that can be kept with the run."""
    likelihood = _likelihood(config, dataset, console)
    settle(config, dataset)
    is_bernoulli = likelihood == Likelihood("Bernoulli")
    if config.dequantise and (
        isinstance(likelihood, Mixed) or likelihood.build(dataset.event_shape).is_discrete
    ):
        raise InputError(
            f"{likelihood} is of whole numbers as they are, in all columns or some; leave "
            "dequantise out"
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


def settle(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The configuration with what the data add to its parts, such as their number of classes.

    It is not kept with the run, whose options may be given again with other ones.

    Raises:
        InputError: if there is no such part, or the parts or the data do not go together.
    """
    model = _model(config, dataset)
    return config.model_copy(
        update={
            "model": model,
            "inference": _inference(config, dataset),
            "objective": config.objective or MODELS[model["name"]].objective,
        }
    )


def _named(declared: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": declared} if isinstance(declared, str) else dict(declared)


def _model(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """The family with the settings that follow from the data."""
    model = _named(config.model)
    name = check_declared(
        model, prior=config.prior, posterior=config.posterior, inference=config.inference
    )
    if config.num_labels is not None and name != "semi_supervised":
        raise InputError(f"num_labels is of semi-supervised models; {name!r} is none")
    if name == "hierarchical":
        model.setdefault("latent_dims", [config.latent_dim, max(1, config.latent_dim // 2)])
        model.setdefault("hidden", list(config.hidden) or [config.latent_dim])
    if name in _LABELLED:
        labels = [_labels_of(dataset, part, name) for part in dataset.splits]
        model.setdefault("num_classes", max(int(y.max()) for y in labels) + 1)
        model.setdefault("width", (config.hidden or (config.latent_dim,))[-1])
    if name == "semi_supervised":
        known = config.num_labels or int((labels[0] >= 0).sum())
        model.setdefault("weight", _ALPHA * len(dataset.train) / max(1, known))
    return model


def _labels_of(dataset: Dataset, part: str, name: str) -> Tensor:
    y = dataset.splits[part].y
    if y is None:
        raise InputError(
            f"model {name!r} is told labels, and the {part} data of {dataset.name} have none; of a "
            "CSV, name their column with label"
        )
    if name == "conditional" and bool((y < 0).any()):
        raise InputError(
            f"{int((y < 0).sum())} labels of the {part} data of {dataset.name} are missing (-1); a "
            "conditional model needs all of them: use semi_supervised"
        )
    return y


def _inference(config: RunConfig, dataset: Dataset) -> str | dict[str, Any]:
    """How q(z | x) is found, with the number of data where each has its own."""
    inference = _named(config.inference)
    if inference["name"] == "free":
        inference["num_data"] = len(dataset.train)
    return inference if len(inference) > 1 else config.inference


def _likelihood(config: RunConfig, dataset: Dataset, console: Console) -> Likelihood | Mixed:
    x = dataset.train.x
    if _named(config.model)["name"] == "ppca":
        return _of_ppca(config)
    if config.likelihood == INFER:
        return _inferred(dataset, console)
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


def _of_ppca(config: RunConfig) -> Likelihood:
    """That of probabilistic PCA, which has no other."""
    normal = Likelihood("Normal", scale="shared", links={"scale": "exp"})
    declared = config.likelihood
    if declared is not None and (declared == INFER or Likelihood.of(declared) != normal):
        raise InputError(
            "probabilistic PCA has a normal likelihood of one scale, and is fitted in closed form; "
            "leave likelihood out, or choose another model"
        )
    if config.exposure is not None:
        raise InputError("probabilistic PCA takes no exposure; leave it out, or choose a vae")
    return normal


def _inferred(dataset: Dataset, console: Console) -> Mixed:
    """A likelihood for each column, with the reasons; sizes are those of all the data."""
    if dataset.features is None:
        raise InputError(
            f"likelihoods are inferred for the columns of a table; {dataset.name} is none"
        )
    x = torch.cat([part.x for part in dataset.splits.values()])
    blocks: dict[str | tuple[str, ...], Likelihood] = {}
    for i, name in enumerate(dataset.features):
        words = dataset.categories.get(name)
        blocks[name], reason = propose(name, x[:, i], None if words is None else len(words))
        console.print(f"{name}: {blocks[name]}, as {reason}", highlight=False, soft_wrap=True)
    return Mixed(blocks)


def arrange(config: RunConfig, dataset: Dataset) -> Dataset:
    """The data as the model is told them: columns in the order of the likelihood, where this names
    them, and labels, where the model knows of any.

    A semi-supervised model is told some labels of the training data, and no others.
    """
    likelihood = Likelihood.of(config.likelihood)
    if isinstance(likelihood, Mixed):
        dataset = dataset.select(likelihood.columns)
    name = _named(config.model)["name"]
    if name not in _LABELLED:
        return dataset
    parts = [replace(part, label=part.y) for part in dataset.splits.values()]
    if name == "semi_supervised":
        train, *held_out = parts
        known = _kept(train, config.num_labels) if config.num_labels else train.label
        parts = [replace(train, label=known)]
        parts += [replace(part, label=torch.full((len(part),), -1)) for part in held_out]
    return dataset.with_splits(*parts)


def _kept(part: Split, num: int) -> Tensor:
    """Labels of which so many are kept, as many of each class, and the others are -1."""
    assert part.y is not None
    classes = part.y[part.y >= 0].unique().tolist()
    if num % len(classes) or num > len(part):
        raise InputError(
            f"num_labels is {num}; it must be as many of each of {len(classes)} classes, "
            f"and no more than the {len(part):,} training data"
        )
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(_LABEL_SEED))
    label = torch.full_like(part.y, -1)
    for each in classes:
        rows = order[part.y[order] == each][: num // len(classes)]
        if len(rows) < num // len(classes):
            raise InputError(
                f"num_labels is {num}, {num // len(classes)} of each class; class {each} has "
                f"{len(rows)} training data"
            )
        label[rows] = each
    return label


def prepare(config: RunConfig, dataset: Dataset) -> Dataset:
    """The data as the likelihood sees them; held-out data, and static ones, binarised once."""
    parts = (dataset.train, dataset.validation, dataset.test)
    if config.dequantise:
        check_whole(dataset)
        return dataset.with_splits(
            *(static_dequantisation(part, NOISE_SEED + i) for i, part in enumerate(parts))
        )
    if config.binarise == "none":
        return dataset
    levels = check_binarisable(dataset)
    train, validation, test = (
        static_binarisation(part, levels, NOISE_SEED + i) for i, part in enumerate(parts)
    )
    return dataset.with_splits(train, validation, test)


def training_batches(
    config: RunConfig, dataset: Dataset, prepared: Dataset, device: torch.device
) -> Batches:
    """Batches for training, with fresh noise where the configuration asks for it."""
    draw: Callable[..., Tensor] | None = None
    if config.binarise == "dynamic":
        draw = partial(binarise, levels=dataset.levels or 1.0)
    elif config.dequantise:
        draw = dequantise
    index = (torch.arange(len(dataset.train)),) if _is_free(config) else ()
    if draw is None:
        return Batches((*prepared.train.parts, *index), config.batch_size, device=device)

    def with_noise(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        return draw(x), *given

    parts = (*dataset.train.parts, *index)
    return Batches(parts, config.batch_size, transform=with_noise, device=device)


def _is_free(config: RunConfig) -> bool:
    """Whether training data come with their numbers, each having a q of its own."""
    name: str = _named(config.inference)["name"]
    return name == "free"


def build(config: RunConfig, dataset: Dataset) -> LatentVariableModel:
    """The model of these data, with new parameters."""
    if config.likelihood is None:
        raise InputError("the run's config.yaml names no likelihood")
    config = settle(config, dataset)
    widths = (prod(dataset.event_shape), *config.hidden, config.latent_dim)
    if config.network == "mlp":
        _refuse_larger(sum(a * b for a, b in pairwise(widths)))
    mlp = partial(MLP, hidden=config.hidden)
    encoder, decoder = {
        "mlp": (mlp, mlp),
        "conv": (ConvEncoder, ConvDecoder),
        "residual": (ResidualEncoder, ResidualDecoder),
    }[config.network]
    with memory_guard("the model", _SMALLER):
        family = model_of(
            config.model,
            event_shape=dataset.event_shape,
            latent_dim=config.latent_dim,
            prior=config.prior,
            posterior=config.posterior,
            inference=config.inference,
            likelihood=config.likelihood,
            encoder=encoder,
            decoder=decoder,
            missing=bool(config.missing),
        )
    _refuse_larger(sum(parameter.numel() for parameter in family.parameters()))
    return family


def check_size(family: LatentVariableModel, device: torch.device) -> None:
    """Refuse a model that cannot be trained in the memory of this machine, where it is to be."""
    if device.type == "cpu":
        num_parameters = sum(parameter.numel() for parameter in family.parameters())
        _refuse_larger(num_parameters, "training", _COPIES)


def _refuse_larger(num_parameters: int, what: str = "holding", copies: int = 1) -> None:
    num_bytes = copies * num_parameters * torch.get_default_dtype().itemsize
    check_fits_memory(num_bytes, f"{what} {num_parameters:,} parameters", _SMALLER)


def check(family: LatentVariableModel, dataset: Dataset) -> None:
    """Refuse data that the model cannot have produced, or whose density has no bound."""
    for name, part in dataset.splits.items():
        what = f"the {name} data of {dataset.name}"
        if not family.model.missing:
            check_values(part.x, dataset.event_shape, dataset.features, what)
        family.likelihood.check(part.x, dataset.features, what)
    what = f"the training data of {dataset.name}"
    family.likelihood.check_varied(dataset.train.x, dataset.features, what)
