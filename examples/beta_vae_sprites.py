"""What a beta-VAE gains and what it pays, on sprites whose five factors are known.

One pair of convolutional networks is trained under the ELBO, under E[log p(x | z)] - beta KL with
beta = 4, and with the same weight on the total correlation alone. The representation is judged by
the factors that the sprites were drawn from (MIG, DCI, SAP), the model by its reconstruction and by
log p(x). The picture moves one latent at a time, and says which factor follows.

    python examples/beta_vae_sprites.py

Each objective is trained once, and briefly: another seed gives other scores (Locatello et al.
2019), and so do more epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cyclopts import run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pyrovae import VAE, fit, importance_sample
from pyrovae.data.sprites import FACTORS, load_sprites
from pyrovae.disentanglement import dci, mutual_information, mutual_information_gap, sap
from pyrovae.infer import ImportanceEstimate, latent_report
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder
from pyrovae.runs.plots import image_grid

HIDDEN = 128

OBJECTIVES = {
    # E_q[log p(x | z)] - KL(q(z | x) || p(z))
    "ELBO": "elbo",
    # the same with 4 KL
    "beta = 4": {"name": "beta", "beta": 4.0},
    # KL, averaged over data, is I(x; z) + TC(z) + sum_j KL(q(z_j) || p(z_j)); the total correlation
    # TC(z) = KL(q(z) || prod_j q(z_j)) alone is weighed by 4
    "beta-TC = 4": {"name": "beta_tc", "beta": 4.0},
}


def encoder(in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    """Convolutions, and a hidden layer behind them: where a sprite is, is not linear in pixels."""
    return nn.Sequential(
        ConvEncoder(in_shape, (HIDDEN,)), nn.ReLU(), MLP((HIDDEN,), out_shape, hidden=())
    )


def decoder(in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    """The mirror of the encoder."""
    return nn.Sequential(
        MLP(in_shape, (HIDDEN,), hidden=(HIDDEN,)), nn.ReLU(), ConvDecoder((HIDDEN,), out_shape)
    )


@dataclass(frozen=True)
class Judged:
    """What one model is worth.

    Attributes:
        scores: of the codes against the factors, by name, each from 0 to 1, the best.
        estimate: log p(x) of test data, its reconstruction and KL.
    """

    scores: dict[str, float]
    estimate: ImportanceEstimate


def judge(vae: VAE, images: Tensor, factors: Tensor, num_judged: int, num_samples: int) -> Judged:
    """Scores by all data; log p(x) of the first few, as it is dear."""
    codes = codes_of(vae, images)
    of_forest = dci(codes, factors, progress=False)
    scores = {
        # by how much the best latent tells more of a factor than the second best
        "MIG": mutual_information_gap(codes, factors),
        # whether a latent is of use for one factor alone
        "disentangled": of_forest.disentanglement,
        # whether a factor is found in one latent alone
        "complete": of_forest.completeness,
        # how many factors a forest gets right from all latents
        "informative": of_forest.informativeness,
        # as MIG, by the accuracy of a tree on one latent
        "SAP": sap(codes, factors),
    }
    # log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k | x), whatever the objective was
    estimate = importance_sample(
        vae.model, vae.guide, images[:num_judged], num_samples=num_samples, compile=False
    )
    return Judged(scores, estimate)


@torch.no_grad()
def codes_of(vae: VAE, images: Tensor) -> Tensor:
    """Draws of q(z | x): its means would show what a latent of little KL hides in its noise."""
    return torch.cat([vae.encode(part).sample() for part in images.split(500)])


def in_words(name: str, judged: Judged, base: Judged) -> str:
    """What this objective gained and lost beside the ELBO, as the figures have it."""
    gained, lost, neither = [], [], []
    for score, value in judged.scores.items():
        change = value - base.scores[score]
        verdict = neither if abs(change) < 0.005 else gained if change > 0 else lost
        verdict.append(f"{score} {change:+.2f}")
    for what, here, there in (
        ("reconstruction", -judged.estimate.reconstruction, -base.estimate.reconstruction),
        ("log p(x)", judged.estimate.log_likelihood, base.estimate.log_likelihood),
    ):
        # Datum by datum, so that what all models find hard drops out
        change = here - there
        error = change.std() / len(change) ** 0.5
        verdict = (
            neither if abs(change.mean()) < 2 * error else gained if change.mean() > 0 else lost
        )
        verdict.append(f"{what} {change.mean():+.1f} ± {error:.1f} nats")
    said = [("gained", gained), ("lost", lost), ("neither, or within noise", neither)]
    return f"{name} beside the ELBO: " + "; ".join(
        f"{word}: {', '.join(items)}" for word, items in said if items
    )


@torch.no_grad()
def show(axes: Axes, title: str, vae: VAE, images: Tensor, factors: Tensor) -> None:
    """Traversals: rows are latents by falling KL, which go from -2 to 2."""
    (report,) = latent_report(vae.model, vae.guide, images[:1000], progress=False)
    rows = report.kl.argsort(descending=True)
    codes = codes_of(vae, images)
    line = torch.linspace(-2, 2, 9)
    z = vae.encode(images[:1]).mean[0].repeat(len(rows), len(line), 1)
    for row, latent in enumerate(rows):
        z[row, :, latent] = line
    axes.imshow(image_grid(vae.decode_mean(z.flatten(0, 1)), len(line)), cmap="gray")

    # The factor of which a latent tells the most, and which share of its entropy.
    sizes = torch.tensor(list(FACTORS.values()), dtype=torch.float64)
    share, factor = (mutual_information(codes, factors) / sizes.log()).max(1)
    labels = [
        f"{report.kl[i]:.1f} nats\n"
        + (f"{list(FACTORS)[factor[i]]} {share[i]:.0%}" if share[i] > 0.05 else "nothing")
        for i in rows
    ]
    axes.set_yticks([65 * (row + 0.5) for row in range(len(rows))], labels, fontsize="small")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)


def main(
    num_train: int = 10_000,
    epochs: int = 6,
    num_test: int = 4000,
    num_judged: int = 100,
    num_samples: int = 200,
    latent_dim: int = 6,
    output: Path = Path("beta_vae_sprites.png"),
) -> None:
    """Train under each objective, judge, and draw.

    Arguments:
        num_train: sprites to train on, out of 737,280.
        epochs: passes through them.
        num_test: other sprites, for the scores.
        num_judged: as many of these for log p(x).
        num_samples: samples of the latents of each of those.
        latent_dim: one more than there are factors.
        output: path of the picture.
    """
    data = load_sprites(num_train + num_test)
    train, test = data.images.float().split([num_train, num_test])
    factors = data.factors[num_train:]

    judged = {}
    figure = Figure(figsize=(16, 1 + 0.48 * latent_dim), layout="constrained")
    for axes, (name, objective) in zip(
        figure.subplots(1, len(OBJECTIVES)), OBJECTIVES.items(), strict=True
    ):
        torch.manual_seed(0)  # the same weights to start from
        vae = VAE((1, 64, 64), latent_dim, encoder=encoder, decoder=decoder)
        fit(
            vae.model,
            vae.guide,
            train,
            epochs=epochs,
            batch_size=32,
            lr=2e-3,
            schedule="cosine",
            objective=objective,
        )
        judged[name] = judge(vae, test, factors, num_judged, num_samples)
        show(axes, name, vae, test, factors)
    figure.suptitle(
        "one latent a row, by falling KL, from −2 to 2; beside it the factor of which it tells the "
        "most, and how much of that factor's entropy",
        fontsize="medium",
    )
    figure.savefig(output, dpi=120)

    base = judged["ELBO"]
    representation = Table("objective", *base.scores)
    model = Table("objective", "reconstruction", "KL", "log p(x), nats", "Monte Carlo error")
    for name, each in judged.items():
        representation.add_row(name, *(f"{score:.2f}" for score in each.scores.values()))
        estimate = each.estimate
        model.add_row(
            name,
            f"{estimate.reconstruction.mean():.1f}",
            f"{estimate.kl.mean():.1f}",
            str(estimate.mean),
            f"{estimate.monte_carlo_error:.2f}",
        )
    console = Console()
    console.print(representation, model)
    for name in list(judged)[1:]:
        console.print(in_words(name, judged[name], base), highlight=False)


if __name__ == "__main__":
    run(main)
