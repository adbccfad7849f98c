"""Sizes, densities, means and units of likelihoods at work."""

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyrovae import InputError, Likelihood

EVENT = (2, 3)
GREY = torch.tensor([[0.0, 1, 2], [3, 4, 0]])


def layer_of(spec: Any, event_shape: tuple[int, ...] = EVENT) -> Any:
    return Likelihood.of(spec).build(event_shape)


CASES: list[tuple[Any, int, Tensor, Any]] = [
    # declaration, numbers a feature, x, the distribution written out by hand
    ("Bernoulli", 1, (GREY > 1).float(), lambda e: dist.Bernoulli(logits=e[..., 0, :, :])),
    (
        {"family": "Bernoulli", "probs": "predicted"},
        1,
        (GREY > 1).float(),
        lambda e: dist.Bernoulli(probs=e[..., 0, :, :].sigmoid()),
    ),
    (
        {"family": "Normal", "scale": 0.3},
        1,
        GREY - 1.5,
        lambda e: dist.Normal(e[..., 0, :, :], 0.3),
    ),
    (
        {"family": "Normal", "scale": "predicted"},
        2,
        GREY - 1.5,
        lambda e: dist.Normal(e[..., 0, :, :], softplus(e[..., 1, :, :]) + 1e-7),
    ),
    (
        {"family": "Normal", "scale": "predicted", "links": {"scale": "exp"}},
        2,
        GREY - 1.5,
        lambda e: dist.Normal(e[..., 0, :, :], e[..., 1, :, :].exp()),
    ),
    (
        {"family": "Normal", "scale": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]},
        1,
        GREY - 1.5,
        lambda e: dist.Normal(e[..., 0, :, :], torch.arange(1, 7).reshape(EVENT) / 10),
    ),
    (
        {"family": "Binomial", "total_count": 4},
        1,
        GREY,
        lambda e: dist.Binomial(4, logits=e[..., 0, :, :]),
    ),
    (
        {"family": "Categorical", "num_classes": 5},
        5,
        GREY,
        lambda e: dist.Categorical(logits=e.movedim(-3, -1)),
    ),
    ("Poisson", 1, GREY, lambda e: dist.Poisson(softplus(e[..., 0, :, :]) + 1e-7)),
]


@pytest.mark.parametrize(("spec", "numbers", "x", "by_hand"), CASES)
@pytest.mark.parametrize("batch", [(), (4,), (5, 4)])
@pytest.mark.usefixtures("float64")
def test_against_the_distribution_by_hand(
    spec: Any, numbers: int, x: Tensor, by_hand: Any, batch: tuple[int, ...]
) -> None:
    layer = layer_of(spec)
    assert layer.in_shape == (numbers, *EVENT)
    eta = torch.randn(*batch, *layer.in_shape)
    p, expected = layer(eta), by_hand(eta).to_event(2)
    x = x.double()
    assert (p.batch_shape, p.event_shape) == (batch, EVENT)
    torch.testing.assert_close(p.log_prob(x), expected.log_prob(x), rtol=1e-12, atol=1e-12)
    assert p.sample().shape == batch + EVENT
    layer.check(p.sample())


@pytest.mark.parametrize("spec", [case[0] for case in CASES], ids=str)
def test_mean_is_that_of_samples(spec: Any) -> None:
    layer = layer_of(spec)
    eta = torch.randn(layer.in_shape)
    samples = layer(eta.expand(20_000, *layer.in_shape)).sample().float()
    error = samples.std(0) / 20_000**0.5
    assert ((samples.mean(0) - layer.mean(eta)).abs() <= 4.5 * error + 1e-6).all()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("Normal", {"unlinked_scale": ()}),
        ({"family": "Normal", "scale": "per_feature"}, {"unlinked_scale": EVENT}),
        ({"family": "Normal", "scale": "predicted"}, {}),
        (
            {"family": "StudentT", "df": "shared", "scale": "per_feature"},
            {"unlinked_df": (), "unlinked_scale": EVENT},
        ),
    ],
)
def test_shared_and_per_feature_arguments_are_parameters(spec: Any, shape: dict[str, Any]) -> None:
    layer = layer_of(spec)
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == shape
    # Positive arguments start at 1.
    if "scale" in spec or spec == "Normal":
        p = layer(torch.zeros(layer.in_shape)).base_dist
        if "unlinked_scale" in shape:
            torch.testing.assert_close(p.scale, torch.ones(EVENT), rtol=1e-5, atol=1e-5)


