"""``python -m benchmarks.accuracy.restoration``: restore MNIST images by p(x | y) of a VAE,
compared with mean imputation, probabilistic PCA and interpolation.

There are three parts. A Bernoulli VAE predicts missing pixels of binarised images. VAEs restore
grey images with noise, or of lower resolution. VAEs with several normal likelihoods give intervals
for missing grey pixels, whose coverage is measured. All results are means over the same test
images, with standard errors. Validation images, taken from the training data, select the number of
PCA components and the bound on pixel probabilities.
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
from pyrovae.runs.questions.degradation import Degradation
from pyrovae.runs.questions.quality import calibration_error, psnr

from ..data import images, test_images
from .linear_gaussian import LinearGaussian

METHODS = (
    "amortised", "refined", "importance", "pseudo_gibbs", "metropolis_within_gibbs", "nuts",
)  # fmt: skip
COMPONENTS = (10, 20, 40, 80, 160, 320)
LOWER_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
"""Candidates for the bound b: the linear baselines clamp probabilities of pixels to [b, 1 - b]."""

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
NOISE_OF_SMALL = 0.05
"""Noise on images of lower resolution."""

_METHOD_FOR_LIKELIHOODS = "importance"
"""The method with which the likelihoods are compared."""

_NUM_VALID = 300


class Results:
    """Collects results, prints them, and writes them as JSON after each addition."""

    def __init__(self, output: Path, **protocol: Any) -> None:
        self.output, self.rows = output, [protocol]
        self.table = Table(title="MNIST test images, restored")
        for column in ("task", "model, method", "figure", "mean", "± s.e.", "images", "s"):
            justify: Any = "right" if column in ("mean", "± s.e.", "images", "s") else "left"
            self.table.add_column(column, justify=justify)

    def add(
        self, task: str, name: str, figures: dict[str, Tensor | float], seconds: float = 0.0
    ) -> None:
        """Add figures: a tensor with one value per image, or a number for all images."""
        for figure, values in figures.items():
            estimate = Estimate.of(values) if isinstance(values, Tensor) else None
            mean = estimate.mean if estimate else values
            row = {
                "task": task,
                "name": name,
                "figure": figure,
                "mean": mean,
                "standard_error": estimate.standard_error if estimate else None,
                "images": len(values) if isinstance(values, Tensor) else None,
                "seconds": seconds,
            }
            self.rows.append(row)
            print(row, flush=True)
            error = f"{estimate.standard_error:.4f}" if estimate else ""
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
        methods: methods of drawing from p(z | y); all by default.
        num: number of test images.
        num_slow: number of test images for ``nuts``, which is slow; it gets the first ones.
        epochs: passes through the 59,700 training images.
        latent_dim: number of latents.
        hidden: width of the hidden layer.
        seed: seed of parameters, batches and degradations.
        weights: folder in which trained weights are saved and reused.
        output: path of the JSON file.
    """
    chosen = methods or METHODS
    results = Results(
        output, num=num, epochs=epochs, latent_dim=latent_dim, hidden=hidden, seed=seed
    )
    grey = images().float().view(-1, 1, 28, 28) / 255
    train, valid = grey[:-_NUM_VALID], grey[-_NUM_VALID:]
    test = test_images()[:num].float().view(-1, 1, 28, 28) / 255
    train_vae = partial(_train_or_load, train, epochs, latent_dim, hidden, seed, weights)

    def images_for(method: str, x: Tensor) -> Tensor:
        return x[:num_slow] if method == "nuts" else x

    def infer(vae: VAE, y: Tensor, method: str, operator: Operator | None = None) -> Posterior:
        return vae.posterior(y, operator=operator, method=method, batch_size=20, progress=False)

    bernoulli = train_vae("Bernoulli", "Bernoulli", binarise)
    binary_train, binary_valid, binary_test = (
        binarise(x, 1.0, _make_generator(i)) for i, x in enumerate((train, valid, test))
    )
    normal = LinearGaussian.fit(binary_train.flatten(1))
    for task, gaps in GAPS.items():
        missing = _call_with_seed(seed, gaps.draw_mask, test.shape)
        _fill_binary(results, task, normal, binary_valid, binary_test, gaps, missing)
        for method in chosen:
            x, gap = images_for(method, binary_test), images_for(method, missing)
            start = perf_counter()
            posterior = infer(bernoulli, torch.where(gap, torch.nan, x), method)
            seconds = perf_counter() - start
            log_prob = posterior.log_prob(x) / gap.flatten(1).sum(1)
            error = calibration_error(x[gap], posterior.mean[gap])
            figures = {_NATS: log_prob, _CALIBRATION: error}
            results.add(task, f"Bernoulli VAE, {method}", figures, seconds)

    shared = train_vae("Normal, shared scale", {"family": "Normal", **GREY["Normal, shared scale"]})
    normal = LinearGaussian.fit(train.flatten(1))
    operators: dict[str, Callable[..., Any]] = {
        f"noise of sd {NOISE}": partial(Noise, NOISE),
        f"noise of sd {NOISE}, not known": partial(Noise, None),
        "4 x smaller each way": partial(Downsample, 4, NOISE_OF_SMALL),
    }
    for task, make_operator in operators.items():
        true_operator = make_operator() if "not" not in task else Noise(NOISE)
        y = _call_with_seed(seed, true_operator.observe, test)
        y_valid = _call_with_seed(seed + 1, true_operator.observe, valid)
        _restore_grey(results, task, normal, valid, y_valid, test, y)
        for name, vae, of in (
            ("Bernoulli VAE, y of the mean", bernoulli, "mean"),
            ("Normal VAE", shared, "datum"),
        ):
            for method in chosen:
                if of == "mean" and "gibbs" in method:
                    continue
                x = images_for(method, test)
                start = perf_counter()
                posterior = infer(vae, images_for(method, y), method, make_operator(of=of))
                figures = {_PSNR: psnr(x, posterior.mean.clamp(0, 1))}
                results.add(task, f"{name}, {method}", figures, perf_counter() - start)

    for name, settings in GREY.items():
        # Uniform noise between grey levels: without it, the density of a black pixel is unbounded.
        vae = train_vae(name, {"family": "Normal", **settings}, _dequantise)
        x = _call_with_seed(seed, _dequantise, test)
        for task, gaps in GAPS.items():
            missing = _call_with_seed(seed, gaps.draw_mask, test.shape)
            start = perf_counter()
            posterior = infer(vae, torch.where(missing, torch.nan, x), _METHOD_FOR_LIKELIHOODS)
            seconds = perf_counter() - start
            num_missing = missing.flatten(1).sum(1)
            figures = {
                _PSNR: psnr(test, posterior.mean.clamp(0, 1), where=missing),
                _DENSITY: posterior.log_prob(x) / num_missing,
            }
            for level in (0.5, 0.9):
                low, high = posterior.interval(level)
                inside = ((low <= x) & (x <= high) & missing).flatten(1).sum(1)
                figures[f"share in {level:.0%} interval"] = inside / num_missing
            results.add(f"grey, {task}", f"{name}, {_METHOD_FOR_LIKELIHOODS}", figures, seconds)
    Console(width=140).print(results.table)


