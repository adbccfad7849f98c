"""Neural models of sequences: deep Markov models and neural hidden Markov models."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import (
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoDelta
from pyro.optim import ClippedAdam
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..program import Batches, Run, adam, always, program

KEYS, LENGTH, BATCH, STATE, HIDDEN = 8, 6, 5, 3, 10


def rolls(num: int = 20) -> tuple[Tensor, Tensor]:
    """Binary sequences of keys, and their lengths in decreasing order within each batch."""
    generator = torch.Generator().manual_seed(2)
    x = torch.bernoulli(torch.full((num, LENGTH, KEYS), 0.3), generator=generator)
    lengths = torch.randint(2, LENGTH + 1, (num // BATCH, BATCH), generator=generator)
    lengths[:, 0] = LENGTH
    return x, lengths.sort(dim=1, descending=True).values.flatten()


class Transition(nn.Module):
    """A gated mixture of a linear and a nonlinear map of the state before."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(STATE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, STATE))
        self.mean = nn.Sequential(nn.Linear(STATE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, STATE))
        self.linear, self.scale = nn.Linear(STATE, STATE), nn.Linear(STATE, STATE)
        self.linear.weight.data, self.linear.bias.data = torch.eye(STATE), torch.zeros(STATE)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, mean = torch.sigmoid(self.gate(z)), self.mean(z)
        loc = (1 - gate) * self.linear(z) + gate * mean
        return loc, nn.functional.softplus(self.scale(torch.relu(mean)))


class DMM(nn.Module):
    """A deep Markov model (Krishnan et al. 2017), with autoregressive flows in the guide or not."""

    def __init__(self, num_flows: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.emitter = nn.Sequential(nn.Linear(STATE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, KEYS))
        self.transition = Transition()
        self.rnn = nn.RNN(KEYS, HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.combine, self.loc = nn.Linear(STATE, HIDDEN), nn.Linear(HIDDEN, STATE)
        self.scale = nn.Linear(HIDDEN, STATE)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(STATE)), nn.Parameter(torch.zeros(STATE))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        flows = [affine_autoregressive(STATE, hidden_dims=[6]) for _ in range(num_flows)]
        self.flows = nn.ModuleList(flows)

    def model(
        self, x: Tensor, reverse: Tensor, mask: Tensor, lengths: Tensor, annealing: float = 1.0
    ) -> None:
        pyro.module("dmm", self)
        z = self.z_0.expand(x.size(0), STATE)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(1, x.size(1) + 1)):
                loc, scale = self.transition(z)
                present = mask[:, t - 1 : t]
                with poutine.scale(None, annealing):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).mask(present).to_event(1))
                keys = dist.Bernoulli(logits=self.emitter(z)).mask(present).to_event(1)
                pyro.sample(f"x_{t}", keys, obs=x[:, t - 1, :])

    def guide(
        self, x: Tensor, reverse: Tensor, mask: Tensor, lengths: Tensor, annealing: float = 1.0
    ) -> None:
        pyro.module("dmm", self)
        packed = pack_padded_sequence(reverse, lengths, batch_first=True)
        output, _ = self.rnn(packed, self.h_0.expand(1, x.size(0), HIDDEN).contiguous())
        hidden = _reverse(pad_packed_sequence(output, batch_first=True)[0], lengths)
        z = self.z_q_0.expand(x.size(0), STATE)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(1, x.size(1) + 1)):
                h = 0.5 * (torch.tanh(self.combine(z)) + self.dropout(hidden[:, t - 1, :]))
                loc, scale = self.loc(h), nn.functional.softplus(self.scale(h))
                present = mask[:, t - 1 : t]
                if len(self.flows) > 0:
                    z_dist: Any = TransformedDistribution(dist.Normal(loc, scale), [*self.flows])
                    z_dist = z_dist.mask(mask[:, t - 1])
                else:
                    z_dist = dist.Normal(loc, scale).mask(present).to_event(1)
                with poutine.scale(None, annealing):
                    z = pyro.sample(f"z_{t}", z_dist)


