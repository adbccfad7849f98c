"""The first number that is not finite is named, whatever the pair and the objective."""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    config_enumerate,
)
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import VAE
from pyrovae.infer import (
    ELBO,
    IWAE,
    BetaELBO,
    BetaTCVAE,
    DReG,
    EnumeratedELBO,
    InfoVAE,
    Pair,
    StickingTheLanding,
    WakeSleep,
)
from pyrovae.infer.nonfinite.arguments import tensor_arguments
from pyrovae.infer.nonfinite.locate import locate_non_finite
from pyrovae.models.mixture import MixtureVAE
from pyrovae.posteriors import SplineFlow
from tests.infer.programs import PROGRAMS

NUM = 6

LOSSES: dict[str, Callable[[], Any]] = {
    "our ELBO": ELBO,
    "IWAE": lambda: IWAE(3),
    "DReG": lambda: DReG(3),
    "STL": StickingTheLanding,
    "closed KL": lambda: BetaELBO(kl="analytic"),
    "beta-TC": BetaTCVAE,
    "InfoVAE": InfoVAE,
    "wake-sleep": WakeSleep,
    "Trace_ELBO": Trace_ELBO,
    "TraceGraph_ELBO": TraceGraph_ELBO,
    "vectorised": lambda: RenyiELBO(num_particles=3, vectorize_particles=True),
}


def data(num: int = NUM, dims: int = 3) -> Tensor:
    return torch.randn(num, dims, generator=torch.Generator().manual_seed(1))


def named(pair: Any, loss: Any, *args: Any, **kwargs: Any) -> str:
    return locate_non_finite(Pair(pair.model, pair.guide), loss, args, kwargs)


class Normals:
    """A pair of normals, to which something is done between what is drawn and the sites."""

    def __init__(
        self,
        scale: Callable[[Tensor, Tensor], Any] = lambda z, x: 1.0,
        q_scale: Callable[[Tensor], Any] = lambda x: 0.5,
        likelihood: Callable[[Any, Any], Any] = dist.Normal,
    ) -> None:
        self.scale, self.q_scale, self.likelihood = scale, q_scale, likelihood

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", self.likelihood(z, self.scale(z, x)), obs=x)

    def guide(self, x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, self.q_scale(x)))


