"""Adam's update as tensor operations, so that it can be compiled with the gradient.

It reads and writes the moments of the ``torch.optim`` optimiser itself.
:meth:`AdamUpdate.save_step_counts` brings the optimiser's count of steps up to date, before the
optimiser is saved or stepped.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from ..compiler.strides import materialise
from ..private_torch import mark_as_stepped

__all__ = ["AdamUpdate", "clip_gradients"]

_Rates = tuple[float, float, float]
"""Learning rate and betas."""

_NO_CHANGE = (0.0, 1.0, 0.0, 0.0, 1.0, 0.0)
"""The numbers of an update that changes nothing."""


def clip_gradients(gradients: Sequence[Tensor], clip_norm: float | None) -> list[Tensor]:
    """The gradients, scaled down to a global norm, as ``torch.nn.utils.clip_grad_norm_`` does."""
    if clip_norm is None:
        return list(gradients)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    factor = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    return [gradient * factor.to(gradient.dtype) for gradient in gradients]


class AdamUpdate:
    """The update of Adam (Kingma and Ba 2015, algorithm 1) or AdamW (Loshchilov and Hutter 2019).

        m <- m + (1 - b1) (g - m),  v <- b2 v + (1 - b2) g^2
        theta <- theta - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)

    The graph counts the steps t itself; the learning rate and the betas are inputs.

    Arguments:
        optimiser: an optimiser for which :meth:`key` is not None.
        parameters: the parameters that have a gradient.

    Attributes:
        moments: the means of the gradients, then those of their squares.
        counts: the optimiser's counts of steps; see :meth:`save_step_counts`.
        tensors: what the update reads and writes besides the parameters.
    """

    def __init__(self, optimiser: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimiser = optimiser
        self._state = optimiser.state  # kept, as its id identifies it
        states = [_state(optimiser, p) for p in parameters]
        self.counts = [state["step"] for state in states]
        group_of = {
            id(p): i for i, group in enumerate(optimiser.param_groups) for p in group["params"]
        }
        self._groups = [group_of[id(p)] for p in parameters]
        self._constants = [_constants(optimiser.param_groups[i]) for i in self._groups]
        device = parameters[0].device
        self._steps = torch.zeros(len(parameters), dtype=torch.float64, device=device)
        self._rates = torch.zeros(len(parameters), 3, dtype=torch.float64, device=device)
        self._last_rates: list[_Rates] = []
        self.moments = [state[name] for name in ("exp_avg", "exp_avg_sq") for state in states]
        self.tensors = [self._steps, self._rates, *self.moments]

    @staticmethod
    def key(optimiser: Optimizer) -> Hashable | None:
        """What a compiled update depends on; None for an optimiser that cannot be compiled."""
        if type(optimiser) not in (Adam, AdamW):
            return None
        for group in optimiser.param_groups:
            if group["amsgrad"] or group["maximize"]:
                return None
        return id(optimiser.state), tuple([_constants(each) for each in optimiser.param_groups])

    def load_step_counts(self) -> None:
        """Read from the optimiser how many steps each parameter has had."""
        mark_as_stepped(self._optimiser)
        self._steps.copy_(torch.tensor([int(count) for count in self.counts]))

    def refresh_rates(self) -> None:
        """Read the learning rate and the betas of the coming step; call it before each run."""
        rates = [(group["lr"], *group["betas"]) for group in self._optimiser.param_groups]
        if rates != self._last_rates:
            rates = [(float(lr), float(b1), float(b2)) for lr, b1, b2 in rates]
            self._rates.copy_(torch.tensor([rates[i] for i in self._groups], dtype=torch.float64))
            self._last_rates = rates

    def save_step_counts(self) -> None:
        """Write to the optimiser how many steps each parameter has had; waits for the device."""
        for count, steps in zip(self.counts, self._steps.tolist(), strict=True):
            count.fill_(steps)

    def __call__(
        self,
        tensors: Sequence[Tensor],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        blocked: Bool[Tensor, ""],
    ) -> None:
        """Update the parameters, as a function of tensors alone; does nothing where blocked.

        Arguments:
            tensors: those of :attr:`tensors`, or what stands for them in a graph.
            parameters: the parameters, likewise.
            gradients: their gradients.
            blocked: whether to leave everything as it is.
        """
        steps, rates, *moments = tensors
        means, squares = moments[: len(parameters)], moments[len(parameters) :]
        steps.add_(~blocked)
        lr, b1, b2 = rates.unbind(1)
        taken = steps.clamp_min(1)  # 0 before the first step that is not blocked
        step_sizes, corrections = lr / (1 - b1**taken), (1 - b2**taken) ** -0.5
        numbers = (step_sizes, corrections, lr, 1 - b1, b2, 1 - b2)
        changing = [torch.where(blocked, *each) for each in zip(_NO_CHANGE, numbers, strict=True)]
        scalars = materialise(torch.stack(changing, 1))
        for i, (p, g, m, v) in enumerate(zip(parameters, gradients, means, squares, strict=True)):
            eps, decay, is_decoupled = self._constants[i]
            g = torch.where(blocked, 0.0, g)
            step_size, correction, lr, new_m, b2, new_v = scalars[i].to(p.dtype).unbind()
            if decay and is_decoupled:
                p.mul_(1 - lr * decay)
            elif decay:
                g = g + decay * p
            m.lerp_(g, new_m)
            v.mul_(b2).add_(new_v * g * g)
            p.sub_(step_size * m / (v.sqrt() * correction + eps))


def _constants(group: dict[str, Any]) -> tuple[float, float, bool]:
    return group["eps"], group["weight_decay"], bool(group.get("decoupled_weight_decay"))


def _state(optimiser: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimiser's moments of a parameter, which start at zero."""
    state: dict[str, Tensor] = optimiser.state[parameter]
    if not state:
        group = next(g for g in optimiser.param_groups if any(p is parameter for p in g["params"]))
        on_device = group["fused"] or group["capturable"]
        device = parameter.device if on_device else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
    return state
