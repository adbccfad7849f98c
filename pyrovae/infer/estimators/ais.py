"""log p(x) of each datum by annealed importance sampling, and bounds on its error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.batches import Batches, LoaderBatches, Transform, as_batches
from ...errors import InputError
from ...progress import LateProgress
from ..pair.bound import PyroFunction
from ..pair.pair import Pair
from ..pair.rows import repeat_rows
from .densities import RowDensities, simulate
from .evaluate import Estimate, check_log_likelihood
from .hmc import State, hmc_transition
from .options import check_options
from .pareto import pareto_k, warn_of_heavy_tails

__all__ = [
    "AnnealedEstimate",
    "BidirectionalEstimate",
    "annealed_importance_sample",
    "bidirectional_check",
]

AnnealingPath = Float[Tensor, "distributions 2"]
"""Weights of log p0(z) and log p(x, z) in the log-density of each distribution on the path."""

T = TypeVar("T")

_STEEPNESS = 4.0
_TARGET_ACCEPTANCE = 0.65
_GAIN = 0.5
"""Change of a log step size for an acceptance that is off by one."""

_WARM_UP = 20
"""Additional transitions of the preliminary run at its first temperature."""

_MIN_TRANSITIONS = 50
"""Fewest transitions of the preliminary run, not counting the warm-up."""


@dataclass(frozen=True)
class AnnealedEstimate:
    """Estimates of log p(x_i) for each datum i, in nats, from K annealed chains.

    Attributes:
        num_chains: K.
        num_temperatures: T.
        log_likelihood: log (1/K) sum_k w_ik; too low on average, as the mean of w is p(x).
        standard_error: Monte Carlo standard error of ``log_likelihood``, by the delta method; too
            small if few chains carry all the weight, which ``effective_samples`` shows, or if
            ``pareto_k`` is above 0.5.
        effective_samples: effective number of chains, (sum_k w)^2 / sum_k w^2.
        pareto_k: shape of the tail of the weights; see :func:`~.pareto.pareto_k`. NaN for fewer
            than 46 chains, which have no tail to fit.
        acceptance: acceptance rate of the transitions, averaged over chains and temperatures; NaN
            for one temperature, which takes no transition.
    """

    num_chains: int
    num_temperatures: int
    log_likelihood: Float[Tensor, "data"]
    standard_error: Float[Tensor, "data"]
    effective_samples: Float[Tensor, "data"]
    pareto_k: Float[Tensor, "data"]
    acceptance: Float[Tensor, "data"]

    @property
    def mean(self) -> Estimate:
        """log p(x) averaged over data; its standard error covers the choice of data and chains."""
        return Estimate.of(self.log_likelihood)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the average over these data, due to the chains alone."""
        error = self.standard_error.double()
        return error.square().sum().sqrt().item() / len(error)


@dataclass(frozen=True)
class BidirectionalEstimate:
    """Two estimates in nats that enclose log p(x_i) of simulated data on average.

    Attributes:
        lower: from chains that start at the prior; too low on average.
        upper: from chains that go back from the true latents of the data; too high on average.
    """

    lower: AnnealedEstimate
    upper: Float[Tensor, "data"]

    @property
    def gap(self) -> Float[Tensor, "data"]:
        """upper - lower of each datum; on average no smaller than the error of either."""
        return self.upper - self.lower.log_likelihood

    @property
    def mean_gap(self) -> Estimate:
        """The gap averaged over data, with its standard error."""
        return Estimate.of(self.gap)


