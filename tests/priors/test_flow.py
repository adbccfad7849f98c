"""The flow prior, and zuko's flows as Pyro distributions."""

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from pyrovae import InputError
from pyrovae.distributions.flows import FlowDistribution, import_zuko
from pyrovae.priors import FlowPrior, StandardNormal


def perturbed_prior(latent_dim: int, **options: Any) -> FlowPrior:
    """A flow prior with its parameters moved, so that it is not the standard normal."""
    prior = FlowPrior(latent_dim, **options)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"num_transforms": 1, "hidden": ()}])
def test_starts_as_the_standard_normal(latent_dim: int, options: dict[str, Any]) -> None:
    z = 3 * torch.randn(6, 4, latent_dim)
    log_prob = FlowPrior(latent_dim, **options)().log_prob(z)
    torch.testing.assert_close(log_prob, StandardNormal(latent_dim)().log_prob(z))


@pytest.mark.usefixtures("float64")
def test_density_integrates_to_one_and_has_the_moments_of_the_draws() -> None:
    p = perturbed_prior(2, num_transforms=2, hidden=(4,))()
    line = torch.linspace(-7, 7, 281)
    z = torch.cartesian_prod(line, line)
    log_prob = p.log_prob(z).detach()
    density = log_prob.exp() * (line[1] - line[0]) ** 2
    # Slopes of splines have corners: the rule is of second order, in steps of 0.05.
    assert density.sum().item() == pytest.approx(1, abs=1e-3)
    assert (log_prob - StandardNormal(2)().log_prob(z)).abs().max() > 1
    drawn = p.sample(torch.Size((20_000,)))
    for statistic in (lambda z: z, lambda z: z.square(), lambda z: z.prod(-1, keepdim=True)):
        exact = (statistic(z) * density[:, None]).sum(0)
        error = statistic(drawn).std(0) / len(drawn) ** 0.5
        assert ((statistic(drawn).mean(0) - exact).abs() < 4.5 * error + 1e-3).all()


@pytest.mark.usefixtures("float64")
def test_densities_of_any_batch_shape_and_of_draws_agree() -> None:
    p = perturbed_prior(3)()
    z = torch.randn(4, 5, 3)
    one_by_one = torch.stack([torch.stack([p.log_prob(each) for each in row]) for row in z])
    torch.testing.assert_close(p.log_prob(z), one_by_one)
    expanded = p.expand(torch.Size((4, 5)))
    torch.testing.assert_close(expanded.log_prob(z), one_by_one)
    drawn = expanded.rsample(torch.Size((2,)))
    assert drawn.shape == (2, 4, 5, 3)
    torch.testing.assert_close(expanded.log_prob(drawn), expanded.log_prob(drawn.clone()))


@pytest.mark.usefixtures("float64")
def test_gradients_match_finite_differences() -> None:
    prior = perturbed_prior(2, num_transforms=1, hidden=(3,))
    z = torch.randn(4, 2)

    def log_prob(z: Tensor, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in prior.named_parameters()]
        return torch.func.functional_call(
            prior, dict(zip(names, parameters, strict=True)), ()
        ).log_prob(z)

    assert torch.autograd.gradcheck(
        log_prob, (z.requires_grad_(), *prior.parameters()), fast_mode=True
    )


@pytest.mark.usefixtures("float64")
def test_the_density_at_a_sample_has_the_right_gradients() -> None:
    """Gradients of log p(z) with z a function of the parameters, and with z drawn without them."""
    prior = perturbed_prior(2)
    p = prior()
    z = p.rsample(torch.Size((5,)))
    kept = torch.autograd.grad(p.log_prob(z).sum(), list(prior.parameters()), retain_graph=True)
    anew = torch.autograd.grad(p.log_prob(z.view_as(z)).sum(), list(prior.parameters()))
    torch.testing.assert_close(kept, anew, rtol=1e-7, atol=1e-7)
    with torch.no_grad():
        z = p.rsample(torch.Size((5,)))
    assert p.log_prob(z).requires_grad
    assert not p.sample().requires_grad


def test_flows_with_a_context_expand() -> None:
    """As in a posterior: one context for each datum, and several draws for each."""
    flow = import_zuko().flows.MAF(3, 4)(torch.randn(5, 4))
    q = FlowDistribution(flow.transform.inv, flow.base).expand(torch.Size((7, 5)))
    z = q.rsample()
    assert z.shape == (7, 5, 3)
    torch.testing.assert_close(q.log_prob(z), flow.log_prob(z.clone()), rtol=1e-4, atol=1e-4)


def test_copies_share_nothing_and_change_precision() -> None:
    prior = perturbed_prior(3)
    double = copy.deepcopy(prior).double()
    z = torch.randn(6, 3)
    torch.testing.assert_close(
        double().log_prob(z.double()).float(), prior().log_prob(z), rtol=1e-4, atol=1e-4
    )
    pointers = [{t.data_ptr() for t in each.state_dict().values()} for each in (prior, double)]
    assert not pointers[0] & pointers[1]


def test_importing_zuko_keeps_argument_validation_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", True)
    for name in [name for name in sys.modules if name.split(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    assert import_zuko().flows.MAF(2)().event_shape == (2,)
    with pytest.raises(ValueError, match="parameter scale"):
        Normal(0.0, -1.0)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="num_transforms is 0"):
        FlowPrior(2, num_transforms=0)