@pytest.mark.parametrize("name", LOSSES)
def test_bad_data_are_named_under_every_objective(name: str) -> None:
    vae = VAE((3,), latent_dim=2, likelihood="Normal")
    x = data()
    x[2, 1] = torch.nan
    x[4, 0] = torch.nan
    said = named(vae, LOSSES[name](), x)
    assert said.startswith("loc of Normal at site 'z' of the guide is NaN in ")
    assert said.endswith(
        " entries, for data 2 and 4 of the batch, where the batch holds NaN in data 2 and 4"
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_likelihood_that_fails_is_named_under_every_objective(name: str) -> None:
    vae = VAE((3,), latent_dim=2, likelihood={"family": "Normal", "scale": "predicted"})
    decode = vae.model.decoder.forward

    def broken(z: Tensor) -> Tensor:
        eta = decode(z)
        mark = torch.zeros_like(eta)
        mark[..., 1, 2] = torch.inf  # of argument 1, the scale, in feature 2
        return eta + mark

    vae.model.decoder.forward = broken  # type: ignore[method-assign]
    said = named(vae, LOSSES[name](), data())
    num = 3 * NUM if name in ("IWAE", "DReG", "vectorised") else NUM
    assert said == (
        f"scale of Normal at site 'x' of the model is infinite in {num} of {3 * num} entries, for "
        "all 6 data of the batch"
    )


class TestSites:
    def test_an_argument_in_the_guide(self) -> None:
        said = named(Normals(q_scale=lambda x: 1 / x), ELBO(), torch.tensor([1.0, 0.0, 2.0]))
        assert said == (
            "scale of Normal at site 'z' of the guide is infinite in 1 of 3 entries, for datum 1 "
            "of the batch"
        )

    def test_the_first_of_two_is_the_cause(self) -> None:
        pair = Normals(scale=lambda z, x: z.abs(), q_scale=lambda x: x.log())
        said = named(pair, ELBO(), torch.tensor([1.0, 2.0, -1.0]))
        assert said.startswith("scale of Normal at site 'z' of the guide is NaN in 1 of 3")

    def test_a_density_of_zero(self) -> None:
        pair = Normals(likelihood=lambda z, scale: dist.Uniform(0.0, torch.ones_like(z)))
        said = named(pair, ELBO(), torch.tensor([0.5, 2.0, 0.25]))
        assert said == (
            "log density of Uniform at site 'x' of the model is infinite in 1 of 3 entries (low 0, "
            "high 1, value from 0.25 to 2), for datum 1 of the batch"
        )

    def test_an_observed_value(self) -> None:
        x = torch.tensor([0.5, torch.nan, 0.2])

        def model(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)) * y, 1.0))

        said = locate_non_finite(Pair(model, guide), ELBO(), (x, torch.ones(3)), {})
        assert said == (
            "value observed at site 'x' of the model is NaN in 1 of 3 entries, for datum 1 of the "
            "batch, where the batch holds NaN in datum 1"
        )

    def test_shared_latents_and_loops(self) -> None:
        def model(x: Tensor) -> None:
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            for i in pyro.plate("data", len(x)):
                pyro.sample(f"x_{i}", dist.Normal(loc, x[i]), obs=x[i])

        def guide(x: Tensor) -> None:
            pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

        x = torch.tensor([1.0, 2.0, torch.inf])
        said = locate_non_finite(Pair(model, guide), Trace_ELBO(), (x,), {})
        assert said == (
            "scale of Normal at site 'x_2' of the model is infinite, for datum 2 of the batch, "
            "where the batch holds infinite numbers in datum 2"
        )

        def broken(x: Tensor) -> None:
            pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)).log() * 0 + 1e39, 1))

        said = locate_non_finite(Pair(model, broken), Trace_ELBO(), (x[:2],), {})
        assert said == "loc of Normal at site 'loc' of the guide is infinite"

    @pytest.mark.parametrize("is_outer", [True, False], ids=["outer", "inner"])
    def test_the_plate_over_data_may_be_anywhere(self, is_outer: bool) -> None:
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
        said = locate_non_finite(Pair(model, guide), ELBO(), (x,), {})
        assert said == (
            "scale of Normal at site 'x' of the model is NaN in 2 of 24 entries, for datum 3 of "
            "the batch"
        )

    def test_factors(self) -> None:
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

    def test_deterministic_sites(self) -> None:
        def scale(z: Tensor, x: Tensor) -> Tensor:
            value: Tensor = pyro.deterministic("noise", x.sqrt())
            return value

        said = named(Normals(scale=scale), ELBO(), torch.tensor([1.0, -2.0]))
        assert said.startswith("value computed at site 'noise' of the model is NaN in 1 of 2")

    def test_a_density_that_cannot_be_computed(self) -> None:
        class Square(dist.Normal):  # type: ignore[misc]
            def log_prob(self, value: Tensor) -> Tensor:
                torch.linalg.cholesky(self.scale.diag_embed())
                log_prob: Tensor = super().log_prob(value)
                return log_prob

        pair = Normals(scale=lambda z, x: 1 / x, likelihood=Square)
        assert named(pair, ELBO(), torch.tensor([1.0, -0.0])).startswith(
            "scale of Square at site 'x' of the model is infinite in 1 of 2 entries, for datum 1"
        )
        with pytest.raises(torch.linalg.LinAlgError):  # a pair that fails by itself
            named(pair, ELBO(), torch.tensor([1.0, -1.0]))


class TestWhatIsMeant:
    """What is not finite, and has no part in it."""

    def test_missing_entries(self) -> None:
        vae = VAE((3,), latent_dim=2, likelihood="Normal", missing=True)
        x = data()
        x[2, 1] = torch.nan
        assert named(vae, ELBO(), x) is None

    def test_probabilities_of_zero(self) -> None:
        def likelihood(z: Tensor, x: Tensor) -> Any:
            never = torch.full_like(z, -torch.inf)
            return dist.Categorical(logits=torch.stack([z, never], -1))

        pair = Normals(likelihood=likelihood, scale=lambda z, x: x)
        assert named(pair, ELBO(), torch.zeros(3)) is None
        assert named(pair, ELBO(), torch.tensor([0.0, 1.0, 0.0])).startswith(
            "log density of Categorical at site 'x' of the model is infinite in 1 of 3 entries"
        )

    def test_densities_of_zero_that_are_summed_over(self) -> None:
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
        said = locate_non_finite(pair, loss, (1.6 * x, torch.ones(3)), {})
        assert said.startswith(
            "log density of Uniform at site 'x' of the model is infinite in 2 of"
        )
        assert said.endswith(", for datum 1 of the batch")
        said = locate_non_finite(pair, loss, (x, torch.ones(3).log() / 0), {})
        assert said.startswith("scale of Normal at site 'y' of the model is NaN in 3 of 3 entries")


