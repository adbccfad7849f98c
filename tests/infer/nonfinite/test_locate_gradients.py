"""``locate_non_finite`` names parameters, gradients and losses."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import VAE
from pyrovae.infer import (
    ELBO,
    Pair,
)
from pyrovae.infer.nonfinite.locate import locate_non_finite
from tests.infer.programs import PROGRAMS

from .pairs import Normals, data, locate


class TestParameters:
    def test_parameter_of_a_module_is_named_by_its_path(self) -> None:
        vae = VAE((3,), latent_dim=2, likelihood="Normal")
        with torch.no_grad():
            vae.model.decoder.layers[0].weight[0, 1] = torch.nan
            vae.model.decoder.layers[0].bias[:2] = torch.nan
        assert locate(vae, ELBO(), data()) == (
            "parameter 'decoder.layers.0.weight' is NaN in 1 of 800 entries, and 1 more is "
            "not finite"
        )

    def test_parameter_in_the_store_is_named_without_separators(self) -> None:
        program = PROGRAMS["a user's pair, a subsampled plate and a global latent"]()
        pair = Pair(program.model, program.guide)
        args, kwargs = program.arguments(0)
        with pair.store():
            program.loss.loss_and_grads(*pair.functions, *args, **kwargs)
        with torch.no_grad():
            program.modules[0][2].bias[0] = torch.inf  # type: ignore[index]
        message = locate_non_finite(pair, program.loss, args, kwargs)
        assert message == "parameter 'encoder.2.bias' is infinite in 1 of 5 entries"

    def test_constrained_value_of_a_parameter(self) -> None:
        def scale(z: Tensor, x: Tensor) -> Tensor:
            value: Tensor = pyro.param(
                "noise", torch.tensor([1.0, 1.0]), constraint=constraints.positive
            )
            return value

        normals = Normals(scale=scale)
        pair = Pair(normals.model, normals.guide)
        with pair.store():
            ELBO().loss_and_grads(*pair.functions, torch.ones(2))
            with torch.no_grad():
                dict(pyro.get_param_store().named_parameters())["noise"][1] = 100.0
        expected = "constrained value of parameter 'noise' is infinite in 1 of 2 entries"
        assert locate_non_finite(pair, ELBO(), (torch.ones(2),), {}) == expected
        with pair.store():  # as within a step
            assert locate_non_finite(pair, ELBO(), (torch.ones(2),), {}) == expected
            assert set(pyro.get_param_store()) == {"noise", "slope"}


class TestGradients:
    def test_gradient_in_an_argument_of_a_site(self) -> None:
        def scale(z: Tensor, x: Tensor) -> Tensor:
            value: Tensor = pyro.param("noise", torch.tensor(1e-15)).expand(len(x))
            return value

        message = locate(Normals(scale=scale), ELBO(), torch.tensor([1.0, 2.0]))
        # (x - z)^2 / noise^2 is 1e30, and its derivative in noise, 1e45, is beyond single precision
        assert message.startswith(
            "gradient in the scale of Normal at site 'x' of the model is infinite in 2 of 2 entries"
        )
        assert message.endswith("; then the gradient of parameter 'noise' is infinite")

    def test_gradient_between_sites_and_parameters(self) -> None:
        weight = nn.Parameter(torch.tensor([0.0, 1.0]))

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = weight

            def forward(self, x: Tensor) -> None:
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    pyro.sample("x", dist.Normal(z + self.weight.square().sqrt(), 1.0), obs=x)

        message = locate_non_finite(Pair(Model(), Normals().guide), ELBO(), (torch.ones(2),), {})
        assert message.startswith(
            "the gradient of parameter 'weight' is NaN in 1 of 2 entries, though all sites and "
            "their gradients are finite"
        )

    def test_gradient_of_missing_entries_that_are_only_masked(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with poutine.mask(mask=~x.isnan()):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))

        x = torch.tensor([1.0, torch.nan, 2.0])
        message = locate_non_finite(Pair(model, guide), ELBO(), (x,), {})
        assert "for datum 1 of the batch, where the batch holds NaN in datum 1" in message
        assert message.startswith("gradient in the loc of Normal at site 'x' of the model is NaN")
        assert message.endswith("; then the gradient of parameter 'm' is NaN")


def test_loss_overflows_where_no_site_does() -> None:
    pair = Normals(scale=lambda z, x: 1e-17)
    x = torch.full(
        (8,), 250.0
    )  # (250 / 1e-17)^2 / 2 = 3.1e38 is below 3.4e38; the sum of eight is not
    message = locate(pair, ELBO(), x)
    assert message.startswith("every site is finite, but not the loss and reconstruction: ")
