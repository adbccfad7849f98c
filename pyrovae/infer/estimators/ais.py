"""log p(x) of each datum by annealed importance sampling, and its error seen from both sides."""

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
from .evaluate import Estimate
from .hmc import State, hmc_transition

__all__ = [
    "AnnealedEstimate",
    "BidirectionalEstimate",
    "annealed_importance_sample",
    "bidirectional_check",
]

Path = Float[Tensor, "distributions 2"]
"""Weights of log p0(z) and log p(x, z) in the log-density of each distribution on the way."""

T = TypeVar("T")

_STEEPNESS = 4.0
_TARGET_ACCEPTANCE = 0.65
_GAIN = 0.5
"""By how much a log step size moves for an acceptance that is off by one."""

_WARM_UP = 20
"""Transitions of the preliminary run by which its first temperature has more than others."""

_FEWEST_TRANSITIONS = 50
"""Of the preliminary run beside them, should temperatures be fewer."""


@dataclass(frozen=True)
class AnnealedEstimate:
    """Estimates of log p(x_i) for each datum i, in nats, from K annealed chains.

    Attributes:
        num_chains: K.
        num_temperatures: T.
        log_likelihood: log (1/K) sum_k w_ik; too low on average, as the mean of w is p(x).
        standard_error: of its Monte Carlo error, by the delta method; too small where few chains
            carry all the weight, as ``effective_samples`` tells.
        effective_samples: (sum_k w)^2 / sum_k w^2.
        acceptance: of the transitions, averaged over chains and temperatures; NaN for one
            temperature, which takes none.
    """

    num_chains: int
    num_temperatures: int
    log_likelihood: Float[Tensor, "data"]
    standard_error: Float[Tensor, "data"]
    effective_samples: Float[Tensor, "data"]
    acceptance: Float[Tensor, "data"]

    @property
    def mean(self) -> Estimate:
        """log p(x) averaged over data; its error is that of having these data and chains."""
        return Estimate.of(self.log_likelihood)

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of the average over just these data: that of the chains alone."""
        error = self.standard_error.double()
        return error.square().sum().sqrt().item() / len(error)


@dataclass(frozen=True)
class BidirectionalEstimate:
    """log p(x_i) of data simulated from the model, on average between two estimates, in nats.

    Attributes:
        lower: from chains that start at the prior; too low on average.
        upper: from chains that go back from the latents that made the data; too high on average.
    """

    lower: AnnealedEstimate
    upper: Float[Tensor, "data"]

    @property
    def gap(self) -> Float[Tensor, "data"]:
        """upper - lower of each datum: on average no less than the error of either."""
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

    with z_0 ~ p0, the prior or q(z | x) where a guide is given, and z_t from z_{t-1} by a
    transition of Hamiltonian Monte Carlo that leaves f_t invariant (Neal 2001; the evaluation of
    decoders and the schedule are those of Wu et al. 2017). One temperature is importance sampling
    from p0. HMC runs in R^n, to which the latents of each datum are mapped, on all chains of a
    batch at once: memory is that of batch_size times num_chains data.

    A preliminary run, whose weights are thrown away, adapts a step size for each datum and
    temperature to an acceptance of 0.65. The run that counts keeps them fixed and starts anew, so
    that the estimate of p(x), though not that of its logarithm, is unbiased. Random numbers are
    those of the seed, and torch's own state is left as it was.

    Arguments:
        model: p(x, z), each of whose sites is in the plate over data; latents are continuous.
        data: a tensor, a tuple of tensors, :class:`~pyrovae.Batches` or a ``DataLoader``.
        guide: q(z | x) to start from, whose density can be evaluated at any z; the prior, which
            owes nothing to an encoder, unless given.
        num_chains: K, for each datum.
        num_temperatures: T; the more, the closer the estimate.
        num_leapfrog: leapfrog steps in a transition.
        batch_size: data in a batch, where data are tensors.
        seed: of all random numbers.
        transform: applied to the parts of each batch, as in ``fit``.
        device: where batches shall be; tensors stay where they are unless given.
        plate: name of the plate over data.
        progress: show a bar where it takes more than two seconds.

    Raises:
        InputError: if a latent is shared by the data, is discrete or cannot be mapped to R^n, or a
            site is scaled, so that there is no p(x) of one datum or no HMC for it; or if an
            argument cannot be used.
        FloatingPointError: if weights are not numbers.
    """
    annealing = _Annealing(num_chains, num_temperatures, num_leapfrog)
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)
    pair = Pair(model, model if guide is None else guide)

    def of_batch(batch: Sequence[Any], advance: Callable[[], None]) -> AnnealedEstimate:
        rows = tuple(repeat_rows(batch, num_chains))
        densities = RowDensities(model, guide, rows, plate)
        step_sizes = annealing.step_sizes(densities, advance)
        return annealing.estimate(densities, step_sizes, advance)

    num_transitions = annealing.num_preliminary + num_temperatures - 1
    parts = _of_all_batches(of_batch, batches, pair, seed, num_transitions, progress)
    return _joined(parts)


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
    """How far annealing is off, on data simulated from the model (Grosse et al. 2015).

    Latents and data (z*, x*) are drawn from the model. z* is then an exact sample of p(z | x*), and
    chains that go from it down the same temperatures to the prior, by the same transitions in
    reverse order, have weights w' with E[w'] = 1 / p(x*):

        E[log (1/K) sum_k w_k] <= log p(x*) <= E[-log (1/K) sum_k w'_k]

    Forward and reverse chains share the step sizes, which are adapted without knowledge of z*. The
    check speaks for real data in so far as they resemble simulated ones. With few temperatures w'
    has a tail so heavy that a mean over few data may fall short of the bound from above.

    Arguments:
        model: p(x, z) as for :func:`annealed_importance_sample`; what it observes it uses as
            ``obs=`` only, for which x* is put in place.
        data: give the number of data to simulate, their shapes and covariates.
        num_chains: K, forward and reverse, for each datum.
        num_temperatures: as for :func:`annealed_importance_sample`, and so the further options.
        num_leapfrog: leapfrog steps in a transition.
        batch_size: data in a batch, where data are tensors.
        seed: of all random numbers.
        transform: applied to the parts of each batch, as in ``fit``.
        device: where batches shall be; tensors stay where they are unless given.
        plate: name of the plate over data.
        progress: show a bar where it takes more than two seconds.

    Raises:
        InputError: as :func:`annealed_importance_sample`, or if a site cannot be simulated.
        FloatingPointError: if weights are not numbers.
    """
    annealing = _Annealing(num_chains, num_temperatures, num_leapfrog)
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)

    def of_batch(
        batch: Sequence[Any], advance: Callable[[], None]
    ) -> tuple[AnnealedEstimate, Tensor]:
        latents, observed = simulate(model, batch, plate, copies=num_chains)
        rows = tuple(repeat_rows(batch, num_chains))
        densities = RowDensities(model, None, rows, plate, observed)
        step_sizes = annealing.step_sizes(densities, advance)
        lower = annealing.estimate(densities, step_sizes, advance)
        upper = annealing.from_above(densities, latents, step_sizes, advance)
        return lower, upper

    num_transitions = annealing.num_preliminary + 2 * (num_temperatures - 1)
    pair = Pair(model, model)
    parts = _of_all_batches(of_batch, batches, pair, seed, num_transitions, progress)
    lower, upper = zip(*parts, strict=True)
    return BidirectionalEstimate(_joined(lower), _numbers(torch.cat(upper)))