def test_learned_scale_reaches_the_maximum_likelihood() -> None:
    """sigma^2 = mean of (x - loc)^2, as the sigma-VAE has it (Rybkin et al. 2021, eq. 5)."""
    layer = layer_of("Normal")
    eta, x = torch.randn(50, 1, *EVENT), 3 * torch.randn(50, *EVENT)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -layer(eta).log_prob(x).mean()
        value.backward()
        return value

    optimiser.step(loss)
    scale = layer(eta).base_dist.scale.flatten()[0]
    torch.testing.assert_close(scale, (x - eta[:, 0]).square().mean().sqrt(), rtol=1e-3, atol=0)


def test_units_move_the_density_as_a_change_of_variables() -> None:
    """With y = (x - m) / s, log p(x) = log p(y) - sum log s."""
    layer = layer_of({"family": "Normal", "scale": "predicted"}, (3,))
    eta, x = torch.randn(5, *layer.in_shape), torch.randn(5, 3)
    loc, scale = torch.tensor([1.0, -2.0, 30.0]), torch.tensor([0.5, 4.0, 10.0])
    in_own_units = layer(eta).log_prob(x)
    layer.set_units(loc, scale)
    in_new_units = layer(eta).log_prob(loc + scale * x)
    torch.testing.assert_close(in_new_units, in_own_units - scale.log().sum())


def test_families_of_other_than_real_numbers_have_no_units() -> None:
    """The loc and scale of a log-normal are those of log x."""
    layer = layer_of("LogNormal", (3,))
    before = layer(torch.zeros(2, 1, 3)).base_dist.scale
    layer.set_units(torch.full((3,), 400.0), torch.full((3,), 200.0))
    torch.testing.assert_close(layer(torch.zeros(2, 1, 3)).base_dist.scale, before)


def test_distributions_over_vectors_are_refused() -> None:
    class WithoutMarginal(torch.distributions.OneHotCategorical):
        pass

    with pytest.raises(
        InputError, match="WithoutMarginal is a distribution over all features at once"
    ):
        layer_of(WithoutMarginal, (4,))
    with pytest.raises(InputError, match="Multinomial is a distribution over the features of a"):
        layer_of("Multinomial")


def test_a_constant_scale_is_in_the_units_of_the_data() -> None:
    layer = layer_of({"family": "Normal", "scale": 0.5}, (3,))
    layer.set_units(torch.zeros(3), torch.full((3,), 10.0))
    assert layer(torch.zeros(1, 3)).base_dist.scale.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("spec", "discrete"),
    [
        ("Bernoulli", True),
        ("Poisson", True),
        ("Normal", False),
        ({"family": "Categorical", "num_classes": 3}, True),
        ({"family": "Binomial", "total_count": 3}, True),
        ("Gamma", False),
    ],
)
def test_mass_or_density(spec: Any, discrete: bool) -> None:
    assert layer_of(spec).is_discrete is discrete


def test_extreme_outputs_of_the_network_do_not_overflow() -> None:
    for spec, _, x, _ in CASES:
        if isinstance(spec, dict) and ("links" in spec or "probs" in spec):
            continue  # exp overflows by its nature; a probability of exactly 0 or 1 is impossible
        layer = layer_of(spec)
        for extreme in (-1e4, 1e4):
            eta = torch.full(layer.in_shape, extreme, requires_grad=True)
            log_prob = layer(eta).log_prob(x)
            log_prob.backward()
            assert log_prob.isfinite(), (spec, extreme)
            assert eta.grad is not None
            assert eta.grad.isfinite().all(), (spec, extreme)


def test_wrong_output_of_a_decoder() -> None:
    with pytest.raises(InputError, match=r"returned shape \(5, 2, 2, 3\).*expects \(1, 2, 3\)"):
        layer_of("Bernoulli")(torch.zeros(5, 2, 2, 3))


@pytest.mark.parametrize("event_shape", [(), (0,), (3, 0)])
def test_empty_event(event_shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="one positive whole number or more"):
        layer_of("Bernoulli", event_shape)


def test_constants_for_each_feature_must_be_as_many() -> None:
    for scale in ([1.0, 2.0], [1.0]):
        with pytest.raises(InputError, match=f"scale has {len(scale)} numbers for 6 features"):
            layer_of({"family": "Normal", "scale": scale})
