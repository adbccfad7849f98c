"""Auto-Encoding Variational Bayes written out, compared with wake-sleep and Monte Carlo EM.

Kingma and Welling (2014) compare three ways to learn a decoder p(x | z) when p(z | x) is
intractable. This script runs all three on the digits, with the same networks and minibatches. It
plots the same figure for each: log p(x) of test data against the number of training data that the
weights have seen.

    python examples/aevb_algorithm.py

AEVB         one bound trains both networks. Its gradient is doubly stochastic: it uses a minibatch
             of the data and a draw from the posterior
wake-sleep   two objectives; the encoder learns from data that the decoder generates ("dreams")
MCEM         no encoder: Hamiltonian Monte Carlo draws z from p(z | x) for each datum
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
    """A decoder and an encoder with one hidden layer each, and the Pyro programs that use them."""

    def __init__(self, num_pixels: int) -> None:
        super().__init__()

        def mlp(fan_in: int, fan_out: int) -> nn.Module:
            return nn.Sequential(nn.Linear(fan_in, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, fan_out))

        self.decoder = mlp(LATENT_DIM, num_pixels)
        self.encoder = mlp(num_pixels, 2 * LATENT_DIM)

    def model(self, x: Tensor) -> None:
        """p(z) p(x | z), with weights theta."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT_DIM), 1.0).to_event(1))
            levels = dist.Binomial(LEVELS, logits=self.decoder(z))
            pyro.sample("x", levels.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x), with weights phi."""
        m, log_sigma = self.encoder(x / LEVELS).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(m, log_sigma.exp()).to_event(1))


def minibatches(num_data: int) -> Iterator[Tensor]:
    """Yield the indices of M data at a time: every datum once per epoch, for ever."""
    while True:
        yield from torch.randperm(num_data).split(BATCH_SIZE)


def aevb(networks: Networks, x: Tensor, num_draws: int = 1) -> Iterator[tuple[int, int]]:
    """Algorithm 1 of the paper.

    Like the other methods, this generator yields after every update, or every few. It yields how
    many data the weights have seen since the last yield, and how many times a datum went through
    the decoder.
    """
    optimiser = Adam(networks.parameters(), LEARNING_RATE)
    for index in minibatches(len(x)):
        # X^M: a random minibatch of M data
        batch = x[index]
        # eps: L draws of noise for each datum. From them Pyro makes z = m(x) + sigma(x) eps.
        with pyro.plate("draws", num_draws, dim=-2):
            guide_trace = poutine.trace(networks.guide).get_trace(batch)
            # The model, run at these z, gives log p(x, z).
            replayed = poutine.replay(networks.model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(batch)
        # L^M = N/M sum_i 1/L sum_l (log p(x_i, z_il) - log q(z_il | x_i)); here per datum, L^M / N
        elbo = (model_trace.log_prob_sum() - guide_trace.log_prob_sum()) / (num_draws * len(batch))
        # g: the gradient of L^M in theta and phi. The noise is fixed, so z moves with phi.
        optimiser.zero_grad()
        (-elbo).backward()
        # theta and phi take a step along g.
        optimiser.step()
        yield len(batch), num_draws * len(batch)


def wake_sleep(networks: Networks, x: Tensor) -> Iterator[tuple[int, int]]:
    """The wake-sleep algorithm (Hinton et al. 1995)."""
    optimiser = Adam(networks.parameters(), LEARNING_RATE)
    # Wake phase, z ~ q(z | x) for a datum x: a step in theta increases log p(x, z).
    # Sleep phase, (z, x) ~ p(x, z): a step in phi increases log q(z | x). It decreases KL(p || q)
    # on generated data, whereas the bound for theta contains KL(q || p) on real data. So no single
    # bound increases in both phases.
    objective = WakeSleep()
    for index in minibatches(len(x)):
        optimiser.zero_grad()
        objective.loss_and_grads(networks.model, networks.guide, x[index])
        optimiser.step()
        yield len(index), 2 * len(index)


def hmc_update(
    networks: Networks, x: Tensor, z: Tensor, step_size: Tensor, num_leapfrog: int
) -> tuple[Tensor, Tensor]:
    """Move z towards p(z | x) by one Hamiltonian Monte Carlo transition, one chain per row.

    Returns the new z and new step sizes, adapted to an acceptance rate of 0.9.
    """

    # p(z | x) is proportional to p(x, z), and HMC needs only the gradient of log p(x, z) in z.
    def target(z: Tensor) -> Tensor:
        return log_joint(networks, x, z).unsqueeze(0)

    start = State(z, target(z).detach())
    state, accepted = hmc_transition(target, torch.ones(1), start, step_size, num_leapfrog)
    return state.position, step_size * (0.2 * (accepted - 0.9)).exp()


def log_joint(networks: Networks, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z) of each datum."""
    trace = poutine.trace(poutine.condition(networks.model, data={"z": z})).get_trace(x)
    trace.compute_log_prob()
    log_prob: Tensor = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
    return log_prob


