"""Auto-Encoding Variational Bayes, its algorithm written out, beside wake-sleep and Monte Carlo EM.

Kingma and Welling (2014) compare three ways to learn a decoder p(x | z) when p(z | x) is out of
reach. Here they run on the digits, on the same networks and minibatches, and are judged by the same
figure: log p(x) of test data, against how many training data the weights have seen.

    python examples/aevb_algorithm.py

AEVB         one bound for both networks, by a gradient that is doubly stochastic: of the data a
             minibatch, of the posterior a draw
wake-sleep   two objectives; the encoder learns from what the decoder dreams
MCEM         no encoder: Hamiltonian Monte Carlo draws z from p(z | x), datum by datum
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from cyclopts import run
from matplotlib.figure import Figure
from pyro import poutine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Adam

from pyrovae import importance_sample, load
from pyrovae.infer import ImportanceEstimate, WakeSleep
from pyrovae.infer.estimators.hmc import State, hmc_transition

LATENT_DIM, HIDDEN, LEVELS = 3, 100, 16
BATCH_SIZE, LEARNING_RATE = 100, 3e-3


class Networks(nn.Module):
    """A decoder and an encoder of one hidden layer, and the two Pyro programs that use them."""

    def __init__(self, num_pixels: int) -> None:
        super().__init__()

        def mlp(fan_in: int, fan_out: int) -> nn.Module:
            return nn.Sequential(nn.Linear(fan_in, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, fan_out))

        self.decoder = mlp(LATENT_DIM, num_pixels)
        self.encoder = mlp(num_pixels, 2 * LATENT_DIM)

    def model(self, x: Tensor) -> None:
        """p(z) p(x | z), whose weights are theta."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT_DIM), 1.0).to_event(1))
            levels = dist.Binomial(LEVELS, logits=self.decoder(z))
            pyro.sample("x", levels.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x), whose weights are phi."""
        m, log_sigma = self.encoder(x / LEVELS).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(m, log_sigma.exp()).to_event(1))


def minibatches(num_data: int) -> Iterator[Tensor]:
    """The numbers of M data at a time, each datum once in a pass, without end."""
    while True:
        yield from torch.randperm(num_data).split(BATCH_SIZE)


def aevb(networks: Networks, x: Tensor, num_draws: int = 1) -> Iterator[tuple[int, int]]:
    """Algorithm 1. Like the others it yields, after each update or few, how many data these have
    seen and how many times a datum went through the decoder for it.
    """
    optimiser = Adam(networks.parameters(), LEARNING_RATE)
    for index in minibatches(len(x)):
        # X^M: M data at random
        batch = x[index]
        # eps: L rows of noise for each, from which Pyro makes z = m(x) + sigma(x) eps
        with pyro.plate("draws", num_draws, dim=-2):
            drawn = poutine.trace(networks.guide).get_trace(batch)
            # log p(x, z) at these z
            scored = poutine.trace(poutine.replay(networks.model, trace=drawn)).get_trace(batch)
        # L^M = N/M sum_i 1/L sum_l (log p(x_i, z_il) - log q(z_il | x_i)); here the mean over data
        elbo = (scored.log_prob_sum() - drawn.log_prob_sum()) / (num_draws * len(batch))
        # g = gradient of L^M in theta and phi: the noise is fixed, so that z moves with phi
        optimiser.zero_grad()
        (-elbo).backward()
        # theta, phi: a step along g
        optimiser.step()
        yield len(batch), num_draws * len(batch)


def wake_sleep(networks: Networks, x: Tensor) -> Iterator[tuple[int, int]]:
    """Hinton et al. (1995)."""
    optimiser = Adam(networks.parameters(), LEARNING_RATE)
    # Awake, z ~ q(z | x) for a datum x: theta climbs log p(x, z).
    # Asleep, (z, x) ~ p(x, z): phi climbs log q(z | x). That is KL(p || q) on dreams, not the
    # KL(q || p) on data which theta is charged for: there is no one bound that both climb.
    objective = WakeSleep()
    for index in minibatches(len(x)):
        optimiser.zero_grad()
        objective.loss_and_grads(networks.model, networks.guide, x[index])
        optimiser.step()
        yield len(index), 2 * len(index)


def transition(
    networks: Networks, x: Tensor, z: Tensor, step_size: Tensor, num_leapfrog: int
) -> tuple[Tensor, Tensor]:
    """z ~ p(z | x) from an earlier z, by Hamiltonian Monte Carlo, a chain for each row; and step
    sizes by which nine of ten moves are accepted.
    """

    # p(z | x) is proportional to p(x, z), whose gradient in z is all that is needed
    def log_joint(z: Tensor) -> Tensor:
        return log_joint_of(networks, x, z).unsqueeze(0)

    start = State(z, log_joint(z).detach())
    state, accepted = hmc_transition(log_joint, torch.ones(1), start, step_size, num_leapfrog)
    return state.position, step_size * (0.2 * (accepted - 0.9)).exp()


def log_joint_of(networks: Networks, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) of each datum."""
    trace = poutine.trace(poutine.condition(networks.model, data={"z": z})).get_trace(x)
    trace.compute_log_prob()
    log_joint: Tensor = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
    return log_joint


