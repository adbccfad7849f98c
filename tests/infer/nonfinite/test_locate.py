"""``locate_non_finite`` works for every objective and many pairs, and leaves no trace."""

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
)
from torch import Tensor, nn

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
from pyrovae.infer.nonfinite.locate import locate_non_finite
from pyrovae.models.mixture import MixtureVAE
from pyrovae.posteriors import SplineFlow
from tests.infer.programs import PROGRAMS

from .pairs import NUM, data, locate

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


@pytest.mark.parametrize("name", LOSSES)
def test_every_objective_names_bad_data(name: str) -> None:
    vae = VAE((3,), latent_dim=2, likelihood="Normal")
    x = data()
    x[2, 1] = torch.nan
    x[4, 0] = torch.nan
    message = locate(vae, LOSSES[name](), x)
    assert message.startswith("loc of Normal at site 'z' of the guide is NaN in ")
    assert message.endswith(
        " entries, for data 2 and 4 of the batch, where the batch holds NaN in data 2 and 4"
    )


@pytest.mark.parametrize("name", LOSSES)
def test_every_objective_names_a_likelihood_that_fails(name: str) -> None:
    vae = VAE((3,), latent_dim=2, likelihood={"family": "Normal", "scale": "predicted"})
    decode = vae.model.decoder.forward

    def broken(z: Tensor) -> Tensor:
        eta = decode(z)
        shift = torch.zeros_like(eta)
        shift[..., 1, 2] = torch.inf  # argument 1, the scale, in feature 2
        return eta + shift

    vae.model.decoder.forward = broken  # type: ignore[method-assign]
    message = locate(vae, LOSSES[name](), data())
    num = 3 * NUM if name in ("IWAE", "DReG", "vectorised") else NUM
    assert message == (
        f"scale of Normal at site 'x' of the model is infinite in {num} of {3 * num} entries, for "
        "all 6 data of the batch"
    )


class TestPairs:
    def test_flows(self) -> None:
        vae = VAE((3,), 2, likelihood="Normal", posterior=SplineFlow(2))
        x = data()
        x[5] = torch.inf
        message = locate(vae, ELBO(), x)
        assert "at site 'z' of the guide" in message
        assert "the batch holds infinite numbers in datum 5" in message

    def test_enumerated_latents(self) -> None:
        vae = MixtureVAE((3,), 2, 4, likelihood="Normal")
        x = data()
        loss = EnumeratedELBO()
        assert locate(vae, loss, x) is None
        x[3] = torch.nan
        which = "for datum 3 of the batch, where the batch holds NaN in datum 3"
        for each, entries in (
            (loss, "8 of 48"),
            (EnumeratedELBO(), "2 of 12"),
        ):  # raises in a trial run
            message = locate(vae, each, x)
            assert (
                message
                == f"loc of Normal at site 'z' of the guide is NaN in {entries} entries, {which}"
            )

    def test_probabilities_that_cannot_be_sampled(self) -> None:
        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample(
                    "z", dist.Bernoulli(logits=pyro.param("m", torch.tensor(0.0)) + x.log())
                )

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        message = locate_non_finite(Pair(model, guide), ELBO(), (torch.tensor([1.0, -1.0]),), {})
        assert message == (
            "logits of Bernoulli at site 'z' of the guide is NaN in 1 of 2 entries, for datum 1 of "
            "the batch"
        )

    def test_several_samples_of_each_datum(self) -> None:
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
        message = locate_non_finite(Pair(model, guide), IWAE(3), (x,), {})
        assert message == (
            "scale of Normal at site 'x' of the model is infinite in 6 of 24 entries, for datum 2 "
            "of the batch"
        )


@pytest.mark.parametrize("name", PROGRAMS)
def test_state_is_unchanged(name: str) -> None:
    torch.manual_seed(3)
    program = PROGRAMS[name]()
    pair = Pair(program.model, program.guide)
    args, kwargs = program.arguments(1)
    if program.transform is not None:
        args = program.transform(*args)
    with pair.store():
        program.loss.loss_and_grads(*pair.functions, *args, **kwargs)
        parameters = dict(pyro.get_param_store().named_parameters())
        stored = dict(parameters)
    for number, module in enumerate(program.modules):
        parameters |= {f"{number}.{name}": p for name, p in module.named_parameters()}
    buffers = [b for module in program.modules for b in module.buffers()]
    before = [
        (p, p.clone(), p.grad, None if p.grad is None else p.grad.clone())
        for p in parameters.values()
    ]
    held, random = [b.clone() for b in buffers], torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = locate_non_finite(pair, program.loss, args, kwargs)
    assert message is None
    for parameter, value, grad, gradient in before:
        torch.testing.assert_close(parameter, value, rtol=0, atol=0)
        assert parameter.grad is grad
        torch.testing.assert_close(grad, gradient, rtol=0, atol=0)
    torch.testing.assert_close(buffers, held, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    with pair.store():
        now = dict(pyro.get_param_store().named_parameters())
    assert now.keys() == stored.keys()
    assert all(now[name] is stored[name] for name in now)

    (x, *rest) = args
    x = x.clone()
    x[1] = torch.nan
    message = locate_non_finite(pair, program.loss, (x, *rest), kwargs)
    assert message.endswith(", where the batch holds NaN in datum 1"), message