def _reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each sequence up to its length."""
    result = torch.zeros_like(x)
    for b in range(x.size(0)):
        length = lengths[b]
        steps = torch.arange(length - 1, -1, -1)
        result[b, 0:length, :] = x[b, steps, :]
    return result


def _dmm_batches(with_factor: bool = False) -> Batches:
    x, lengths = rolls()
    mask = (torch.arange(LENGTH) < lengths[:, None]).to(torch.get_default_dtype())
    reverse = _reverse(x, lengths)

    def batches(step: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rows = slice(step % 4 * BATCH, (step % 4 + 1) * BATCH)
        args = x[rows], reverse[rows], mask[rows], lengths[rows]
        return ((*args, min(1.0, 0.2 + step / 40)) if with_factor else args), {}

    return batches


def _clipped() -> Any:
    settings = {"lr": 1e-3, "betas": (0.96, 0.999), "clip_norm": 10.0, "lrd": 0.9999}
    return ClippedAdam({**settings, "weight_decay": 0.1})


@program("deep Markov model, annealed by an argument")
def dmm() -> Run:
    net = DMM(dropout=0.1)
    return Run(net.model, net.guide, _dmm_batches(True), Trace_ELBO(), _clipped())


@program("deep Markov model, mean-field KL")
def dmm_mean_field() -> Run:
    net = DMM()
    return Run(net.model, net.guide, _dmm_batches(), TraceMeanField_ELBO(), _clipped())


@program("deep Markov model with inverse autoregressive flows")
def dmm_with_flows() -> Run:
    net = DMM(num_flows=1)
    return Run(net.model, net.guide, _dmm_batches(), Trace_ELBO(), _clipped())


class NeuralMarkov(nn.Module):
    """The emission of a hidden Markov model: keys given the hidden state and the keys before."""

    def __init__(self) -> None:
        super().__init__()
        self.from_x, self.from_y = nn.Linear(STATE, HIDDEN), nn.Linear(KEYS, HIDDEN)
        self.out = nn.Linear(HIDDEN, KEYS)

    def forward(self, state: Tensor, y: Tensor) -> Tensor:
        one_hot = y.new_zeros(*state.shape[:-1], STATE).scatter_(-1, state, 1)
        return torch.sigmoid(self.out(torch.relu(self.from_x(one_hot) + self.from_y(y))))


@program("HMM 5, neural emissions")
def neural_hmm() -> Run:
    net = NeuralMarkov()
    x, lengths = rolls(BATCH)

    @config_enumerate
    def model(sequences: Tensor, lengths: Tensor) -> None:
        num, steps, keys = sequences.shape
        assert lengths.shape == (num,)
        assert lengths.max() <= steps
        pyro.module("emission", net)
        with poutine.mask(mask=True):
            rows = dist.Dirichlet(0.9 * torch.eye(STATE) + 0.1).to_event(1)
            transition = pyro.sample("transition", rows)
        with pyro.plate("sequences", num, dim=-2):
            state: Any = 0
            y = torch.zeros(num, 1, keys)
            for t in pyro.markov(range(steps)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    state = pyro.sample(f"state_{t}", dist.Categorical(transition[state]))
                    with pyro.plate(f"keys_{t}", keys, dim=-1):
                        probs = net(state.unsqueeze(-1), y).squeeze(-2)
                        pyro.sample(f"y_{t}", dist.Bernoulli(probs), obs=sequences[:, t])
                y = sequences[:, t].unsqueeze(-2)

    guide = AutoDelta(poutine.block(model, expose=["transition"]))
    loss = TraceEnum_ELBO(max_plate_nesting=2)
    return Run(model, guide, always(x, lengths), loss, adam(0.01))


@program("nonlinear state space, tensor Monte Carlo")
def tensor_monte_carlo() -> Run:
    x = torch.randn(LENGTH, generator=torch.Generator().manual_seed(4))

    def model(x: Tensor) -> None:
        drift = pyro.param("drift", torch.tensor(0.5))
        z: Any = torch.tensor(0.0)
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Normal(drift * torch.sin(z), 1.0))
            pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[t])

    @config_enumerate(default="parallel", num_samples=4, expand=False)
    def guide(x: Tensor) -> None:
        for t in pyro.markov(range(len(x))):
            loc = pyro.param(f"loc_{t}", lambda: torch.tensor(0.0))
            pyro.sample(f"z_{t}", dist.Normal(loc, 0.7))

    return Run(model, guide, always(x), TraceTMC_ELBO(max_plate_nesting=0))
