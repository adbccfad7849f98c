"""Error messages are one sentence, wherever they were raised."""

import pickle
import traceback

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrovae
from pyrovae import VAE, InputError


def test_messages_are_without_the_shapes_that_pyro_appends() -> None:
    vae = VAE((6,), 2, likelihood="Bernoulli")
    x = torch.full((3, 6), 0.5)
    calls = [
        lambda: pyro.poutine.trace(vae.model).get_trace(x),
        lambda: SVI(vae.model, vae.guide, pyro.optim.Adam({}), Trace_ELBO()).step(x),
        lambda: pyrovae.evaluate(vae.model, vae.guide, x),
        lambda: pyrovae.fit(vae.model, vae.guide, x, epochs=1, progress=False, compile=False),
        lambda: vae.posterior(x),
    ]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "Trace Shapes" not in "".join(traceback.format_exception(caught.value))


def test_messages_keep_what_pyro_did_not_append() -> None:
    assert str(InputError("first\nsecond Trace Shapes:")) == "first\nsecond Trace Shapes:"
    assert str(InputError("first\n   Trace Shapes:   \n Param Sites:")) == "first"
    assert InputError("a", 3).args == ("a", 3)
    assert str(pickle.loads(pickle.dumps(InputError("a")))) == "a"