class TestParameters:
    def test_by_the_path_in_a_module(self) -> None:
        vae = VAE((3,), latent_dim=2, likelihood="Normal")
        with torch.no_grad():
            vae.model.decoder.layers[0].weight[0, 1] = torch.nan
            vae.model.decoder.layers[0].bias[:2] = torch.nan
        assert named(vae, ELBO(), data()) == (
            "parameter 'decoder.layers.0.weight' is NaN in 1 of 800 entries, and so it is with 1 "
            "more"
        )

    def test_by_the_name_in_the_store(self) -> None:
        program = PROGRAMS["a user's pair, a subsampled plate and a global latent"]()
        pair = Pair(program.model, program.guide)
        args, kwargs = program.arguments(0)
        with pair.store():
            program.loss.loss_and_grads(*pair.functions, *args, **kwargs)
        with torch.no_grad():
            program.modules[0][2].bias[0] = torch.inf  # type: ignore[index]
        said = locate_non_finite(pair, program.loss, args, kwargs)
        assert said == "parameter 'encoder.2.bias' is infinite in 1 of 5 entries"

    def test_under_a_constraint(self) -> None:
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
        expected = "parameter 'noise', under its constraint, is infinite in 1 of 2 entries"
        assert locate_non_finite(pair, ELBO(), (torch.ones(2),), {}) == expected
        with pair.store():  # as a step is in
            assert locate_non_finite(pair, ELBO(), (torch.ones(2),), {}) == expected
            assert set(pyro.get_param_store()) == {"noise", "slope"}


class TestGradients:
    def test_in_an_argument_of_a_site(self) -> None:
        def scale(z: Tensor, x: Tensor) -> Tensor:
            value: Tensor = pyro.param("noise", torch.tensor(1e-15)).expand(len(x))
            return value

        said = named(Normals(scale=scale), ELBO(), torch.tensor([1.0, 2.0]))
        # (x - z)^2 / noise^2 is 1e30, and its derivative in noise, 1e45, is beyond single precision
        assert said.startswith(
            "gradient in the scale of Normal at site 'x' of the model is infinite in 2 of 2 entries"
        )
        assert said.endswith("; then the gradient of parameter 'noise' is infinite")

    def test_between_sites_and_parameters(self) -> None:
        weight = nn.Parameter(torch.tensor([0.0, 1.0]))

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = weight

            def forward(self, x: Tensor) -> None:
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    pyro.sample("x", dist.Normal(z + self.weight.square().sqrt(), 1.0), obs=x)

        said = locate_non_finite(Pair(Model(), Normals().guide), ELBO(), (torch.ones(2),), {})
        assert said.startswith(
            "the gradient of parameter 'weight' is NaN in 1 of 2 entries, though all sites and the "
            "gradients in them are finite"
        )

    def test_of_missing_entries_that_are_merely_masked(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with poutine.mask(mask=~x.isnan()):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))

        x = torch.tensor([1.0, torch.nan, 2.0])
        said = locate_non_finite(Pair(model, guide), ELBO(), (x,), {})
        assert "for datum 1 of the batch, where the batch holds NaN in datum 1" in said
        assert said.startswith("gradient in the loc of Normal at site 'x' of the model is NaN")
        assert said.endswith("; then the gradient of parameter 'm' is NaN")


def test_a_loss_that_overflows_where_no_site_does() -> None:
    pair = Normals(scale=lambda z, x: 1e-17)
    x = torch.full((8,), 250.0)  # (250 / 1e-17)^2 / 2 = 3.1e38 is below 3.4e38; eight are not
    said = named(pair, ELBO(), x)
    assert said.startswith("every site is finite, but not the loss and reconstruction made of them")


