"""``fit``: forms of data, history, early stopping, options and errors."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from pyrovae import VAE, Batches, InputError, binarise, evaluate, fit
from tests.pairs import exact_kl_to_posterior, exact_log_evidence, linear_gaussian_vae, user_pair

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
fit_quietly: Any = partial(fit, progress=False)


@pytest.mark.slow
def test_fit_finds_probabilistic_pca() -> None:
    """The linear-Gaussian VAE reaches the maximum likelihood of PPCA (Lucas et al. 2019, sec. 4).

    The likelihood of the model at its optimum, with noise s fixed, is that of PPCA: the
    eigenvalues of the data's covariance, those beyond the latent dimensions replaced by s^2.
    """
    torch.manual_seed(0)
    mixing = torch.tensor([[2.0, 0.0], [0.5, 1.5], [-1.0, 0.5]])
    x = torch.randn(2000, 2) @ mixing.T + 0.6 * torch.randn(2000, 3) + 1.0
    vae = linear_gaussian_vae(scale=0.6)
    fit_quietly(vae.model, vae.guide, x, epochs=100, lr=2e-2, schedule="cosine")

    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    spectrum = torch.cat([torch.tensor([0.36]), eigenvalues[1:]])
    best = -0.5 * (
        3 * torch.log(torch.tensor(2 * torch.pi)) + spectrum.log().sum() + eigenvalues[0] / 0.36 + 2
    )
    evidence = exact_log_evidence(vae, x).mean()
    assert evidence <= best + 1e-4
    # The ELBO is its own lower bound on log p, so this bounds the gap of both terms.
    assert evidence - exact_kl_to_posterior(vae, x).mean() > best - 0.02


@pytest.mark.slow
def test_history_holds_means_per_datum() -> None:
    vae = linear_gaussian_vae()
    history = fit_quietly(
        vae.model, vae.guide, X, epochs=3, batch_size=8, validation=X[:5], lr=1e-12
    )
    for epoch in history.epochs:
        assert epoch.loss == pytest.approx(epoch.reconstruction + epoch.kl, rel=1e-5)
        assert epoch.validation_loss == pytest.approx(
            epoch.validation_reconstruction + epoch.validation_kl, rel=1e-5
        )
        assert epoch.seconds > 0
    assert history["epoch"] == [1, 2, 3]
    # Nothing was learned, so validation, which repeats its noise, repeats its loss.
    assert history["validation_loss"] == pytest.approx([history["validation_loss"][0]] * 3)
    assert len(set(history["loss"])) == 3
    expected = evaluate(vae.model, vae.guide, X, num_particles=500).elbo.mean
    assert -sum(history["loss"]) / 3 == pytest.approx(expected, rel=0.2)


def test_training_takes_the_same_steps_with_and_without_validation() -> None:
    one, other = linear_gaussian_vae(), linear_gaussian_vae()
    other.load_state_dict(one.state_dict())
    torch.manual_seed(1)
    fit_quietly(one.model, one.guide, X, epochs=3, batch_size=8)
    torch.manual_seed(1)
    fit_quietly(other.model, other.guide, X, epochs=3, batch_size=8, validation=X)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


FORMS = {
    "tensor": X,
    "tuple": (X,),
    "batches": Batches(X, batch_size=8),
    "loader of a data set": DataLoader(TensorDataset(X), batch_size=8),
    "loader of a tensor": DataLoader(X, batch_size=8),  # type: ignore[arg-type]
    "loader of a part": DataLoader(
        TensorDataset(torch.cat([X, X + 100])), batch_size=8, sampler=SubsetRandomSampler(range(20))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_data_give_the_same_loss(form: str) -> None:
    vae = linear_gaussian_vae()
    data = FORMS[form]
    history = fit_quietly(
        vae.model, vae.guide, data, validation=data, epochs=2, batch_size=8, lr=1e-12
    )
    # The parts of the loss that do not depend on the noise are the same for every form.
    assert history["validation_loss"][0] == pytest.approx(
        -evaluate(vae.model, vae.guide, data, num_particles=200).elbo.mean, rel=0.25
    )


def test_minibatches_of_labelled_data() -> None:
    vae = linear_gaussian_vae()
    labels = torch.arange(20)
    seen: list[Tensor] = []

    def keep_x(x: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return x

    fit_quietly(vae.model, vae.guide, (X, labels), epochs=1, batch_size=8, transform=keep_x)
    del seen[:-3]  # checks of the data, before the three steps
    assert [len(y) for y in seen] == [8, 8, 4]
    assert torch.cat(seen).sort().values.tolist() == labels.tolist()
    assert torch.cat(seen).tolist() != labels.tolist()


def test_dynamic_binarisation_is_fresh_at_each_step() -> None:
    batches: list[Tensor] = []
    vae = VAE((4,), latent_dim=2)

    def draw(x: Tensor) -> Tensor:
        batches.append(binarise(x, levels=2))
        return batches[-1]

    fit_quietly(vae.model, vae.guide, torch.ones(50, 4), epochs=4, batch_size=50, transform=draw)
    del batches[:-4]  # checks of the data, before the four steps
    assert all(((b == 0) | (b == 1)).all() for b in batches)
    assert len({tuple(b.flatten().tolist()) for b in batches}) == 4
    # Of 800 fair draws, 400 +- 14 are ones.
    assert abs(sum(b.sum().item() for b in batches) - 400) < 4.5 * 200**0.5


def point_pair() -> tuple[Any, Any]:
    """A pair without randomness: the guide puts all mass on a learned point."""

    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 10.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Delta(pyro.param("z_loc", torch.full((3,), 5.0))).to_event(1))

    return model, guide


def test_early_stopping_restores_the_best_parameters() -> None:
    """The point moves from 5 past 2, the validation mean, towards -2, the training mean."""
    model, guide = point_pair()
    validation = torch.full((4, 3), 2.0)
    seen: list[Tensor] = []
    history = fit_quietly(
        model,
        guide,
        torch.full((8, 3), -2.0),
        epochs=1000,
        lr=0.25,
        patience=3,
        validation=validation,
        on_epoch=lambda h: seen.append(h.params["z_loc"]),
    )
    assert history.stopped_early
    assert history.epochs[-1].epoch == history.best.epoch + 3
    assert history.best.validation_loss == min(history["validation_loss"])
    torch.testing.assert_close(history.params["z_loc"], seen[history.best.epoch - 1])
    assert abs(history.params["z_loc"][0].item() - 2) <= 0.125 + 1e-3


@pytest.mark.slow
def test_without_patience_the_last_parameters_stay() -> None:
    model, guide = point_pair()
    data = torch.full((8, 3), -2.0)
    history = fit_quietly(model, guide, data, epochs=200, lr=0.25, validation=-data)
    assert not history.stopped_early
    assert len(history.epochs) == 200
    # Normal(0, 10^2) prior, 8 data of variance 1 at -2: the mode is -2 * 8 / (8 + 1/100).
    mode = torch.full((3,), -2 * 8 / 8.01)
    torch.testing.assert_close(history.params["z_loc"], mode, atol=0.02, rtol=0)


@pytest.mark.slow
def test_parameters_that_appear_late_are_trained() -> None:
    _, guide = point_pair()
    calls = 0

    def late_model(x: Tensor) -> None:
        nonlocal calls
        calls += 1
        late = pyro.param("late", torch.tensor(4.0)) if calls > 5 else torch.zeros(())
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 10.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(late, 1.0), obs=torch.zeros(len(x)))

    history = fit_quietly(late_model, guide, torch.zeros(8, 3), epochs=200, lr=0.1)
    assert history.params["late"].abs() < 0.1


@pytest.mark.parametrize("value", [None, 1e-3])
def test_gradient_is_clipped_by_its_global_norm(value: float | None) -> None:
    """With SGD at a rate of 1, the length of the step is the norm of the gradient per datum."""
    vae = linear_gaussian_vae()
    before = torch.cat([p.detach().flatten() for p in vae.parameters()])
    sgd = partial(torch.optim.SGD, lr=1.0)
    fit_quietly(vae.model, vae.guide, X, epochs=1, optimiser=sgd, clip_norm=value)
    moved = (torch.cat([p.detach().flatten() for p in vae.parameters()]) - before).norm()
    assert moved > 0.1 if value is None else moved.item() == pytest.approx(value, rel=1e-3)


def test_schedules_set_the_learning_rate() -> None:
    def rates(schedule: Any) -> list[float]:
        vae = linear_gaussian_vae()
        history = fit_quietly(
            vae.model, vae.guide, X, epochs=4, batch_size=10, lr=0.1, schedule=schedule
        )
        return history["learning_rate"]

    half = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    assert rates("constant") == [0.1] * 4
    cosine = [0.1 * (1 + math.cos(math.pi * step / 8)) / 2 for step in (1, 3, 5, 7)]
    assert rates("cosine") == pytest.approx(cosine)
    assert rates(half) == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_one_fused_optimiser_holds_all_parameters() -> None:
    optimisers: list[torch.optim.Optimizer] = []

    def remember(parameters: list[Tensor]) -> torch.optim.Optimizer:
        optimisers.append(torch.optim.Adam(parameters, fused=True))
        return optimisers[-1]

    pair = user_pair()
    fit_quietly(pair.model, pair.guide, X, epochs=2, batch_size=8, optimiser=remember)
    networks = len([*pair.encoder.parameters(), *pair.decoder.parameters()])
    assert len(optimisers) == 1
    assert len(optimisers[0].param_groups[0]["params"]) == networks + 3


@pytest.mark.slow
def test_shared_latents_have_the_same_posterior_with_minibatches() -> None:
    """The posterior of a mean is as narrow as 400 data make it: 0.05, where 40 make 0.16."""

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        log_scale = pyro.param("log_scale", torch.tensor(-1.0))
        pyro.sample("mean", dist.Normal(loc, log_scale.exp()))

    x = torch.randn(400)
    params = fit_quietly(
        model, guide, x, epochs=150, batch_size=40, lr=0.05, schedule="cosine"
    ).params
    precision = 400 + 1 / 100
    assert params["log_scale"].exp().item() == pytest.approx(precision**-0.5, rel=0.25)
    assert params["loc"].item() == pytest.approx(x.sum().item() / precision, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"patience": 2}, "patience needs validation data"),
        ({"patience": 0, "validation": X}, "patience is 0"),
        ({"data": [1, 2]}, r"data are \[1, 2\]; give a tensor"),
        ({"data": X[:0]}, "batches need tensors of one length, 1 or more"),
        ({"data": (X, X[:3])}, r"one length.*\[3, 20\]"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        (
            {"optimiser": pyro.optim.StepLR({"optimizer": SGD, "optim_args": {"lr": 1.0}})},
            "give the schedule as schedule=",
        ),
        ({"optimiser": lambda parameters: None}, "optimiser must make a torch.optim.*NoneType"),
        ({"optimiser": torch.optim.LBFGS}, "optimiser must make.*LBFGS"),
        ({"data": Batches(X), "transform": torch.neg}, "Batches have their own transform"),
        ({"data": torch.cat([X, X[:1] * float("nan")]), "batch_size": 4}, "NaN"),
        ({"validation": X * float("nan")}, "NaN"),
        ({"validation": X[:, :2]}, r"shape \(20, 2\); the model expects \(3,\)"),
    ],
)
def test_bad_arguments_are_refused_before_any_step(arguments: dict[str, Any], message: str) -> None:
    vae = linear_gaussian_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    data = arguments.pop("data", X)
    with pytest.raises(InputError, match=message):
        fit_quietly(vae.model, vae.guide, data, **({"epochs": 1} | arguments))
    torch.testing.assert_close(vae.state_dict(), before)


def test_infinite_loss_raises_with_advice() -> None:
    vae = linear_gaussian_vae()
    with pytest.raises(FloatingPointError, match=r"batch 2 of epoch 1, .*lower the learning"):
        fit_quietly(vae.model, vae.guide, X, epochs=3, lr=1e20, batch_size=4)


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.zeros(3)


def test_stream_of_unknown_size_is_refused() -> None:
    vae = linear_gaussian_vae()
    with pytest.raises(InputError, match="IterableDataset of unknown size"):
        fit_quietly(vae.model, vae.guide, DataLoader(Endless(), batch_size=4), epochs=1)


def test_pyro_validates_the_data_of_a_users_pair_before_any_step() -> None:
    model, guide = point_pair()
    history: list[object] = []
    data = torch.full((8, 3), -2.0)
    data[7] = float("nan")
    with pytest.raises(ValueError, match="within the support"):
        fit_quietly(model, guide, data, epochs=1, batch_size=2, on_epoch=history.append)
    with pyro.validation_enabled(False), pytest.raises(FloatingPointError):
        fit_quietly(model, guide, data, epochs=1, batch_size=2)


def test_data_outside_the_support_are_refused() -> None:
    vae = VAE((3,), latent_dim=2, likelihood="Bernoulli")
    with pytest.raises(InputError, match=r"Bernoulli is of .* in datum 0, feature 0"):
        fit_quietly(vae.model, vae.guide, X, epochs=1)


def test_bytes_give_the_losses_of_floats() -> None:
    """log 256! does not fit into a byte."""
    x = torch.tensor([[255, 0, 17]] * 8, dtype=torch.uint8)
    for likelihood in ("Poisson", {"family": "Binomial", "total_count": 255}):
        losses = []
        for data in (x, x.float()):
            torch.manual_seed(0)
            vae = VAE((3,), latent_dim=2, likelihood=likelihood)
            losses.append(fit_quietly(vae.model, vae.guide, data, epochs=2)["loss"])
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_doubles_are_accepted() -> None:
    vae = linear_gaussian_vae()
    fit_quietly(vae.model, vae.guide, X.double(), epochs=1)


def test_early_stopping_restores_running_statistics_too() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.sum(-1))

    def guide(x: Tensor) -> None:
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(network(x), 1.0).to_event(1))

    history = fit_quietly(
        model, guide, X, epochs=50, validation=X * 5 + 2, patience=2, lr=0.3, batch_size=10
    )
    assert history.stopped_early
    assert network[0].num_batches_tracked == 2 * history.best.epoch


def test_progress_shows_the_terms(capsys: pytest.CaptureFixture[str]) -> None:
    vae = linear_gaussian_vae()
    fit(vae.model, vae.guide, X, epochs=2, validation=X)
    shown = capsys.readouterr().out
    for word in ("epoch 2/2", "loss", "rec", "KL", "val", "/s"):
        assert word in shown
