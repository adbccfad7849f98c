"""Warnings of collapse and of scales come exactly where theory says."""

import warnings
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

from pyrovae import SVI, VAE
from pyrovae.infer import ELBO, BetaELBO, Cyclical, Linear, Pair
from pyrovae.training.history import Epoch
from pyrovae.training.symptoms import Symptoms, SymptomWarning


def epoch(kl: float, number: int = 1) -> Epoch:
    return Epoch(number, 1.0, 1.0, kl, None, None, None, 1e-3, 0.1)


def check_epochs(symptoms: Symptoms, kl: list[float], is_last: bool = False) -> list[str]:
    """The warnings after each of these epochs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(1, len(kl) + 1):
            epochs = [epoch(each, i + 1) for i, each in enumerate(kl[:number])]
            symptoms.check(epochs, is_last and number == len(kl))
    assert {each.category for each in caught} <= {SymptomWarning}
    return [str(each.message) for each in caught]


def train(model: Any, guide: Any, x: Tensor, epochs: int, lr: float, decay: float) -> list[str]:
    """The warnings of a full-batch fit whose learning rate decays by a factor each epoch."""
    loss = ELBO()
    svi = SVI(
        model,
        guide,
        partial(Adam, lr=lr),
        loss,
        compile=False,
        schedule=partial(ExponentialLR, gamma=decay),
    )
    symptoms, history = Symptoms(svi.pair, loss, (x,)), []
    with warnings.catch_warnings(record=True) as caught, pyro.validation_enabled(False):
        warnings.simplefilter("always")
        for number in range(1, epochs + 1):
            history.append(epoch(float(svi.step(x).kl), number))
            symptoms.check(history, number == epochs)
    return [str(each.message) for each in caught if each.category is SymptomWarning]


@pytest.mark.parametrize("scale", [1.5, 0.5], ids=["large", "small"])
def test_collapse_if_the_optimum_of_ppca_ignores_z(scale: float) -> None:
    # Tipping and Bishop (1999): the likelihood is highest at W = 0, so that p(z | x) = p(z), if
    # sigma^2 is above all eigenvalues of the covariance, and at another W if it is below one.
    x = torch.randn(100, 3) * torch.tensor([1.0, 0.7, 0.4])
    x = x - x.mean(0)
    collapses = bool(scale**2 > torch.linalg.eigvalsh(x.T @ x / len(x))[-1])
    assert collapses == (scale == 1.5)

    def model(x: Tensor) -> None:
        weight = pyro.param("weight", torch.full((3,), 0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None] * weight, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = x @ pyro.param("slope", torch.full((3,), 0.2))
        q_scale = pyro.param("q_scale", torch.tensor(0.7), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, q_scale))

    warned = train(model, guide, x, epochs=150, lr=0.1, decay=0.97)
    assert len(warned) == collapses
    for sentence in warned:
        assert sentence.startswith(
            "the latents have collapsed: q(z | x) is nearly the same for all x"
        )


@pytest.mark.parametrize("spread", [0.0, 0.1], ids=["one point", "many"])
def test_scale_vanishes_if_all_data_are_equal(spread: float) -> None:
    # For equal data the density has no maximum in its scale: the gradient in log scale is always
    # 1, and each step of Adam takes 0.1 off it, 12 in all; the log of the factor 10,000 is 9.2.
    x = spread * torch.randn(20)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    warned = train(model, lambda x: None, x, epochs=120, lr=0.1, decay=1.0)
    assert len(warned) == (spread == 0)
    for sentence in warned:
        assert sentence.startswith(
            "scale of Normal at site 'x' of the model has vanished: it was 1 at the start, and is "
            "6.1e-06 now; the density of data that the model reproduces exactly grows without bound"
        )


class TestCollapse:
    def symptoms(self, loss: Any = None) -> Symptoms:
        vae = VAE((3,), 2, "Normal")
        return Symptoms(Pair(vae.model, vae.guide), loss or ELBO(), (torch.randn(5, 3),))

    @pytest.mark.parametrize(
        ("kl", "num"),
        [
            ([0.5] + 5 * [0.004], 1),
            ([0.5] + 4 * [0.004], 0),
            (4 * [0.004] + [0.5] + 4 * [0.004], 0),
            (9 * [0.004], 1),
            (9 * [0.0], 0),
            (9 * [-0.004], 1),
            (9 * [-0.4], 0),
            (9 * [torch.nan], 0),
        ],
        ids=["five", "four", "broken", "once", "none", "estimated", "negative", "nan"],
    )
    def test_collapse_after_five_epochs_in_a_row(self, kl: list[float], num: int) -> None:
        assert len(check_epochs(self.symptoms(), kl)) == num

    def test_collapse_in_the_last_epoch_of_a_shorter_fit(self) -> None:
        assert len(check_epochs(self.symptoms(), [0.5, 0.3, 0.004], is_last=True)) == 1
        assert not check_epochs(self.symptoms(), [0.004, 0.004, 0.2], is_last=True)

    @pytest.mark.parametrize("beta", [Linear(10, 0.0, 0.3), Cyclical(5, 2, end=0.3)], ids=repr)
    def test_no_collapse_while_weights_change(self, beta: Linear | Cyclical) -> None:
        loss = BetaELBO(beta)
        symptoms = self.symptoms(loss)
        loss.step.fill_(6)
        assert not check_epochs(symptoms, 9 * [0.004], is_last=True)
        loss.step.fill_(10)
        epochs = [epoch(0.004) for _ in range(14)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            symptoms.check(epochs[:13], False)  # four epochs since the weight stopped
        with pytest.warns(SymptomWarning, match="have collapsed"):
            symptoms.check(epochs, False)

    def test_no_collapse_of_latents_that_all_data_share(self) -> None:
        def model(x: Tensor) -> None:
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)), 0.1))

        assert not check_epochs(
            Symptoms(Pair(model, guide), ELBO(), (torch.randn(5),)), 9 * [0.004]
        )


class TestScales:
    @pytest.mark.parametrize("factor", [1e-5, 1e-3, 1e3, 1e5], ids=str)
    @pytest.mark.parametrize("role", ["model", "guide"])
    def test_scale_of_one_entry(self, role: str, factor: float) -> None:
        scales = {"model": torch.tensor([1.0, 1e3]), "guide": torch.tensor([1.0, 1e-3])}

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, scales["model"]).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            tril = torch.diag_embed(scales["guide"]).expand(len(x), 2, 2)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(0.1 * x, scale_tril=tril))

        pair = Pair(model, guide)
        symptoms = Symptoms(pair, ELBO(), (torch.randn(4, 2),))
        scales[role] = scales[role] * torch.tensor([1.0, factor])
        warned = check_epochs(symptoms, [0.5, 0.5, 0.5])
        family = {"model": "scale of Normal at site 'x'", "guide": "scale_tril of Multi"}[role]
        what = "vanished" if factor < 1 else "exploded"
        assert len(warned) == (factor in (1e-5, 1e5))
        for sentence in warned:
            assert sentence.startswith(family)
            assert f"of the {role} has {what}" in sentence

    def test_scale_of_a_discrete_likelihood_may_vanish(self) -> None:
        settings: Any = {"family": "DiscretisedLogistic", "scale": "shared", "levels": 4}
        vae = VAE((3,), 2, settings)
        x = torch.randint(4, (5, 3)).float()
        symptoms = Symptoms(Pair(vae.model, vae.guide), ELBO(), (x,))
        with torch.no_grad():
            vae.model.likelihood.unlinked_scale.fill_(-30.0)
        assert not check_epochs(symptoms, [0.5])

    def test_scales_are_checked_after_powers_of_two_and_at_the_end(self) -> None:
        runs = 0

        def model(x: Tensor) -> None:
            nonlocal runs
            runs += 1
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0))

        symptoms = Symptoms(Pair(model, guide), ELBO(), (torch.randn(4),))
        assert not check_epochs(symptoms, 11 * [0.5], is_last=True)
        assert runs == 1 + len((1, 2, 4, 8, 11))


def test_check_leaves_no_trace() -> None:
    norm = torch.nn.BatchNorm1d(3)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(norm(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        start = torch.randn(3)  # what the first step is to draw
        loc = pyro.param("loc", start)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).expand((len(x), 3)).to_event(1))

    pair, random = Pair(model, guide), torch.get_rng_state()
    symptoms = Symptoms(pair, ELBO(), (torch.randn(4, 3),))
    random = torch.get_rng_state()
    assert not check_epochs(symptoms, [0.5, 0.5])
    assert torch.equal(torch.get_rng_state(), random)
    assert not pair.params()
    assert norm.training
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]
