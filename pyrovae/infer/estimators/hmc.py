"""Hamiltonian Monte Carlo on the latents of a Pyro program, each datum a row of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LogTerms", "State", "hmc_transition", "leapfrog"]

LogTerms = Callable[[Tensor], Tensor]
"""From positions of shape ``[rows, dims]`` to log-densities of shape ``[terms, rows]``."""

_JITTER = 0.2
"""By how much of itself a step size may differ from one transition to the next, either way."""


@dataclass(frozen=True)
class State:
    """Where chains are, and the log-densities there, in nats."""

    position: Float[Tensor, "rows dims"]
    terms: Float[Tensor, "terms rows"]


def hmc_transition(
    log_terms: LogTerms,
    weights: Float[Tensor, "terms"],
    state: State,
    step_size: Float[Tensor, "rows"],
    num_leapfrog: int,
) -> tuple[State, Float[Tensor, "rows"]]:
    """One transition of each row, which leaves exp(sum_j weights_j log_terms_j) invariant.

    The momentum is drawn from Normal(0, I), the dynamics followed by :func:`leapfrog`, and the end
    accepted with probability min(1, exp(-dH)) (Duane et al. 1987; Neal 2011), else the row stays.
    The transition is reversible. Each row's step size is multiplied by a factor drawn uniformly
    from 0.8 to 1.2, lest trajectories come back to where they began. An end whose density is not a
    number is rejected.

    Arguments:
        log_terms: log-densities, those of a row a function of that row alone.
        weights: of the terms.
        state: where the chains are.
        step_size: of each row.
        num_leapfrog: leapfrog steps in a transition.

    Returns:
        The new state, and the probability with which each row's end was accepted.
    """
    terms = state.terms  # at the position whose gradient was taken last, which is the end

    def gradient(position: Tensor) -> Tensor:
        nonlocal terms
        with torch.enable_grad():
            position = position.detach().requires_grad_()
            terms = log_terms(position)
            (of_position,) = torch.autograd.grad((weights @ terms).sum(), position)
        terms = terms.detach()
        return of_position

    start = torch.randn_like(state.position)
    jitter = 1 + _JITTER * (2 * torch.rand_like(step_size) - 1)
    with torch.no_grad():
        position, momentum = leapfrog(
            gradient, state.position, start, step_size * jitter, num_leapfrog
        )
        kinetic = (momentum.square() - start.square()).sum(1) / 2
        log_ratio = weights @ terms - weights @ state.terms - kinetic
        acceptance = log_ratio.clamp(max=0).exp().nan_to_num(0.0)
        accepted = torch.rand_like(acceptance) < acceptance
        moved = torch.where(accepted[:, None], position, state.position)
        return State(moved, torch.where(accepted, terms, state.terms)), acceptance


def leapfrog(
    gradient: Callable[[Tensor], Tensor],
    position: Float[Tensor, "rows dims"],
    momentum: Float[Tensor, "rows dims"],
    step_size: Float[Tensor, "rows"],
    num_steps: int,
) -> tuple[Float[Tensor, "rows dims"], Float[Tensor, "rows dims"]]:
    """Follow dz/dt = p, dp/dt = gradient(z), reversibly and preserving volume.

    The momentum takes half a step first and last. Were it the position, a chain far out would gain
    energy on its way in, be rejected, and stay far out.

    Arguments:
        gradient: of the log-density.
        position: z at the start.
        momentum: p at the start.
        step_size: of each row.
        num_steps: steps to take.

    Returns:
        Position and momentum at the end.
    """
    step = step_size[:, None]
    momentum = momentum + step / 2 * gradient(position)
    for index in range(num_steps):
        position = position + step * momentum
        last = index == num_steps - 1
        momentum = momentum + (step / 2 if last else step) * gradient(position)
    return position, momentum
