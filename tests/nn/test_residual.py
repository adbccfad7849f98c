"""Residual networks: shapes, initial values, and independence of the data in a batch."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pyrovae import VAE, InputError, fit
from pyrovae.nn import ResidualDecoder, ResidualEncoder, ResidualMLP

BODIES: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...], tuple[int, ...]]]] = {
    "mlp": lambda: (ResidualMLP((1, 4, 4), (2, 3), hidden=(6, 6, 5)), (1, 4, 4), (2, 3)),
    "mlp of one block": lambda: (ResidualMLP((7,), (3,), hidden=(4,)), (7,), (3,)),
    "encoder": lambda: (ResidualEncoder((1, 28, 28), (2, 10)), (1, 28, 28), (2, 10)),
    "encoder in colour": lambda: (ResidualEncoder((3, 8, 12), (4,)), (3, 8, 12), (4,)),
    "decoder": lambda: (ResidualDecoder((10,), (1, 1, 28, 28)), (10,), (1, 1, 28, 28)),
    "decoder of classes": lambda: (ResidualDecoder((2, 3), (5, 3, 8, 12)), (2, 3), (5, 3, 8, 12)),
}


def perturb(body: nn.Module) -> None:
    """Move the weights as training would, so that no branch is zero."""
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3, 4)])
def test_networks_accept_any_batch_shape(name: str, batch: tuple[int, ...]) -> None:
    body, in_shape, out_shape = BODIES[name]()
    perturb(body)
    x = torch.randn(*batch, *in_shape)
    y = body(x)
    assert y.shape == batch + out_shape
    if batch:
        torch.testing.assert_close(y[0], body(x[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", BODIES)
def test_output_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    """This holds in training mode too, where batch normalisation would mix the data."""
    body, in_shape, _ = BODIES[name]()
    perturb(body)
    x = torch.randn(3, *in_shape, requires_grad=True)
    (gradient,) = torch.autograd.grad(body(x)[0].sum(), x)
    assert gradient[0].abs().max() > 0
    assert torch.equal(gradient[1:], torch.zeros_like(gradient[1:]))


@pytest.mark.usefixtures("float64")
def test_residual_mlp_matches_its_formula() -> None:
    body = ResidualMLP((3,), (2,), hidden=(4, 5), activation=nn.Tanh)
    perturb(body)
    first, same, wider, _, last = body.layers
    x = torch.randn(6, 3)
    h = first(x)
    h = h + same.branch[3](same.branch[1](h.tanh()).tanh())
    h = wider.shortcut(h) + wider.branch[3](wider.branch[1](h.tanh()).tanh())
    torch.testing.assert_close(body(x), last(h.tanh()))


@pytest.mark.usefixtures("float64")
def test_blocks_start_as_their_shortcuts() -> None:
    mlp = ResidualMLP((3,), (2,), hidden=(4, 4, 4))
    first, last, x = mlp.layers[0], mlp.layers[-1], torch.randn(6, 3)
    torch.testing.assert_close(mlp(x), last(first(x).relu()))
    encoder = ResidualEncoder((1, 8, 8), (3,))
    convolution, halving, _, _, _, linear = encoder.layers
    x = torch.randn(6, 1, 8, 8)
    kernel = halving.shortcut[1].weight[:, :, 0, 0]
    pooled = convolution(x).unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    mapped = torch.einsum("bchw,dc->bdhw", pooled, kernel)
    mapped = mapped + halving.shortcut[1].bias[:, None, None]
    torch.testing.assert_close(encoder(x), linear(mapped.relu().flatten(1)))


@pytest.mark.parametrize("name", BODIES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """The last maps start at zero, but the other parameters learn from the second step on."""
    body, in_shape, out_shape = BODIES[name]()
    x, y = torch.randn(8, *in_shape), torch.randn(8, *out_shape)
    optimiser = torch.optim.SGD(body.parameters(), lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        (body(x) - y).square().mean().backward()
        optimiser.step()
    for path, parameter in body.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().max() > 0, path


def test_sizes_match_the_plain_convolutional_networks() -> None:
    sizes, x = [], torch.zeros(1, 1, 28, 28)
    for layer in ResidualEncoder((1, 28, 28), (2, 10)).layers[:3]:
        x = layer(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(32, 14, 14), (64, 7, 7), (64, 7, 7)]
    back, x = [], torch.zeros(1, 10)
    for layer in ResidualDecoder((10,), (1, 1, 28, 28)).layers:
        x = layer(x)
        back.append(tuple(x.shape[1:]))
    assert back[1:] == [(64, 7, 7), (64, 7, 7), (32, 14, 14), (32, 14, 14), (1, 28, 28)]


def test_a_vae_with_residual_networks_learns() -> None:
    x = (torch.rand(64, 1, 8, 8) > 0.5).float()
    vae = VAE((1, 8, 8), 3, encoder=ResidualEncoder, decoder=ResidualDecoder)
    history = fit(
        vae.model, vae.guide, x, epochs=15, batch_size=32, lr=3e-3, compile=False, progress=False
    )
    assert history["loss"][-1] < 0.97 * history["loss"][0]


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 30), (1, 27, 28), (3,), (1, 0, 4)])
def test_other_image_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"multiples of 4.*use mlp|positive whole number"):
        ResidualEncoder(shape, (2, 3))
    with pytest.raises(InputError, match=r"multiples of 4.*use mlp|positive whole number"):
        ResidualDecoder((3,), (1, *shape))


@pytest.mark.parametrize("hidden", [(), (4, 0)])
def test_a_network_without_blocks_is_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"the width of one block or more|must be 1 or more"):
        ResidualMLP((3,), (2,), hidden=hidden)