@dataclass(frozen=True)
class _Annealing:
    """Chains between two distributions, K rows in succession for each datum."""

    num_chains: int
    num_temperatures: int
    num_leapfrog: int

    def __post_init__(self) -> None:
        if self.num_chains < 2:
            raise InputError(f"num_chains is {self.num_chains}; an error needs 2 chains or more")
        for name in ("num_temperatures", "num_leapfrog"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")

    @property
    def num_preliminary(self) -> int:
        """Transitions of the run that adapts step sizes."""
        num = self.num_temperatures - 1
        return _WARM_UP + num * self._repeats if num else 0

    @property
    def _repeats(self) -> int:
        return ceil(_FEWEST_TRANSITIONS / (self.num_temperatures - 1))

    def path(self, device: torch.device) -> Path:
        """(1 - b_t, b_t) for each t from 0 to T."""
        ends = torch.linspace(-1, 1, self.num_temperatures + 1, dtype=torch.float64)
        s = (_STEEPNESS * ends).sigmoid()
        b = (s - s[0]) / (s[-1] - s[0])
        return torch.stack([1 - b, b], 1).to(device)

    def step_sizes(
        self, densities: RowDensities, advance: Callable[[], None]
    ) -> Float[Tensor, "transitions data"]:
        """Step sizes for each temperature but the last, adapted by stochastic approximation."""
        num = densities.num_rows // self.num_chains
        if self.num_temperatures == 1:
            return torch.empty(0, num)
        state = densities.start()
        position = state.position
        log_step = position.new_full((num,), -log(position.shape[1]) / 4)
        found = []
        for index, weights in enumerate(self.path(position.device)[1:-1]):
            for _ in range(self._repeats + (_WARM_UP if index == 0 else 0)):
                state, acceptance = self._transition(densities, weights, state, log_step.exp())
                log_step = log_step + _GAIN * (acceptance - _TARGET_ACCEPTANCE)
                advance()
            found.append(log_step)
        return torch.stack(found).exp()

    def estimate(
        self, densities: RowDensities, step_sizes: Tensor, advance: Callable[[], None]
    ) -> AnnealedEstimate:
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
            acceptance=acceptance,
        )

    def from_above(
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
        path: Path,
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
        of_each_datum = log_weights.view(-1, self.num_chains)
        if not acceptances:
            return of_each_datum, of_each_datum.new_full((len(of_each_datum),), torch.nan)
        return of_each_datum, torch.stack(acceptances).mean(0)

    def _transition(
        self,
        densities: RowDensities,
        weights: Float[Tensor, "2"],
        state: State,
        step_size: Float[Tensor, "data"],
    ) -> tuple[State, Float[Tensor, "data"]]:
        weights = weights.to(state.terms.dtype)
        of_rows = step_size.repeat_interleave(self.num_chains)
        state, acceptance = hmc_transition(densities, weights, state, of_rows, self.num_leapfrog)
        return state, acceptance.view(-1, self.num_chains).mean(1)


def _of_all_batches(
    of_batch: Callable[[Sequence[Any], Callable[[], None]], T],
    batches: Batches | LoaderBatches,
    pair: Pair,
    seed: int,
    num_transitions: int,
    progress: bool,
) -> list[T]:
    """What a function makes of each batch, in the store of the pair and in eval mode."""
    parts = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        total = len(batches) * num_transitions
        with LateProgress("annealed importance sampling", total) as bar:
            advance = bar.advance if progress else lambda: None
            for batch in batches:
                with pair.store(), pair.eval_mode():
                    parts.append(of_batch(batch, advance))
    if not parts:
        raise InputError("the data gave no batch")
    return parts


def _joined(parts: Sequence[AnnealedEstimate]) -> AnnealedEstimate:
    """The estimates of all batches as one."""
    first = parts[0]
    return AnnealedEstimate(
        num_chains=first.num_chains,
        num_temperatures=first.num_temperatures,
        log_likelihood=_numbers(torch.cat([part.log_likelihood for part in parts])),
        standard_error=torch.cat([part.standard_error for part in parts]),
        effective_samples=torch.cat([part.effective_samples for part in parts]),
        acceptance=torch.cat([part.acceptance for part in parts]),
    )


def _numbers(log_likelihood: Float[Tensor, "data"]) -> Float[Tensor, "data"]:
    not_numbers = int(log_likelihood.isnan().sum())
    if not_numbers:
        raise FloatingPointError(
            f"log p(x) of {not_numbers} data is not a number: a density of the model or the guide "
            "is NaN there"
        )
    return log_likelihood
