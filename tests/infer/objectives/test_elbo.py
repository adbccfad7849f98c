"""The ELBO per datum has the values and gradients of Pyro's, divided by N."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrovae.infer import ELBO
from tests.infer.objectives.linear_gaussian import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")


def gradients(pair: LinearGaussian, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(pair.parameters())))


def test_every_way_to_compute_it() -> None:
    pair = LinearGaussian()
    x = pair.data(5)
    torch.manual_seed(1)
    theirs = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x) / 5
    want = gradients(pair, theirs)
    torch.manual_seed(1)
    surrogate = ELBO().differentiable_loss(pair.model, pair.guide, x)
    torch.testing.assert_close(gradients(pair, surrogate), want)
    torch.manual_seed(1)
    loss = ELBO().loss_and_grads(pair.model, pair.guide, x)
    torch.testing.assert_close([p.grad for p in pair.parameters()], want)
    torch.manual_seed(1)
    torch.testing.assert_close(ELBO().loss(pair.model, pair.guide, x), loss)
    torch.testing.assert_close(loss.loss, theirs.detach())
    torch.testing.assert_close(loss.reconstruction + loss.kl, loss.loss)


def test_a_batch_stands_for_all_data() -> None:
    """Gradients of latents of each datum are those of a mean, for any N; so is the loss."""
    pair = LinearGaussian()
    x = pair.data(5)
    results = []
    for size in (None, 40):
        torch.manual_seed(1)
        pair.zero_grad()
        loss = ELBO(size=size).loss_and_grads(pair.model, pair.guide, x)
        results.append((loss, [p.grad.clone() for p in pair.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0], results[1])
