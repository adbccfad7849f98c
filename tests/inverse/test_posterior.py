"""The posterior of every kind of model: methods, results, and state that must not change."""

from functools import partial
from typing import Any

import pyro
import pytest
import torch

from pyrovae import VAE, InputError, Likelihood
from pyrovae.inverse import METHODS, Linear, Noise, Posterior
from pyrovae.models.pca import ProbabilisticPCA

from .families import DISCRETE_LATENTS, FAMILIES, NAN, NORMAL, Y
from .linear_gaussian import exact, exact_given_observed, log_density, model

QUICK: dict[str, dict[str, Any]] = {
    "amortised": {"name": "amortised"},
    "refined": {"name": "refined", "num_steps": 2, "num_particles": 2},
    "importance": {
        "name": "importance",
        "proposal": {"name": "refined", "num_steps": 2, "num_particles": 2},
        "num_proposals": 20,
    },
    "weighted": {"name": "importance", "proposal": "amortised", "num_proposals": 20},
    "pseudo_gibbs": {"name": "pseudo_gibbs", "burn_in": 1, "thin": 1},
    "metropolis_within_gibbs": {
        "name": "metropolis_within_gibbs",
        "burn_in": 2,
        "thin": 1,
        "pseudo_gibbs": 1,
    },
    "nuts": {"name": "nuts", "num_chains": 2, "warm_up": 1},
}
"""Quick settings of every method."""


def test_quick_settings_cover_every_method() -> None:
    assert {settings["name"] for settings in QUICK.values()} == set(METHODS)


def test_no_more_data_are_drawn_at_once_than_the_batch_size() -> None:
    rows: list[int] = []
    vae = VAE((5,), latent_dim=2, likelihood=NORMAL)
    vae.guide.register_forward_hook(lambda network, args, result: rows.append(len(args[0])))
    y = torch.randn(9, 5)
    found = vae.posterior(y, operator=Noise(0.5), method="amortised", num_samples=50, batch_size=2)
    assert found.x.shape == (50, 9, 5)
    assert max(rows) == 2 * 50


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_works_on_every_kind_of_model(family: str) -> None:
    torch.manual_seed(7)
    make, y, given = FAMILIES[family]
    vae = make()
    seen = ~y.isnan()
    for name, method in QUICK.items():
        if family in DISCRETE_LATENTS and name in ("refined", "importance", "nuts"):
            with pytest.raises(InputError, match=f"{name} needs gradients .* is discrete; use"):
                vae.posterior(y, *given, method=method, num_samples=6)
            continue
        result = vae.posterior(y, *given, method=method, num_samples=6)
        assert result.x.shape == (6, *y.shape)
        assert result.mean.shape == y.shape
        assert result.x.isfinite().all()
        assert torch.equal(result.mean[seen], y[seen])
        assert torch.equal(result.x[:, seen], y[seen].expand(6, -1))
        assert result.sd[seen].eq(0).all()
        assert result.sd[1].gt(0).any()
        for latent in result.latents.values():
            assert latent.shape[:2] == (6, len(y))
        for diagnostic in result.diagnostics.values():
            assert diagnostic.shape == (len(y),)
        log_prob = result.log_prob(torch.where(seen, y, result.x[0]))
        assert log_prob.isfinite().all()
        assert log_prob[2].abs() < 1e-5  # no entry of this datum is missing