@torch.no_grad()
def annealed_importance_sample(
    model: PyroFunction,
    data: Any,
    *,
    guide: PyroFunction | None = None,
    num_chains: int = 16,
    num_temperatures: int = 500,
    num_leapfrog: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    transform: Transform | None = None,
    device: torch.device | str | None = None,
    plate: str = "data",
    progress: bool = True,
) -> AnnealedEstimate:
    """Estimate log p(x) of each datum by annealing from p0(z) to p(z | x), in eval mode.

        log f_t(z) = (1 - b_t) log p0(z) + b_t log p(x, z),   t = 0, ..., T
        b_t = (s_t - s_0) / (s_T - s_0),   s_t = sigmoid(4 (2 t / T - 1))
        w = prod_t f_t(z_{t-1}) / f_{t-1}(z_{t-1}),   E[w] = p(x)

    The chains start at z_0 ~ p0, which is the prior, or q(z | x) if you give a guide. A transition
    of Hamiltonian Monte Carlo that leaves f_t invariant takes z_{t-1} to z_t (Neal 2001; the
    evaluation of decoders and the schedule follow Wu et al. 2017). One temperature is importance
    sampling from p0. HMC maps the latents of each datum to R^n, and runs all chains of a batch at
    once, so it takes the memory of batch_size times num_chains data.

    A preliminary run, whose weights are discarded, adapts a step size for each datum and
    temperature to an acceptance rate of 0.65. The final run starts again with fixed step sizes, so
    the estimate of p(x) is unbiased (the estimate of log p(x) is not). The seed determines all
    random numbers; torch's own random state does not change.

    Arguments:
        model: p(x, z), with all sites in the plate over data and continuous latents.
        data: a tensor, a tuple of tensors, :class:`~pyrovae.Batches` or a ``DataLoader``.
        guide: q(z | x) to start from, with a density that can be evaluated at any z; by default
            the chains start at the prior, which does not depend on an encoder.
        num_chains: K, the number of chains for each datum.
        num_temperatures: T; the more, the closer the estimate.
        num_leapfrog: leapfrog steps in a transition.
        batch_size: data in a batch, if data are tensors.
        seed: seed of all random numbers.
        transform: applied to the parts of each batch, as in ``fit``.
        device: device to move batches to; by default tensors stay where they are.
        plate: name of the plate over data.
        progress: show a progress bar if it takes more than two seconds.

    Raises:
        InputError: if all data share a latent, or a site is scaled, so that one datum has no p(x)
            of its own; if a latent is discrete or cannot be mapped to R^n, so that HMC cannot
            sample it; or if an argument is invalid.
        FloatingPointError: if importance weights are NaN.
    """
    check_options(model=model, guide=model if guide is None else guide, batch_size=batch_size)
    check_options(seed=seed, transform=transform, device=device, plate=plate, progress=progress)
    check_options(num_chains=num_chains, num_temperatures=num_temperatures)
    check_options(num_leapfrog=num_leapfrog)
    annealing = _Annealing(num_chains, num_temperatures, num_leapfrog)
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)
    pair = Pair(model, model if guide is None else guide)

    def estimate_batch(batch: Sequence[Any], advance: Callable[[], None]) -> AnnealedEstimate:
        rows = tuple(repeat_rows(batch, num_chains))
        densities = RowDensities(model, guide, rows, plate)
        step_sizes = annealing.adapt_step_sizes(densities, advance)
        return annealing.estimate(densities, step_sizes, advance)

    num_transitions = annealing.num_preliminary + num_temperatures - 1
    parts = _map_batches(estimate_batch, batches, pair, seed, num_transitions, progress)
    estimate = _concatenate(parts)
    warn_of_heavy_tails(estimate.pareto_k, "raise num_temperatures", stacklevel=4)
    return estimate


