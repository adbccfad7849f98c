"""Open a run directory: the trained model and its data."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Batches, Dataset, Split
from ..data.memory import parameter_budget
from ..device import find_device
from ..errors import InputError, short_repr
from ..models.base import LatentVariableModel
from .config import RunConfig
from .directory import RunDirectory
from .prepare import arrange_data, build_model, load_data, prepare_data

__all__ = [
    "EVALUATION_BATCH",
    "Trained",
    "apply_in_chunks",
    "make_ordered_batches",
    "open_run",
    "refuse_non_finite",
]

EVALUATION_BATCH = 1000
"""Number of data in a batch outside training."""


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
        """Draw latents z from the prior and x from p(x | z); return z, x and E[x | z].

        A model that is conditioned on classes gets classes drawn from the labels of the training
        data.
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
    """Open a run directory: its model in eval mode, and its data.

    Raises:
        InputError: if the directory holds no run, or the data have changed since.
    """
    run = RunDirectory.open(path)
    config = run.read_config()
    device = find_device(config.device)
    event_shape, features = run.read_metadata("event_shape", "features")
    dataset = arrange_data(config, load_data(config))
    if list(dataset.event_shape) != event_shape:
        raise InputError(
            f"{config.data} now has data of shape {list(dataset.event_shape)}, but the run was "
            f"trained on {short_repr(event_shape)}"
        )
    columns = None if dataset.features is None else list(dataset.features)
    if columns != features:
        raise InputError(
            f"{config.data} now has columns {_join_names(columns)}, but the run was trained on "
            f"{_join_names(features)}"
        )
    with parameter_budget(run.weights_size()):
        family = build_model(config, dataset)
    run.read_weights(family)
    return Trained(run, config, prepare_data(config, dataset), family.to(device).eval(), device)


@contextmanager
def refuse_non_finite(path: Path) -> Iterator[None]:
    """Context in which a model that gives NaN or infinite numbers raises an InputError.

    Arguments:
        path: run directory, for the message.

    Raises:
        InputError: in place of a FloatingPointError, or of Pyro's ValueError.
    """
    try:
        with warnings.catch_warnings():
            # Pyro warns before it raises.
            warnings.filterwarnings("ignore", "Encountered (NaN|[+-]?inf)")
            yield
    except (FloatingPointError, ValueError) as error:
        if isinstance(error, InputError) or not (
            isinstance(error, FloatingPointError) or "to satisfy the constraint" in str(error)
        ):
            raise
        raise InputError(
            f"the model of {path} gives numbers that are not finite: its weights are damaged, or "
            "its training diverged; train again with a lower learning rate (lr)"
        ) from error


def _join_names(features: Any) -> str:
    return ", ".join(map(str, features)) if isinstance(features, list) else short_repr(features)


def make_ordered_batches(part: Split, device: torch.device) -> Batches:
    """Make batches of the data of a split, in their order, on the device."""
    return Batches(part.parts, EVALUATION_BATCH, shuffle=False, device=device)


@torch.no_grad()
def apply_in_chunks(
    function: Callable[..., Tensor], *tensors: Tensor, device: torch.device
) -> Tensor:
    """Apply a function to tensors in chunks of bounded size, and return the results on the CPU."""
    parts = zip(*(t.split(EVALUATION_BATCH) for t in tensors), strict=True)
    return torch.cat([function(*(t.to(device) for t in part)).cpu() for part in parts])
