"""Two gradient estimators of the ELBO: the score function and reparameterisation.

The ELBO is an expectation over q, so you estimate its gradient in the parameters phi of q from
draws of z. Both estimators are unbiased; they differ in variance. The script measures the variance
first on a model of one number, where the exact gradient is known, then on a VAE of the digits.

    python examples/reparameterisation.py
"""

from copy import deepcopy
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from cyclopts import run
from matplotlib.figure import Figure
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pyrovae import VAE, load
from pyrovae.nn import MLP
from pyrovae.posteriors import DiagonalNormal

SCORE, LEAVE_ONE_OUT, PATH = "score function", "leave-one-out", "reparameterised"
COLOURS = {SCORE: "C3", LEAVE_ONE_OUT: "C1", PATH: "C0"}
NUMS_DRAWS = (1, 2, 4, 8, 16, 32)
"""Numbers of draws L that are compared. An estimate is the mean over L draws of z."""
TABLE_DRAWS = 4
"""L in the tables and in training."""


class OpaqueNormal(dist.Normal):
    """A normal without reparameterised draws, so that Pyro uses the score function.

    ``Normal(...).has_rsample_(False)`` sets this for one object, and a plate loses the setting when
    it expands the object. A class attribute is kept.
    """

    has_rsample = False


class LeaveOneOut(Trace_ELBO):
    """The score function with a leave-one-out baseline: the mean of the other draws (Kool et al.
    2019).
    """

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        log_joint = sum(model_trace.nodes[name]["log_prob"] for name in ("z", "x"))
        log_q = guide_trace.nodes["z"]["log_prob"]
        # f(z) = log p(x, z) - log q(z), one row per draw. Its mean estimates the ELBO.
        f = (log_joint - log_q).detach()
        # b_l is the mean of f(z_k) over k != l. It does not depend on z_l, and
        # E_q[d/dphi log q] = 0, so subtracting it leaves the estimate unbiased.
        b = (f.sum(0) - f) / (len(f) - 1)
        # d/dphi ELBO = E_q[(f(z) - b) d/dphi log q(z)]. The gradient in theta is that of
        # log p(x, z).
        return -f.sum().item(), -(log_joint + (f - b) * log_q).sum()


ESTIMATORS: dict[str, tuple[type[Trace_ELBO], type[dist.Normal]]] = {
    # d/dphi ELBO = E_q[f(z) d/dphi log q(z)]. z is a draw that does not depend on phi. Constants in
    # f, such as log p(x), do not cancel: they multiply the noise of the score.
    SCORE: (Trace_ELBO, OpaqueNormal),
    LEAVE_ONE_OUT: (LeaveOneOut, OpaqueNormal),
    # d/dphi ELBO = E_eps[d/dphi f(m + sigma eps)]. z is a function of phi and of noise eps. The
    # slope of f gives the direction, and constants in f have no slope.
    PATH: (Trace_ELBO, dist.Normal),
}
"""For each estimator, a loss and the distribution that the guide samples from."""


def make_loss(name: str, num_draws: int) -> Trace_ELBO:
    """-ELBO, as the mean over L draws that are computed in one pass."""
    loss = ESTIMATORS[name][0]
    return loss(num_particles=num_draws, vectorize_particles=True, max_plate_nesting=1)


def usable_draws(name: str) -> list[int]:
    """The values of L that an estimator supports: leave-one-out needs at least two draws."""
    return [num for num in NUMS_DRAWS if num > 1 or name != LEAVE_ONE_OUT]


# A model with one latent number: z ~ Normal(0, 1), x | z ~ Normal(z, NOISE^2), observed x = X.
X, NOISE = 1.5, 0.5
# Its posterior is Normal(MEAN, VARIANCE).
MEAN, VARIANCE = X / (1 + NOISE**2), NOISE**2 / (1 + NOISE**2)
# q = Normal(m, sigma^2): distance of m from the posterior mean, and sigma, both in posterior
# standard deviations.
PLACES = {"far": (5.0, 1.0), "near": (0.5, 0.7), "at the posterior": (0.0, 1.0)}


