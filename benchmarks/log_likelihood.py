"""log p(x) of MNIST test images by importance sampling, compared with pythae (same weights)."""

from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrovae import VAE, binarise, fit, importance_sample

from .data import images, test_images
from .timing import is_installed
from .torch_steps import LATENT

__all__ = ["measure"]

NUM_SAMPLES = 5000
PYTHAE_SECONDS = 60.0
"""Time limit for pythae, which then has evaluated only some of the images."""


def measure(num_images: int = 10_000, epochs: int = 3) -> dict[str, Any]:
    """Time ``importance_sample`` and pythae's ``get_nll``. A rate is images x samples / s."""
    torch.manual_seed(0)
    vae = VAE((784,), LATENT, "Bernoulli")
    transform = partial(binarise, levels=255)
    fit(vae.model, vae.guide, images(), epochs=epochs, transform=transform, progress=False)
    x = binarise(test_images()[:num_images], 255)
    start = perf_counter()
    ours = importance_sample(vae.model, vae.guide, x, num_samples=NUM_SAMPLES)
    seconds = perf_counter() - start
    decoder_layers = [each for each in vae.model.decoder.modules() if isinstance(each, nn.Linear)]
    products = sum(layer.weight.numel() for layer in decoder_layers)
    record: dict[str, Any] = {
        "num_samples": NUM_SAMPLES,
        "ours": {
            "num_images": len(x),
            "seconds": seconds,
            "rate": len(x) * NUM_SAMPLES / seconds,
            "log p(x)": str(ours.mean),
            "multiplications of the decoder a second": len(x) * NUM_SAMPLES * products / seconds,
        },
        "peak of products": {"multiplications a second": _peak_rate(products)},
    }
    if is_installed("pythae"):
        record["pythae"] = _measure_pythae(vae, x, ours.log_likelihood)
        record["ours / pythae"] = record["ours"]["rate"] / record["pythae"]["rate"]
    for name, figures in record.items():
        print(f"  {name}: {figures}", flush=True)
    return record


@torch.no_grad()
def _peak_rate(products: int, rows: int = 10_000, seconds: float = 3.0) -> float:
    """Multiplications per second of the decoder's matrix products alone, by mkldnn in torch."""
    layers = [torch.randn(400, LATENT), torch.randn(784, 400)]
    inputs = [torch.randn(rows, LATENT), torch.randn(rows, 400)]
    times = []
    while sum(times) < seconds:
        start = perf_counter()
        for x, weight in zip(inputs, layers, strict=True):
            torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        times.append(perf_counter() - start)
    return rows * products / sorted(times)[len(times) // 2]


def _measure_pythae(vae: VAE, x: Tensor, ours: Tensor) -> dict[str, Any]:
    """Evaluate images with pythae until the time limit."""
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = vae.guide.encoder

        def forward(self, x: Tensor) -> Any:
            loc, raw = self.body(x).unbind(1)
            return ModelOutput(embedding=loc, log_covariance=2 * softplus(raw).log())

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = vae.model.decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.body(z).squeeze(1).sigmoid())

    config = VAEConfig(input_dim=(784,), latent_dim=LATENT, reconstruction_loss="bce")
    model = PythaeVAE(config, encoder=Encoder(), decoder=Decoder()).eval()
    num, start, estimates = 0, perf_counter(), []
    with torch.no_grad():
        while num < len(x) and perf_counter() - start < PYTHAE_SECONDS:
            estimates.append(-float(model.get_nll(x[num : num + 1], NUM_SAMPLES, 100)))
            num += 1
    seconds = perf_counter() - start
    return {
        "num_images": num,
        "seconds": seconds,
        "rate": num * NUM_SAMPLES / seconds,
        "log p(x) of these": sum(estimates) / num,
        "ours of these": ours[:num].mean().item(),
    }
