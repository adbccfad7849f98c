"""HMC transitions are reversible, preserve volume, and leave the density invariant."""

from math import pi

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from pyrovae.infer.estimators.hmc import State, hmc_transition, leapfrog
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")


def pendulums(position: Tensor) -> Tensor:
    """Gradient of a log-density with dependent dimensions."""
    return -position.sin() - 0.3 * position.sum(1, keepdim=True)


def log_gamma(position: Tensor) -> Tensor:
    """Log-density of log z in each row, where z ~ Gamma(2, 1): skewed."""
    return (2 * position - position.exp()).sum(1)[None]


class TestLeapfrog:
    def test_it_is_reversible(self) -> None:
        position, momentum = torch.randn(2, 50, 3)
        step_size = torch.linspace(0.01, 0.5, 50)
        there, speed = leapfrog(pendulums, position, momentum, step_size, 25)
        assert (there - position).abs().amin(1).max() > 0.1
        back, reversed_momentum = leapfrog(pendulums, there, -speed, step_size, 25)
        torch.testing.assert_close(back, position, rtol=0, atol=1e-10)
        torch.testing.assert_close(-reversed_momentum, momentum, rtol=0, atol=1e-10)

    def test_it_preserves_volume(self) -> None:
        def step(phase: Tensor) -> Tensor:
            position, momentum = phase.view(2, 1, 3)
            return torch.cat(leapfrog(pendulums, position, momentum, torch.tensor([0.4]), 7), 1)[0]

        determinant = jacobian(step, torch.randn(6)).det()
        assert abs(determinant.item() - 1) < 1e-10

    def test_its_error_is_of_second_order(self) -> None:
        """For the harmonic oscillator, half the step size gives a quarter of the error."""
        start, still = torch.ones(1, 1), torch.zeros(1, 1)
        off = []
        for num in (20, 40):
            step_size = torch.tensor([pi / 2 / num])
            end, _ = leapfrog(lambda z: -z, start, still, step_size, num)
            off.append(end.abs().item())
        assert off[0] / off[1] == pytest.approx(4, rel=0.05)


class TestTransition:
    def test_a_normal_is_invariant(self) -> None:
        """Mean and covariance of rows that started there, though many ends are rejected."""
        torch.manual_seed(3)
        covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]])
        target = dist.MultivariateNormal(torch.tensor([1.0, -2.0]), covariance)
        position = target.sample((40_000,))

        def log_terms(position: Tensor) -> Tensor:
            return torch.stack([target.log_prob(position), torch.zeros(len(position))])

        weights = torch.tensor([1.0, 0.0])
        state = State(position, log_terms(position))
        step_size = torch.full((40_000,), 0.45)
        for _ in range(3):
            state, acceptance = hmc_transition(log_terms, weights, state, step_size, 4)
        assert 0.4 < acceptance.mean() < 0.9
        assert (state.position != position).all(1).double().mean() > 0.9
        centred = state.position - target.loc
        products = (centred[:, :, None] * centred[:, None]).flatten(1)
        assert_unbiased(state.position, target.loc)
        assert_unbiased(products, covariance.flatten())
        torch.testing.assert_close(state.terms, log_terms(state.position))

    def test_a_skewed_density_is_invariant_with_detailed_balance(self) -> None:
        """Start and end of a row can be exchanged: E[a(start) b(end)] = E[b(start) a(end)]."""
        torch.manual_seed(4)
        start = dist.Gamma(2.0, 1.0).sample((60_000, 1)).log()
        state = State(start, log_gamma(start))
        step_size = torch.full((60_000,), 1.3)
        state, acceptance = hmc_transition(log_gamma, torch.ones(1), state, step_size, 2)
        assert 0.3 < acceptance.mean() < 0.9
        end = state.position
        z = end.exp()
        assert_unbiased(torch.cat([z, z**2, end], 1), torch.tensor([2.0, 6.0, 0.42278433509846714]))
        swapped = start * end.exp() - end * start.exp()
        assert_unbiased(swapped, torch.zeros(1))
        assert swapped.std() > 0.3

    def test_weights_set_the_density(self) -> None:
        """Half of log N(0, 1) and half of log N(2, 1) is N(1, 1), but for a constant."""
        torch.manual_seed(5)
        ends = dist.Normal(torch.tensor([[0.0], [2.0]]), 1.0)

        def log_terms(position: Tensor) -> Tensor:
            return ends.log_prob(position[:, 0])

        position = torch.randn(20_000, 1)
        state = State(position, log_terms(position))
        weights = torch.tensor([0.5, 0.5])
        for _ in range(12):
            state, _ = hmc_transition(log_terms, weights, state, torch.full((20_000,), 0.5), 3)
        assert_unbiased(state.position, torch.ones(1))
        assert_unbiased((state.position - 1) ** 2, torch.ones(1))

    def test_ends_with_a_nan_density_are_rejected_row_by_row(self) -> None:
        def log_terms(position: Tensor) -> Tensor:
            density = -position.square().sum(1) / 2
            return torch.where(position[:, 0] > 0, density, torch.nan)[None]

        position = torch.tensor([[1e-9], [3.0]])
        state = State(position, log_terms(position))
        lost, kept = [], []
        for _ in range(50):
            new, acceptance = hmc_transition(
                log_terms, torch.ones(1), state, torch.full((2,), 0.01), 1
            )
            assert not new.terms.isnan().any()
            lost.append(acceptance[0].item())
            kept.append(acceptance[1].item())
        assert lost.count(0.0) > 10
        assert min(kept) > 0.9
