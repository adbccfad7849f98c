"""Discrete priors with equal probabilities for all classes."""

from math import log

import pytest
import torch
from torch.distributions import RelaxedOneHotCategorical

from pyrovae.priors.discrete import UniformConcrete, UniformOneHot

pytestmark = pytest.mark.usefixtures("float64")


def test_one_hot_vectors_have_equal_probabilities() -> None:
    p = UniformOneHot(3, num_classes=4)()
    z = p.sample((100,))
    assert z.shape == (100, 3, 4)
    assert (z.sum(-1) == 1).all()
    torch.testing.assert_close(p.log_prob(z), torch.full((100,), -3 * log(4)))


def test_the_relaxed_density_is_the_product_over_variables() -> None:
    p = UniformConcrete(3, num_classes=4, temperature=0.5)()
    z = p.sample((100,))
    one = RelaxedOneHotCategorical(torch.tensor(0.5), logits=torch.zeros(4))
    torch.testing.assert_close(p.log_prob(z), one.log_prob(z).sum(-1))


@pytest.mark.parametrize("prior", [UniformConcrete(3, 4), UniformOneHot(3, 4)])
def test_buffers_follow_the_type_and_are_not_saved(prior: torch.nn.Module) -> None:
    assert prior.double()().sample().dtype == torch.float64
    assert prior.float()().sample().dtype == torch.float32
    assert not prior.state_dict()
