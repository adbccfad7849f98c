"""VI: maximise the ELBO by gradients, over the parameters and q together.

    maximise over theta and phi   E_q(z; phi)[log p(x, z; theta) - log q(z; phi)]

If q is free for each datum, the maximum is the one of EM. If q is a function of x (amortised), it
is lower by the amortisation gap, averaged over data (Cremer, Li and Duvenaud 2018).
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from ..arguments import TensorLike, as_real, as_whole, as_wholes, as_word
from .climb import State
from .mixture import Mixture, as_mixture
from .points import as_floor, as_points, check_complete
from .program import INFER, AmortisedGuide, FreeGuide, Gradient, MixtureModel
from .randomness import Randomness, as_seed

__all__ = ["MIN_LOG_Q", "Program", "amortised_vi", "ascend", "free_vi"]

MIN_LOG_Q = -30.0
"""Smallest initial log q: gradients could not bring a component back from much less."""


def free_vi(
    x: TensorLike,
    start: Mixture,
    floor: TensorLike,
    *,
    lr: float = 0.1,
    num_steps: int = 1000,
) -> Iterator[State]:
    """VI with free parameters log q(z = k) for each datum, which start at the posterior.

    Arguments:
        x: data; standardise the columns, because the learning rate is in their units.
        start: initial theta.
        floor: the smallest variance allowed in each column.
        lr: learning rate of Adam, which falls to zero along a cosine.
        num_steps: steps, each on all data.

    Raises:
        InputError: if an argument is not what is said here, or data are missing.
    """
    x = as_points(x, missing=True)
    start, floor = as_mixture(start, x), as_floor(floor, x)
    _check_steps(lr, num_steps)
    check_complete(x, "free_vi")
    x = x.to(start.locs)
    guide = FreeGuide(start.log_responsibilities(x).clamp_min(MIN_LOG_Q))
    program = Program(MixtureModel(start, floor), guide, x)
    return _fit_mixture(program, lr, num_steps, None)


def amortised_vi(
    x: TensorLike,
    start: Mixture,
    floor: TensorLike,
    *,
    hidden: Sequence[int] = (32,),
    gradient: Gradient = "enumerated",
    lr: float = 0.02,
    num_steps: int = 2000,
    measure_every: int | None = None,
    seed: int = 0,
) -> Iterator[State]:
    """The mixture as a small VAE, where a network computes q(z | x).

    Arguments:
        x: data; standardise the columns, because the learning rate is in their units.
        start: initial theta; the network starts from random weights.
        floor: the smallest variance allowed in each column.
        hidden: widths of the hidden layers of the network.
        gradient: ``"enumerated"``, ``"score"`` or ``"score with baseline"``.
        lr: learning rate of Adam, which falls to zero along a cosine.
        num_steps: steps, each on all data.
        measure_every: steps between measurements of the variance of the gradient; no
            measurements unless given.
        seed: seed of the network and of draws of z.

    Raises:
        InputError: if an argument is not what is said here, or data are missing.
    """
    x = as_points(x, missing=True)
    start, floor = as_mixture(start, x), as_floor(floor, x)
    _check_steps(lr, num_steps)
    hidden = as_wholes("hidden", hidden)
    as_word("gradient", gradient, INFER)
    if measure_every is not None:
        as_whole("measure_every", measure_every, 1)
    seed = as_seed(seed)
    check_complete(x, "amortised_vi")
    x = x.to(start.locs)
    with Randomness(seed + 1, x.device).use():
        guide = AmortisedGuide(x, start.num_components, hidden, gradient)
    program = Program(MixtureModel(start, floor), guide, x, seed)
    return _fit_mixture(program, lr, num_steps, measure_every)


class Program:
    """A model and a guide with data, and with their own random numbers and parameter store.

    Arguments:
        model: p(x, z).
        guide: q(z | x); its ``gradient`` selects the estimator of Pyro.
        x: data.
        seed: seed of the draws.
    """

    def __init__(self, model: Any, guide: Any, x: Float[Tensor, "n d"], seed: int = 0) -> None:
        self.model = model
        self.guide = guide
        self.x = x
        modules = (part for part in (model, guide) if isinstance(part, nn.Module))
        self.parameters = [p for module in modules for p in module.parameters()]
        self._elbo: Any
        if guide.gradient == "enumerated":
            self._elbo = TraceEnum_ELBO(max_plate_nesting=1)
        elif guide.gradient == "score":
            self._elbo = Trace_ELBO()
        else:
            self._elbo = TraceGraph_ELBO()
        self._store: Any = {"params": {}, "constraints": {}}
        self._random = Randomness(seed, x.device)

    def compute_gradient(self) -> None:
        """Estimate the gradient of -ELBO for all data, and store it in ``parameter.grad``."""
        for parameter in self.parameters:
            parameter.grad = None
        with (
            self._random.use(),
            pyro.validation_enabled(False),
            pyro.get_param_store().scope(self._store),
        ):
            self._elbo.loss_and_grads(self.model, self.guide, self.x)

    def estimate_gradient_moments(
        self, num_draws: int = 50
    ) -> tuple[Float[Tensor, "parameters"], Float[Tensor, "parameters"]]:
        """Mean and variance over draws of the gradient of the ELBO, in nats per datum.

        The gradient is with respect to phi, the parameters of the guide. Measuring does not change
        later steps.
        """
        store, random = self._store, self._random.state
        draws = []
        try:
            for _ in range(num_draws):
                self._store = deepcopy(store)  # each draw updates the baseline
                self.compute_gradient()
                flat = [p.grad.flatten() for p in self.guide.parameters() if p.grad is not None]
                draws.append(-torch.cat(flat) / len(self.x))
        finally:
            self._store, self._random.state = store, random
        stacked = torch.stack(draws)
        return stacked.mean(0), stacked.var(0)


def ascend(
    program: Program,
    lr: float,
    num_steps: int,
    state: Callable[[str], State],
    measure_every: int | None = None,
) -> Iterator[State]:
    """Maximise the bound by Adam on all data; the first state is the start.

    If the gradient is exact, Adam averages its square over some 20 steps instead of the usual
    1,000, because the gradient of a posterior near 0 or 1 vanishes faster than that.

    Arguments:
        program: model, guide and data.
        lr: learning rate, which falls to zero along a cosine.
        num_steps: number of steps.
        state: makes a state, given the kind of step.
        measure_every: steps between states at which the variance of the gradient can be measured.

    Raises:
        InputError: if the learning rate is not positive, or there are no steps.
    """
    _check_steps(lr, num_steps)
    return _ascend(program, lr, num_steps, state, measure_every)


def _check_steps(lr: Any, num_steps: Any) -> None:
    as_real("lr", lr, above=0)
    as_whole("num_steps", num_steps, 1)


def _ascend(
    program: Program,
    lr: float,
    num_steps: int,
    state: Callable[[str], State],
    measure_every: int | None,
) -> Iterator[State]:
    betas = (0.9, 0.95 if program.guide.has_exact_gradient else 0.999)
    optimiser = Adam(program.parameters, lr=lr, betas=betas, fused=True)
    schedule = CosineAnnealingLR(optimiser, num_steps)
    yield state("start")
    for step in range(num_steps):
        program.compute_gradient()
        optimiser.step()
        schedule.step()
        current = state("gradient")
        if measure_every is not None and step % measure_every == 0:
            current = replace(current, measure=lambda: program.estimate_gradient_moments()[1].sum())
        yield current


def _fit_mixture(
    program: Program, lr: float, num_steps: int, measure_every: int | None
) -> Iterator[State]:
    model, guide = program.model, program.guide

    @torch.no_grad()
    def state(phase: str) -> State:
        mixture = model.mixture()
        fixed = replace(mixture, locs=mixture.locs.clone())
        assign = guide.log_q if isinstance(guide, AmortisedGuide) else None
        return State(phase, fixed, guide.log_q(program.x), assign=assign)

    return ascend(program, lr, num_steps, state, measure_every)
