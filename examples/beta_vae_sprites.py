"""What a beta-VAE gains and loses, on sprites with five known factors of variation.

The same convolutional VAE is trained with three objectives: the ELBO; E[log p(x | z)] - beta KL
with beta = 4; and the ELBO with weight 4 on the total correlation alone. MIG, DCI and SAP score
the representation against the known factors. Reconstruction and log p(x) score the model. The
picture shows traversals of each latent, and names the factor that the latent encodes.

    python examples/beta_vae_sprites.py

Each objective is trained once, and briefly. Other seeds (Locatello et al. 2019) and more epochs
give other scores.
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
    # the same, with 4 KL in place of KL
    "beta = 4": {"name": "beta", "beta": 4.0},
    # The KL, averaged over data, is I(x; z) + TC(z) + sum_j KL(q(z_j) || p(z_j)). Here only the
    # total correlation, TC(z) = KL(q(z) || prod_j q(z_j)), has weight 4.
    "beta-TC = 4": {"name": "beta_tc", "beta": 4.0},
}


def encoder(in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    """Convolutions, then a hidden layer: the position of a sprite is not linear in its pixels."""
    return nn.Sequential(
        ConvEncoder(in_shape, (HIDDEN,)), nn.ReLU(), MLP((HIDDEN,), out_shape, hidden=())
    )


def decoder(in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    """The mirror of the encoder."""
    return nn.Sequential(
        MLP(in_shape, (HIDDEN,), hidden=(HIDDEN,)), nn.ReLU(), ConvDecoder((HIDDEN,), out_shape)
    )


@dataclass(frozen=True)
class Evaluation:
    """Test results of one model.

    Attributes:
        scores: disentanglement scores by name, each from 0 to 1 (best).
        estimate: log p(x) of test data, with the reconstruction and KL terms.
    """

    scores: dict[str, float]
    estimate: ImportanceEstimate


def evaluate(
    vae: VAE, images: Tensor, factors: Tensor, num_judged: int, num_samples: int
) -> Evaluation:
    """Compute the scores on all images, and log p(x) on the first few, as it is expensive."""
    codes = sample_codes(vae, images)
    forest_scores = dci(codes, factors, progress=False)
    scores = {
        # mutual information with a factor: gap between the best and the second-best latent
        "MIG": mutual_information_gap(codes, factors),
        # whether each latent is important for one factor only
        "disentangled": forest_scores.disentanglement,
        # whether each factor is encoded by one latent only
        "complete": forest_scores.completeness,
        # how often a random forest predicts the factors correctly from all latents
        "informative": forest_scores.informativeness,
        # like MIG, with the accuracy of a tree on one latent in place of mutual information
        "SAP": sap(codes, factors),
    }
    # log p(x) ~ log 1/K sum_k p(x, z_k) / q(z_k | x), whichever objective was used in training
    estimate = importance_sample(
        vae.model, vae.guide, images[:num_judged], num_samples=num_samples, compile=False
    )
    return Evaluation(scores, estimate)


@torch.no_grad()
def sample_codes(vae: VAE, images: Tensor) -> Tensor:
    """Draw z ~ q(z | x). The means would reveal differences that are lost in the noise of q."""
    return torch.cat([vae.q(part).sample() for part in images.split(500)])


def describe_changes(name: str, evaluation: Evaluation, base: Evaluation) -> str:
    """Say which scores this objective raised and lowered, compared with the ELBO."""
    gained, lost, neither = [], [], []
    for score, value in evaluation.scores.items():
        change = value - base.scores[score]
        group = neither if abs(change) < 0.005 else gained if change > 0 else lost
        group.append(f"{score} {change:+.2f}")
    for figure, here, there in (
        ("reconstruction", -evaluation.estimate.reconstruction, -base.estimate.reconstruction),
        ("log p(x)", evaluation.estimate.log_likelihood, base.estimate.log_likelihood),
    ):
        # Paired differences: the variation between images, common to all models, cancels.
        change = here - there
        error = change.std() / len(change) ** 0.5
        group = neither if abs(change.mean()) < 2 * error else gained if change.mean() > 0 else lost
        group.append(f"{figure} {change.mean():+.1f} ± {error:.1f} nats")
    groups = [("gained", gained), ("lost", lost), ("neither, or within noise", neither)]
    return f"{name} compared with the ELBO: " + "; ".join(
        f"{word}: {', '.join(items)}" for word, items in groups if items
    )


@torch.no_grad()
def draw_traversals(axes: Axes, title: str, vae: VAE, images: Tensor, factors: Tensor) -> None:
    """Draw a row of images per latent, by decreasing KL, in which it goes from -2 to 2."""
    (report,) = latent_report(vae.model, vae.guide, images[:1000], progress=False)
    rows = report.kl.argsort(descending=True)
    codes = sample_codes(vae, images)
    line = torch.linspace(-2, 2, 9)
    z = vae.q(images[:1]).mean[0].repeat(len(rows), len(line), 1)
    for row, latent in enumerate(rows):
        z[row, :, latent] = line
    axes.imshow(image_grid(vae.decode_mean(z.flatten(0, 1)), len(line)), cmap="gray")

    # The factor with which each latent shares most information, as a share of its entropy.
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
    """Train with each objective, print the scores and draw the traversals.

    Arguments:
        num_train: number of training sprites, out of 737,280.
        epochs: passes through the training sprites.
        num_test: number of test sprites, for the scores.
        num_judged: number of test sprites on which log p(x) is estimated.
        num_samples: samples of z for each estimate of log p(x).
        latent_dim: number of latents; by default one more than there are factors.
        output: path of the picture.
    """
    data = load_sprites(num_train + num_test)
    train, test = data.images.float().split([num_train, num_test])
    factors = data.factors[num_train:]

    evaluations = {}
    figure = Figure(figsize=(16, 1 + 0.48 * latent_dim), layout="constrained")
    for axes, (name, objective) in zip(
        figure.subplots(1, len(OBJECTIVES)), OBJECTIVES.items(), strict=True
    ):
        torch.manual_seed(0)  # all start from the same weights
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
        evaluations[name] = evaluate(vae, test, factors, num_judged, num_samples)
        draw_traversals(axes, name, vae, test, factors)
    figure.suptitle(
        "each row: one latent from −2 to 2, with its KL, the factor that it encodes best, and the "
        "share of that factor's entropy that it explains; rows are sorted by KL",
        fontsize="medium",
    )
    figure.savefig(output, dpi=120)

    base = evaluations["ELBO"]
    representation = Table("objective", *base.scores)
    model = Table("objective", "reconstruction", "KL", "log p(x), nats", "Monte Carlo error")
    for name, evaluation in evaluations.items():
        representation.add_row(name, *(f"{score:.2f}" for score in evaluation.scores.values()))
        estimate = evaluation.estimate
        model.add_row(
            name,
            f"{estimate.reconstruction.mean():.1f}",
            f"{estimate.kl.mean():.1f}",
            str(estimate.mean),
            f"{estimate.monte_carlo_error:.2f}",
        )
    console = Console()
    console.print(representation, model)
    for name in list(evaluations)[1:]:
        console.print(describe_changes(name, evaluations[name], base), highlight=False)


if __name__ == "__main__":
    run(main)
