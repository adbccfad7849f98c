"""The history of a fit: one record for each epoch."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_path
from ..infer.pair.bound import PyroFunction
from ..infer.pair.pair import Pair
from .saved import PAIR, epochs_of, read_pair, write_pair

__all__ = ["Epoch", "History"]


@dataclass(frozen=True)
class Epoch:
    """Means over one pass through the data, per datum, in nats.

    The loss is minus the objective; for the ELBO, ``loss = reconstruction + kl``. Training figures
    are computed before each update. The validation loss is minus the objective if that is a bound
    on log p(x), and minus the ELBO otherwise; None without validation data.
    """

    epoch: int
    loss: float
    reconstruction: float
    kl: float
    validation_loss: float | None
    validation_reconstruction: float | None
    validation_kl: float | None
    learning_rate: float
    seconds: float


@dataclass
class History:
    """The epochs of a fit, and the pair that it trained.

    Attributes:
        epochs: one entry for each epoch, in order.
        stopped_early: whether the fit stopped because patience ran out.
        num_skipped: number of steps that were skipped because they were not finite.
    """

    _pair: Pair = field(repr=False)
    epochs: list[Epoch] = field(default_factory=list)
    stopped_early: bool = False
    num_skipped: int = 0

    @property
    def model(self) -> PyroFunction:
        """The model with the trained parameters, ``pyro.param``s included."""
        return self._pair.model

    @property
    def guide(self) -> PyroFunction:
        """The guide with the trained parameters, ``pyro.param``s included."""
        return self._pair.guide

    @property
    def params(self) -> dict[str, Tensor]:
        """Current values of the parameters from ``pyro.param`` and ``pyro.module``, by name."""
        return self._pair.params()

    def keep(self) -> None:
        """Keep the present parameters, whatever further trainings do to Pyro's store."""
        self._pair = self._pair.keep()

    def save(self, path: str | Path) -> Path:
        """Save the parameters of the pair in a folder, from which :func:`pyrovae.open` reads them.

        The programs are not saved: give them to ``pyrovae.open(path, model=..., guide=...)``. A
        model of this package is better saved by its own ``save``.

        Arguments:
            path: the folder, which is created; files of an earlier pair in it are replaced.

        Returns:
            The folder.

        Raises:
            InputError: if a parameter cannot be kept, or the folder cannot be written to.
        """
        folder = as_path("path", path)
        write_pair(folder, self._pair, self.epochs)
        return folder

    @classmethod
    def open(
        cls, folder: Path, model: PyroFunction, guide: PyroFunction, device: torch.device
    ) -> "History":
        """Read what :meth:`save` wrote; see :func:`pyrovae.open`."""
        pair, records = read_pair(folder, model, guide, device)
        return cls(pair, epochs_of(records, Epoch, folder / PAIR))

    def __getitem__(self, name: str) -> list[float]:
        """One figure for every epoch, as in ``history["loss"]``."""
        return [getattr(epoch, name) for epoch in self.epochs]

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each epoch."""
        return [asdict(epoch) for epoch in self.epochs]

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss, or training loss without validation data."""
        return min(self.epochs, key=_criterion)


def _criterion(epoch: Epoch) -> float:
    loss = epoch.loss if epoch.validation_loss is None else epoch.validation_loss
    return loss if isfinite(loss) else float("inf")