def model(x: Tensor) -> None:
    """p(z) p(x | z)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def parameters_at(place: str) -> Tensor:
    """phi = (m, log sigma) of q."""
    distance, ratio = PLACES[place]
    scale = VARIANCE**0.5
    return torch.tensor([MEAN + distance * scale, log(ratio * scale)], dtype=torch.float64)


def exact_gradient(phi: Tensor) -> Tensor:
    """d ELBO / d(m, log sigma)."""
    m, log_sigma = phi
    # ELBO = log p(x) - KL(q || p(z | x)), and the KL of two normals is
    # ((m - MEAN)^2 + sigma^2) / (2 VARIANCE) - log sigma + constant.
    return torch.stack([(MEAN - m) / VARIANCE, 1 - (2 * log_sigma).exp() / VARIANCE])


def estimate_gradient(name: str, phi: Tensor, num_draws: int, repeats: int) -> Tensor:
    """Estimate d ELBO / d(m, log sigma) independently many times, one estimate per column."""
    # One pass for all estimates: repeat x, and give each copy its own q.
    x = torch.full((repeats,), X, dtype=phi.dtype)
    columns = phi[:, None].repeat(1, repeats).requires_grad_()

    def guide(x: Tensor) -> None:
        m, log_sigma = columns
        with pyro.plate("data", len(x)):
            pyro.sample("z", ESTIMATORS[name][1](m, log_sigma.exp()))

    loss = make_loss(name, num_draws).differentiable_loss(model, guide, x)
    (loss_gradient,) = torch.autograd.grad(loss, columns)
    return -loss_gradient


Variances = dict[str, list[float]]
"""For each estimator, the variance at each L that it supports."""


def measure_on_one_number(repeats: int) -> tuple[dict[str, Variances], Table]:
    """Measure the variance of the gradient, summed over m and log sigma, at each place of q."""
    heads = ("d/dm, exact", f"estimate, L = {TABLE_DRAWS}", "ratio")
    table = Table("one number: q is", "estimator", *heads)
    results: dict[str, Variances] = {}
    for place in PLACES:
        phi = parameters_at(place)
        exact = exact_gradient(phi)
        variances: Variances = {name: [] for name in ESTIMATORS}
        means = {}
        for name in ESTIMATORS:
            for num in usable_draws(name):
                estimates = estimate_gradient(name, phi, num, repeats)
                mean, error = estimates.mean(1), estimates.std(1) / repeats**0.5
                # Every estimator is unbiased, for any q and any number of draws.
                assert ((mean - exact).abs() <= 4.5 * error + 1e-9).all()
                variances[name].append(estimates.var(1).sum().item())
                if num == TABLE_DRAWS:
                    means[name] = f"{mean[0]:z.3f} ± {error[0]:.3f}"
        for name, mean_text in means.items():
            ratio = variance_ratio(variances, name)
            table.add_row(place, name, f"{exact[0]:z.2f}", mean_text, ratio)
        table.add_section()
        results[f"one number, q {place}"] = variances
    return results, table


def variance_ratio(variances: Variances, name: str) -> str:
    """Variance of an estimator, divided by the variance of the reparameterised one."""
    variance, reference = (
        variances[each][usable_draws(each).index(TABLE_DRAWS)] for each in (name, PATH)
    )
    return f"{round(variance / reference, 6):.3g}"


class OpaquePosterior(DiagonalNormal):
    """The posterior of the VAE, without reparameterised draws."""

    def forward(self, h: Tensor) -> Any:
        q: Any = super().forward(h)
        return OpaqueNormal(q.base_dist.loc, q.base_dist.scale).to_event(1)


def set_estimator(vae: VAE, name: str) -> None:
    """Give the guide the posterior that the estimator needs. The weights stay the same."""
    kind = OpaquePosterior if ESTIMATORS[name][1] is OpaqueNormal else DiagonalNormal
    vae.guide.posterior = kind(vae.latent_dim)


def encoder_variance(vae: VAE, name: str, num: int, x: Tensor, repeats: int) -> float:
    """Variance of the gradient of the ELBO, in nats per digit, summed over encoder weights."""
    set_estimator(vae, name)
    loss, weights = make_loss(name, num), list(vae.guide.parameters())
    gradients = []
    for _ in range(repeats):
        gradient = torch.autograd.grad(loss.differentiable_loss(vae.model, vae.guide, x), weights)
        gradients.append(torch.cat([part.flatten() for part in gradient]) / len(x))
    return torch.stack(gradients).var(0).sum().item()


def train(vae: VAE, name: str, x: Tensor, test: Tensor, epochs: int) -> list[float]:
    """Train, and return the test ELBO in nats per digit before training and after each epoch."""
    set_estimator(vae, name)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 2e-3}), make_loss(name, TABLE_DRAWS))
    test_loss = make_loss(PATH, 20)  # the value of the ELBO does not depend on the estimator
    curve = [-test_loss.loss(vae.model, vae.guide, test) / len(test)]
    for _ in range(epochs):
        for batch in x[torch.randperm(len(x))].split(128):
            svi.step(batch)
        curve.append(-test_loss.loss(vae.model, vae.guide, test) / len(test))
    return curve


def measure_on_digits(repeats: int, epochs: int) -> tuple[dict[str, Variances], Variances, Table]:
    """Measure the variance of the gradient before and after training, and the test ELBO."""
    digits = load("digits")
    x, test = digits.train.x.float(), digits.test.x.float()
    body = partial(MLP, hidden=(100,))
    likelihood = {"family": "Binomial", "total_count": 16}
    start = VAE(digits.event_shape, 20, likelihood, encoder=body, decoder=body)
    start.standardise(x)
    curves, trained = {}, {}
    for name in ESTIMATORS:
        torch.manual_seed(0)
        trained[name] = deepcopy(start)
        curves[name] = train(trained[name], name, x, test, epochs)

    heads = (f"variance, L = {TABLE_DRAWS}", "ratio", "test ELBO, nats per digit")
    table = Table("VAE", "estimator", *heads)
    results: dict[str, Variances] = {}
    for title, vae in {"before training": start, "after training": trained[PATH]}.items():
        # All estimators are compared at the same weights, on the same hundred digits.
        variances = {
            name: [encoder_variance(vae, name, num, x[:100], repeats) for num in usable_draws(name)]
            for name in ESTIMATORS
        }
        for name, values in variances.items():
            variance = f"{values[usable_draws(name).index(TABLE_DRAWS)]:.3g}"
            elbo = f"{curves[name][0 if vae is start else -1]:.1f}"
            table.add_row(title, name, variance, variance_ratio(variances, name), elbo)
        table.add_section()
        results[f"VAE, {title}"] = variances
    return results, curves, table


def draw_results(results: dict[str, Variances], curves: Variances) -> Figure:
    """Plot the variance against the number of draws, and the test ELBO against the epoch."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    *grid, last = figure.subplots(2, 3).flat
    for axes, (title, variances) in zip(grid, results.items(), strict=True):
        for name, values in variances.items():
            if min(values) > 1e-12:
                axes.loglog(usable_draws(name), values, "o-", color=COLOURS[name], label=name)
            else:
                axes.plot([], [], color=COLOURS[name], label=f"{name}: zero")
        axes.set(title=title, xlabel="number of draws of z, L", ylabel="variance of the gradient")
        axes.set_xticks(NUMS_DRAWS, [str(num) for num in NUMS_DRAWS])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small")
    for name, curve in curves.items():
        last.plot(curve, color=COLOURS[name], label=name)
    last.set(title=f"VAE, training with L = {TABLE_DRAWS}", xlabel="epoch")
    last.set_ylabel("test ELBO, nats per digit")
    last.legend(frameon=False, fontsize="small")
    for axes in (*grid, last):
        axes.grid(alpha=0.3)
    return figure


def main(
    repeats: int = 20_000,
    vae_repeats: int = 50,
    epochs: int = 30,
    output: Path = Path("reparameterisation.png"),
) -> None:
    """Measure the estimators on one number, then on the digits, and draw the results.

    Arguments:
        repeats: number of estimates of each gradient on one number.
        vae_repeats: number of estimates of each gradient on the VAE.
        epochs: passes through the digits.
        output: path of the picture.
    """
    torch.manual_seed(0)
    one_number, table = measure_on_one_number(repeats)
    Console().print(table)
    digits, curves, table = measure_on_digits(vae_repeats, epochs)
    Console().print(table)
    print("ratio: variance / variance of the reparameterised gradient")
    # At the posterior, f(z) = log p(x) for every z, so leave-one-out has no variance left. The
    # reparameterised gradient keeps the variance of d/dphi log q (objective="stl" drops this term).
    # Elsewhere the reparameterised gradient has the smaller variance, the more so the more
    # dimensions z has.
    draw_results(one_number | digits, curves).savefig(output, dpi=150)
    print(f"picture in {output}")


if __name__ == "__main__":
    run(main)