def test_z_is_the_only_latent_and_several_are_read_by_name() -> None:
    make, y, _ = FAMILIES["bottom-up"]
    result = make().posterior(y, method="amortised", num_samples=4)
    assert {name: z.shape for name, z in result.latents.items()} == {
        "z1": (4, 3, 3),
        "z2": (4, 3, 2),
    }
    with pytest.raises(InputError, match=r"latents z1, z2; choose one, as in latents\['z1'\]"):
        _ = result.z
    vae = VAE((3,), 2, NORMAL)
    result = vae.posterior(y, method="amortised", num_samples=4)
    assert torch.equal(result.z, result.latents["z"])
    # z is the latent that the decoder takes.
    mean = vae.decode_mean(result.z).mean(0)
    torch.testing.assert_close(result.mean[1], mean[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_draws_repeat_with_the_seed_and_change_no_other_state(name: str) -> None:
    vae = VAE((3,), 2, NORMAL, **{"encoder": _with_dropout, "decoder": _with_dropout})
    vae.model.eval()
    pyro.param("theirs", torch.tensor(1.0))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    state = {key: value.clone() for key, value in vae.state_dict().items()}
    modes = [module.training for module in vae.modules()]
    answer = partial(vae.posterior, Y, method=QUICK[name], num_samples=6)
    first = answer()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(9)
    again, other = answer(), answer(seed=1)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.z, again.z)
    assert not torch.equal(first.x, other.x)
    assert [module.training for module in vae.modules()] == modes
    assert set(pyro.get_param_store()) == {"theirs"}
    assert all(parameter.requires_grad for parameter in vae.parameters())
    assert all(parameter.grad is None for parameter in vae.parameters())
    for key, value in vae.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not first.x.requires_grad


def _with_dropout(in_shape: Any, out_shape: Any) -> torch.nn.Module:
    sizes = [torch.Size(shape).numel() for shape in (in_shape, out_shape)]
    parts = torch.nn.Flatten(-len(in_shape)), torch.nn.Linear(*sizes), torch.nn.Dropout(0.5)
    return torch.nn.Sequential(*parts, torch.nn.Unflatten(-1, tuple(out_shape)))


@pytest.mark.usefixtures("float64")
def test_batch_size_changes_only_the_random_draws() -> None:
    ppca = model(missing=True)
    y = ppca.sample(7)
    y[::2, 1:3] = NAN
    small, whole = (
        ppca.posterior(y, method="amortised", num_samples=2000, batch_size=size, seed=size)
        for size in (3, 7)
    )
    error = (small.sd.square() + whole.sd.square()).sqrt() / 2000**0.5
    assert ((small.x.mean(0) - whole.x.mean(0)).abs() <= 4.5 * error + 1e-9).all()
    # The mean over z of E[x | y, z] has the same limit as the mean of draws, and less noise.
    means = [exact_given_observed(ppca, row)[0] for row in y]
    assert ((whole.mean - torch.stack(means)).abs() <= 4.5 * error + 1e-9).all()
    torch.testing.assert_close(small.diagnostics["elbo"], whole.diagnostics["elbo"])


@pytest.mark.parametrize("name", QUICK)
def test_results_have_the_dtype_of_the_model(name: str) -> None:
    for dtype, y_dtype in ((torch.float32, torch.float64), (torch.float64, torch.float16)):
        vae = VAE((3,), 2, NORMAL).to(dtype)
        result = vae.posterior(Y.to(y_dtype), method=QUICK[name], num_samples=4)
        assert result.x.dtype == result.mean.dtype == result.z.dtype == dtype
    integers = torch.tensor([[1, 0, 2]])
    assert (
        VAE((3,), 2, NORMAL).posterior(integers, method=QUICK[name], num_samples=4).mean[0, 2] == 2
    )


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_posterior_is_the_prior_if_nothing_is_observed() -> None:
    for missing in (True, False):
        ppca = model(missing=missing)
        y = torch.full((1, 5), NAN)
        # With missing=True the guide returns the prior; otherwise it sees a typical datum.
        proposal: Any = "amortised" if missing else {"name": "refined", "num_steps": 100, "lr": 0.5}
        settings: Any = {"name": "importance", "num_proposals": 4000, "proposal": proposal}
        result = ppca.posterior(y, method=settings, num_samples=2000)
        mean, covariance = exact_given_observed(ppca, y[0])
        sd = covariance.diagonal().sqrt()
        assert ((result.x[:, 0].mean(0) - mean).abs() <= 4.5 * sd / 2000**0.5).all()
        # For a normal, the variance of a sample variance is 2 sd^4 / n.
        off = (result.x[:, 0] - mean).square().mean(0) / sd.square() - 1
        assert (off.abs() <= 4.5 * (2 / 2000) ** 0.5).all()
        error = result.diagnostics["standard_error"]
        assert result.diagnostics["log_likelihood"].abs() <= 4.5 * error + 1e-9
        assert error < 0.01
        x = ppca.sample(1)
        log_p = ppca.log_prob(x)
        values = (ppca.decode(result.z[:, 0]).log_prob(x) - log_p).exp()
        error = values.std() / len(values) ** 0.5
        assert (result.log_prob(x) - log_p).abs() <= 4.5 * error


@pytest.mark.usefixtures("float64")
def test_log_prob_is_the_density_of_missing_entries() -> None:
    ppca = model(missing=True)
    x = ppca.sample(6)
    y = x.clone()
    y[:3, 1:] = NAN
    y[3:, ::2] = NAN
    result = ppca.posterior(y, method="amortised", num_samples=4000)
    for i in range(6):
        mean, covariance = exact_given_observed(ppca, y[i])
        missing = y[i].isnan()
        truth = log_density(mean[missing], covariance[missing][:, missing], x[i, missing])
        # p(x | y) is the mean over draws of p(x_missing | z); `each` gives its standard error.
        p: Any = ppca.decode(result.z[:, i])
        log_each = p.base_dist.log_prob(x[i])[:, missing].sum(-1)
        each = (log_each - truth).exp()
        assert (result.log_prob(x)[i] - truth).abs() <= 4.5 * each.std() / len(each) ** 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_log_prob_is_exact_given_linear_observations() -> None:
    ppca = model(missing=False)
    matrix = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.5, -1.0, 0.0, 2.0]])
    operator = Linear(matrix, 1.0)
    x = ppca.sample(3)
    y = operator.observe(x)
    proposal = {"name": "refined", "num_steps": 100, "lr": 0.5}
    settings: Any = {"name": "importance", "num_proposals": 4000, "proposal": proposal}
    result = ppca.posterior(y, operator=operator, method=settings, num_samples=4000)
    for i in range(3):
        truth = log_density(*exact(ppca, y[i], matrix, 1.0), x[i])
        p: Any = ppca.decode(result.z[:, i])
        given = operator.restored(p, y[i : i + 1].expand(4000, -1), torch.ones(4000))
        each = (given.log_prob(x[i].expand(4000, -1)) - truth).exp()
        assert (result.log_prob(x)[i] - truth).abs() <= 6 * each.std() / len(each) ** 0.5


