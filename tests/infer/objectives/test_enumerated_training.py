"""Training with enumerated latents: compiled steps, fit, and copies."""

import copy
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyrovae import SVI, evaluate, fit
from pyrovae.infer import EnumeratedELBO, objective_of
from tests.infer.objectives.enumerable import PARALLEL, Discrete, Gaussians, Pair, X

pytestmark = pytest.mark.usefixtures("float64")


class TestTraining:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("make", "compiler"),
        [(Discrete, False), (partial(Gaussians, before=True), False), (Discrete, True)],
    )
    def test_recorded_and_compiled_steps_match_eager_steps(
        self, make: Callable[[], Pair], compiler: bool
    ) -> None:
        ends = []
        for compile in (False, True):
            pair = make()
            adam = partial(torch.optim.Adam, lr=1e-2)
            svi = SVI(pair.model, pair.guide, adam, EnumeratedELBO(2), compile=compile)
            svi._gradients.tiered.can_compile = compiler
            torch.manual_seed(1)
            for _ in range(6):
                svi.step(torch.randn(9))
            held_out = svi.evaluate_loss(X)
            assert svi.num_graphs == ((1, int(compiler)) if compile else (0, 0))
            ends.append((dict(pair.named_parameters()), held_out))
        torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)

    @pytest.mark.slow
    @pytest.mark.parametrize("rows", [False, True])
    def test_fit_finds_the_mixture(self, rows: bool) -> None:
        """q(y | x) is logistic in x like the posterior, so the bound reaches log p(x)."""
        generator = torch.Generator().manual_seed(1)
        sides = torch.randint(2, (400,), generator=generator)
        x = 3.0 * sides - 1.5 + torch.randn(400, generator=generator)
        loc = nn.Parameter(torch.tensor([-0.3, 0.3]))
        q = nn.Linear(1, 1)

        def model(x: Tensor) -> None:
            pyro.param("loc", loc)
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Bernoulli(0.5))
                if rows and y.dim() > 1:
                    raise RuntimeError("rows are expected")
                pyro.sample("x", dist.Normal(loc[y.long()], 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("q", q)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Bernoulli(logits=q(x[:, None])[:, 0]), infer=PARALLEL)

        history = fit(
            model,
            guide,
            x,
            validation=x,
            objective="enumerated",
            epochs=25,
            batch_size=150,
            lr=0.05,
            compile=False,
            progress=False,
        )
        with torch.no_grad():
            trained = history.params["loc"]
            joint = dist.Normal(trained, 1.0).log_prob(x[:, None]) - torch.tensor(2.0).log()
            gap = history["validation_loss"][-1] + joint.logsumexp(1).mean().item()
        assert 0 <= gap < 0.01
        assert trained.sort().values.tolist() == pytest.approx([-1.5, 1.5], abs=4.5 * 200**-0.5)
        # Draws give the same bound as the sum.
        drawn = evaluate(history.model, history.guide, x, num_particles=30).elbo.mean
        assert drawn == pytest.approx(-history["validation_loss"][-1], abs=0.05)

    def test_an_objective_can_be_copied_and_used_with_another_pair(self) -> None:
        pair, objective = Discrete(), objective_of({"name": "enumerated", "num_particles": 2})
        assert isinstance(objective, EnumeratedELBO)
        first = pair.step(objective, X)
        again, both = copy.deepcopy(pair), copy.deepcopy(objective)
        assert both.step == 1
        torch.testing.assert_close(again.step(both, X), first)
        other = Gaussians()
        torch.testing.assert_close(
            objective.loss(other.model, other.guide, X).reconstruction.shape, torch.Size([])
        )
