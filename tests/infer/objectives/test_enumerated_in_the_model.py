"""Latents that the model marks for enumeration train as in SVI with ``TraceEnum_ELBO``."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyrovae import InputError, fit
from pyrovae.infer import EnumeratedELBO

X = torch.randn(60, generator=torch.Generator().manual_seed(0)) + 2
NUM = len(X)
QUIET: dict[str, Any] = {"progress": False, "compile": False}


class TestEnumeratedInTheModel:
    """Latents that the model marks for enumeration, as in SVI with ``TraceEnum_ELBO``."""

    @staticmethod
    @config_enumerate
    def mixture(x: Tensor) -> None:
        weights = pyro.param("w", torch.tensor([0.4, 0.6]), constraint=dist.constraints.simplex)
        locs = pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 1.0]), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)

    @staticmethod
    def guide(x: Tensor) -> None:
        loc = pyro.param("a", torch.tensor([-1.0, 1.0]))
        pyro.sample("locs", dist.Normal(loc, 0.1).to_event(1))

    @staticmethod
    @config_enumerate
    def hmm(x: Tensor) -> None:
        moves = pyro.param("T", torch.tensor([[0.7, 0.3], [0.4, 0.6]]))
        with pyro.plate("data", len(x), dim=-1):
            z: Any = 0
            for t in pyro.markov(range(x.shape[1])):
                z = pyro.sample(f"z{t}", dist.Categorical(logits=moves[z]))
                pyro.sample(f"x{t}", dist.Bernoulli(0.2 + 0.5 * z), obs=x[:, t])

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("of", ["mixture", "hmm"])
    def test_fit_takes_the_steps_of_pyros_svi(self, of: str) -> None:
        x = (X[:40].double() > 2).double().reshape(10, 4) if of == "hmm" else X.double()
        pair: tuple[Any, Any] = (self.mixture, self.guide)
        if of == "hmm":
            pair = (self.hmm, lambda x: None)
        torch.manual_seed(3)
        sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
        history = fit(*pair, x, epochs=4, optimiser=sgd, objective="enumerated", **QUIET)
        pyro.clear_param_store()
        torch.manual_seed(3)
        elbo = TraceEnum_ELBO(max_plate_nesting=1)
        svi = PyroSVI(*pair, pyro.optim.SGD({"lr": 0.1 / len(x)}), elbo)
        losses = [svi.step(x) / len(x) for _ in range(4)]
        assert history["loss"] == pytest.approx(losses, rel=1e-9)

    @pytest.mark.usefixtures("float64")
    def test_minibatches_stand_for_all_data(self) -> None:
        """The mean over batches of the gradient is that of all data, with fixed means."""
        x = X.double()

        def gradient(loss: EnumeratedELBO, *batches: Tensor) -> Tensor:
            total = torch.zeros(2)
            for batch in batches:
                pyro.clear_param_store()
                torch.manual_seed(5)
                loss.loss_and_grads(self.mixture, self.guide, batch)
                parameter = dict(pyro.get_param_store().named_parameters())["a"]
                assert parameter.grad is not None
                total += parameter.grad / len(batches)
            return total

        whole = gradient(EnumeratedELBO(size=NUM), x)
        parts = gradient(EnumeratedELBO(size=NUM), *x.split(20))
        torch.testing.assert_close(parts, whole)

    @pytest.mark.usefixtures("float64")
    def test_differentiable_loss_is_that_of_pyro(self) -> None:
        x = X.double()
        losses, gradients = [], []
        for loss, num in ((EnumeratedELBO(), 1), (TraceEnum_ELBO(max_plate_nesting=1), NUM)):
            pyro.clear_param_store()
            torch.manual_seed(5)
            value: Any = loss.differentiable_loss(self.mixture, self.guide, x) / num
            value.backward()
            losses.append(value.item())
            gradients.append(dict(pyro.get_param_store().named_parameters())["a"].grad)
        assert losses[0] == pytest.approx(losses[1])
        torch.testing.assert_close(*gradients)

    def test_kl_is_that_of_what_the_guide_draws(self) -> None:
        torch.manual_seed(0)
        loss = EnumeratedELBO().loss(self.mixture, self.guide, X)
        torch.manual_seed(0)
        z = torch.randn(2) * 0.1 + torch.tensor([-1.0, 1.0])
        q = dist.Normal(torch.tensor([-1.0, 1.0]), 0.1).log_prob(z).sum()
        p = dist.Normal(torch.tensor([-1.0, 1.0]), 3.0).log_prob(z).sum()
        assert float(loss.kl) == pytest.approx(float(q - p) / NUM, rel=1e-4)
        assert float(loss.loss) == pytest.approx(float(loss.reconstruction + loss.kl), rel=1e-5)

    def test_other_objectives_name_this_one(self) -> None:
        with pytest.raises(InputError, match=r"marks 'k' for enumeration.* 'enumerated'"):
            fit(self.mixture, self.guide, X, epochs=1, **QUIET)
