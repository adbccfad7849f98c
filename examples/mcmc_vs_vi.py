"""The true posterior p(z | x) of a VAE, by quadrature and by NUTS, compared with q(z | x).

With two latent dimensions you can compute everything. A sum over a grid gives p(z | x) and log p(x)
to round-off. NUTS draws samples from p(z | x). The encoder predicts q(z | x), a normal; a second
normal is optimised for one digit alone ("refined"). The script compares them on three digits: those
with the smallest, the median and the largest approximation gap. This gap is log p(x) minus the best
ELBO within the family of q.

    python examples/mcmc_vs_vi.py
"""

import warnings
from math import exp, log
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from cyclopts import run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributions import constraints

from pyrovae import VAE, fit, load
from pyrovae.infer import inference_gap

NUM_CHAINS = 4
SHARES = (0.99, 0.9, 0.5)
GREYS = ("0.87", "0.72", "0.5")
COLOURS = {"amortised": "C3", "refined": "C0"}


def grid(low: Tensor, high: Tensor, num: int) -> tuple[Tensor, float]:
    """Return points of a rectangle, of shape (num, num, 2), and the log area of a grid cell."""
    first, second = (torch.linspace(a, b, num) for a, b in zip(low, high, strict=True))
    area = (high - low).prod().item() / (num - 1) ** 2
    return torch.stack(torch.meshgrid(first, second, indexing="ij"), -1), log(area)


def log_joint(vae: VAE, z: Tensor, x: Tensor) -> Tensor:
    """log p(x, z) = log p(z) + log p(x | z)."""
    return (vae.model.prior().log_prob(z) + vae.decode(z).log_prob(x)).double()