@torch.no_grad()
def bidirectional_check(
    model: PyroFunction,
    data: Any,
    *,
    num_chains: int = 16,
    num_temperatures: int = 500,
    num_leapfrog: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    transform: Transform | None = None,
    device: torch.device | str | None = None,
    plate: str = "data",
    progress: bool = True,
) -> BidirectionalEstimate:
    """Bound the error of annealing on data simulated from the model (Grosse et al. 2015).

    The model draws latents and data (z*, x*), so z* is an exact sample of p(z | x*). Chains that go
    from z* back to the prior, by the same transitions in reverse order, have weights w' with
    E[w'] = 1 / p(x*):

        E[log (1/K) sum_k w_k] <= log p(x*) <= E[-log (1/K) sum_k w'_k]

    Forward and reverse chains share the step sizes, which are adapted without knowledge of z*. The
    check is informative about real data that resemble simulated data. With few temperatures w' has
    a very heavy tail, and a mean over few data may fall below the upper bound.

    Arguments:
        model: p(x, z) as for :func:`annealed_importance_sample`. It may use the data that it
            observes as ``obs=`` only, where x* replaces them.
        data: these determine the number of data to simulate, their shapes and covariates.
        num_chains: K, the number of forward and of reverse chains for each datum.
        num_temperatures: T, as for :func:`annealed_importance_sample`.
        num_leapfrog: leapfrog steps in a transition.
        batch_size: data in a batch, if data are tensors.
        seed: seed of all random numbers.
        transform: applied to the parts of each batch, as in ``fit``.
        device: device to move batches to; by default tensors stay where they are.
        plate: name of the plate over data.
        progress: show a progress bar if it takes more than two seconds.

    Raises:
        InputError: as :func:`annealed_importance_sample`, or if a site cannot be simulated.
        FloatingPointError: if importance weights are NaN.
    """
    check_options(model=model, batch_size=batch_size, seed=seed, transform=transform)
    check_options(device=device, plate=plate, progress=progress, num_chains=num_chains)
    check_options(num_temperatures=num_temperatures, num_leapfrog=num_leapfrog)
    annealing = _Annealing(num_chains, num_temperatures, num_leapfrog)
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)

    def estimate_batch(
        batch: Sequence[Any], advance: Callable[[], None]
    ) -> tuple[AnnealedEstimate, Tensor]:
        latents, observed = simulate(model, batch, plate, copies=num_chains)
        rows = tuple(repeat_rows(batch, num_chains))
        densities = RowDensities(model, None, rows, plate, observed)
        step_sizes = annealing.adapt_step_sizes(densities, advance)
        lower = annealing.estimate(densities, step_sizes, advance)
        upper = annealing.estimate_from_above(densities, latents, step_sizes, advance)
        return lower, upper

    num_transitions = annealing.num_preliminary + 2 * (num_temperatures - 1)
    pair = Pair(model, model)
    parts = _map_batches(estimate_batch, batches, pair, seed, num_transitions, progress)
    lower, upper = zip(*parts, strict=True)
    return BidirectionalEstimate(_concatenate(lower), check_log_likelihood(torch.cat(upper)))


