"""``locate_non_finite`` names the argument, value or density of a site."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    Trace_ELBO,
    TraceEnum_ELBO,
    config_enumerate,
)
from torch import Tensor
from torch.distributions import constraints

from pyrovae import VAE
from pyrovae.infer import (
    ELBO,
    Pair,
)
from pyrovae.infer.nonfinite.locate import locate_non_finite

from .pairs import Normals, data, locate


class TestSites:
    def test_argument_in_the_guide(self) -> None:
        message = locate(Normals(q_scale=lambda x: 1 / x), ELBO(), torch.tensor([1.0, 0.0, 2.0]))
        assert message == (
            "scale of Normal at site 'z' of the guide is infinite in 1 of 3 entries, for datum 1 "
            "of the batch"
        )

    def test_first_of_two_sites_is_named(self) -> None:
        pair = Normals(scale=lambda z, x: z.abs(), q_scale=lambda x: x.log())
        message = locate(pair, ELBO(), torch.tensor([1.0, 2.0, -1.0]))
        assert message.startswith("scale of Normal at site 'z' of the guide is NaN in 1 of 3")

    def test_density_of_zero(self) -> None:
        pair = Normals(likelihood=lambda z, scale: dist.Uniform(0.0, torch.ones_like(z)))
        message = locate(pair, ELBO(), torch.tensor([0.5, 2.0, 0.25]))
        assert message == (
            "log density of Uniform at site 'x' of the model is infinite in 1 of 3 entries (low 0, "
            "high 1, value from 0.25 to 2), for datum 1 of the batch"
        )

    def test_first_of_two_densities_of_zero(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Uniform(0.0, torch.ones_like(z)), obs=x)
                pyro.sample("y", dist.Uniform(0.0, torch.ones_like(z)), obs=x)

        x = torch.tensor([0.5, 2.0, 0.25])
        message = locate_non_finite(Pair(model, Normals().guide), ELBO(), (x,), {})
        assert message.startswith("log density of Uniform at site 'x' of the model is infinite")

    def test_observed_value(self) -> None:
        x = torch.tensor([0.5, torch.nan, 0.2])

        def model(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)) * y, 1.0))

        message = locate_non_finite(Pair(model, guide), ELBO(), (x, torch.ones(3)), {})
        assert message == (
            "value observed at site 'x' of the model is NaN in 1 of 3 entries, for datum 1 of the "
            "batch, where the batch holds NaN in datum 1"
        )

    def test_shared_latent_and_plate_as_loop(self) -> None:
        def model(x: Tensor) -> None:
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            for i in pyro.plate("data", len(x)):
                pyro.sample(f"x_{i}", dist.Normal(loc, x[i]), obs=x[i])

        def guide(x: Tensor) -> None:
            pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

        x = torch.tensor([1.0, 2.0, torch.inf])
        message = locate_non_finite(Pair(model, guide), Trace_ELBO(), (x,), {})
        assert message == (
            "scale of Normal at site 'x_2' of the model is infinite, for datum 2 of the batch, "
            "where the batch holds infinite numbers in datum 2"
        )

        def broken(x: Tensor) -> None:
            pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)).log() * 0 + 1e39, 1))

        message = locate_non_finite(Pair(model, broken), Trace_ELBO(), (x[:2],), {})
        assert message == "loc of Normal at site 'loc' of the guide is infinite"

    @pytest.mark.parametrize("is_outer", [True, False], ids=["outer", "inner"])
    def test_plate_over_data_in_any_dimension(self, is_outer: bool) -> None:
        def plates(x: Tensor) -> tuple[Any, Any]:
            rows = pyro.plate("data", len(x), dim=-2 if is_outer else -1)
            return rows, pyro.plate("columns", x.shape[1], dim=-1 if is_outer else -2)

        def model(x: Tensor) -> None:
            rows, columns = plates(x)
            with rows, columns:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                scale = (x if is_outer else x.T).sqrt()
                p = dist.Normal(z[..., None].expand(*z.shape, 2), scale[..., None]).to_event(1)
                pyro.sample("x", p, obs=torch.zeros(*z.shape, 2))

        def guide(x: Tensor) -> None:
            rows, columns = plates(x)
            with rows, columns:
                pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))

        x = data(4, 3).abs()
        x[3, 0] = -1.0
        message = locate_non_finite(Pair(model, guide), ELBO(), (x,), {})
        assert message == (
            "scale of Normal at site 'x' of the model is NaN in 2 of 24 entries, for datum 3 of "
            "the batch"
        )

    def test_factor(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)
                pyro.factor("extra", x.log())

        x = torch.tensor([1.0, -2.0, 3.0, 4.0])
        assert locate_non_finite(Pair(model, Normals().guide), ELBO(), (x,), {}) == (
            "log_factor of Unit at site 'extra' of the model is NaN in 1 of 4 entries, for datum 1 "
            "of the batch"
        )

    def test_deterministic_site(self) -> None:
        def scale(z: Tensor, x: Tensor) -> Tensor:
            value: Tensor = pyro.deterministic("noise", x.sqrt())
            return value

        message = locate(Normals(scale=scale), ELBO(), torch.tensor([1.0, -2.0]))
        assert message.startswith("value computed at site 'noise' of the model is NaN in 1 of 2")

    def test_density_that_raises(self) -> None:
        class Square(dist.Normal):  # type: ignore[misc]
            def log_prob(self, value: Tensor) -> Tensor:
                torch.linalg.cholesky(self.scale.diag_embed())
                log_prob: Tensor = super().log_prob(value)
                return log_prob

        pair = Normals(scale=lambda z, x: 1 / x, likelihood=Square)
        assert locate(pair, ELBO(), torch.tensor([1.0, -0.0])).startswith(
            "scale of Square at site 'x' of the model is infinite in 1 of 2 entries, for datum 1"
        )
        with pytest.raises(torch.linalg.LinAlgError):  # a pair that fails by itself
            locate(pair, ELBO(), torch.tensor([1.0, -1.0]))


class TestIntendedNonFinite:
    """Numbers that are not finite but play no part in the loss."""

    def test_missing_entries(self) -> None:
        vae = VAE((3,), latent_dim=2, likelihood="Normal", missing=True)
        x = data()
        x[2, 1] = torch.nan
        assert locate(vae, ELBO(), x) is None

    def test_probability_of_zero(self) -> None:
        def likelihood(z: Tensor, x: Tensor) -> Any:
            never = torch.full_like(z, -torch.inf)
            return dist.Categorical(logits=torch.stack([z, never], -1))

        pair = Normals(likelihood=likelihood, scale=lambda z, x: x)
        assert locate(pair, ELBO(), torch.zeros(3)) is None
        assert locate(pair, ELBO(), torch.tensor([0.0, 1.0, 0.0])).startswith(
            "log density of Categorical at site 'x' of the model is infinite in 1 of 3 entries"
        )

    def test_density_of_zero_that_is_summed_over(self) -> None:
        @config_enumerate
        def model(x: Tensor, scale: Tensor) -> None:
            weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
            with pyro.plate("data", len(x)):
                k = pyro.sample("k", dist.Categorical(weights))
                pyro.sample("x", dist.Uniform(0.0, torch.tensor([1.0, 2.0])[k]), obs=x)
                pyro.sample("y", dist.Normal(0.0, scale), obs=x)

        loss = TraceEnum_ELBO(max_plate_nesting=1)
        pair, x = Pair(model, lambda x, scale: None), torch.tensor([0.5, 1.5, 0.5])
        assert locate_non_finite(pair, loss, (x, torch.ones(3)), {}) is None
        message = locate_non_finite(pair, loss, (1.6 * x, torch.ones(3)), {})
        assert message.startswith(
            "log density of Uniform at site 'x' of the model is infinite in 2 of"
        )
        assert message.endswith(", for datum 1 of the batch")
        message = locate_non_finite(pair, loss, (x, torch.ones(3).log() / 0), {})
        assert message.startswith(
            "scale of Normal at site 'y' of the model is NaN in 3 of 3 entries"
        )