_NATS = "log p(x_missing|y), nats per pixel"
_DENSITY = "log density of x_missing given y, nats per pixel"
_CALIBRATION = "calibration error of P(x=1|y)"
_PSNR = "PSNR, dB"


def _train_or_load(
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
    """Train a VAE with this likelihood, or load its weights if they were saved before."""
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
    results: Results,
    task: str,
    normal: LinearGaussian,
    valid: Tensor,
    test: Tensor,
    gaps: Degradation,
    missing: Tensor,
) -> None:
    """Evaluate mean imputation and PCA on binarised images with missing pixels."""
    gap = _call_with_seed(1, gaps.draw_mask, valid.shape)

    def log_prob(x: Tensor, where: Tensor, probability: Tensor, bound: float) -> Tensor:
        p = torch.distributions.Bernoulli(probability.view_as(x).clamp(bound, 1 - bound))
        return (p.log_prob(x) * where).flatten(1).sum(1) / where.flatten(1).sum(1)

    imputers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mean": lambda x, where: normal.mean.float().expand(len(x), -1)
    }
    for count in COMPONENTS:
        fill = normal.with_components(count).fill_missing
        imputers[f"PCA, {count}"] = lambda x, where, fill=fill: fill(x.flatten(1), where.flatten(1))
    # The best imputer of each kind, "mea(n)" and "PCA", with its score and bound
    best: dict[str, tuple[float, str, float]] = {}
    for name, impute in imputers.items():
        probability = impute(valid, gap)
        for bound in LOWER_BOUNDS:
            score = log_prob(valid, gap, probability, bound).mean().item()
            best[name[:3]] = max(best.get(name[:3], (-1e9, "", 0.0)), (score, name, bound))
    for _, name, bound in best.values():
        start = perf_counter()
        probability = imputers[name](test, missing)
        seconds = perf_counter() - start
        clamped = probability.view_as(test).clamp(bound, 1 - bound)
        figures = {
            _NATS: log_prob(test, missing, probability, bound),
            _CALIBRATION: calibration_error(test[missing], clamped[missing]),
        }
        results.add(task, f"{name}, at least {bound}", figures, seconds)


def _restore_grey(
    results: Results,
    task: str,
    normal: LinearGaussian,
    valid: Tensor,
    y_valid: Tensor,
    test: Tensor,
    y: Tensor,
) -> None:
    """Evaluate the mean, PCA and interpolation on grey images."""
    is_small = y.shape != test.shape
    matrix = torch.eye(784)
    if is_small:
        downsample = Downsample(4, NOISE_OF_SMALL)
        matrix = downsample.apply(matrix.view(-1, 1, 28, 28)).flatten(1).T.contiguous()

    def restore_by_pca(count: int, y: Tensor) -> Tensor:
        pca = normal.with_components(count)
        noise = NOISE_OF_SMALL if is_small else NOISE
        if "not known" in task:
            noise = pca.estimate_noise(y.flatten(1))
        return pca.restore(y.flatten(1), matrix, noise).view(-1, 1, 28, 28).clamp(0, 1)

    scores = {c: psnr(valid, restore_by_pca(c, y_valid)).mean().item() for c in COMPONENTS}
    count = max(scores, key=lambda c: scores[c])
    start = perf_counter()
    restored = {"mean": normal.mean.float().view(1, 1, 28, 28).expand_as(test)}
    restored[f"PCA, {count}"] = restore_by_pca(count, y)
    if is_small:
        restored["pixels repeated"] = interpolate(y, scale_factor=4).clamp(0, 1)
        restored["bicubic"] = interpolate(y, scale_factor=4, mode="bicubic").clamp(0, 1)
    else:
        restored["the observation"] = y.clamp(0, 1)
    for name, x in restored.items():
        results.add(task, name, {_PSNR: psnr(test, x)}, perf_counter() - start)


def _dequantise(x: Tensor) -> Tensor:
    return (255 * x + torch.rand_like(x)) / 256


def _call_with_seed(seed: int, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a function that draws random numbers, without changing the global random state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*arguments)


def _make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    run(main)
