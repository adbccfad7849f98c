"""Networks with a context: their formula, and one pass of each x through the body."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pyrovae.nn import MLP, ConvEncoder, Joint, concatenate, joint_network


@pytest.mark.usefixtures("float64")
def test_joint_is_an_mlp_on_features_and_context() -> None:
    joint = Joint(partial(MLP, hidden=()), (3,), 2, (2, 4), num_features=5, hidden=6)
    first = nn.Linear(7, 6)
    with torch.no_grad():
        first.weight.copy_(torch.cat([joint.of_features.weight, joint.of_context.weight], 1))
        first.bias.copy_(joint.of_features.bias)
    x, c = torch.randn(9, 3), torch.randn(9, 2)
    both = torch.cat([joint.body(x).relu(), c], 1)
    expected = joint.out(first(both).relu()).reshape(9, 2, 4)
    torch.testing.assert_close(joint(x, c), expected)


@pytest.mark.parametrize("body", [MLP, ConvEncoder], ids=["mlp", "conv"])
def test_batch_shapes_broadcast_and_each_x_passes_the_body_once(body: type[nn.Module]) -> None:
    joint = Joint(body, (1, 8, 8), 4, (2, 3))
    rows = []
    joint.body.register_forward_hook(lambda _, args, out: rows.append(args[0].shape[:-3].numel()))
    x, c = torch.rand(5, 1, 8, 8), torch.randn(4, 5, 4)
    for batch in ((4, 1), (4, 5)):
        given = c[: batch[0], : batch[1]]
        together = joint(x, given)
        assert together.shape == (4, 5, 2, 3)
        for k in range(4):
            for b in range(5):
                alone = joint(x[b], given[k, b % batch[1]])
                assert alone.shape == (2, 3)
                torch.testing.assert_close(together[k, b], alone, rtol=1e-4, atol=1e-5)
        assert rows[0] == 5
        rows.clear()


def test_joint_network_returns_a_given_network() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return x + c

    network = Sum()
    assert joint_network(network, (3,), 3, (3,)) is network
    joint = joint_network(MLP, (3,), 2, (2, 4))
    assert isinstance(joint, Joint)
    assert joint(torch.ones(3), torch.ones(2)).shape == (2, 4)


def test_a_body_may_be_a_network_and_a_copy_gives_the_same() -> None:
    body = nn.Linear(3, 5)
    joint = Joint(body, (3,), 2, (4,), num_features=5)
    assert joint.body is body
    x, c = torch.randn(6, 3), torch.randn(6, 2)
    expected = joint(x, c)
    copied = copy.deepcopy(joint)
    assert torch.equal(copied(x, c), expected)
    doubled = copied.double()(x.double(), c.double())
    torch.testing.assert_close(doubled, expected.double(), rtol=1e-4, atol=1e-5)


def test_concatenate_broadcasts_batch_shapes() -> None:
    z, c = torch.randn(4, 1, 2), torch.randn(5, 3)
    both = concatenate(z, c)
    assert both.shape == (4, 5, 5)
    assert torch.equal(both[3, 2], torch.cat([z[3, 0], c[2]]))
    assert concatenate(torch.zeros(2), torch.ones(3)).tolist() == [0, 0, 1, 1, 1]