@pytest.mark.usefixtures("float64")
def test_intervals_have_their_nominal_coverage() -> None:
    """The truth comes from the model, so it is exchangeable with the draws given y."""
    ppca = model(missing=True)
    num = 400
    x = ppca.sample(num)
    hidden = torch.rand(num, 5) < 0.5
    y = torch.where(hidden, NAN, x)
    result = ppca.posterior(y, method="amortised", num_samples=99, batch_size=400)
    for level in (0.5, 0.9):
        low, high = result.interval(level)
        assert torch.equal(low[~hidden], x[~hidden])
        assert torch.equal(high[~hidden], x[~hidden])
        inside = ((low <= x) & (x <= high)).double()
        # Data are independent, entries of a datum are not: take the standard error over data.
        count = hidden.sum(1)
        share = (inside * hidden).sum() / count.sum()
        off = ((inside - level) * hidden).sum(1)
        error = off.square().sum().sqrt() / count.sum()
        assert abs(share.item() - level) <= 4.5 * error.item()
        assert error < 0.03


def test_intervals_are_order_statistics() -> None:
    draws = torch.arange(99.0).flip(0)[:, None, None]
    result = Posterior({}, draws, draws.mean(0), {}, torch.zeros(1), ())
    low, high = result.interval(0.9)
    # 99 draws leave 100 gaps for another draw; 90 of them are inside the interval.
    assert (low.item(), high.item()) == (4, 94)
    for level in (0.0, 1.0, -0.5, NAN):
        with pytest.raises(InputError, match="a probability between 0 and 1"):
            result.interval(level)
    with pytest.raises(InputError, match="99 draws are too few for an interval"):
        result.interval(0.995)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("of", ["datum", "mean"])
def test_noise_of_unknown_size_is_estimated(of: str) -> None:
    """A datum has many entries with the same noise, so its size can be estimated."""
    torch.manual_seed(2)
    num, latent, truth = 60, 2, 0.7
    ppca = ProbabilisticPCA((num,), latent)
    with torch.no_grad():
        ppca.likelihood.get_parameter("unlinked_scale").fill_(-2.5)  # sigma is its exponential
    sigma = ppca.scale.item() if of == "datum" else 0.0
    z = torch.randn(2, latent)
    y = ppca.decode_mean(z) + (sigma**2 + truth**2) ** 0.5 * torch.randn(2, num)
    settings: Any = {"name": "refined", "num_steps": 1}
    result = ppca.posterior(y, operator=Noise(None, of=of), method=settings, num_samples=2)
    assert result.noise.shape == (2,)
    # sqrt(sigma^2 + s^2) is estimated from num entries: its relative error is 1 / sqrt(2 num).
    found = (sigma**2 + result.noise.square()).sqrt()
    width = (sigma**2 + truth**2) ** 0.5
    assert ((found - width).abs() <= 4.5 * width / (2 * num) ** 0.5).all()
    # The exact maximum of p(y; s) of each datum.
    linear: Any = ppca.model.decoder
    weight, bias = linear.layers[0].weight.detach(), linear.layers[0].bias.detach()
    grid = torch.linspace(0.4, 1.1, 1401)
    best = []
    for row in y:
        scores = [
            torch.distributions.LowRankMultivariateNormal(
                bias, weight, torch.full((num,), float(s**2 + sigma**2))
            ).log_prob(row)
            for s in grid
        ]
        best.append(grid[torch.stack(scores).argmax()])
    torch.testing.assert_close(result.noise, torch.stack(best), rtol=0, atol=0.01)


def test_result_has_the_noise_that_was_given() -> None:
    result = VAE((3,), 2, NORMAL).posterior(
        torch.ones(2, 3), operator=Noise(0.3), method="amortised", num_samples=2
    )
    assert result.noise.tolist() == pytest.approx([0.3, 0.3])


def test_draws_do_not_depend_on_noise_drawn_with_the_same_seed() -> None:
    """With one generator state for both, draws of z would repeat the noise that was added to x."""
    vae = VAE((400,), 16, Likelihood("Normal", scale=1.0))
    torch.manual_seed(3)
    noise = torch.randn(100, 400)
    z = vae.posterior(noise[:1], method="amortised", num_samples=50, seed=3).z[:, 0]
    draws = ((z - z.mean(0)) / z.std(0)).flatten()
    correlations = noise.flatten().unfold(0, len(draws), 1) @ draws / len(draws)
    # About 40,000 normal numbers with standard deviation 1 / sqrt(800).
    assert correlations.abs().max() < 6 / len(draws) ** 0.5
