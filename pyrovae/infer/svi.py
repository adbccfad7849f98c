"""Stochastic variational inference with one torch optimiser for all parameters."""

from collections.abc import Callable
from math import nan
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InputError
from .pair import Pair

__all__ = ["SVI", "Loss"]


class Loss(NamedTuple):
    """The negative ELBO per datum and its two terms, in nats; ``loss = reconstruction + kl``.

    Attributes:
        loss: -ELBO / N.
        reconstruction: -E_q[log p(x | z)] / N.
        kl: E_q[log q(z) - log p(z)] / N, estimated at the samples of z.
    """

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    kl: Float[Tensor, ""]


class SVI:
    """Maximise the ELBO of a model/guide pair (Hoffman et al. 2013), step by step.

    The objective is the ELBO of the whole data set divided by its size: a minibatch is scaled
    up within the plate over data, so latents shared by all data keep their right weight.
    Values and gradients are those of ``pyro.infer.Trace_ELBO`` on the same noise.

    Arguments:
        pair: the model and the guide.
        optimiser: makes the optimiser from the list of parameters, once they are known; such as
            ``functools.partial(torch.optim.Adam, lr=1e-3, fused=True)``.
        size: number of data N in the data set.
        clip_norm: largest global norm of the gradient of the loss per datum; None for no limit.
        schedule: makes a learning-rate schedule, stepped once a step, from the optimiser.

    Attributes:
        learning_rate: that of the last step, in the first parameter group; NaN before.
    """

    def __init__(
        self,
        pair: Pair,
        optimiser: Callable[[list[Tensor]], Optimizer],
        *,
        size: int,
        clip_norm: float | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
    ) -> None:
        self.pair = pair
        self.size = size
        self._make_optimiser = optimiser
        self._make_schedule = schedule
        self._clip_norm = clip_norm
        self._parameters: dict[int, Tensor] = {}
        self.optimiser: Optimizer | None = None
        self.schedule: LRScheduler | None = None
        self.learning_rate = nan

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters found so far, unconstrained."""
        return list(self._parameters.values())

    def step(self, *batch: Any) -> Loss:
        """One gradient step on a batch; the loss is that before the step.

        Parameters that first appear in a later step are trained from then on.

        Raises:
            InputError: if the pair has no bound, or nothing to train.
        """
        with self.pair.store():
            bound = self.pair.bound(*batch, size=self.size)
            if self.optimiser is None:
                bound.check()
            optimiser = self._optimiser_of(self.pair.parameters(bound))
            optimiser.zero_grad(set_to_none=True)
            (-bound.surrogate() / self.size).backward()
            if self._clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, self._clip_norm)
            optimiser.step()
            self.learning_rate = float(optimiser.param_groups[0]["lr"])
            if self.schedule is not None:
                self.schedule.step()
            return self._loss(bound.log_likelihood().detach(), bound.kl().detach())

    @torch.no_grad()
    def evaluate_loss(self, *batch: Any) -> Loss:
        """The loss on a batch in eval mode, without gradients and without a step."""
        with self.pair.store(), self.pair.eval_mode():
            bound = self.pair.bound(*batch, size=self.size)
            return self._loss(bound.log_likelihood(), bound.kl())

    def _loss(self, log_likelihood: Tensor, kl: Tensor) -> Loss:
        reconstruction, kl = -log_likelihood / self.size, kl / self.size
        return Loss(reconstruction + kl, reconstruction, kl)

    def _optimiser_of(self, found: dict[int, Tensor]) -> Optimizer:
        new = [p for key, p in found.items() if key not in self._parameters]
        self._parameters |= found
        if self.optimiser is None:
            if not new:
                raise InputError(
                    "model and guide have nothing to train: declare parameters with pyro.param, "
                    "networks with pyro.module, or pass modules"
                )
            self.optimiser = self._make_optimiser(new)
            if not isinstance(self.optimiser, Optimizer) or isinstance(self.optimiser, LBFGS):
                raise InputError(
                    "optimiser makes a torch.optim optimiser of gradient steps from the list of "
                    f"parameters; it gave {type(self.optimiser).__name__}"
                )
            if self._make_schedule is not None:
                self.schedule = self._make_schedule(self.optimiser)
        else:
            self.optimiser.param_groups[0]["params"].extend(new)
        return self.optimiser
