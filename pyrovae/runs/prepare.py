"""The data and the model of a run: load the data, prepare them, build the model, check the data."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod

import torch
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
from ..likelihoods.support import check_values
from ..models import catalogue
from ..models.base import LatentVariableModel
from ..nn import MLP, ConvDecoder, ConvEncoder, ResidualDecoder, ResidualEncoder
from .config import RunConfig
from .resolve import INFER, LABELLED, as_settings, resolve_parts

__all__ = [
    "NOISE_SEED",
    "arrange_data",
    "build_model",
    "check_data",
    "check_memory",
    "check_step_memory",
    "load_data",
    "make_training_batches",
    "prepare_data",
]

NOISE_SEED = 0
"""Seed of the binarisation or dequantisation of held-out data, the same in every run."""

_LABEL_SEED = 0
"""Seed of the choice of labels that a semi-supervised model sees, the same in every run."""

_ADVICE = "lower latent_dim, hidden, or the sizes of its parts"

_COPIES = 4
"""Copies of each parameter in training: itself, its gradient, and the two moments of Adam."""


def load_data(config: RunConfig) -> Dataset:
    """Load the data that the configuration names."""
    return load(
        config.data,
        root=config.data_root,
        download=config.download,
        label=config.label,
        exposure=config.exposure,
        words=_has_likelihood_per_column(config),
        validation_fraction=config.validation_fraction,
    )


def _has_likelihood_per_column(config: RunConfig) -> bool:
    """Whether each column has a likelihood of its own, so that columns may hold words."""
    spec = config.likelihood
    return spec == INFER or (isinstance(spec, dict) and spec.get("family") == "Mixed")


def arrange_data(config: RunConfig, dataset: Dataset) -> Dataset:
    """Return the data with the columns and labels that the model uses.

    Columns are in the order of the likelihood, if it names them. A conditional model gets all
    labels. A semi-supervised model gets some or all labels of the training data, and none of
    held-out data.
    """
    likelihood = Likelihood.of(config.likelihood)
    if isinstance(likelihood, Mixed):
        dataset = dataset.select(likelihood.columns)
    name = as_settings(config.model)["name"]
    if name not in LABELLED:
        return dataset
    parts = [replace(part, label=part.y) for part in dataset.splits.values()]
    if name == "semi_supervised":
        train, *held_out = parts
        known = _keep_labels(train, config.num_labels) if config.num_labels else train.label
        parts = [replace(train, label=known)]
        parts += [replace(part, label=torch.full((len(part),), -1)) for part in held_out]
    return dataset.with_splits(*parts)


def _keep_labels(part: Split, num: int) -> Tensor:
    """Return the labels with all but `num` of them set to -1; as many are kept of each class."""
    assert part.y is not None
    classes = part.y[part.y >= 0].unique().tolist()
    if num % len(classes) or num > len(part):
        raise InputError(
            f"num_labels is {num}; it must be a multiple of the {len(classes)} classes, to keep as "
            f"many labels of each, and at most the {len(part):,} training data"
        )
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(_LABEL_SEED))
    label = torch.full_like(part.y, -1)
    for each in classes:
        rows = order[part.y[order] == each][: num // len(classes)]
        if len(rows) < num // len(classes):
            raise InputError(
                f"num_labels is {num}, {num // len(classes)} of each class, but class {each} has "
                f"only {len(rows)} training data; lower num_labels"
            )
        label[rows] = each
    return label


def prepare_data(config: RunConfig, dataset: Dataset) -> Dataset:
    """Return the data as the likelihood sees them.

    With binarisation or dequantisation, all splits are binarised or dequantised once, with a fixed
    seed; :func:`make_training_batches` draws afresh for training where the configuration says so.
    """
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


def make_training_batches(
    config: RunConfig, dataset: Dataset, prepared: Dataset, device: torch.device
) -> Batches:
    """Make batches for training, with fresh noise at each step if the configuration asks for it.

    Arguments:
        config: the resolved options.
        dataset: the data before binarisation or dequantisation.
        prepared: the data as :func:`prepare_data` returns them.
        device: where the model is.
    """
    draw: Callable[..., Tensor] | None = None
    if config.binarise == "dynamic":
        draw = partial(binarise, levels=dataset.levels or 1.0)
    elif config.dequantise:
        draw = dequantise
    index = (torch.arange(len(dataset.train)),) if _has_own_posteriors(config) else ()
    if draw is None:
        return Batches((*prepared.train.parts, *index), config.batch_size, device=device)

    def with_noise(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        return draw(x), *given

    parts = (*dataset.train.parts, *index)
    return Batches(parts, config.batch_size, transform=with_noise, device=device)


def _has_own_posteriors(config: RunConfig) -> bool:
    """Whether each training datum has its own q(z | x), so that batches hold indices of data."""
    name: str = as_settings(config.inference)["name"]
    return name == "free"


def build_model(config: RunConfig, dataset: Dataset) -> LatentVariableModel:
    """Build the model for these data, with new parameters.

    Raises:
        InputError: if the parts do not fit each other or the data, or the model does not fit into
            memory.
    """
    if config.likelihood is None:
        raise InputError("the run's config.yaml names no likelihood; add one, or train again")
    config = resolve_parts(config, dataset)
    widths = (prod(dataset.event_shape), *config.hidden, config.latent_dim)
    if config.network == "mlp":
        _check_size(sum(a * b for a, b in pairwise(widths)))
    mlp = partial(MLP, hidden=config.hidden)
    encoder, decoder = {
        "mlp": (mlp, mlp),
        "conv": (ConvEncoder, ConvDecoder),
        "residual": (ResidualEncoder, ResidualDecoder),
    }[config.network]
    with memory_guard("the model", _ADVICE):
        family = catalogue.build_model(
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
    _check_size(sum(parameter.numel() for parameter in family.parameters()))
    return family


def check_memory(family: LatentVariableModel, device: torch.device) -> None:
    """Refuse a model whose training would not fit into the memory of this machine.

    Only training on the CPU is checked.
    """
    if device.type == "cpu":
        num_parameters = sum(parameter.numel() for parameter in family.parameters())
        _check_size(num_parameters, "training", _COPIES)


def check_step_memory(config: RunConfig, event_shape: tuple[int, ...]) -> None:
    """Refuse an objective whose samples of a batch would not fit into the memory of this machine.

    Only the values of the widest layers are counted, and not their gradients.
    """
    objective = config.objective if isinstance(config.objective, dict) else {}
    num = objective.get("num_particles", 1)
    if isinstance(num, int):
        width = max(prod(event_shape), config.latent_dim, *config.hidden)
        num_bytes = num * config.batch_size * width * torch.get_default_dtype().itemsize
        what = f"a step with {num:,} samples of each of {config.batch_size:,} data"
        check_fits_memory(num_bytes, what, "lower num_particles or batch_size")


def _check_size(num_parameters: int, what: str = "holding", copies: int = 1) -> None:
    num_bytes = copies * num_parameters * torch.get_default_dtype().itemsize
    check_fits_memory(num_bytes, f"{what} {num_parameters:,} parameters", _ADVICE)


def check_data(family: LatentVariableModel, dataset: Dataset) -> None:
    """Refuse data that the model cannot have produced, or whose density has no upper bound."""
    for name, part in dataset.splits.items():
        what = f"the {name} data of {dataset.name}"
        if not family.model.missing:
            check_values(part.x, dataset.event_shape, dataset.features, what)
        family.likelihood.check(part.x, dataset.features, what)
    what = f"the training data of {dataset.name}"
    family.likelihood.check_varied(dataset.train.x, dataset.features, what)