def monte_carlo_em(networks: Networks, x: Tensor) -> Iterator[tuple[int, int]]:
    """Monte Carlo EM (appendix E): the E-step draws z by 10 leapfrog steps of HMC, and the M-step
    updates the weights 5 times.
    """
    optimiser = Adam(networks.decoder.parameters(), LEARNING_RATE)
    # Every datum has its own chain, which continues the next time that the datum is visited.
    z, step_size = torch.randn(len(x), LATENT_DIM), torch.full((len(x),), 0.1)
    for index in minibatches(len(x)):
        # E-step: z ~ p(z | x)
        z[index], step_size[index] = hmc_update(
            networks, x[index], z[index], step_size[index], num_leapfrog=10
        )
        # M-step: theta increases log p(x, z)
        for _ in range(5):
            optimiser.zero_grad()
            (-log_joint(networks, x[index], z[index]).mean()).backward()
            optimiser.step()
        yield 5 * len(index), (12 + 5) * len(index)


METHODS: dict[str, Callable[[Networks, Tensor], Iterator[tuple[int, int]]]] = {
    "AEVB": aevb,
    "wake-sleep": wake_sleep,
    "Monte Carlo EM": monte_carlo_em,
}


def log_likelihood(networks: Networks, x: Tensor, num_chains: int = 20) -> ImportanceEstimate:
    """Estimate log p(x) in the same way for all methods.

    The estimate does not use the encoder, because Monte Carlo EM has none.
    """
    with torch.no_grad():
        # Resample 2000 draws from the prior by p(x | z), which is computed up to a constant.
        z = torch.randn(2000, LATENT_DIM)
        logits = networks.decoder(z)
        log_p = x @ logits.T - LEVELS * nn.functional.softplus(logits).sum(1)
        z = z[dist.Categorical(logits=log_p).sample((num_chains,)).T].flatten(0, 1)
    # Run HMC from there towards p(z | x).
    rows, step_size = x.repeat_interleave(num_chains, 0), torch.full((len(z),), 0.1)
    for _ in range(15):
        z, step_size = hmc_update(networks, rows, z, step_size, num_leapfrog=4)
    chains = z.unflatten(0, (-1, num_chains))

    def model(x: Tensor, loc: Tensor, scale: Tensor) -> None:
        networks.model(x)

    def guide(x: Tensor, loc: Tensor, scale: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(5.0, loc, scale).to_event(1))

    # log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k). q is centred on the chains of the datum, and
    # wider than they are.
    data = (x, chains.mean(1), 1.2 * chains.std(1))
    return importance_sample(model, guide, data, num_samples=1000, compile=False, progress=False)


def main(
    num_seen: int = 128_000, num_test: int = 100, output: Path = Path("aevb_algorithm.png")
) -> None:
    """Train by each method, then print a table and draw a picture of log p(x).

    Arguments:
        num_seen: training data that the weights see in total. Repeats count.
        num_test: number of test data.
        output: path of the picture.
    """
    digits = load("digits")
    x, test = (part.x.float().flatten(1) for part in (digits.train, digits.test))
    table = Table("method", "data seen", "decoder passes", "log p(x)", "Monte Carlo error")
    curves: dict[str, list[tuple[int, int, float]]] = {}
    with pyro.validation_enabled(False):
        for name, method in METHODS.items():
            torch.manual_seed(0)
            networks = Networks(x.shape[1])
            seen = decoded = 0
            next_evaluation = num_seen / 2**5
            curves[name] = []
            for more_seen, more_decoded in method(networks, x):
                seen, decoded = seen + more_seen, decoded + more_decoded
                if seen < next_evaluation:
                    continue
                next_evaluation *= 2
                estimate = log_likelihood(networks, test[:num_test])
                curves[name].append((seen, decoded, estimate.log_likelihood.mean().item()))
                if seen >= num_seen:
                    break
            error = f"{estimate.monte_carlo_error:.2f}"
            table.add_row(name, f"{seen:,}", f"{decoded:,}", f"{curves[name][-1][2]:.1f}", error)
    Console().print(table)
    draw_curves(curves).savefig(output, dpi=150)
    print(f"picture in {output}")


def draw_curves(curves: dict[str, list[tuple[int, int, float]]]) -> Figure:
    """Plot log p(x) against the data seen, as in the paper, and against the work of the decoder."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    titles = ("training data that the weights have seen", "passes of a datum through the decoder")
    for column, (axes, title) in enumerate(
        zip(figure.subplots(1, 2, sharey=True), titles, strict=True)
    ):
        for name, curve in curves.items():
            axes.semilogx(
                [row[column] for row in curve], [row[2] for row in curve], "o-", label=name
            )
        axes.set(xlabel=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test log p(x), nats per digit")
    figure.axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    run(main)
