"""Hidden Markov models of binary sequences with ragged lengths, enumerated in parallel.

They differ in what the keys of a step depend on, and in which loops are plates.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, TraceTMC_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from ..program import Run, adam, always, program
from .sequences import KEYS, rolls

STATES = 3


def _priors(keys: int = KEYS) -> tuple[Tensor, Tensor]:
    """The probabilities of transitions and of keys, with vague priors."""
    with poutine.mask(mask=True):
        rows = dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1)
        transition = pyro.sample("transition", rows)
        probs = dist.Beta(0.1, 0.9).expand([STATES, keys]).to_event(2)
        return transition, pyro.sample("probs", probs)


def _run(
    model: Any,
    nesting: int,
    exposed: tuple[str, ...] = ("transition", "probs"),
    loss: Any = TraceEnum_ELBO,
    num: int = 4,
    **kwargs: Any,
) -> Run:
    x, lengths = (each[:num] for each in rolls())
    guide = AutoDelta(poutine.block(model, expose=list(exposed)))
    return Run(
        model, guide, always(x, lengths, **kwargs), loss(max_plate_nesting=nesting), adam(0.05)
    )


@program("HMM 0, sequential sequences")
def sequential() -> Run:
    @config_enumerate
    def model(sequences: Tensor, lengths: Tensor) -> None:
        assert not torch._C._get_tracing_state()
        num, keys = len(sequences), sequences.size(-1)
        transition, probs = _priors()
        plate = pyro.plate("keys", keys, dim=-1)
        for i in pyro.plate("sequences", num):
            length = lengths[i]
            sequence = sequences[i, :length]
            state: Any = 0
            for t in pyro.markov(range(length)):
                state = pyro.sample(
                    f"state_{i}_{t}",
                    dist.Categorical(transition[state]),
                    infer={"enumerate": "parallel"},
                )
                with plate:
                    emission = dist.Bernoulli(probs[state.squeeze(-1)])
                    pyro.sample(f"y_{i}_{t}", emission, obs=sequence[t])

    return _run(model, 1, num=2)


def _vectorised_model(sequences: Tensor, lengths: Tensor, size: int | None = None) -> None:
    """All sequences at once, or a random part of them, up to the longest one."""
    num, steps, keys = sequences.shape
    assert lengths.shape == (num,)
    assert lengths.max() <= steps
    transition, probs = _priors()
    plate = pyro.plate("keys", keys, dim=-1)
    with pyro.plate("sequences", num, size, dim=-2) as batch:
        lengths = lengths[batch]
        state: Any = 0
        for t in pyro.markov(range(lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                state = pyro.sample(
                    f"state_{t}",
                    dist.Categorical(transition[state]),
                    infer={"enumerate": "parallel"},
                )
                with plate:
                    emission = dist.Bernoulli(probs[state.squeeze(-1)])
                    pyro.sample(f"y_{t}", emission, obs=sequences[batch, t])


@program("HMM 1, vectorised sequences, range(lengths.max())")
def vectorised() -> Run:
    return _run(_vectorised_model, 2)


@program("HMM 1, subsampled sequences, range(lengths.max())")
def subsampled() -> Run:
    return _run(_vectorised_model, 2, num=8, size=3)


@program("HMM 2, keys depend on those before")
def keys_depend() -> Run:
    @config_enumerate
    def model(sequences: Tensor, lengths: Tensor) -> None:
        num, steps, keys = sequences.shape
        assert lengths.max() <= steps
        with poutine.mask(mask=True):
            rows = dist.Dirichlet(0.9 * torch.eye(STATES) + 0.1).to_event(1)
            transition = pyro.sample("transition", rows)
            beta = dist.Beta(0.1, 0.9).expand([STATES, 2, keys]).to_event(3)
            probs = pyro.sample("probs", beta)
        plate = pyro.plate("keys", keys, dim=-1)
        with pyro.plate("sequences", num, dim=-2):
            state: Any = 0
            y: Any = 0
            for t in pyro.markov(range(steps)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]))
                    with plate as key:
                        emission = dist.Bernoulli(probs[state, y, key])
                        y = pyro.sample(f"y_{t}", emission, obs=sequences[:, t]).long()

    return _run(model, 2)


def _two_chains(is_driven: bool) -> Run:
    """Two hidden chains, of which one may drive the other."""

    @config_enumerate
    def model(sequences: Tensor, lengths: Tensor) -> None:
        num, steps, keys = sequences.shape
        sizes = 2, 3
        with poutine.mask(mask=True):
            w = pyro.sample("w", dist.Dirichlet(0.9 * torch.eye(sizes[0]) + 0.1).to_event(1))
            rows = dist.Dirichlet(0.9 * torch.eye(sizes[1]) + 0.1)
            if is_driven:
                rows = rows.expand([sizes[0], sizes[1]])
            x = pyro.sample("x", rows.to_event(len(rows.batch_shape)))
            probs = pyro.sample("probs", dist.Beta(0.1, 0.9).expand([*sizes, keys]).to_event(3))
        plate = pyro.plate("keys", keys, dim=-1)
        with pyro.plate("sequences", num, dim=-2):
            one: Any = torch.tensor(0, dtype=torch.long)
            other: Any = torch.tensor(0, dtype=torch.long)
            for t in pyro.markov(range(steps)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    one = pyro.sample(f"w_{t}", dist.Categorical(w[one]))
                    row = Vindex(x)[one, other] if is_driven else x[other]
                    other = pyro.sample(f"x_{t}", dist.Categorical(row))
                    with plate as key:
                        emission = dist.Bernoulli(probs[one, other, key])
                        pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    return _run(model, 2, ("w", "x", "probs"))


@program("HMM 3, two hidden chains")
def two_chains() -> Run:
    return _two_chains(is_driven=False)


@program("HMM 4, one hidden chain drives another")
def driven_chain() -> Run:
    return _two_chains(is_driven=True)


@program("HMM 6, second order")
def second_order() -> Run:
    @config_enumerate
    def model(sequences: Tensor, lengths: Tensor) -> None:
        num, steps, keys = sequences.shape
        logits = pyro.param("logits", lambda: torch.zeros(STATES, STATES, STATES))
        probs = pyro.param(
            "probs",
            lambda: torch.linspace(0.2, 0.8, STATES * keys).view(STATES, keys),
            constraint=constraints.unit_interval,
        )
        plate = pyro.plate("keys", keys, dim=-1)
        with pyro.plate("sequences", num, dim=-2):
            before: Any = torch.tensor(0)
            state: Any = torch.tensor(0)
            for t in pyro.markov(range(steps), history=2):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    both = dist.Categorical(logits=Vindex(logits)[before, state])
                    before, state = state, pyro.sample(f"state_{t}", both)
                    with plate:
                        emission = dist.Bernoulli(probs[state.squeeze(-1)])
                        pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    x, lengths = (each[:4] for each in rolls())

    def guide(sequences: Tensor, lengths: Tensor) -> None:
        """All is enumerated."""

    return Run(model, guide, always(x, lengths), TraceEnum_ELBO(max_plate_nesting=2), adam(0.05))


@program("HMM 7, DiscreteHMM marginalises the states")
def discrete_hmm() -> Run:
    def model(sequences: Tensor, lengths: Tensor) -> None:
        num, steps = sequences.shape[:2]
        assert lengths.shape == (num,)
        transition, probs = _priors()
        initial = torch.full((STATES,), -float("inf")).index_fill(0, torch.tensor(0), 0.0)
        emission = dist.Bernoulli(probs.unsqueeze(-3)).to_event(1)
        with pyro.plate("sequences", num):
            hmm = dist.DiscreteHMM(initial, transition.log(), emission, duration=steps)
            pyro.sample("y", hmm, obs=sequences)

    return _run(model, 1)


@program("HMM, tensor Monte Carlo")
def sampled_states() -> Run:
    def model(sequences: Tensor, lengths: Tensor) -> None:
        num, steps, keys = sequences.shape
        transition, probs = _priors()
        plate = pyro.plate("keys", keys, dim=-1)
        with pyro.plate("sequences", num, dim=-2):
            state: Any = 0
            for t in pyro.markov(range(steps)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    state = pyro.sample(
                        f"state_{t}",
                        dist.Categorical(transition[state]),
                        infer={"enumerate": "parallel", "num_samples": 3},
                    )
                    with plate:
                        emission = dist.Bernoulli(probs[state.squeeze(-1)])
                        pyro.sample(f"y_{t}", emission, obs=sequences[:, t])

    return _run(model, 2, loss=TraceTMC_ELBO)
