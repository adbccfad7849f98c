"""The VampPrior against the posteriors that it mixes."""

import copy
from functools import partial
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import Tensor, nn

from pyrovae import VAE, InputError
from pyrovae.distributions.flows import FlowDistribution, import_zuko
from pyrovae.nn import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import VampPrior

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(3))


class LowRank(nn.Module):
    in_shape = (3, 2)

    def forward(self, h: Tensor) -> Any:
        factor = h[..., 1, :].unsqueeze(-1)
        return dist.LowRankMultivariateNormal(h[..., 0, :], factor, h[..., 2, :].exp())


class FullRank(nn.Module):
    in_shape = (3, 2)

    def forward(self, h: Tensor) -> Any:
        lower = h[..., 1:, :]
        diagonal = lower.diagonal(dim1=-2, dim2=-1).exp()
        scale_tril = lower.tril(-1) + torch.diag_embed(diagonal)
        return dist.MultivariateNormal(h[..., 0, :], scale_tril=scale_tril)


class Planar(nn.Module):
    """A flow with a known inverse only at its own samples."""

    in_shape = (2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.planar = transforms.Planar(2)

    def forward(self, h: Tensor) -> Any:
        base = dist.Normal(h[..., 0, :], h[..., 1, :].exp())
        return dist.TransformedDistribution(base, [self.planar])


class Autoregressive(nn.Module):
    in_shape = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.flow = import_zuko().flows.MAF(2, 4)

    def forward(self, h: Tensor) -> FlowDistribution:
        flow = self.flow(h)
        return FlowDistribution(flow.transform.inv, flow.base)


def vamp_vae(posterior: nn.Module | None = None, components: int = 6) -> VAE:
    body = partial(MLP, hidden=(5,), activation=nn.Tanh)
    prior = VampPrior((4,), components)
    nn.init.normal_(prior.logits)
    return VAE((4,), 2, "Normal", prior, posterior, encoder=body, decoder=body)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("posterior", [DiagonalNormal(2), FullRank(), LowRank()])
@pytest.mark.parametrize("shape", [(), (7,), (3, 7)])
def test_density_is_the_weighted_sum_of_the_guides_densities(
    posterior: nn.Module, shape: tuple[int, ...]
) -> None:
    vae = vamp_vae(copy.deepcopy(posterior).double())
    vae.standardise(3 + 2 * X.double())
    z = torch.randn(*shape, 2)
    prior: Any = vae.model.prior
    scale, loc = vae.guide.standardise.scale, vae.guide.standardise.loc
    terms = [
        weight * vae.q(scale * u + loc).log_prob(z).exp()
        for weight, u in zip(prior.logits.softmax(0), prior.pseudo_inputs, strict=True)
    ]
    p = prior()
    torch.testing.assert_close(p.log_prob(z), torch.stack(terms).sum(0).log())
    torch.testing.assert_close(p.expand(torch.Size(shape)).log_prob(z), p.log_prob(z))
    assert p.sample(torch.Size(shape)).shape == (*shape, 2)
    draws = p.sample(torch.Size((20_000,)))
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - p.mean).abs() < 4.5 * error).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("posterior", [DiagonalNormal(2), FullRank()])
def test_gradients_reach_pseudo_inputs_encoder_and_weights(posterior: nn.Module) -> None:
    vae = vamp_vae(copy.deepcopy(posterior).double())
    prior: Any = vae.model.prior
    z = torch.randn(7, 2)
    learned = {"pseudo-inputs": prior.pseudo_inputs, "weights": prior.logits}
    learned |= dict(vae.guide.encoder.named_parameters())
    assert len(learned) == 6
    gradients = torch.autograd.grad(prior().log_prob(z).sum(), list(learned.values()))
    for (name, parameter), gradient in zip(learned.items(), gradients, strict=True):
        direction, step = torch.randn_like(parameter), 1e-5
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(prior().log_prob(z).sum().item())
        with torch.no_grad():
            parameter.add_(step * direction)
        expected = (gradient * direction).sum().item()
        assert abs(expected) > 1e-3, name
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-6), name


