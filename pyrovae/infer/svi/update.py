"""Adam's update written as tensor operations, so that it can be compiled with the gradient.

It reads and writes the moments of the ``torch.optim`` optimiser itself; its count of steps is
brought up to date by :meth:`AdamUpdate.settle`, before the optimiser is saved or stepped.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from ..compiler.compiled import stored

__all__ = ["AdamUpdate", "clipped"]

_Rates = tuple[float, float, float]
"""Learning rate and betas."""

_AT_REST = (0.0, 1.0, 0.0, 0.0, 1.0, 0.0)
"""The numbers of an update that changes nothing."""


def clipped(gradients: Sequence[Tensor], clip_norm: float | None) -> list[Tensor]:
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

    The graph counts the steps t itself; the learning rate and the betas are inputs of it.

    Arguments:
        optimiser: one for which :meth:`key` is not None.
        parameters: those that have a gradient.

    Attributes:
        own: the tensors that the update has beside the parameters.
    """

    def __init__(self, optimiser: Optimizer, parameters: Sequence[Tensor]) -> None:
        self._optimiser = optimiser
        self._state = optimiser.state  # kept, so that its id, by which it is known, does not recur
        states = [_state(optimiser, p) for p in parameters]
        self._counts = [state["step"] for state in states]
        group_of = {
            id(p): i for i, group in enumerate(optimiser.param_groups) for p in group["params"]
        }
        self._groups = [group_of[id(p)] for p in parameters]
        self._constants = [_constants(optimiser.param_groups[i]) for i in self._groups]
        device = parameters[0].device
        self._steps = torch.zeros(len(parameters), dtype=torch.float64, device=device)
        self._rates = torch.zeros(len(parameters), 3, dtype=torch.float64, device=device)
        self._known_rates: list[_Rates] = []
        self.own = [
            self._steps,
            self._rates,
            *(state["exp_avg"] for state in states),
            *(state["exp_avg_sq"] for state in states),
        ]

    @staticmethod
    def key(optimiser: Optimizer) -> Hashable | None:
        """What a compiled update depends on; None for an optimiser that has none."""
        if type(optimiser) not in (Adam, AdamW):
            return None
        constants = tuple([_constants(group) for group in optimiser.param_groups])
        if any(group["amsgrad"] or group["maximize"] for group in optimiser.param_groups):
            return None
        return id(optimiser.state), constants

    def resume(self) -> None:
        """Read how many steps each parameter has had."""
        self._optimiser._opt_called = True  # type: ignore[attr-defined]  # as schedules ask
        self._steps.copy_(torch.tensor([int(count) for count in self._counts]))

    def tick(self) -> None:
        """Before each run: read the rates of the coming step."""
        rates = [(group["lr"], *group["betas"]) for group in self._optimiser.param_groups]
        if rates != self._known_rates:
            rates = [(float(lr), float(b1), float(b2)) for lr, b1, b2 in rates]
            self._rates.copy_(torch.tensor([rates[i] for i in self._groups], dtype=torch.float64))
            self._known_rates = rates

    def settle(self) -> None:
        """Tell the optimiser how many steps each parameter has had; waits for the device."""
        for count, steps in zip(self._counts, self._steps.tolist(), strict=True):
            count.fill_(steps)

    def __call__(
        self,
        own: Sequence[Tensor],
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        blocked: Bool[Tensor, ""],
    ) -> None:
        """The update of parameters, as a function of tensors alone; blocked, it changes nothing."""
        steps, rates, *moments = own
        means, squares = moments[: len(parameters)], moments[len(parameters) :]
        steps.add_(~blocked)
        lr, b1, b2 = rates.unbind(1)
        taken = steps.clamp_min(1)  # of those that are blocked none may have been
        step_sizes, corrections = lr / (1 - b1**taken), (1 - b2**taken) ** -0.5
        numbers = (step_sizes, corrections, lr, 1 - b1, b2, 1 - b2)
        changing = [torch.where(blocked, *each) for each in zip(_AT_REST, numbers, strict=True)]
        scalars = stored(torch.stack(changing, 1))
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
    """The optimiser's moments of a parameter; those that it starts from where it has none yet."""
    state: dict[str, Tensor] = optimiser.state[parameter]
    if not state:
        group = next(g for g in optimiser.param_groups if any(p is parameter for p in g["params"]))
        on_device = group["fused"] or group["capturable"]
        device = parameter.device if on_device else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
    return state
