"""The bidirectional check of annealing against models with a known log p(x)."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae import InputError
from pyrovae.infer.estimators.ais import bidirectional_check
from tests.infer.estimators.annealing_models import (
    QUIET,
    Regression,
    gamma_poisson,
    negative_binomial,
)
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")


class RecordFirstValues(Messenger):
    """Record the first value of each site."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        self.values.setdefault(msg["name"], msg["value"].clone())


class TestBidirectional:
    @pytest.mark.slow
    def test_log_p_is_between_the_estimates_and_the_gap_closes(self) -> None:
        """Only the number, shape and covariates of the data matter, not their values."""
        program = Regression()
        y = torch.linspace(-1, 1, 400)
        given = torch.full((400, 3), 1e6), y
        gaps = []
        for num_temperatures in (1, 4, 40):
            with RecordFirstValues() as simulated:
                got = bidirectional_check(
                    program.model,
                    given,
                    num_chains=4,
                    num_temperatures=num_temperatures,
                    num_leapfrog=2,
                    batch_size=400,
                    **QUIET,
                )
            exact = program.exact(simulated.values["x"], y)
            for above in (exact - got.lower.log_likelihood, got.upper - exact):
                error = above.std() / 400**0.5
                assert above.mean() > (4.5 if num_temperatures == 1 else -4.5) * error
            torch.testing.assert_close(got.gap, got.upper - got.lower.log_likelihood)
            gaps.append(got.mean_gap.mean)
        assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]

    @pytest.mark.slow
    @pytest.mark.parametrize("constrained", [False, True])
    def test_estimates_of_p_and_its_inverse_are_unbiased(self, constrained: bool) -> None:
        """With enough temperatures for the inverse to have a variance."""
        program, y = Regression(noise=1.5), torch.linspace(-1, 1, 400)
        with RecordFirstValues() as simulated:
            got = bidirectional_check(
                gamma_poisson if constrained else program.model,
                torch.zeros(400, 2) if constrained else (torch.zeros(400, 3), y),
                num_chains=4,
                num_temperatures=40,
                num_leapfrog=2,
                batch_size=400,
                **QUIET,
            )
        x = simulated.values["x"]
        exact = negative_binomial(x) if constrained else program.exact(x, y)
        for ratio in ((got.lower.log_likelihood - exact).exp(), (exact - got.upper).exp()):
            assert_unbiased(ratio[:, None], torch.ones(1))
            assert ratio.std() / 400**0.5 < 0.05

    def test_reverse_chains_start_at_the_true_latents(self) -> None:
        """With one temperature, the estimate from above is log p(x* | z*)."""
        program, y = Regression(), torch.linspace(-1, 1, 20)
        options: dict[str, Any] = {"num_temperatures": 1, **QUIET}
        with RecordFirstValues() as drawn:
            got = bidirectional_check(program.model, (torch.zeros(20, 3), y), **options)
        log_likelihood = dist.Normal(drawn.values["mean"], 0.7).log_prob(drawn.values["x"])
        torch.testing.assert_close(got.upper, log_likelihood.sum(1))
        with RecordFirstValues() as drawn:
            got = bidirectional_check(gamma_poisson, torch.zeros(20, 2), **options)
        log_likelihood = dist.Poisson(drawn.values["rate"]).log_prob(drawn.values["x"])
        torch.testing.assert_close(got.upper, log_likelihood.sum(1))

    @pytest.mark.slow
    def test_batches_are_joined(self) -> None:
        program = Regression()
        x, y = program.data(7)
        got = bidirectional_check(
            program.model,
            (x, y),
            num_chains=3,
            num_temperatures=2,
            num_leapfrog=1,
            batch_size=3,
            **QUIET,
        )
        assert got.upper.shape == got.lower.acceptance.shape == (7,)

    def test_pyro_factor_is_refused(self) -> None:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.factor("f", -z.abs())
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        with pytest.raises(InputError, match=r"'f' is a pyro\.factor"):
            bidirectional_check(model, torch.zeros(3), **QUIET)
