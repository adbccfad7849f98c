"""Training steps in NumPyro: one compiled call per step, or one compiled scan over many steps."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from jax.example_libraries import stax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from .data import binary_batches, images
from .torch_steps import EFFECTS, ERRORS, LATENT

__all__ = ["epoch", "jitted", "scanned", "schools"]

Run = Callable[[int], None]


def jitted(batch_size: int) -> Run:
    """One compiled call per step."""
    svi, batches = _make_svi(), [jnp.asarray(x.numpy()) for x in binary_batches(batch_size)]
    state = svi.init(random.PRNGKey(0), batches[0])
    update = jax.jit(svi.update, donate_argnums=0)
    return _make_run(update, state, cycle(batches))


def scanned(batch_size: int, steps: int) -> Run:
    """A fixed number of steps in one compiled loop."""
    svi = _make_svi()
    batches = binary_batches(batch_size)
    stacked = jnp.stack([jnp.asarray(batches[i % len(batches)].numpy()) for i in range(steps)])
    state = svi.init(random.PRNGKey(0), stacked[0])
    loop = jax.jit(lambda state, xs: lax.scan(svi.update, state, xs), donate_argnums=0)

    def run(_: int) -> None:
        nonlocal state
        state, losses = loop(state, stacked)
        losses.block_until_ready()

    return run


def epoch(batch_size: int) -> Run:
    """Epochs over all images: shuffled, binarised anew, without the last incomplete batch."""
    svi = _make_svi()
    data = jnp.asarray(images().numpy())
    num = len(data) // batch_size

    def step(carry: Any, index: Any) -> Any:
        state, key = carry
        key, draw = random.split(key)
        x = random.bernoulli(draw, data[index] / 255.0).astype(jnp.float32)
        state, loss = svi.update(state, x)
        return (state, key), loss

    @jax.jit
    def run_epoch(carry: Any) -> Any:
        state, key = carry
        key, order = random.split(key)
        index = random.permutation(order, len(data))[: num * batch_size].reshape(num, batch_size)
        return lax.scan(step, (state, key), index)

    carry = svi.init(random.PRNGKey(0), jnp.zeros((batch_size, 784))), random.PRNGKey(1)

    def run(epochs: int) -> None:
        nonlocal carry
        for _ in range(epochs):
            carry, losses = run_epoch(carry)
            losses.block_until_ready()

    return run


def schools() -> Run:
    """Eight schools, with one compiled call per step."""

    def model(effects: Any) -> None:
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = numpyro.sample("spread", dist.HalfCauchy(5.0))
        with numpyro.plate("data", 8):
            effect = numpyro.sample("effect", dist.Normal(mean, spread))
            numpyro.sample("observed", dist.Normal(effect, jnp.asarray(ERRORS)), obs=effects)

    effects = jnp.asarray(EFFECTS)
    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = svi.init(random.PRNGKey(0), effects)
    return _make_run(jax.jit(svi.update, donate_argnums=0), state, cycle([effects]))


def _make_run(update: Any, state: Any, batches: Iterator[Any]) -> Run:
    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, loss = update(state, next(batches))
        loss.block_until_ready()

    return run


def _make_svi() -> SVI:
    init_encoder, encode = stax.serial(
        stax.Dense(400),
        stax.Relu,
        stax.FanOut(2),
        stax.parallel(stax.Dense(LATENT), stax.serial(stax.Dense(LATENT), stax.Softplus)),
    )
    init_decoder, decode = stax.serial(stax.Dense(400), stax.Relu, stax.Dense(784))

    def model(x: Any) -> None:
        decoder = numpyro.module("decoder", (init_decoder, decode), (len(x), LATENT))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encoder = numpyro.module("encoder", (init_encoder, encode), (len(x), 784))
        loc, scale = encoder(x)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