class TestFamilies:
    def test_flows(self) -> None:
        vae = VAE((3,), 2, likelihood="Normal", posterior=SplineFlow(2))
        x = data()
        x[5] = torch.inf
        said = named(vae, ELBO(), x)
        assert "at site 'z' of the guide" in said
        assert "the batch holds infinite numbers in datum 5" in said

    def test_enumerated_latents(self) -> None:
        vae = MixtureVAE((3,), 2, 4, likelihood="Normal")
        x = data()
        loss = EnumeratedELBO()
        assert named(vae, loss, x) is None
        x[3] = torch.nan
        which = "for datum 3 of the batch, where the batch holds NaN in datum 3"
        for each, entries in ((loss, "8 of 48"), (EnumeratedELBO(), "2 of 12")):  # stops in a trial
            said = named(vae, each, x)
            assert (
                said
                == f"loc of Normal at site 'z' of the guide is NaN in {entries} entries, {which}"
            )

    def test_what_cannot_be_drawn_from(self) -> None:
        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample(
                    "z", dist.Bernoulli(logits=pyro.param("m", torch.tensor(0.0)) + x.log())
                )

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        said = locate_non_finite(Pair(model, guide), ELBO(), (torch.tensor([1.0, -1.0]),), {})
        assert said == (
            "logits of Bernoulli at site 'z' of the guide is NaN in 1 of 2 entries, for datum 1 of "
            "the batch"
        )

    def test_repeated_rows(self) -> None:
        network = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

        def model(x: Tensor) -> None:
            pyro.module("network", network)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                scale = 1 / (x[:, 1:] - 1)
                pyro.sample("x", dist.Normal(network(z), scale.square()).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.3 * x[:, :1], 0.7).to_event(1))

        x = data(4, 2)
        x[2, 1] = 1.0
        said = locate_non_finite(Pair(model, guide), IWAE(3), (x,), {})
        assert said == (
            "scale of Normal at site 'x' of the model is infinite in 6 of 24 entries, for datum 2 "
            "of the batch"
        )

    def test_arguments_of_what_is_composed(self) -> None:
        parts = dist.Normal(torch.zeros(2, 3, 4), torch.ones(2, 3, 4)).to_event(1)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(2, 3)), parts)
        found = [
            (f"{each.name} of {each.family}", each.event_dim) for each in tensor_arguments(mixture)
        ]
        assert found == [("logits of Categorical", 1), ("loc of Normal", 0), ("scale of Normal", 0)]
        matrix = dist.MultivariateNormal(torch.zeros(5, 2), scale_tril=torch.eye(2))
        found = [
            (f"{each.name} of {each.family}", each.event_dim) for each in tensor_arguments(matrix)
        ]
        assert found == [
            ("scale_tril of MultivariateNormal", 2),
            ("loc of MultivariateNormal", 1),
        ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_left_of_it(name: str) -> None:
    torch.manual_seed(3)
    program = PROGRAMS[name]()
    pair = Pair(program.model, program.guide)
    args, kwargs = program.arguments(1)
    if program.transform is not None:
        args = program.transform(*args)
    with pair.store():
        program.loss.loss_and_grads(*pair.functions, *args, **kwargs)
        parameters = dict(pyro.get_param_store().named_parameters())
    for number, module in enumerate(program.modules):
        parameters |= {f"{number}.{name}": p for name, p in module.named_parameters()}
    buffers = [b for module in program.modules for b in module.buffers()]
    before = [
        (p, p.clone(), p.grad, None if p.grad is None else p.grad.clone())
        for p in parameters.values()
    ]
    held, random, stored = [b.clone() for b in buffers], torch.get_rng_state(), pair.stored()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = locate_non_finite(pair, program.loss, args, kwargs)
    assert said is None
    for parameter, value, grad, gradient in before:
        torch.testing.assert_close(parameter, value, rtol=0, atol=0)
        assert parameter.grad is grad
        torch.testing.assert_close(grad, gradient, rtol=0, atol=0)
    torch.testing.assert_close(buffers, held, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert pair.stored() == stored

    (x, *rest) = args
    x = x.clone()
    x[1] = torch.nan
    said = locate_non_finite(pair, program.loss, (x, *rest), kwargs)
    assert said.endswith(", where the batch holds NaN in datum 1"), said
