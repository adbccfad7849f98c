"""A trained model and its data, as a run directory keeps them."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Batches, Dataset, Split
from ..device import find_device
from ..errors import InputError, short_repr
from ..models.base import LatentVariableModel
from .config import RunConfig
from .directory import RunDirectory
from .prepare import arrange_data, build_model, load_data, prepare_data

__all__ = ["EVALUATION_BATCH", "Trained", "finite", "in_chunks", "in_order", "open_run"]

EVALUATION_BATCH = 1000
"""Data in a batch where nothing is trained."""


@dataclass
class Trained:
    """A trained model and its data."""

    run: RunDirectory
    config: RunConfig
    data: Dataset
    family: LatentVariableModel
    device: torch.device

    @torch.no_grad()
    def draw(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents from the prior, draws from p(x | z), and its means.

        Where the model is told classes, they are drawn as often as they come in the training data.
        """
        given: tuple[Tensor, ...] = ()
        y = self.data.train.y
        if self.data.train.label is not None and y is not None:
            y = y[y >= 0]
            given = (y[torch.randint(len(y), (num,))].to(self.device),)
        z, eta = self.family.draw(num, *given)
        likelihood = self.family.likelihood
        return z.cpu(), likelihood(eta).sample().cpu(), likelihood.mean(eta).cpu()


def open_run(path: Path) -> Trained:
    """The model of a run directory, in eval mode, and its data.

    Raises:
        InputError: if the directory holds no run, or the data are no longer those of the run.
    """
    run = RunDirectory.open(path)
    config = run.read_config()
    device = find_device(config.device)
    event_shape, features = run.read_metadata("event_shape", "features")
    dataset = arrange_data(config, load_data(config))
    if list(dataset.event_shape) != event_shape:
        raise InputError(
            f"{config.data} now has data of shape {list(dataset.event_shape)}; the run was trained "
            f"on {short_repr(event_shape)}"
        )
    columns = None if dataset.features is None else list(dataset.features)
    if columns != features:
        raise InputError(
            f"{config.data} now has columns {_listed(columns)}; the run was trained on "
            f"{_listed(features)}"
        )
    family = build_model(config, dataset)
    run.read_weights(family)
    return Trained(run, config, prepare_data(config, dataset), family.to(device).eval(), device)


@contextmanager
def finite(path: Path) -> Iterator[None]:
    """Within, a run whose model gives NaN or infinite numbers is refused.

    Arguments:
        path: of the run.

    Raises:
        InputError: in place of the error that says so.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Encountered (NaN|[+-]?inf)"
            )  # which Pyro raises, too
            yield
    except (FloatingPointError, ValueError) as error:
        if isinstance(error, InputError) or not (
            isinstance(error, FloatingPointError) or "to satisfy the constraint" in str(error)
        ):
            raise
        raise InputError(
            f"the model of {path} gives numbers that are not finite: its weights are damaged, or "
            "its training went astray: train with a lower learning rate (lr)"
        ) from error


def _listed(features: Any) -> str:
    return ", ".join(map(str, features)) if isinstance(features, list) else short_repr(features)


def in_order(part: Split, device: torch.device) -> Batches:
    """The data of a split, in batches, on the device."""
    return Batches(part.parts, EVALUATION_BATCH, shuffle=False, device=device)


@torch.no_grad()
def in_chunks(function: Callable[..., Tensor], *tensors: Tensor, device: torch.device) -> Tensor:
    """The function of all of the tensors, a bounded part at a time, on the CPU."""
    parts = zip(*(t.split(EVALUATION_BATCH) for t in tensors), strict=True)
    return torch.cat([function(*(t.to(device) for t in part)).cpu() for part in parts])