def monte_carlo_em(networks: Networks, x: Tensor) -> Iterator[tuple[int, int]]:
    """EM whose E-step is a draw: 10 leapfrog steps, then 5 updates of the weights (appendix E)."""
    optimiser = Adam(networks.decoder.parameters(), LEARNING_RATE)
    # Each datum has a chain, which goes on where it was when its turn comes again
    z, step_size = torch.randn(len(x), LATENT_DIM), torch.full((len(x),), 0.1)
    for index in minibatches(len(x)):
        # E-step: z ~ p(z | x)
        z[index], step_size[index] = transition(
            networks, x[index], z[index], step_size[index], num_leapfrog=10
        )
        # M-step: theta climbs log p(x, z)
        for _ in range(5):
            optimiser.zero_grad()
            (-log_joint_of(networks, x[index], z[index]).mean()).backward()
            optimiser.step()
        yield 5 * len(index), (12 + 5) * len(index)


METHODS: dict[str, Callable[[Networks, Tensor], Iterator[tuple[int, int]]]] = {
    "AEVB": aevb,
    "wake-sleep": wake_sleep,
    "Monte Carlo EM": monte_carlo_em,
}


def log_likelihood(networks: Networks, x: Tensor, num_chains: int = 20) -> ImportanceEstimate:
    """log p(x) by one judge for all, who owes nothing to an encoder, which Monte Carlo EM lacks."""
    with torch.no_grad():
        # Of 2000 z from the prior, some that make x likely; log p(x | z) but for a constant
        z = torch.randn(2000, LATENT_DIM)
        logits = networks.decoder(z)
        log_p = x @ logits.T - LEVELS * nn.functional.softplus(logits).sum(1)
        z = z[dist.Categorical(logits=log_p).sample((num_chains,)).T].flatten(0, 1)
    # From there to p(z | x)
    rows, step_size = x.repeat_interleave(num_chains, 0), torch.full((len(z),), 0.1)
    for _ in range(15):
        z, step_size = transition(networks, rows, z, step_size, num_leapfrog=4)
    chains = z.unflatten(0, (-1, num_chains))

    def model(x: Tensor, loc: Tensor, scale: Tensor) -> None:
        networks.model(x)

    def guide(x: Tensor, loc: Tensor, scale: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(5.0, loc, scale).to_event(1))

    # log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k), where q is where the chains are, and wider
    data = (x, chains.mean(1), 1.2 * chains.std(1))
    return importance_sample(model, guide, data, num_samples=1000, compile=False, progress=False)


def main(
    num_seen: int = 128_000, num_test: int = 100, output: Path = Path("aevb_algorithm.png")
) -> None:
    """Train by each, and put log p(x) in a table and a picture.

    Arguments:
        num_seen: data that the weights shall see, counted as often as they are seen.
        num_test: test data.
        output: the picture.
    """
    digits = load("digits")
    x, test = (part.x.float().flatten(1) for part in (digits.train, digits.test))
    table = Table("method", "data seen", "times through the decoder", "log p(x)", "its error")
    curves: dict[str, list[tuple[int, int, float]]] = {}
    with pyro.validation_enabled(False):
        for name, method in METHODS.items():
            torch.manual_seed(0)
            networks = Networks(x.shape[1])
            seen = passed = 0
            measured = num_seen / 2**5
            curves[name] = []
            for more_seen, more_passed in method(networks, x):
                seen, passed = seen + more_seen, passed + more_passed
                if seen < measured:
                    continue
                measured *= 2
                estimate = log_likelihood(networks, test[:num_test])
                curves[name].append((seen, passed, estimate.log_likelihood.mean().item()))
                if seen >= num_seen:
                    break
            error = f"{estimate.monte_carlo_error:.2f}"
            table.add_row(name, f"{seen:,}", f"{passed:,}", f"{curves[name][-1][2]:.1f}", error)
    Console().print(table)
    picture(curves).savefig(output, dpi=150)
    print(f"picture in {output}")


def picture(curves: dict[str, list[tuple[int, int, float]]]) -> Figure:
    """log p(x) by data seen, as in the paper, and by what the decoder had to do for it."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    titles = ("training data that the weights have seen", "times a datum went through the decoder")
    for column, (axes, title) in enumerate(
        zip(figure.subplots(1, 2, sharey=True), titles, strict=True)
    ):
        for name, curve in curves.items():
            axes.semilogx(
                [row[column] for row in curve], [row[2] for row in curve], "o-", label=name
            )
        axes.set(xlabel=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test log p(x), nats a digit")
    figure.axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    run(main)