@dataclass(frozen=True)
class _Annealing:
    """Chains between two distributions, with the K chains of a datum in successive rows."""

    num_chains: int
    num_temperatures: int
    num_leapfrog: int

    @property
    def num_preliminary(self) -> int:
        """Transitions of the run that adapts step sizes."""
        num = self.num_temperatures - 1
        return _WARM_UP + num * self._repeats if num else 0

    @property
    def _repeats(self) -> int:
        """Transitions of the preliminary run at each temperature."""
        return ceil(_MIN_TRANSITIONS / (self.num_temperatures - 1))

    def path(self, device: torch.device) -> AnnealingPath:
        """(1 - b_t, b_t) for each t from 0 to T."""
        ends = torch.linspace(-1, 1, self.num_temperatures + 1, dtype=torch.float64)
        s = (_STEEPNESS * ends).sigmoid()
        b = (s - s[0]) / (s[-1] - s[0])
        return torch.stack([1 - b, b], 1).to(device)

    def adapt_step_sizes(
        self, densities: RowDensities, advance: Callable[[], None]
    ) -> Float[Tensor, "transitions data"]:
        """Step sizes for each temperature but the last, adapted by stochastic approximation."""
        num = densities.num_rows // self.num_chains
        if self.num_temperatures == 1:
            return torch.empty(0, num)
        state = densities.start()
        position = state.position
        log_step = position.new_full((num,), -log(position.shape[1]) / 4)
        step_sizes = []
        for index, weights in enumerate(self.path(position.device)[1:-1]):
            for _ in range(self._repeats + (_WARM_UP if index == 0 else 0)):
                state, acceptance = self._transition(densities, weights, state, log_step.exp())
                log_step = log_step + _GAIN * (acceptance - _TARGET_ACCEPTANCE)
                advance()
            step_sizes.append(log_step)
        return torch.stack(step_sizes).exp()

    def estimate(
        self, densities: RowDensities, step_sizes: Tensor, advance: Callable[[], None]
    ) -> AnnealedEstimate:
        """log (1/K) sum_k w_k of chains from p0 to p(z | x), with its error."""
        state = densities.start()
        path = self.path(state.position.device)
        log_weights, acceptance = self._run(densities, state, path, step_sizes, advance)
        num = self.num_chains
        effective = 1 / log_weights.softmax(1).square().sum(1)
        return AnnealedEstimate(
            num_chains=num,
            num_temperatures=self.num_temperatures,
            log_likelihood=log_weights.logsumexp(1) - log(num),
            standard_error=((num / effective - 1).clamp_min(0) / (num - 1)).sqrt(),
            effective_samples=effective,
            pareto_k=pareto_k(log_weights),
            acceptance=acceptance,
        )

    def estimate_from_above(
        self,
        densities: RowDensities,
        latents: Float[Tensor, "rows dims"],
        step_sizes: Tensor,
        advance: Callable[[], None],
    ) -> Float[Tensor, "data"]:
        """-log (1/K) sum_k w'_k of chains from exact samples of p(z | x) to p0."""
        state = State(latents, densities(latents))
        path = self.path(latents.device).flip(0)
        log_weights, _ = self._run(densities, state, path, step_sizes.flip(0), advance)
        return log(self.num_chains) - log_weights.logsumexp(1)

    def _run(
        self,
        densities: RowDensities,
        state: State,
        path: AnnealingPath,
        step_sizes: Tensor,
        advance: Callable[[], None],
    ) -> tuple[Float[Tensor, "data chains"], Float[Tensor, "data"]]:
        """log w of each chain along the path, and the mean acceptance."""
        increments = path.diff(dim=0)
        log_weights = increments[0] @ state.terms.double()
        acceptances = []
        inner = zip(path[1:-1], step_sizes, increments[1:], strict=True)
        for weights, step_size, increment in inner:
            state, acceptance = self._transition(densities, weights, state, step_size)
            acceptances.append(acceptance)
            log_weights = log_weights + increment @ state.terms.double()
            advance()
        log_weights = log_weights.view(-1, self.num_chains)
        if not acceptances:
            return log_weights, log_weights.new_full((len(log_weights),), torch.nan)
        return log_weights, torch.stack(acceptances).mean(0)

    def _transition(
        self,
        densities: RowDensities,
        weights: Float[Tensor, "2"],
        state: State,
        step_size: Float[Tensor, "data"],
    ) -> tuple[State, Float[Tensor, "data"]]:
        weights = weights.to(state.terms.dtype)
        step_size = step_size.repeat_interleave(self.num_chains)
        state, acceptance = hmc_transition(densities, weights, state, step_size, self.num_leapfrog)
        return state, acceptance.view(-1, self.num_chains).mean(1)


def _map_batches(
    function: Callable[[Sequence[Any], Callable[[], None]], T],
    batches: Batches | LoaderBatches,
    pair: Pair,
    seed: int,
    num_transitions: int,
    progress: bool,
) -> list[T]:
    """Apply a function to each batch, in the store of the pair and in eval mode."""
    parts = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        total = len(batches) * num_transitions
        with LateProgress("annealed importance sampling", total) as bar:
            advance = bar.advance if progress else lambda: None
            for batch in batches:
                with pair.store(), pair.eval_mode():
                    parts.append(function(batch, advance))
    if not parts:
        raise InputError("the data gave no batch")
    return parts


def _concatenate(parts: Sequence[AnnealedEstimate]) -> AnnealedEstimate:
    """Join the estimates of all batches."""
    first = parts[0]
    return AnnealedEstimate(
        num_chains=first.num_chains,
        num_temperatures=first.num_temperatures,
        log_likelihood=check_log_likelihood(torch.cat([part.log_likelihood for part in parts])),
        standard_error=torch.cat([part.standard_error for part in parts]),
        effective_samples=torch.cat([part.effective_samples for part in parts]),
        pareto_k=torch.cat([part.pareto_k for part in parts]),
        acceptance=torch.cat([part.acceptance for part in parts]),
    )
