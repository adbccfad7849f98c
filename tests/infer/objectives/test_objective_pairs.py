"""Objectives for pairs with several plates, masks, shared latents, and dropout."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from pyrovae import InputError
from pyrovae.infer import (
    ELBO,
    IWAE,
    PIWAE,
    BetaELBO,
    Capacity,
    DReG,
    FreeBits,
    InfoVAE,
    Objective,
    StickingTheLanding,
    WakeSleep,
)
from pyrovae.infer.pair.particles import Particles
from tests.pairs import assert_unbiased

pytestmark = pytest.mark.usefixtures("float64")


class Normals:
    """x ~ N(z + b, 1), z ~ N(0, 1): the posterior is N((x - b) / 2, 1/2)."""

    def __init__(self, plate: Callable[[Tensor], Any], rows: Callable[[Tensor, Any], Tensor]):
        self.plate, self.rows = plate, rows
        self.slope = nn.Parameter(torch.tensor(0.5))
        self.log_scale = nn.Parameter(torch.tensor(0.5).log() / 2)

    def model(self, x: Tensor) -> None:
        with self.plate(x) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=self.rows(x, index))

    def guide(self, x: Tensor) -> None:
        with self.plate(x) as index:
            pyro.sample("z", dist.Normal(self.slope * self.rows(x, index), self.log_scale.exp()))

    def gradients(self, objective: Any, x: Tensor, seed: int = 1) -> Tensor:
        self.slope.grad = self.log_scale.grad = None
        torch.manual_seed(seed)
        objective.loss_and_grads(self.model, self.guide, x)
        assert self.slope.grad is not None
        assert self.log_scale.grad is not None
        return torch.stack([self.slope.grad, self.log_scale.grad])


def whole() -> Normals:
    return Normals(lambda x: pyro.plate("data", len(x)), lambda x, _: x)


def subsampled() -> Normals:
    return Normals(lambda x: pyro.plate("data", 12, subsample_size=4), lambda x, i: x[i])


@pytest.mark.parametrize("objective", [StickingTheLanding(), StickingTheLanding(5), DReG(5)])
@pytest.mark.parametrize("make", [whole, subsampled])
def test_path_gradients_vanish_at_the_posterior_in_any_plate(
    make: Any, objective: Objective
) -> None:
    assert make().gradients(copy.deepcopy(objective), torch.randn(12)).abs().max() < 1e-12


@pytest.mark.slow
def test_piwae_in_a_subsampled_plate_matches_piwae_on_the_same_data() -> None:
    pair, x = subsampled(), torch.randn(1).expand(12)  # equal data, so any subsample will do
    with torch.no_grad():
        pair.slope.fill_(0.2)
    same = whole()
    with torch.no_grad():
        same.slope.fill_(0.2)
    estimates = torch.stack(
        [
            pair.gradients(PIWAE(6, 3), x, seed) - same.gradients(PIWAE(6, 3), x[:4], seed + 999)
            for seed in range(150)
        ]
    )
    assert_unbiased(estimates, torch.zeros(2))


def test_piwae_runs_a_model_with_dropout_once() -> None:
    runs = []

    class Counted(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                runs.append(len(x))
            return super().forward(x)

    network = nn.Sequential(nn.Linear(1, 3), Counted(0.5))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            slope = pyro.param("slope", torch.tensor(0.3))
            pyro.sample("z", dist.Normal(slope * x[:, :1], 0.7).to_event(1))

    PIWAE(4, 2).loss_and_grads(model, guide, torch.randn(5, 3))
    assert len(runs) == 1


class TestNestedPlates:
    """Latents of each datum in a plate of three, with either plate on the outside."""

    @staticmethod
    def pair(outside: bool) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
        def plates(x: Tensor) -> Any:
            dims = (-1, -2) if outside else (-2, -1)
            data = pyro.plate("data", x.shape[dims[0]], dim=dims[0])
            return data, pyro.plate("times", x.shape[dims[1]], dim=dims[1])

        def model(x: Tensor) -> None:
            data, times = plates(x)
            with data, times:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            slope = pyro.param("slope", torch.tensor(0.3))
            data, times = plates(x)
            with data, times:
                pyro.sample("z", dist.Normal(slope * x, 0.8))

        return model, guide

    @pytest.mark.parametrize("outside", [True, False])
    def test_kl_in_closed_form(self, outside: bool) -> None:
        model, guide = self.pair(outside)
        x = torch.randn(3, 5) if outside else torch.randn(5, 3)
        q = dist.Normal(0.3 * x, 0.8)
        kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(()), 1.0)).sum() / 5
        for num in (1, 4):
            particles = Particles(model, guide, num, "data", (x,), {})
            objective = BetaELBO(kl="analytic", num_particles=num)
            terms = objective._terms(model, guide, (x,), {})
            assert particles.layout.uses_plate == (num > 1)
            torch.testing.assert_close(terms.latents[0].kl().mean(), kl)

    @pytest.mark.slow
    @pytest.mark.parametrize("outside", [True, False])
    def test_dreg_gradients_match_iwae(self, outside: bool) -> None:
        model, guide = self.pair(outside)
        x = torch.randn(3, 5) if outside else torch.randn(5, 3)
        gradients = []
        for seed in range(150):
            difference = []
            for objective in (DReG(4), IWAE(4)):
                pyro.clear_param_store()
                torch.manual_seed(seed + 1000 * len(difference))
                objective.loss_and_grads(model, guide, x)
                difference.append(pyro.param("slope").grad)
            gradients.append(difference[0] - difference[1])
        assert_unbiased(torch.stack(gradients)[:, None], torch.zeros(1))


def test_transforms_may_cache_values() -> None:
    def gradient(cache_size: int) -> Tensor:
        shift = torch.tensor(0.3, requires_grad=True)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                affine = torch.distributions.AffineTransform(shift, 0.8, cache_size=cache_size)
                base = dist.Normal(torch.zeros(len(x)), 1.0)
                pyro.sample("z", dist.TransformedDistribution(base, [affine]))

        torch.manual_seed(1)
        DReG(4).loss_and_grads(whole().model, guide, torch.arange(3.0))
        assert shift.grad is not None
        return shift.grad

    torch.testing.assert_close(gradient(0), gradient(1))


class TestSharedLatents:
    @staticmethod
    def pair(repeats: bool) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
        def model(x: Tensor) -> None:
            shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                if repeats and z.dim() > 1:
                    raise RuntimeError("rows are expected")
                pyro.sample("x", dist.Normal(z + shared, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            loc = pyro.param("loc", torch.tensor(0.3))
            pyro.sample("shared", dist.Normal(loc, 0.5))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.4 * x, 0.8))

        return model, guide

    @pytest.mark.slow
    @pytest.mark.parametrize("repeats", [True, False])
    def test_shared_latents_keep_their_weight_with_several_samples(self, repeats: bool) -> None:
        model, guide = self.pair(repeats)
        x = torch.randn(5)
        gradients = []
        for seed in range(150):
            difference = []
            for loss in (BetaELBO(num_particles=4), ELBO()):
                pyro.clear_param_store()
                torch.manual_seed(seed + 1000 * len(difference))
                loss.loss_and_grads(model, guide, x)
                difference.append(pyro.param("loc").grad)
            gradients.append(difference[0] - difference[1])
        assert_unbiased(torch.stack(gradients)[:, None], torch.zeros(1))

    def test_a_model_with_shared_latents_only(self) -> None:
        def model(x: Tensor) -> None:
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)), 0.5))

        x, results = torch.randn(5), []
        for loss in (ELBO(), BetaELBO()):
            torch.manual_seed(1)
            results.append(loss.loss(model, guide, x).loss)
        torch.testing.assert_close(*results)
        with pytest.raises(InputError, match="'loc' is outside of plate"):
            IWAE(3).loss(model, guide, x)

    def test_shared_latents_without_rsample_are_refused(self) -> None:
        def model(x: Tensor) -> None:
            k = pyro.sample("k", dist.Bernoulli(0.4))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(k, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("k", dist.Bernoulli(pyro.param("p", torch.tensor(0.5))))

        with pytest.raises(InputError, match=r"'k' of the guide is shared .* use 'elbo'"):
            BetaELBO().loss_and_grads(model, guide, torch.randn(5))


class TestClosedFormErrors:
    @pytest.mark.parametrize("objective", [BetaELBO(kl="analytic"), FreeBits(), Capacity(1.0)])
    def test_pairs_without_a_closed_form_kl_are_refused(self, objective: Objective) -> None:
        pair, x = whole(), torch.randn(5)
        auto = AutoNormal(pair.model)
        masked = pyro.poutine.mask(pair.model, mask=torch.arange(5) > 2)

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(0.0, 1.0))
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

        def upwards(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Normal(pyro.param("s", torch.tensor(0.5)) * x, 1.0))
                pyro.sample("a", dist.Normal(b, 1.0))

        for some_model, guide, message in (
            (pair.model, auto, "auxiliary site"),
            (masked, pyro.poutine.mask(pair.guide, mask=torch.arange(5) > 2), "it is masked"),
            (model, upwards, "in different orders"),
        ):
            objective._particles = None
            with pytest.raises(InputError, match=message):
                objective.loss_and_grads(some_model, guide, x)


class TestNetworks:
    def test_batch_norm_repeats_rows_even_if_the_batch_is_as_large_as_the_layer(self) -> None:
        network = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(network(z), 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.3 * x[:, :1], 0.7).to_event(1))

        assert not Particles(model, guide, 3, "data", (torch.randn(8, 2),), {}).layout.uses_plate

    def test_a_loss_updates_running_means_once(self) -> None:
        norm = nn.BatchNorm1d(2)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                loc = pyro.param("slope", torch.tensor(0.3)) * norm(x)[:, 0]
                pyro.sample("z", dist.Normal(loc, 0.7))

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

        StickingTheLanding().loss_and_grads(model, guide, torch.randn(6, 2))
        assert int(norm.num_batches_tracked) == 1


class TestInfo:
    def test_a_last_batch_of_one_and_scalar_latents(self) -> None:
        pair = whole()
        for num in (1, 6):
            assert pair.gradients(InfoVAE(), torch.randn(num)).isfinite().all()

    def test_a_learned_prior_is_trained(self) -> None:
        loc = torch.tensor(0.5, requires_grad=True)

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(loc, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        InfoVAE(alpha=1.0).loss_and_grads(model, whole().guide, torch.randn(6))
        assert loc.grad is not None
        assert loc.grad != 0


class TestWakeSleep:
    def test_deterministic_sites_are_ignored(self) -> None:
        pair = whole()

        def model(x: Tensor) -> None:
            pyro.deterministic("twice", torch.tensor(2.0))
            pair.model(x)

        assert WakeSleep().loss_and_grads(model, pair.guide, torch.randn(5)).loss.isfinite()

    def test_auxiliary_sites_are_refused(self) -> None:
        pair = whole()
        with pytest.raises(InputError, match="auxiliary"):
            WakeSleep().loss_and_grads(pair.model, AutoNormal(pair.model), torch.randn(5))


def test_a_used_objective_can_be_pickled_and_changed() -> None:
    pair, x = whole(), torch.randn(5)
    objective = IWAE(3)
    objective.loss_and_grads(pair.model, pair.guide, x)
    again = pickle.loads(pickle.dumps(objective))
    assert again.step == 1
    objective.num_particles = 7
    assert objective._terms(pair.model, pair.guide, (x,), {}).log_weight.shape == (7, 5)