def refine(vae: VAE, x: Tensor, steps: int) -> dist.Distribution:
    """Maximise the ELBO of one datum over a normal q, starting at the output of the encoder.

    The result is a local maximum. If the posterior has several modes, it need not be the best.
    """
    start = vae.q(x)

    def guide(x: Tensor) -> None:
        # The four numbers of q are trained for this datum alone. The decoder is frozen.
        loc = pyro.param("loc", start.mean)
        scale = pyro.param("scale", start.stddev, constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    objective = {"name": "beta", "kl": "analytic", "num_particles": 32}
    pyro.clear_param_store()  # so that each datum starts at its own encoding
    history = fit(
        vae.model,
        guide,
        x,
        epochs=steps,
        lr=0.03,
        schedule="cosine",
        objective=objective,
        compile=False,
        progress=False,
    )
    return dist.Normal(history.params["loc"], history.params["scale"]).to_event(1)


def draw_by_nuts(vae: VAE, x: Tensor, warmup: int, draws: int) -> Tensor:
    """Draw z ~ p(z | x) by NUTS, of shape (chains, draws, 2). Chains start at draws of q(z | x)."""
    # vae.model is an ordinary Pyro program. Copies of a datum have independent latents, so one run
    # of NUTS on all copies is equivalent to one chain per copy.
    copies = x.expand(NUM_CHAINS, *x.shape[1:])
    start = {"z": vae.q(copies).sample()}
    kernel = NUTS(vae.model, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, draws, warmup_steps=warmup, initial_params=start, disable_progbar=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns about jit_compile
        mcmc.run(copies)
    return mcmc.get_samples()["z"].transpose(0, 1)


def main(
    epochs: int = 30,
    candidates: int = 100,
    refinements: int = 300,
    warmup: int = 150,
    draws: int = 500,
    output: Path = Path("mcmc_vs_vi.png"),
) -> None:
    """Train, choose three digits, and compare q with their posteriors.

    Arguments:
        epochs: passes through the training data.
        candidates: number of test digits to choose from.
        refinements: steps of refining q for one digit.
        warmup: adaptation steps of NUTS.
        draws: draws of each chain.
        output: path of the picture.
    """
    torch.manual_seed(0)
    digits = load("digits")
    vae = VAE(
        digits.event_shape, latent_dim=2, likelihood={"family": "Binomial", "total_count": 16}
    )
    vae.standardise(digits.train.x)
    fit(vae.model, vae.guide, digits.train.x.float(), epochs=epochs)
    vae.requires_grad_(False)  # freeze the decoder and the encoder
    test = digits.test.x[:candidates].float()

    # log p(x) = log of the integral of p(x, z) over z, computed as a sum over the grid
    plane, log_area = grid(torch.full((2,), -5.0), torch.full((2,), 5.0), 121)
    log_px = torch.stack([log_joint(vae, plane, x).flatten().logsumexp(0) for x in test]) + log_area
    gap = inference_gap(
        vae.model, vae.guide, test, num_steps=refinements, num_samples=1000, log_likelihood=log_px
    )
    order = gap.approximation_gap.argsort()
    chosen = {"smallest": order[0], "median": order[len(order) // 2], "largest": order[-1]}

    gaps = Table("gap", "q(z | x)", "KL(q || p), grid", "log p(x) - ELBO, draws")
    chains = Table("gap", "R-hat", "effective draws", "mean, NUTS", "mean, grid", "verdict")
    figure = Figure(figsize=(13, 5), layout="constrained")
    for axes, (title, i) in zip(figure.subplots(1, 3), chosen.items(), strict=True):
        x = test[i : i + 1]
        qs = {"amortised": vae.q(x), "refined": refine(vae, x, refinements)}

        # A finer grid, over the region where p(z | x) or a q is not negligible
        log_p = log_joint(vae, plane, x) - log_px[i]
        largest = torch.stack([log_p, *(q.log_prob(plane) for q in qs.values())]).amax(0)
        inside = plane[largest > largest.max() - 20]
        points, log_area = grid(inside.amin(0) - 0.1, inside.amax(0) + 0.1, 201)
        log_p = log_joint(vae, points, x)
        # p(z | x) = p(x, z) / p(x)
        log_evidence = log_p.logsumexp((0, 1)) + log_area
        log_p = log_p - log_evidence

        for name, q in qs.items():
            # KL(q || p) = integral of q(z) (log q(z) - log p(z | x)) over z
            log_q = q.log_prob(points).double()
            kl = (log_q.exp() * (log_q - log_p)).sum() * exp(log_area)
            # ELBO = E_q[log p(x, z) - log q(z)], estimated from draws of z from q
            z = q.sample((10_000,))
            log_weights = log_joint(vae, z, x) - q.log_prob(z)
            error = log_weights.std() / len(z) ** 0.5
            gaps.add_row(
                title, name, f"{kl:.3f}", f"{log_evidence - log_weights.mean():.3f} ± {error:.3f}"
            )
        gaps.add_section()

        z = draw_by_nuts(vae, x, warmup, draws).double()
        # Monte Carlo error of NUTS: standard deviation / sqrt(number of effective draws). It is
        # valid if the chains have visited every region with posterior mass.
        effective = effective_sample_size(z)
        by_nuts, error = z.mean((0, 1)), z.std((0, 1)) / effective.sqrt()
        r_hat = split_gelman_rubin(z).max().item()
        mean = ((log_p + log_area).exp().unsqueeze(-1) * points).sum((0, 1))
        chains.add_row(
            title,
            f"{r_hat:.3f}",
            f"{effective.min():.0f} of {NUM_CHAINS * draws}",
            f"{by_nuts[0]:.3f} ± {error[0]:.3f}, {by_nuts[1]:.3f} ± {error[1]:.3f}",
            f"{mean[0]:.3f}, {mean[1]:.3f}",
            judge_chains(r_hat, ((by_nuts - mean) / error).abs().max().item()),
        )
        draw_posterior(axes, points, log_p + log_area, z, qs)
        axes.set_title(f"{title} approximation gap: {gap.approximation_gap[i]:.3f} nats")
        picture = axes.inset_axes((0.01, 0.79, 0.2, 0.2))
        picture.imshow(x[0, 0], cmap="gray")
        picture.set_axis_off()
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(output, dpi=120)
    Console().print(gaps)
    Console().print(chains)


def judge_chains(r_hat: float, errors: float) -> str:
    """Say whether NUTS and the grid agree, and whether R-hat (above 1: not mixed) shows it."""
    if r_hat > 1.05:
        return f"not mixed, as R-hat shows; off by {errors:.1f} standard errors"
    if errors > 4:
        return f"off by {errors:.1f} standard errors, which R-hat does not show"
    return f"agrees to {errors:.1f} standard errors"


def draw_posterior(
    axes: Axes, points: Tensor, log_mass: Tensor, z: Tensor, qs: dict[str, dist.Distribution]
) -> None:
    """Draw highest-density regions of the posterior, draws of NUTS, and each q as an ellipse."""
    # The log density at the edge of each region: sum the mass from the densest point down.
    descending = log_mass.flatten().sort(descending=True).values
    lowest = [descending[(descending.exp().cumsum(0) < share).sum()].item() for share in SHARES]
    axes.contourf(
        *points.numpy().T, log_mass.numpy().T, [*lowest, descending[0].item() + 1], colors=GREYS
    )
    axes.plot([], [], "s", color=GREYS[1], label="p(z | x): 99, 90 and 50 % of its mass")
    axes.plot(*z.flatten(0, 1).numpy().T, ".", color="C1", markersize=1.5, label="draws by NUTS")
    bounds = [points[log_mass > lowest[0]]]
    for name, q in qs.items():
        # A two-dimensional normal has 90 % of its mass within sqrt(-2 log 0.1) standard deviations
        half_axes = (-2 * log(1 - 0.9)) ** 0.5 * q.stddev[0]
        bounds.append(q.mean + half_axes * torch.tensor([[-1.0], [1.0]]))
        width, height = (2 * half_axes).tolist()
        axes.add_patch(
            Ellipse(
                q.mean[0].tolist(),
                width,
                height,
                fill=False,
                edgecolor=COLOURS[name],
                linewidth=1.8,
                label=f"{name} q: 90 %",
            )
        )
    low, high = torch.cat(bounds).amin(0), torch.cat(bounds).amax(0)
    reach = 0.62 * (high - low).max()
    left, bottom = ((low + high) / 2 - reach).tolist()
    right, top = ((low + high) / 2 + reach).tolist()
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="$z_1$", ylabel="$z_2$", aspect="equal")


if __name__ == "__main__":
    run(main)
