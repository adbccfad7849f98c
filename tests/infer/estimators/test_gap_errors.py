"""Pairs and options for which an inference gap is refused."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import InputError
from pyrovae.infer.estimators.gap import InferenceGap, inference_gap
from tests.pairs import user_pair

from .linear_gaussian import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")


def gap_for(model: Any, guide: Any, data: Any, **options: Any) -> InferenceGap:
    return inference_gap(model, guide, data, progress=False, **options)


class TestErrors:
    def test_shared_latents_are_refused(self) -> None:
        pair = user_pair()
        with pytest.raises(InputError, match=r"'weights' is outside of plate 'data'"):
            inference_gap(pair.model, pair.guide, torch.randn(4, 3))

    def test_scaled_models_are_refused(self) -> None:
        pair = LinearGaussian()
        with pytest.raises(InputError, match=r"site 'z' is scaled by 0\.5"):
            inference_gap(poutine.scale(pair.model, 0.5), pair.guide(pair.off), pair.data(4))

    def test_dependent_latents_are_refused(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(0.0, 1.0))
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(x, 1.0))
                pyro.sample("b", dist.Normal(a, 1.0))

        with pytest.raises(InputError, match=r"site 'b' changes from run to run.*hierarchical"):
            inference_gap(model, guide, torch.randn(4))

    @pytest.mark.parametrize(
        ("family", "message"),
        [
            ("Bernoulli", "Bernoulli, has no reparameterised samples"),
            ("Delta", "Delta, has no reparameterised samples with a density"),
            ("flow", "TransformedDistribution, cannot be rebuilt"),
            ("Uniform", "Uniform, cannot be rebuilt"),
        ],
    )
    def test_families_that_cannot_be_optimised_are_refused(self, family: str, message: str) -> None:
        def q(x: Tensor) -> Any:
            if family == "flow":
                transform = dist.transforms.AffineTransform(1.0, 2.0)
                return dist.TransformedDistribution(dist.Normal(x, 1.0), [transform])
            if family == "Uniform":
                return dist.Uniform(x - 1, x + 1)
            return dist.Bernoulli(logits=x) if family == "Bernoulli" else dist.Delta(x)

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                prior = dist.Bernoulli(0.5) if family == "Bernoulli" else dist.Normal(0.0, 1.0)
                z = pyro.sample("z", prior)
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", q(x))

        with pytest.raises(InputError, match=rf"site 'z', {message}"):
            inference_gap(model, guide, torch.randn(4))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_steps": 0}, "num_steps is 0"),
            ({"lr": 0.0}, "lr is 0.0; it must be positive"),
            ({"num_samples": 1}, "num_samples is 1"),
            ({"log_likelihood": [0.0, 1.0]}, "log_likelihood has 2 entries for 4 data"),
        ],
    )
    def test_invalid_options_are_refused(self, options: dict[str, Any], message: str) -> None:
        pair = LinearGaussian()
        if "log_likelihood" in options:
            options = {"log_likelihood": torch.tensor(options["log_likelihood"])}
        with pytest.raises(InputError, match=message):
            inference_gap(pair.model, pair.guide(pair.off), pair.data(4), **options)

    def test_a_loader_without_batches_is_refused(self) -> None:
        pair = LinearGaussian()
        loader = DataLoader(TensorDataset(pair.data(3)), batch_size=5, drop_last=True)
        with pytest.raises(InputError, match="the data gave no batch"):
            inference_gap(pair.model, pair.guide(pair.off), loader)
