"""What a fit went through."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from torch import Tensor

from ..infer.pair.bound import PyroFunction
from ..infer.pair.pair import Pair

__all__ = ["Epoch", "History"]


@dataclass(frozen=True)
class Epoch:
    """Means over one pass through the data, per datum, in nats.

    The loss is minus the objective; for the ELBO, ``loss = reconstruction + kl``. The training
    figures are those before each step. The validation loss is minus the objective where that is a
    bound on log p(x), and minus the ELBO where it is not; None where there are no validation data.
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
    """What a fit went through, and the pair that it trained.

    Attributes:
        epochs: one entry a pass, in order.
        stopped_early: whether patience ran out.
        num_skipped: steps that were left out, as they were not finite.
    """

    _pair: Pair = field(repr=False)
    epochs: list[Epoch] = field(default_factory=list)
    stopped_early: bool = False
    num_skipped: int = 0

    @property
    def model(self) -> PyroFunction:
        """The model with the trained parameters, also where these are ``pyro.param``s."""
        return self._pair.model

    @property
    def guide(self) -> PyroFunction:
        """The guide likewise."""
        return self._pair.guide

    @property
    def params(self) -> dict[str, Tensor]:
        """What was declared with ``pyro.param`` and ``pyro.module``, by name, as it is now."""
        return self._pair.params()

    def __getitem__(self, name: str) -> list[float]:
        """One figure of every epoch, as in ``history["loss"]``."""
        return [getattr(epoch, name) for epoch in self.epochs]

    def rows(self) -> list[dict[str, Any]]:
        """One dict an epoch."""
        return [asdict(epoch) for epoch in self.epochs]

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss, or training loss without validation data."""
        return min(self.epochs, key=_criterion)


def _criterion(epoch: Epoch) -> float:
    loss = epoch.loss if epoch.validation_loss is None else epoch.validation_loss
    return loss if isfinite(loss) else float("inf")
