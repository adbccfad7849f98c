"""Hamiltonian Monte Carlo on the latents of a Pyro program, with one chain in each row."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LogTerms", "State", "hmc_transition", "leapfrog"]

LogTerms = Callable[[Tensor], Tensor]
"""Maps positions of shape ``[rows, dims]`` to log-densities of shape ``[terms, rows]``."""

_JITTER = 0.2
"""Largest relative change of a step size in one transition, in either direction."""


@dataclass(frozen=True)
class State:
    """Positions of chains, and the log-densities there, in nats."""

    position: Float[Tensor, "rows dims"]
    terms: Float[Tensor, "terms rows"]


def hmc_transition(
    log_terms: LogTerms,
    weights: Float[Tensor, "terms"],
    state: State,
    step_size: Float[Tensor, "rows"],
    num_leapfrog: int,
) -> tuple[State, Float[Tensor, "rows"]]:
    """Make one transition of each row, which leaves exp(sum_j weights_j log_terms_j) invariant.

    The momentum is drawn from Normal(0, I), :func:`leapfrog` follows the dynamics, and the end is
    accepted with probability min(1, exp(-dH)) (Duane et al. 1987; Neal 2011); otherwise the row
    stays. The transition is reversible. A factor drawn uniformly from 0.8 to 1.2 multiplies each
    row's step size, so that trajectories do not return to their start. An end with a NaN density is
    rejected.

    Arguments:
        log_terms: log-densities; each row's must depend on that row alone.
        weights: weights of the terms.
        state: positions of the chains, and the log-densities there.
        step_size: step size of each row.
        num_leapfrog: leapfrog steps in a transition.

    Returns:
        The new state, and the acceptance probability of each row's end.
    """
    terms = state.terms  # where the latest gradient was taken; after the leapfrog, at the end

    def gradient(position: Tensor) -> Tensor:
        nonlocal terms
        with torch.enable_grad():
            position = position.detach().requires_grad_()
            terms = log_terms(position)
            (result,) = torch.autograd.grad((weights @ terms).sum(), position)
        terms = terms.detach()
        return result

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

    The momentum takes the half steps, first and last. If the position took them, a chain far out
    would gain energy on its way in, be rejected, and stay far out.

    Arguments:
        gradient: gradient of the log-density.
        position: z at the start.
        momentum: p at the start.
        step_size: step size of each row.
        num_steps: number of steps.

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
