"""A likelihood for each block of columns, inferred or declared."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pyrovae import VAE, InputError, Likelihood, Mixed, evaluate, fit

MIXED = Mixed(
    {("a", "b"): {"family": "Normal", "scale": "per_feature"}},
    kind={"family": "Categorical", "num_classes": 3},
    count="Poisson",
)


def rows(num: int = 40) -> torch.Tensor:
    torch.manual_seed(4)
    return torch.cat(
        [
            torch.randn(num, 2) * torch.tensor([1.0, 50.0]) + 10,
            torch.randint(0, 3, (num, 1)),
            torch.poisson(torch.full((num, 1), 4.0)),
        ],
        dim=1,
    )


def test_density_is_the_product_of_those_of_the_blocks() -> None:
    layer: Any = MIXED.build((4,))
    assert layer.in_shape == (2 + 3 + 1,)
    eta, x = torch.randn(5, 6), rows(5)
    normal, categorical, poisson = layer.layers
    expected = (
        normal(eta[:, :2].reshape(5, 1, 2)).log_prob(x[:, :2])
        + categorical(eta[:, 2:5].reshape(5, 3, 1)).log_prob(x[:, 2:3])
        + poisson(eta[:, 5:].reshape(5, 1, 1)).log_prob(x[:, 3:])
    )
    p = layer(eta)
    torch.testing.assert_close(p.log_prob(x), expected)
    assert (p.batch_shape, p.event_shape) == ((5,), (4,))
    layer.check(p.sample())
    assert layer.kind == "log density of a, b; log probability mass of count, kind"


def test_each_column_has_its_own_units() -> None:
    """The density in new units is that of standardised data, less the logarithms of the scales."""
    mixed = Mixed(
        {
            ("a", "b"): {"family": "Normal", "scale": "per_feature"},
            ("c",): "StudentT",
            ("d",): "Poisson",
        }
    )
    layer: Any = mixed.build((4,))
    loc = torch.tensor([3.0, -20.0, 500.0, 7.0])
    scale = torch.tensor([0.1, 5.0, 40.0, 11.0])
    eta, x = torch.randn(5, 4), torch.randn(5, 4)
    x[:, 3] = torch.arange(5.0)
    before = layer(eta).log_prob(x)
    layer.set_units(loc, scale)
    for block, columns in zip(layer.layers, ([0, 1], [2]), strict=False):
        assert torch.equal(block.units_loc, loc[columns])
        assert torch.equal(block.units_scale, scale[columns])
    real = torch.tensor([True, True, True, False])
    in_units = torch.where(real, loc + scale * x, x)
    after = layer(eta).log_prob(in_units)
    torch.testing.assert_close(after, before - scale[real].log().sum(), rtol=1e-4, atol=1e-4)


def test_mean_is_that_of_samples() -> None:
    layer: Any = MIXED.build((4,))
    eta = torch.randn(6)
    x = layer(eta.expand(20_000, 6)).sample()
    error = x.std(0) / 20_000**0.5
    assert ((x.mean(0) - layer.mean(eta)).abs() <= 5 * error).all()


def test_an_object_a_dict_and_yaml_are_the_same() -> None:
    spec = yaml.safe_load(yaml.safe_dump(MIXED.to_dict()))
    assert Likelihood.of(spec) == MIXED == copy.deepcopy(MIXED)
    assert str(MIXED) == "Mixed(a, b: Normal; kind: Categorical; count: Poisson)"
    assert len({MIXED, Likelihood.of(spec)}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True])
def test_a_vae_trains_on_mixed_columns(missing: bool) -> None:
    x = rows(200)
    if missing:
        x[torch.rand(x.shape) < 0.2] = torch.nan
    vae = VAE((4,), latent_dim=2, likelihood=MIXED, missing=missing)
    vae.standardise(x)
    before = evaluate(vae.model, vae.guide, x).elbo.mean
    fit(vae.model, vae.guide, x, epochs=30, lr=5e-3, batch_size=50, progress=False)
    assert evaluate(vae.model, vae.guide, x).elbo.mean > before + 0.3
    assert vae.sample(3).shape == (3, 4)
    assert vae.reconstruct(x).isfinite().all()


def test_missing_entries_contribute_nothing() -> None:
    layer: Any = MIXED.build((4,))
    eta, x = torch.randn(6, requires_grad=True), rows(1)[0]
    present = torch.tensor([True, False, False, True])
    value = layer(eta, observed=present).log_prob(torch.where(present, x, layer.fill))
    value.backward()
    assert eta.grad is not None
    # a's loc is seen, b's is not; the three logits of kind are not; the rate of count is.
    assert (eta.grad != 0).tolist() == [True, False, False, False, False, True]
    assert eta.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixed(), "Mixed has no columns"),
        (lambda: Mixed({("a", "b"): "Normal", "a": "Poisson"}), "'a' is in two blocks"),
        (lambda: Mixed({"a": "Normal"}, a="Poisson"), "'a' is in two blocks"),
        (lambda: Mixed(a="Norml"), "did you mean 'Normal'"),
        (lambda: Mixed(a={"family": "Poisson", "exposure": True}), "takes a likelihood of x alone"),
        (lambda: MIXED.build((3,)), "declares 4 columns"),
        (lambda: Likelihood.of({"family": "Mixed", "block": []}), "Mixed is written as"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_data_outside_the_support_of_a_column() -> None:
    x = rows()
    x[7, 3] = -1
    with pytest.raises(InputError, match=r"Poisson is of numbers .* datum 7, column 'count'"):
        MIXED.build((4,)).check(x)


def test_a_constant_column_has_no_density() -> None:
    x = rows()
    x[:, 1] = 2.5
    with pytest.raises(InputError, match=r"a constant column 'b', always 2.5"):
        MIXED.build((4,)).check_varied(x)


def test_columns_may_be_one_name() -> None:
    block = {"columns": "height", "likelihood": "Normal"}
    assert Likelihood.of({"family": "mixed", "blocks": [block]}) == Mixed(height="Normal")


def test_infer_proposes_and_says_why() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "height": rng.normal(170, 10, 300),
            "income": rng.lognormal(10, 1, 300),
            "visits": rng.poisson(3, 300),
            "reads": rng.negative_binomial(1, 0.01, 300),
            "member": rng.random(300) < 0.5,
            "sex": rng.choice(["f", "m"], 300),
            "town": pd.Categorical(rng.choice(["x", "y", "z"], 300)),
            "flag": rng.integers(0, 2, 300),
        }
    )
    table.loc[3, ["height", "visits"]] = np.nan
    lines: list[str] = []
    mixed = Likelihood.infer(table, lines.append)
    assert {name: p.family.name for (name,), p in mixed.blocks.items()} == {
        "height": "Normal",
        "income": "LogNormal",
        "visits": "Poisson",
        "reads": "NegativeBinomial",
        "member": "Bernoulli",
        "sex": "Bernoulli",
        "town": "Categorical",
        "flag": "Bernoulli",
    }
    assert lines[1] == "income: LogNormal, as its numbers are positive and skewed"
    assert lines[6] == "town: Categorical(3 classes), as it has 3 classes"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([3.0, 3.0, np.nan], "'a' is always 3, which carries no information"),
        ([np.nan] * 3, "'a' is empty"),
        ([f"name {i}" for i in range(60)], "'a' has 60 classes"),
    ],
)
def test_columns_that_tell_nothing(column: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Likelihood.infer(pd.DataFrame({"a": column}))
