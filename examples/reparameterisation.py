"""Two gradients of one ELBO: by the score function, and by reparameterisation.

The ELBO is an average over q, so its gradient in the parameters phi of q is estimated from draws of
z. Both ways to do so are right on average. What sets them apart is variance: first on one number,
whose gradient is known exactly, then on a VAE of the digits.

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
"""L, draws of z that an estimate is the mean of."""
SHOWN = 4
"""That of the tables, and of training."""


class OpaqueNormal(dist.Normal):
    """The same draws, but Pyro is told that no gradient goes through them.

    ``Normal(...).has_rsample_(False)`` tells it of one object, and is lost where a plate expands
    that; what a class says is not.
    """

    has_rsample = False


class LeaveOneOut(Trace_ELBO):
    """The score function, each draw judged by how much better it is than the others (Kool et al.
    2019).
    """

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        log_joint = sum(model_trace.nodes[name]["log_prob"] for name in ("z", "x"))
        log_q = guide_trace.nodes["z"]["log_prob"]
        # f(z) = log p(x, z) - log q(z), a row for each draw; its mean is the ELBO
        f = (log_joint - log_q).detach()
        # b_l, the mean of f(z_k) over k != l, does not look at z_l, and E_q[d/dphi log q] = 0:
        # taking it off changes nothing on average
        b = (f.sum(0) - f) / (len(f) - 1)
        # d/dphi ELBO = E_q[(f(z) - b) d/dphi log q(z)]; theta, if any, has that of log p(x, z)
        return -f.sum().item(), -(log_joint + (f - b) * log_q).sum()


ESTIMATORS: dict[str, tuple[type[Trace_ELBO], type[dist.Normal]]] = {
    # d/dphi ELBO = E_q[f(z) d/dphi log q(z)], where z is a draw and no more: what all values of f
    # have in common, log p(x) to begin with, is multiplied by noise
    SCORE: (Trace_ELBO, OpaqueNormal),
    LEAVE_ONE_OUT: (LeaveOneOut, OpaqueNormal),
    # d/dphi ELBO = E_eps[d/dphi f(m + sigma eps)], where z is a function of phi and of noise eps:
    # the slope of f says where to go, and constants have none
    PATH: (Trace_ELBO, dist.Normal),
}
"""A loss and a distribution for the guide, whose gradient Trace_ELBO takes as that allows."""


def loss_of(name: str, num_draws: int) -> Trace_ELBO:
    """-ELBO from the mean of L draws, all of them in one pass."""
    loss = ESTIMATORS[name][0]
    return loss(num_particles=num_draws, vectorize_particles=True, max_plate_nesting=1)


def usable(name: str) -> list[int]:
    """The L that an estimator can do with: one draw alone has no others."""
    return [num for num in NUMS_DRAWS if num > 1 or name != LEAVE_ONE_OUT]


# One number z, of which all is known: z ~ Normal(0, 1), x | z ~ Normal(z, NOISE^2), and x was seen.
X, NOISE = 1.5, 0.5
# Its posterior is Normal(MEAN, VARIANCE), since all of it is normal.
MEAN, VARIANCE = X / (1 + NOISE**2), NOISE**2 / (1 + NOISE**2)
# q = Normal(m, sigma^2): how many posterior s.d. m is off, and sigma in these units.
PLACES = {"far": (5.0, 1.0), "near": (0.5, 0.7), "at the posterior": (0.0, 1.0)}


def model(x: Tensor) -> None:
    """p(z) p(x | z)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def phi_of(place: str) -> Tensor:
    """(m, log sigma)."""
    off, ratio = PLACES[place]
    scale = VARIANCE**0.5
    return torch.tensor([MEAN + off * scale, log(ratio * scale)], dtype=torch.float64)


def exact_gradient(phi: Tensor) -> Tensor:
    """d ELBO / d(m, log sigma)."""
    m, log_sigma = phi
    # ELBO = log p(x) - KL(q || p(z | x)), the KL of two normals being
    # ((m - MEAN)^2 + sigma^2) / (2 VARIANCE) - log sigma + constant
    return torch.stack([(MEAN - m) / VARIANCE, 1 - (2 * log_sigma).exp() / VARIANCE])


def estimates(name: str, phi: Tensor, num_draws: int, repeats: int) -> Tensor:
    """So many independent estimates of that gradient, a column each."""
    # In one pass: the same x stands there many times, each time with a q of its own.
    x = torch.full((repeats,), X, dtype=phi.dtype)
    columns = phi[:, None].repeat(1, repeats).requires_grad_()

    def guide(x: Tensor) -> None:
        m, log_sigma = columns
        with pyro.plate("data", len(x)):
            pyro.sample("z", ESTIMATORS[name][1](m, log_sigma.exp()))

    loss = loss_of(name, num_draws).differentiable_loss(model, guide, x)
    (of_loss,) = torch.autograd.grad(loss, columns)
    return -of_loss


Variances = dict[str, list[float]]
"""For each estimator one for each usable L."""


