"""Networks accept any batch shape, and refuse images of unsuitable shapes."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from pyrovae import InputError
from pyrovae.nn import MLP, ConvDecoder, ConvEncoder, Standardise

BODIES: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...], tuple[int, ...]]]] = {
    "mlp": lambda: (MLP((1, 4, 4), (2, 3), hidden=(5, 6)), (1, 4, 4), (2, 3)),
    "mlp without hidden layers": lambda: (MLP((7,), (3,), hidden=()), (7,), (3,)),
    "encoder": lambda: (ConvEncoder((1, 28, 28), (2, 10)), (1, 28, 28), (2, 10)),
    "encoder in colour": lambda: (ConvEncoder((3, 8, 12), (4,)), (3, 8, 12), (4,)),
    "decoder": lambda: (ConvDecoder((10,), (1, 1, 28, 28)), (10,), (1, 1, 28, 28)),
    "decoder of classes": lambda: (ConvDecoder((2, 3), (5, 3, 8, 12)), (2, 3), (5, 3, 8, 12)),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3, 4)])
def test_networks_accept_any_batch_shape(name: str, batch: tuple[int, ...]) -> None:
    body, in_shape, out_shape = BODIES[name]()
    x = torch.randn(*batch, *in_shape)
    y = body(x)
    assert y.shape == batch + out_shape
    if batch:
        torch.testing.assert_close(y[0], body(x[0]), rtol=1e-4, atol=1e-5)


def test_the_convolutional_networks_mirror_each_other() -> None:
    encoder, decoder = ConvEncoder((1, 28, 28), (2, 10)), ConvDecoder((10,), (1, 1, 28, 28))
    down = [m for m in encoder.layers if isinstance(m, nn.Conv2d)]
    up = [m for m in decoder.layers if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in down] == [
        (32, (3, 3), (2, 2)),
        (64, (3, 3), (2, 2)),
    ]
    assert [(m.in_channels, m.out_channels) for m in up] == [(64, 32), (32, 1)]
    sizes, x = [28], torch.zeros(1, 1, 28, 28)
    for layer in encoder.layers:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sizes.append(x.shape[-1])
    assert sizes == [28, 14, 7]


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 30), (1, 27, 28), (3,)])
def test_other_image_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"multiples of 4.*use mlp"):
        ConvEncoder(shape, (2, 3))
    with pytest.raises(InputError, match=r"multiples of 4.*use mlp"):
        ConvDecoder((3,), (1, *shape))


def test_activations_are_only_between_linear_maps() -> None:
    layers = list(MLP((3,), (2,), hidden=(4, 5), activation=nn.Tanh).layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert all(a.out_features == b.in_features for a, b in pairwise(linear))


def test_standardise_applies_its_constants() -> None:
    layer = Standardise((2,))
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    torch.testing.assert_close(layer(x), x)
    layer.set(torch.tensor([2.0, 20.0]), torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(layer(x), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert not list(layer.parameters())
