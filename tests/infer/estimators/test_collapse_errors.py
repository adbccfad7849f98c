"""Pairs and options that reports on latents refuse."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import Planar
from torch import Tensor

from pyrovae import InputError
from pyrovae.infer.estimators.collapse import latent_report
from tests.infer.estimators.latent_pairs import make_pair
from tests.pairs import user_pair

pytestmark = pytest.mark.usefixtures("float64")


class TestErrors:
    def test_shared_latents_are_refused(self) -> None:
        pair = user_pair()
        with pytest.raises(InputError, match=r"'weights' is outside of plate 'data'"):
            latent_report(pair.model, pair.guide, torch.randn(4, 3))

    def test_hierarchical_guides_are_refused(self) -> None:
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
            latent_report(model, guide, torch.randn(4))

    def test_masked_latents_are_refused(self) -> None:
        model, guide = make_pair(lambda x: x)
        masked = poutine.mask(guide, mask=torch.tensor([True, False, True]))
        with pytest.raises(InputError, match=r"'z' is masked"):
            latent_report(model, masked, torch.randn(3, 2))

    def test_flows_without_an_inverse_are_refused(self) -> None:
        model, _ = make_pair(lambda x: x)
        planar = Planar(2)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                base = dist.Normal(x, 1.0).to_event(1)
                pyro.sample("z", dist.TransformedDistribution(base, [planar]))

        with pytest.raises(InputError, match=r"'z', TransformedDistribution, gives no density"):
            latent_report(model, guide, torch.randn(4, 2))

    @pytest.mark.parametrize(
        ("options", "num", "message"),
        [
            ({"num_samples": 0}, 4, "num_samples is 0"),
            ({"max_data": 1}, 4, "max_data is 1"),
            ({}, 1, "there is 1 datum"),
        ],
    )
    def test_invalid_options_are_refused(
        self, options: dict[str, Any], num: int, message: str
    ) -> None:
        model, guide = make_pair(lambda x: x)
        with pytest.raises(InputError, match=message):
            latent_report(model, guide, torch.randn(num, 2), **options)

    def test_nan_is_refused(self) -> None:
        model, guide = make_pair(lambda x: x)
        x = torch.full((4, 2), torch.nan)
        with pyro.validation_enabled(False), pytest.raises(FloatingPointError, match="'z' is not"):
            latent_report(model, guide, x)
