"""Training steps in torch: this package, Pyro, torch by hand, and a lower bound on the time."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.optim import Adam

from pyrovae import VAE
from pyrovae.infer import ELBO, SVI
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder

from .data import binary_batches

__all__ = ["by_hand", "floor", "ours", "plain_pyro", "schools_in_ours", "schools_in_pyro"]

LATENT = 50
IMAGE = (1, 28, 28)
fused_adam = partial(Adam, lr=1e-3, fused=True)
Run = Callable[[int], None]


def ours(network: str, batch_size: int, compile: Any = True, steady: bool = False) -> Run:
    """This package. ``steady``: only the data change between steps, as within an epoch of fit."""
    vae = _make_vae(network)
    svi = SVI(vae.model, vae.guide, fused_adam, ELBO(60_000), compile=compile)
    run = _make_run(svi.step, _batches(batch_size))

    def steps(num: int) -> None:
        with svi.steady():
            run(num)

    return steps if steady else run


def plain_pyro(network: str, batch_size: int) -> Run:
    """The same model and guide with Pyro's SVI, Trace_ELBO and Adam."""
    vae = _make_vae(network)
    svi = PyroSVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return _make_run(svi.step, _batches(batch_size))


def by_hand(network: str, batch_size: int, compiled: bool = False) -> Run:
    """The same networks in a plain torch loop: closed-form KL, fused Adam."""
    encoder, decoder = _make_networks(network)
    optimiser = fused_adam([*encoder.parameters(), *decoder.parameters()])

    def compute_loss(x: Tensor) -> Tensor:
        loc, raw = encoder(x).unbind(1)
        scale = softplus(raw)
        z = loc + scale * torch.randn_like(scale)
        kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum()
        logits = decoder(z).squeeze(1)
        reconstruction = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (reconstruction + kl) / len(x)

    evaluate = torch.compile(compute_loss) if compiled else compute_loss

    def step(x: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        evaluate(x).backward()
        optimiser.step()

    return _make_run(step, _batches(batch_size))


def floor(network: str, batch_size: int) -> Run:
    """A lower bound: only the matrix products and convolutions of both passes, and a fused Adam."""
    layers = _record_layers(network, batch_size)
    parameters = [p for layer, _ in layers for p in layer.parameters()]
    for p in parameters:
        p.grad = 1e-3 * torch.randn_like(p)
    optimiser = fused_adam(parameters)
    work = [_make_products(layer, x, i > 0) for i, (layer, x) in enumerate(layers)]

    @torch.no_grad()
    def step(_: Any) -> None:
        for products in work:
            products()
        optimiser.step()

    return _make_run(step, iter(cycle([None])))


def schools_in_ours() -> Run:
    """Eight schools, a tiny model, in this package."""
    svi = SVI(_schools, AutoNormal(_schools), fused_adam, Trace_ELBO(), compile=True)
    return _make_run(svi.step, cycle([torch.tensor(EFFECTS)]))


def schools_in_pyro() -> Run:
    """Eight schools with Pyro's SVI."""
    svi = PyroSVI(_schools, AutoNormal(_schools), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return _make_run(svi.step, cycle([torch.tensor(EFFECTS)]))


EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
"""Eight schools (Rubin 1981): estimated effects of coaching, and their standard errors."""


def _schools(effects: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("data", 8):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("observed", dist.Normal(effect, torch.tensor(ERRORS)), obs=effects)


def _make_vae(network: str) -> VAE:
    torch.manual_seed(0)
    bodies: dict[str, Any] = {"mlp": (MLP, MLP), "conv": (ConvEncoder, ConvDecoder)}
    encoder, decoder = bodies[network]
    return VAE(IMAGE, LATENT, "Bernoulli", encoder=encoder, decoder=decoder)


def _make_networks(network: str) -> tuple[nn.Module, nn.Module]:
    vae = _make_vae(network)
    return vae.guide.encoder, vae.model.decoder


def _batches(batch_size: int) -> Iterator[Tensor]:
    return cycle([x.view(-1, *IMAGE) for x in binary_batches(batch_size)])


def _make_run(step: Callable[[Any], Any], batches: Iterator[Any]) -> Run:
    def run(steps: int) -> None:
        for _ in range(steps):
            step(next(batches))

    return run


def _record_layers(network: str, batch_size: int) -> list[tuple[Any, Tensor]]:
    """Return every linear and convolutional layer, with an input that it receives."""
    inputs: list[tuple[Any, Tensor]] = []
    hooks = []
    encoder, decoder = _make_networks(network)

    def record(layer: nn.Module, args: Any) -> None:
        inputs.append((layer, args[0].detach().clone()))

    for body in (encoder, decoder):
        for layer in body.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                hooks.append(layer.register_forward_pre_hook(record))
    with torch.no_grad():
        encoder(next(_batches(batch_size)))
        decoder(torch.randn(batch_size, LATENT))
    for hook in hooks:
        hook.remove()
    return inputs


def _make_products(layer: Any, x: Tensor, needs_input: bool) -> Callable[[], Any]:
    """Return a function that computes the output of a layer, and its gradients in the weights and,
    if ``needs_input``, in the input.
    """
    with torch.no_grad():
        gradient = torch.randn_like(layer(x))
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):

        def linear() -> None:
            torch.mm(x, weight.t())
            torch.mm(gradient.t(), x)
            if needs_input:
                torch.mm(gradient, weight)

        return linear
    is_transposed = isinstance(layer, nn.ConvTranspose2d)
    shape = (layer.stride, layer.padding, layer.dilation, is_transposed, layer.output_padding, 1)

    def convolution() -> None:
        torch.ops.aten.convolution(x, weight, None, *shape)
        torch.ops.aten.convolution_backward(
            gradient, x, weight, None, *shape, [needs_input, True, False]
        )

    return convolution