def test_pseudo_inputs_start_at_different_data_standardised() -> None:
    vae = vamp_vae()
    state = torch.get_rng_state()
    vae.standardise(3 + 2 * X)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.randint(2**62, ())
    assert torch.equal(torch.get_rng_state(), after)  # one draw
    u = vae.model.prior.pseudo_inputs.detach()
    distances = torch.cdist(u, vae.guide.standardise(3 + 2 * X))
    assert distances.min(1).values.max() < 1e-3
    assert distances.argmin(1).unique().numel() == 6


def test_missing_entries_start_at_the_mean() -> None:
    x = torch.where(torch.rand(30, 4) < 0.4, torch.nan, X)
    vae = VAE((4,), 2, "Normal", VampPrior((4,), 30), missing=True)
    vae.standardise(x)
    u = vae.model.prior.pseudo_inputs.detach()
    assert not u.isnan().any()
    assert (u == 0).sum() == x.isnan().sum()
    torch.testing.assert_close(
        u.sort(0).values, vae.guide.standardise(x).nan_to_num(0.0).sort(0).values
    )
    assert vae.model.prior().log_prob(torch.zeros(2)).isfinite()


def test_components_at_the_same_datum_differ_by_noise() -> None:
    vae = vamp_vae(components=70)
    vae.standardise(X)
    u = vae.model.prior.pseudo_inputs.detach()
    assert torch.pdist(u).min() > 0
    distances = torch.cdist(u, vae.guide.standardise(X))
    counts = distances.argmin(1).bincount(minlength=30)
    assert counts.min() >= 2
    # 70 x 4 draws: the mean of their squares is that of a normal, within its error.
    noise = distances.min(1).values.square().sum().item() / 280
    assert noise == pytest.approx(1e-4, abs=4.5 * 1e-4 * (2 / 280) ** 0.5)


def test_a_copied_prior_mixes_the_copied_guide() -> None:
    vae = vamp_vae()
    other = copy.deepcopy(vae)
    prior: Any = other.model.prior
    assert prior._guide[0] is other.guide
    assert not {id(p) for p in vae.parameters()} & {id(p) for p in other.parameters()}
    z = torch.randn(5, 2)
    before = vae.model.prior().log_prob(z)
    torch.testing.assert_close(prior().log_prob(z), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(vae.model.prior().log_prob(z), before)
    assert not torch.equal(prior().log_prob(z), before)


def test_a_state_dict_holds_each_tensor_once_and_restores_the_prior() -> None:
    vae, other = vamp_vae(), vamp_vae()
    state = vae.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    prior_names = {name for name in state if name.startswith("model.prior")}
    assert prior_names == {"model.prior.pseudo_inputs", "model.prior.logits"}
    other.load_state_dict(state)
    z = torch.randn(5, 2)
    torch.testing.assert_close(other.model.prior().log_prob(z), vae.model.prior().log_prob(z))


def test_invalid_arguments_are_refused() -> None:
    prior = VampPrior((4,), 3)
    with pytest.raises(InputError, match="bound to no guide; give it to a VAE"):
        prior()
    with pytest.raises(InputError, match="Linear has no method q_of_standard"):
        prior.bind(nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"have shape \(5,\), but .* of shape \(4,\)"):
        VAE((4,), 2, "Normal", VampPrior((5,), 3))
    with pytest.raises(InputError, match="num_components is 0"):
        VampPrior((4,), 0)
    with pytest.raises(InputError, match="there are no data"):
        prior.start_at(torch.zeros(0, 4))


@pytest.mark.parametrize("posterior", [Planar, Autoregressive])
def test_posteriors_that_cannot_be_mixed_are_refused_when_bound(posterior: Any) -> None:
    with pytest.raises(InputError, match=r"cannot be mixed.*use another prior"):
        VAE((4,), 2, "Normal", VampPrior((4,), 3), posterior())


def test_binding_changes_no_training_modes_or_statistics() -> None:
    encoder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    encoder.append(nn.Unflatten(-1, (2, 2)))
    encoder[2].eval()
    before = copy.deepcopy(encoder.state_dict())
    vae = VAE((4,), 2, "Normal", VampPrior((4,), 3), encoder=encoder)
    assert [module.training for module in encoder] == [True, True, False, True, True]
    torch.testing.assert_close(dict(encoder.state_dict()), dict(before), rtol=0, atol=0)
    assert vae.model.prior().log_prob(torch.zeros(2)).isfinite()