def on_one_number(repeats: int) -> tuple[dict[str, Variances], Table]:
    """Variance of the gradient, summed over m and log sigma, at each place of q."""
    table = Table("one number: q is", "estimator", "d/dm, exact", f"mean of L = {SHOWN}", "times")
    of_places: dict[str, Variances] = {}
    for place in PLACES:
        phi = phi_of(place)
        exact = exact_gradient(phi)
        variances: Variances = {name: [] for name in ESTIMATORS}
        shown = {}
        for name in ESTIMATORS:
            for num in usable(name):
                drawn = estimates(name, phi, num, repeats)
                mean, error = drawn.mean(1), drawn.std(1) / repeats**0.5
                # Right on average, each of them, wherever q is and however many the draws are
                assert ((mean - exact).abs() <= 4.5 * error + 1e-9).all()
                variances[name].append(drawn.var(1).sum().item())
                if num == SHOWN:
                    shown[name] = f"{mean[0]:z.3f} ± {error[0]:.3f}"
        for name, mean_text in shown.items():
            table.add_row(place, name, f"{exact[0]:z.2f}", mean_text, times(variances, name))
        table.add_section()
        of_places[f"one number, q {place}"] = variances
    return of_places, table


def times(variances: Variances, name: str) -> str:
    """By what factor the variance is above that of the reparameterised gradient."""
    ours, least = (variances[each][usable(each).index(SHOWN)] for each in (name, PATH))
    return f"{round(ours / least, 6):.3g}"


class OpaquePosterior(DiagonalNormal):
    """The posterior of the VAE, through whose draws no gradient goes."""

    def forward(self, h: Tensor) -> Any:
        q: Any = super().forward(h)
        return OpaqueNormal(q.base_dist.loc, q.base_dist.scale).to_event(1)


def use(vae: VAE, name: str) -> None:
    """Let the guide draw z as the estimator needs; the weights stay as they are."""
    kind = OpaquePosterior if ESTIMATORS[name][1] is OpaqueNormal else DiagonalNormal
    vae.guide.posterior = kind(vae.latent_dim)


def variance_of_encoder(vae: VAE, name: str, num: int, x: Tensor, repeats: int) -> float:
    """The variance of the gradient in the weights of the encoder, summed, in nats a digit."""
    use(vae, name)
    loss, weights = loss_of(name, num), list(vae.guide.parameters())
    drawn = []
    for _ in range(repeats):
        gradient = torch.autograd.grad(loss.differentiable_loss(vae.model, vae.guide, x), weights)
        drawn.append(torch.cat([part.flatten() for part in gradient]) / len(x))
    return torch.stack(drawn).var(0).sum().item()


def train(vae: VAE, name: str, x: Tensor, test: Tensor, epochs: int) -> list[float]:
    """Test ELBO in nats a digit, before and after each pass."""
    use(vae, name)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 2e-3}), loss_of(name, SHOWN))
    measure = loss_of(PATH, 20)  # values, which differ in nothing but noise, whatever the gradient
    curve = [-measure.loss(vae.model, vae.guide, test) / len(test)]
    for _ in range(epochs):
        for batch in x[torch.randperm(len(x))].split(128):
            svi.step(batch)
        curve.append(-measure.loss(vae.model, vae.guide, test) / len(test))
    return curve


def on_digits(repeats: int, epochs: int) -> tuple[dict[str, Variances], Variances, Table]:
    """Variance of the gradient before and after training, and what training comes to."""
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

    table = Table("VAE", "estimator", f"variance, L = {SHOWN}", "times", "test ELBO, nats a digit")
    of_vaes: dict[str, Variances] = {}
    for title, vae in {"before training": start, "after training": trained[PATH]}.items():
        # All measured at the same weights, on the same hundred digits
        variances = {
            name: [variance_of_encoder(vae, name, num, x[:100], repeats) for num in usable(name)]
            for name in ESTIMATORS
        }
        for name, values in variances.items():
            variance = values[usable(name).index(SHOWN)]
            elbo = curves[name][0 if vae is start else -1]
            table.add_row(title, name, f"{variance:.3g}", times(variances, name), f"{elbo:.1f}")
        table.add_section()
        of_vaes[f"VAE, {title}"] = variances
    return of_vaes, curves, table


def picture(of_all: dict[str, Variances], curves: Variances) -> Figure:
    """Variance by number of draws, and test ELBO by epoch."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    *grid, last = figure.subplots(2, 3).flat
    for axes, (title, variances) in zip(grid, of_all.items(), strict=True):
        for name, values in variances.items():
            if min(values) > 1e-12:
                axes.loglog(usable(name), values, "o-", color=COLOURS[name], label=name)
            else:
                axes.plot([], [], color=COLOURS[name], label=f"{name}: zero")
        axes.set(title=title, xlabel="draws of z, L", ylabel="variance of the gradient")
        axes.set_xticks(NUMS_DRAWS, [str(num) for num in NUMS_DRAWS])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small")
    for name, curve in curves.items():
        last.plot(curve, color=COLOURS[name], label=name)
    last.set(title=f"VAE, training with L = {SHOWN}", xlabel="epoch")
    last.set_ylabel("test ELBO, nats a digit")
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
    """Measure the estimators on one number, then on the digits, and draw what was found.

    Arguments:
        repeats: estimates of each gradient on one number.
        vae_repeats: estimates of each gradient on the VAE.
        epochs: passes through the digits.
        output: the picture.
    """
    torch.manual_seed(0)
    of_places, table = on_one_number(repeats)
    Console().print(table)
    of_vaes, curves, table = on_digits(vae_repeats, epochs)
    Console().print(table)
    print("times: the variance beside that of the reparameterised gradient.")
    # At the posterior f is log p(x) whatever z is: no draw is better than another, so leave-one-out
    # has no noise left, while the path keeps that of d/dphi log q (which objective="stl" drops).
    # Elsewhere, and the more so the more dimensions z has, the slope is worth more than the score.
    picture(of_places | of_vaes, curves).savefig(output, dpi=150)
    print(f"picture in {output}")


if __name__ == "__main__":
    run(main)
