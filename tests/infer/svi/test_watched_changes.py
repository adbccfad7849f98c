"""Changes of what a program reads are followed, or found by an audit."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.optim import SGD

from pyrovae import InputError
from pyrovae.infer import ELBO, SVI
from tests.infer.programs import Networks, adam, data, each_batch

from .runs import mean_of_data, repeat


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.filterwarnings("ignore:the recorded step runs uncompiled")
class TestNoticed:
    """Whatever changes between steps is followed; here on graphs that are recorded."""

    def pair(self) -> tuple[Networks, SVI]:
        networks = Networks(nn.Dropout(0.5))
        svi = SVI(networks.model, networks.guide, partial(SGD, lr=0.0), Trace_ELBO(), compile=True)
        for i in range(4):
            svi.step(*each_batch(i)[0])
        assert svi.num_graphs[0] == 1
        return networks, svi

    def compare(self, networks: Networks, svi: SVI) -> None:
        """The next step has the loss of the program as it is now."""
        x = each_batch(0)[0][0]
        state = torch.get_rng_state()
        loss = svi.step(x)
        torch.set_rng_state(state)
        want = Trace_ELBO().loss(networks.model, networks.guide, x)
        assert loss == pytest.approx(want, rel=1e-5)

    @pytest.mark.slow
    def test_fresh_noise(self) -> None:
        _, svi = self.pair()
        x = each_batch(0)[0][0]
        losses = {svi.step(x) for _ in range(5)}
        assert len(losses) == 5

    @pytest.mark.slow
    def test_a_number_of_python(self) -> None:
        networks, svi = self.pair()
        networks.shift = 3.0
        self.compare(networks, svi)
        self.compare(networks, svi)
        assert svi.num_graphs[0] == 2

    @pytest.mark.slow
    def test_eval_mode_and_back(self) -> None:
        networks, svi = self.pair()
        for is_training in (False, True, False, True):
            networks.train(is_training)
            self.compare(networks, svi)
            self.compare(networks, svi)
        assert svi.num_graphs[0] == 2

    @pytest.mark.slow
    def test_a_parameter_replaced(self) -> None:
        networks, svi = self.pair()
        networks.decoder.weight = nn.Parameter(torch.ones(3, 2))
        self.compare(networks, svi)
        self.compare(networks, svi)

    @pytest.mark.slow
    def test_data_of_a_parameter_replaced(self) -> None:
        networks, svi = self.pair()
        networks.decoder.weight.data = torch.ones(3, 2)
        self.compare(networks, svi)

    @pytest.mark.slow
    def test_a_frozen_parameter(self) -> None:
        networks = Networks()
        svi = SVI(networks.model, networks.guide, adam, ELBO(400), compile=True)
        for i in range(4):
            svi.step(*each_batch(i)[0])
        networks.decoder.requires_grad_(False)
        before = networks.decoder.weight.clone()
        others = networks.loc.weight.clone()
        for i in range(3):
            svi.step(*each_batch(i)[0])
        torch.testing.assert_close(networks.decoder.weight, before, rtol=0, atol=0)
        assert (networks.loc.weight != others).any()

    @pytest.mark.slow
    def test_a_parameter_frozen_at_first(self) -> None:
        networks = Networks()
        networks.decoder.requires_grad_(False)
        svi = SVI(networks.model, networks.guide, adam, ELBO(400), compile=True)
        for i in range(4):
            svi.step(*each_batch(i)[0])
        networks.decoder.requires_grad_(True)
        before = networks.decoder.weight.clone()
        for i in range(3):
            svi.step(*each_batch(i)[0])
        assert (networks.decoder.weight != before).all()

    @pytest.mark.slow
    def test_one_tensor_in_two_places(self) -> None:
        def model(x: Tensor, y: Tensor) -> None:
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc + y, 1.0).to_event(1), obs=x)

        svi = SVI(model, lambda x, y: None, partial(SGD, lr=0.0), Trace_ELBO(), compile=True)
        x, y = data()[0], data()[1]
        same = [svi.step(x, x) for _ in range(4)][-1]
        other = svi.step(x, y)
        assert same == pytest.approx(-dist.Normal(0.0, 1.0).log_prob(x - x).sum().item())
        assert other == pytest.approx(-dist.Normal(0.0, 1.0).log_prob(x - y).sum().item())

    @pytest.mark.slow
    def test_a_parameter_set_in_the_store(self) -> None:
        svi = SVI(mean_of_data, lambda x: None, partial(SGD, lr=0.0), Trace_ELBO(), compile=True)
        x = data()[0]
        for _ in range(4):
            svi.step(x)
        with svi.pair.store():
            pyro.get_param_store()["loc"] = torch.full((3,), 2.0)
        for _ in range(3):
            loss = svi.step(x)
        want = -dist.Normal(2.0, 1.0).log_prob(x).sum().item()
        assert loss == pytest.approx(want, rel=1e-5)

    def test_a_float_that_becomes_none(self) -> None:
        def model(x: Tensor, scale: float | None) -> None:
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, scale or 1.0).to_event(1), obs=x)

        x = data()[0]
        svi = SVI(model, lambda x, scale: None, partial(SGD, lr=0.0), Trace_ELBO())
        for scale in (1.0, 2.0, 3.0, None, 1.5, None):
            want = -dist.Normal(0.0, scale or 1.0).log_prob(x).sum().item()
            assert svi.step(x, scale) == pytest.approx(want, rel=1e-5)

    @pytest.mark.slow
    def test_bad_data_as_the_step_is_recorded(self) -> None:
        def model(x: Tensor) -> None:
            if len(x) == 3:
                raise ValueError("three is a crowd")
            mean_of_data(x)

        svi = SVI(model, lambda x: None, adam, Trace_ELBO(), compile=True)
        svi.step(data()[0])
        with pytest.raises(ValueError, match="three is a crowd"):
            svi.step(data()[0][:3])
        svi.step(data()[0])
        svi.step(data()[0])
        assert svi.num_graphs[0] == 1

    @pytest.mark.slow
    def test_another_type(self) -> None:
        networks, svi = self.pair()
        networks.double()
        with pytest.raises(InputError, match="changed their type or device"):
            svi.step(*each_batch(0)[0])

    @pytest.mark.slow
    def test_a_handler_round_the_step(self) -> None:
        """Such as the scale of an enclosing context, which the recording does not hold."""
        networks, svi = self.pair()
        x = each_batch(0)[0][0]
        networks.eval()
        with pyro.poutine.scale(scale=10.0):
            torch.manual_seed(1)
            loss = svi.step(x)
            torch.manual_seed(1)
            want = Trace_ELBO().loss(networks.model, networks.guide, x)
        assert loss == pytest.approx(want, rel=1e-5)

    def test_what_cannot_be_seen_is_found_by_the_audit(self) -> None:
        """A generator counts its own calls, out of sight; the second graph step is compared."""
        counted = iter(range(1000))

        def model(x: Tensor) -> None:
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc + next(counted), 1.0).to_event(1), obs=x)

        svi = SVI(model, lambda x: None, adam, Trace_ELBO(), num_steps=10**9)
        x = each_batch(0)[0][0]
        with pytest.warns(RuntimeWarning, match="no longer computes what the program does"):
            repeat(6, lambda _: svi.step(x))
