"""``python -m benchmarks.accuracy.restoration``: MNIST images restored by p(x | y) of a VAE,
beside mean filling, probabilistic PCA and interpolation.

Binarised images lose pixels, of which a Bernoulli VAE gives the probability; grey images have noise
or are made smaller; intervals of missing grey pixels are counted, under several likelihoods. All
figures are means over the same test images with their standard errors; validation images, taken
from the training data, choose the number of components of PCA and the least probability of a pixel.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from cyclopts import run
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from pyrovae import VAE, binarise, fit
from pyrovae.infer import Estimate
from pyrovae.inverse import Downsample, Noise, Operator, Posterior
from pyrovae.nn import MLP
from pyrovae.runs.degradation import Degradation
from pyrovae.runs.quality import calibration_error, psnr

from ..data import images, test_images
from .linear_gaussian import LinearGaussian

METHODS = (
    "amortised", "refined", "importance", "pseudo_gibbs", "metropolis_within_gibbs", "nuts",
)  # fmt: skip
COMPONENTS = (10, 20, 40, 80, 160, 320)
LEAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
"""Out of which the least probability of a pixel is chosen."""

GREY: dict[str, dict[str, Any]] = {
    "Normal, shared scale": {"scale": "shared"},
    "Normal, scale per feature": {"scale": "per_feature"},
    "Normal, predicted scale": {"scale": "predicted"},
}
GAPS = {
    "half at random": Degradation("inpaint"),
    "lower half": Degradation("inpaint", None, "lower"),
}
NOISE = 0.3
SMALL = 0.05
"""Noise on smaller images."""

_JUDGED = "importance"
"""The method by which likelihoods are compared."""

_NUM_VALID = 300


class Record:
    """Figures as they come, on the console and as JSON."""

    def __init__(self, output: Path, **protocol: Any) -> None:
        self.output, self.rows = output, [protocol]
        self.table = Table(title="MNIST test images, restored")
        for column in ("task", "model, method", "figure", "mean", "± s.e.", "images", "s"):
            justify: Any = "right" if column in ("mean", "± s.e.", "images", "s") else "left"
            self.table.add_column(column, justify=justify)

    def add(
        self, task: str, name: str, figures: dict[str, Tensor | float], seconds: float = 0.0
    ) -> None:
        """Figures of each image, or one of all."""
        for figure, values in figures.items():
            found = Estimate.of(values) if isinstance(values, Tensor) else None
            mean = found.mean if found else values
            row = {
                "task": task,
                "name": name,
                "figure": figure,
                "mean": mean,
                "standard_error": found.standard_error if found else None,
                "images": len(values) if isinstance(values, Tensor) else None,
                "seconds": seconds,
            }
            self.rows.append(row)
            print(row, flush=True)
            error = f"{found.standard_error:.4f}" if found else ""
            num = str(row["images"] or "")
            self.table.add_row(task, name, figure, f"{mean:.4f}", error, num, f"{seconds:.1f}")
        self.output.write_text(json.dumps(self.rows, indent=2) + "\n")


def main(
    *methods: str,
    num: int = 200,
    num_slow: int = 10,
    epochs: int = 30,
    latent_dim: int = 40,
    hidden: int = 400,
    seed: int = 0,
    weights: Path | None = None,
    output: Path = Path("restoration.json"),
) -> None:
    """Train, restore, print a table and write it as JSON.

    Args:
        methods: of drawing from p(z | y); all unless given.
        num: test images.
        num_slow: test images for ``nuts``, the first of them.
        epochs: passes through the 59,700 training images.
        latent_dim: number of latent dimensions.
        hidden: width of the hidden layer.
        seed: of parameters, batches and degradations.
        weights: folder where trained weights are kept, and found again.
        output: where to write.
    """
    chosen = methods or METHODS
    record = Record(output, num=num, epochs=epochs, latent_dim=latent_dim, hidden=hidden, seed=seed)
    grey = images().float().view(-1, 1, 28, 28) / 255
    train, valid = grey[:-_NUM_VALID], grey[-_NUM_VALID:]
    test = test_images()[:num].float().view(-1, 1, 28, 28) / 255
    trained = partial(_trained, train, epochs, latent_dim, hidden, seed, weights)

    def slow(method: str, x: Tensor) -> Tensor:
        return x[:num_slow] if method == "nuts" else x

    def ask(vae: VAE, y: Tensor, method: str, operator: Operator | None = None) -> Posterior:
        return vae.posterior(y, operator=operator, method=method, batch_size=20, progress=False)

    bernoulli = trained("Bernoulli", "Bernoulli", binarise)
    fixed = [binarise(x, 1.0, _generator(i)) for i, x in enumerate((train, valid, test))]
    normal = LinearGaussian.fit(fixed[0].flatten(1))
    for task, gaps in GAPS.items():
        missing = _seeded(seed, gaps.removed, test.shape)
        _fill_binary(record, task, normal, fixed[1], fixed[2], gaps, missing)
        for method in chosen:
            x, gap = slow(method, fixed[2]), slow(method, missing)
            start = perf_counter()
            result = ask(bernoulli, torch.where(gap, torch.nan, x), method)
            seconds = perf_counter() - start
            log_prob = result.log_prob(x) / gap.flatten(1).sum(1)
            error = calibration_error(x[gap], result.mean[gap])
            figures = {_NATS: log_prob, _CALIBRATION: error}
            record.add(task, f"Bernoulli VAE, {method}", figures, seconds)

    shared = trained("Normal, shared scale", {"family": "Normal", **GREY["Normal, shared scale"]})
    normal = LinearGaussian.fit(train.flatten(1))
    operators: dict[str, Callable[..., Any]] = {
        f"noise of sd {NOISE}": partial(Noise, NOISE),
        f"noise of sd {NOISE}, not known": partial(Noise, None),
        "4 x smaller each way": partial(Downsample, 4, SMALL),
    }
    for task, make in operators.items():
        known = make() if "not" not in task else Noise(NOISE)
        y = _seeded(seed, known.observe, test)
        _restore_grey(record, task, normal, valid, _seeded(seed + 1, known.observe, valid), test, y)
        for name, vae, of in (
            ("Bernoulli VAE, y of the mean", bernoulli, "mean"),
            ("Normal VAE", shared, "datum"),
        ):
            for method in chosen:
                if of == "mean" and "gibbs" in method:
                    continue
                x = slow(method, test)
                start = perf_counter()
                result = ask(vae, slow(method, y), method, make(of=of))
                figures = {_PSNR: psnr(x, result.mean.clamp(0, 1))}
                record.add(task, f"{name}, {method}", figures, perf_counter() - start)

    for name, settings in GREY.items():
        # Uniform noise between grey levels, lest the density of a black pixel be infinite.
        vae = trained(name, {"family": "Normal", **settings}, _dequantised)
        x = _seeded(seed, _dequantised, test)
        for task, gaps in GAPS.items():
            missing = _seeded(seed, gaps.removed, test.shape)
            start = perf_counter()
            result = ask(vae, torch.where(missing, torch.nan, x), _JUDGED)
            seconds = perf_counter() - start
            num_missing = missing.flatten(1).sum(1)
            figures = {
                _PSNR: psnr(test, result.mean.clamp(0, 1), where=missing),
                _DENSITY: result.log_prob(x) / num_missing,
            }
            for level in (0.5, 0.9):
                low, high = result.interval(level)
                inside = ((low <= x) & (x <= high) & missing).flatten(1).sum(1)
                figures[f"share in {level:.0%} interval"] = inside / num_missing
            record.add(f"grey, {task}", f"{name}, {_JUDGED}", figures, seconds)
    Console(width=140).print(record.table)


_NATS = "log p(x_missing|y), nats a pixel"
_DENSITY = "log density of x_missing given y, nats a pixel"
_CALIBRATION = "calibration error of P(x=1|y)"
_PSNR = "PSNR, dB"


def _trained(
    train: Tensor,
    epochs: int,
    latent_dim: int,
    hidden: int,
    seed: int,
    weights: Path | None,
    name: str,
    likelihood: Any,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> VAE:
    """A VAE of that likelihood, trained now or before."""
    torch.manual_seed(seed)
    body = partial(MLP, hidden=(hidden,))
    vae = VAE((1, 28, 28), latent_dim, likelihood, encoder=body, decoder=body)
    words = (name, transform and transform.__name__, epochs, latent_dim, hidden, seed)
    path = weights and weights / f"{'-'.join(map(str, words)).replace(' ', '_')}.safetensors"
    if path and path.exists():
        vae.load_state_dict(load_file(path))
        return vae.eval()
    vae.standardise(transform(train) if transform else train)
    fit(
        vae.model,
        vae.guide,
        train,
        epochs=epochs,
        transform=transform,
        schedule="cosine",
        progress=False,
    )
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(vae.state_dict(), path)
    return vae.eval()


def _fill_binary(
    record: Record,
    task: str,
    normal: LinearGaussian,
    valid: Tensor,
    test: Tensor,
    gaps: Degradation,
    missing: Tensor,
) -> None:
    """Probabilities of missing pixels without a network."""
    gap = _seeded(1, gaps.removed, valid.shape)

    def judged(x: Tensor, where: Tensor, probability: Tensor, least: float) -> Tensor:
        p = torch.distributions.Bernoulli(probability.view_as(x).clamp(least, 1 - least))
        return (p.log_prob(x) * where).flatten(1).sum(1) / where.flatten(1).sum(1)

    fillings: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mean": lambda x, where: normal.mean.float().expand(len(x), -1)
    }
    for count in COMPONENTS:
        filled = normal.of(count).filled
        fillings[f"PCA, {count}"] = lambda x, where, filled=filled: filled(
            x.flatten(1), where.flatten(1)
        )
    best: dict[str, tuple[float, str, float]] = {}
    for name, filling in fillings.items():
        probability = filling(valid, gap)
        for least in LEAST:
            score = judged(valid, gap, probability, least).mean().item()
            best[name[:3]] = max(best.get(name[:3], (-1e9, "", 0.0)), (score, name, least))
    for _, name, least in best.values():
        start = perf_counter()
        probability = fillings[name](test, missing)
        seconds = perf_counter() - start
        clamped = probability.view_as(test).clamp(least, 1 - least)
        figures = {
            _NATS: judged(test, missing, probability, least),
            _CALIBRATION: calibration_error(test[missing], clamped[missing]),
        }
        record.add(task, f"{name}, at least {least}", figures, seconds)


def _restore_grey(
    record: Record,
    task: str,
    normal: LinearGaussian,
    valid: Tensor,
    y_valid: Tensor,
    test: Tensor,
    y: Tensor,
) -> None:
    """Grey images without a network."""
    is_small = y.shape != test.shape
    matrix = torch.eye(784)
    if is_small:
        matrix = Downsample(4, SMALL).apply(matrix.view(-1, 1, 28, 28)).flatten(1).T.contiguous()

    def pca(count: int, seen: Tensor) -> Tensor:
        of = normal.of(count)
        noise = SMALL if is_small else NOISE
        if "not known" in task:
            noise = of.noise_of(seen.flatten(1))
        return of.restored(seen.flatten(1), matrix, noise).view(-1, 1, 28, 28).clamp(0, 1)

    scores = {c: psnr(valid, pca(c, y_valid)).mean().item() for c in COMPONENTS}
    count = max(scores, key=lambda c: scores[c])
    start = perf_counter()
    restored = {"mean": normal.mean.float().view(1, 1, 28, 28).expand_as(test)}
    restored[f"PCA, {count}"] = pca(count, y)
    if is_small:
        restored["pixels repeated"] = interpolate(y, scale_factor=4).clamp(0, 1)
        restored["bicubic"] = interpolate(y, scale_factor=4, mode="bicubic").clamp(0, 1)
    else:
        restored["the observation"] = y.clamp(0, 1)
    for name, x in restored.items():
        record.add(task, name, {_PSNR: psnr(test, x)}, perf_counter() - start)


def _dequantised(x: Tensor) -> Tensor:
    return (255 * x + torch.rand_like(x)) / 256


def _seeded(seed: int, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*arguments)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    run(main)
