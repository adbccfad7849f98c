"""Losses and gradients are those of Pyro's Trace_ELBO on the same noise, to round-off."""

import copy
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyrovae import VAE, Batches, fit
from pyrovae.infer import Pair
from tests.pairs import NUM_DATA, pop_gradients, user_pair

ROUND_OFF = {"rtol": 1e-10, "atol": 1e-10}
LIKELIHOODS: dict[str, tuple[Any, Tensor]] = {
    "Bernoulli": ("Bernoulli", torch.tensor([0, 1, 1, 0, 1, 0])),
    "Normal": ({"family": "Normal", "scale": "predicted"}, torch.arange(6) * 0.3 - 1),
    "Binomial": ({"family": "Binomial", "total_count": 4}, torch.tensor([0, 4, 1, 2, 3, 4])),
    "Categorical": ({"family": "Categorical", "num_classes": 3}, torch.tensor([0, 1, 2, 2, 1, 0])),
    "Poisson": ("Poisson", torch.tensor([0, 1, 7, 2, 3, 0])),
}


def vae_and_data(name: str) -> tuple[VAE, Tensor]:
    likelihood, values = LIKELIHOODS[name]
    torch.manual_seed(2)
    vae = VAE((2, 3), latent_dim=2, likelihood=likelihood)
    order = torch.stack([torch.randperm(6) for _ in range(NUM_DATA)])
    return vae, values[order].reshape(NUM_DATA, 2, 3).to(torch.get_default_dtype())


def ours(model: Any, guide: Any, x: Tensor, size: int, seed: int) -> tuple[Tensor, Pair]:
    """-ELBO of our bound, with its gradient in the parameters; and the pair that holds them."""
    pair = Pair(model, guide)
    torch.manual_seed(seed)
    with pair.store():
        bound = pair.bound(x, size=size)
        (-bound.surrogate()).backward()
    return (bound.kl() - bound.log_likelihood()).detach(), pair


def in_store() -> dict[str, Tensor]:
    store = pyro.get_param_store()
    return dict(store.named_parameters())


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.usefixtures("float64")
def test_vae(name: str) -> None:
    vae, x = vae_and_data(name)
    parameters = dict(vae.named_parameters())

    loss, _ = ours(vae.model, vae.guide, x, NUM_DATA, seed=3)
    our_gradients = pop_gradients(parameters)
    torch.manual_seed(3)
    their_loss = Trace_ELBO().loss_and_grads(vae.model, vae.guide, x)
    their_gradients = pop_gradients(parameters)

    assert loss.item() == pytest.approx(their_loss, rel=1e-10)
    torch.testing.assert_close(our_gradients, their_gradients, **ROUND_OFF)


@pytest.mark.usefixtures("float64")
def test_users_pair_with_shared_and_discrete_latents() -> None:
    """Also where the gradient needs the score function, Rao-Blackwellised over the plate."""
    x = torch.randn(NUM_DATA, 3)
    mine, theirs = user_pair(), user_pair()

    loss, pair = ours(mine.model, mine.guide, x, NUM_DATA, seed=4)
    with pair.store():
        our_gradients = pop_gradients(in_store())
    torch.manual_seed(4)
    their_loss = Trace_ELBO().loss_and_grads(theirs.model, theirs.guide, x)

    assert loss.item() == pytest.approx(their_loss, rel=1e-10)
    torch.testing.assert_close(our_gradients, pop_gradients(in_store()), **ROUND_OFF)


@pytest.mark.usefixtures("float64")
def test_minibatch_has_the_scale_of_a_subsampled_plate() -> None:
    """A plate over the batch, told the size of the data, is Pyro's own subsampling plate."""
    batch = torch.randn(4, 3)
    mine = user_pair()
    theirs = user_pair(lambda x: {"size": NUM_DATA, "subsample": torch.arange(len(x))})

    loss, pair = ours(mine.model, mine.guide, batch, NUM_DATA, seed=5)
    with pair.store():
        our_gradients = pop_gradients(in_store())
    torch.manual_seed(5)
    their_loss = Trace_ELBO().loss_and_grads(theirs.model, theirs.guide, batch)
    their_gradients = pop_gradients(in_store())
    declared, _ = ours(theirs.model, theirs.guide, batch, NUM_DATA, seed=5)

    assert loss.item() == pytest.approx(their_loss, rel=1e-10)
    assert declared.item() == pytest.approx(their_loss, rel=1e-10)
    torch.testing.assert_close(our_gradients, their_gradients, **ROUND_OFF)
    torch.testing.assert_close(pop_gradients(in_store()), their_gradients, **ROUND_OFF)


LEARNING_RATE, EPOCHS = 1e-2, 5


@pytest.mark.usefixtures("float64")
def test_fit_of_a_vae_takes_the_steps_of_pyros_svi() -> None:
    mine, x = vae_and_data("Normal")
    theirs = copy.deepcopy(mine)
    sgd = partial(torch.optim.SGD, lr=LEARNING_RATE)

    torch.manual_seed(6)
    data = Batches(x, batch_size=NUM_DATA, shuffle=False)
    history = fit(mine.model, mine.guide, data, epochs=EPOCHS, optimiser=sgd, progress=False)
    torch.manual_seed(6)
    per_datum = pyro.optim.SGD({"lr": LEARNING_RATE / NUM_DATA})
    svi = SVI(theirs.model, theirs.guide, per_datum, Trace_ELBO())
    losses = [svi.step(x) / NUM_DATA for _ in range(EPOCHS)]

    assert history["loss"] == pytest.approx(losses, rel=1e-10)
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), **ROUND_OFF)


@pytest.mark.usefixtures("float64")
def test_fit_of_a_users_pair_takes_the_steps_of_pyros_svi() -> None:
    x = torch.randn(NUM_DATA, 3)
    mine, theirs = user_pair(), user_pair()
    sgd = partial(torch.optim.SGD, lr=LEARNING_RATE)

    torch.manual_seed(7)
    data = Batches(x, batch_size=NUM_DATA, shuffle=False)
    history = fit(mine.model, mine.guide, data, epochs=EPOCHS, optimiser=sgd, progress=False)
    pyro.clear_param_store()
    torch.manual_seed(7)
    per_datum = pyro.optim.SGD({"lr": LEARNING_RATE / NUM_DATA})
    svi = SVI(theirs.model, theirs.guide, per_datum, Trace_ELBO())
    losses = [svi.step(x) / NUM_DATA for _ in range(EPOCHS)]

    trained = {name: p.detach() for name, p in pyro.get_param_store().items()}
    assert history["loss"] == pytest.approx(losses, rel=1e-10)
    torch.testing.assert_close(history.params, trained, **ROUND_OFF)


@pytest.mark.usefixtures("float64")
def test_loss_splits_into_reconstruction_and_kl() -> None:
    vae, x = vae_and_data("Bernoulli")
    torch.manual_seed(8)
    pair = Pair(vae.model, vae.guide)
    with pair.store():
        bound = pair.bound(x, size=NUM_DATA)
        log_likelihood, kl = bound.per_datum()

    z = bound.guide_trace.nodes["z"]["value"]
    q, prior = vae.q(x), vae.model.prior()
    torch.testing.assert_close(log_likelihood, vae.decode(z).log_prob(x))
    torch.testing.assert_close(kl, q.log_prob(z) - prior.log_prob(z))
    torch.testing.assert_close(log_likelihood.sum(), bound.log_likelihood())
    torch.testing.assert_close(kl.sum(), bound.kl())
