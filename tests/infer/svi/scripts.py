"""What users of ``pyro.infer.SVI`` do, as functions of the class that they use."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, TraceTailAdaptive_ELBO
from torch import Tensor, nn
from torch.distributions import constraints

X = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3

Make = Callable[..., Any]
"""One of the two classes, or a function like it."""

Script = Callable[[Make], Any]


def model(x: Tensor | None = None) -> Tensor:
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("data", 50):
        value: Tensor = pyro.sample("x", dist.Normal(m, 1.0), obs=x)
    return value


def guide(x: Tensor | None = None) -> None:
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))


def adam(lr: float = 0.05) -> Any:
    return pyro.optim.Adam({"lr": lr})


def steps(svi: Any, num: int, x: Tensor = X) -> list[float]:
    return [svi.step(x) for _ in range(num)]


def store() -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in pyro.get_param_store().items()}


def predictive(make: Make) -> Any:
    steps(make(model, guide, adam(), Trace_ELBO()), 40)
    return Predictive(model, guide=guide, num_samples=50)()["m"]


def loss_of_an_elbo(make: Make) -> Any:
    steps(make(model, guide, adam(), Trace_ELBO()), 40)
    return Trace_ELBO(num_particles=10).loss(model, guide, X)


def value_of_a_parameter(make: Make) -> Any:
    steps(make(model, guide, adam(), Trace_ELBO()), 20)
    return pyro.param("loc").detach(), pyro.param("scale").detach()


def second_svi_goes_on(make: Make) -> Any:
    steps(make(model, guide, adam(), Trace_ELBO()), 20)
    return steps(make(model, guide, adam(0.01), Trace_ELBO()), 5)


def second_svi_of_the_same_model(make: Make) -> Any:
    steps(make(model, guide, adam(), Trace_ELBO()), 20)
    return steps(make(lambda x: model(x), guide, adam(0.01), Trace_ELBO()), 5)


def two_programs_in_training_share(make: Make) -> Any:
    def other(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(1.0))
        pyro.sample("y", dist.Normal(loc, 1.0).expand([50]).to_event(1), obs=x)

    optim = adam()
    first, second = make(model, guide, optim, Trace_ELBO()), None
    losses = []
    for _ in range(8):
        losses += steps(first, 1)
        second = second or make(other, lambda x: None, optim, Trace_ELBO())
        losses += steps(second, 1)
    return losses, store()


def value_set_before(make: Make) -> Any:
    pyro.param("loc", torch.tensor(2.5))
    return steps(make(model, guide, adam(), Trace_ELBO()), 5)


def value_set_meanwhile(make: Make) -> Any:
    svi = make(model, guide, adam(), Trace_ELBO())
    before = steps(svi, 5)
    pyro.get_param_store()["loc"] = torch.tensor(2.5)
    return before, steps(svi, 5)


def store_cleared_meanwhile(make: Make) -> Any:
    svi = make(model, guide, adam(), Trace_ELBO())
    before = steps(svi, 5)
    pyro.clear_param_store()
    return before, steps(svi, 5), store()


def trained_by_pyro_first(make: Make) -> Any:
    steps(PyroSVI(model, guide, adam(), Trace_ELBO()), 10)
    return steps(make(model, guide, adam(), Trace_ELBO()), 5)


def blocked_parameter(make: Make) -> Any:
    blocked = pyro.poutine.block(guide, hide=["scale"])
    return steps(make(model, blocked, adam(), Trace_ELBO()), 20), store()


def network_registered_or_not(make: Make) -> Any:
    torch.manual_seed(5)
    nets = [nn.Linear(1, 1), nn.Linear(1, 1)]

    def with_networks(x: Tensor) -> None:
        pyro.module("first", nets[0])
        mean = nets[1](nets[0](torch.ones(50, 1)))[:, 0]
        with pyro.plate("data", 50):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    losses = steps(make(with_networks, lambda x: None, adam(), Trace_ELBO()), 5)
    return losses, [p.detach().clone() for net in nets for p in net.parameters()]


def network_from_the_store(make: Make) -> Any:
    def with_network(net: nn.Linear) -> Callable[[Tensor], None]:
        def program(x: Tensor) -> None:
            pyro.module("net", net)
            with pyro.plate("data", 50):
                pyro.sample("x", dist.Normal(net(torch.ones(50, 1))[:, 0], 1.0), obs=x)

        return program

    torch.manual_seed(5)
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    steps(make(with_network(first), lambda x: None, adam(), Trace_ELBO()), 5)
    pyro.module("net", second, update_module_params=True)
    return steps(make(with_network(second), lambda x: None, adam(), Trace_ELBO()), 5)


def options_by_parameter(make: Make) -> Any:
    optim = pyro.optim.Adam(lambda name: {"lr": 0.1 if name == "loc" else 0.01})
    return steps(make(model, guide, optim, Trace_ELBO()), 10), store()


def clip_args(make: Make) -> Any:
    optim = pyro.optim.Adam({"lr": 0.1}, {"clip_norm": 2.0})
    return steps(make(model, guide, optim, Trace_ELBO()), 10), store()


def scheduler(make: Make) -> Any:
    optim = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5}
    )
    svi = make(model, guide, optim, Trace_ELBO())
    losses = []
    for _ in range(4):
        losses += steps(svi, 3)
        optim.step()
    return losses, store()


def plateau(make: Make) -> Any:
    optim = pyro.optim.ReduceLROnPlateau(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}, "patience": 0, "factor": 0.1}
    )
    svi = make(model, guide, optim, Trace_ELBO())
    losses = []
    for _ in range(4):
        losses += steps(svi, 3)
        optim.step(1.0)
    return losses, store()


def other_optimisers(make: Make) -> Any:
    found = []
    for optim in (
        pyro.optim.AdagradRMSProp({"eta": 0.1}),
        pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.9}),
        pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}),
        pyro.optim.AdamW({"lr": 0.1}),
        pyro.optim.DCTAdam({"lr": 0.1}),
    ):
        pyro.clear_param_store()
        found.append(steps(make(model, guide, optim, Trace_ELBO()), 6))
    return found


def optimiser_state_saved_and_loaded(make: Make) -> Any:
    optim = adam(0.1)
    steps(make(model, guide, optim, Trace_ELBO()), 6)
    state, params = optim.get_state(), pyro.get_param_store().get_state()
    params = {
        "params": {n: p.detach().clone().requires_grad_() for n, p in params["params"].items()},
        "constraints": params["constraints"],
    }
    pyro.clear_param_store()
    pyro.get_param_store().set_state(params)
    again = adam(0.1)
    again.set_state(state)
    losses = steps(make(model, guide, again, Trace_ELBO()), 6)
    return losses, {n: each["state"] for n, each in again.get_state().items()}


def optimiser_of_two_svis(make: Make) -> Any:
    optim = adam(0.1)
    steps(make(model, guide, optim, Trace_ELBO()), 6)
    return steps(make(model, guide, optim, Trace_ELBO(num_particles=2)), 6), store()


def two_svis_in_turns(make: Make) -> Any:
    optim = adam(0.1)
    svis = [make(model, guide, optim, Trace_ELBO(num_particles=num)) for num in (1, 2)]
    return [steps(svi, 1) for _ in range(20) for svi in svis], store()


class Labelled(nn.Module):
    """A semi-supervised pair with an auxiliary loss, as in Pyro's example of Kingma et al. 2014."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.label, self.mean = nn.Linear(1, 2), nn.Linear(2, 1)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("labelled", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(len(x), 2)), obs=y)
            pyro.sample("x", dist.Normal(self.mean(y)[..., 0], 1.0), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("labelled", self)
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.OneHotCategorical(logits=self.label(x[:, None])))

    def model_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("labelled", self)
        with pyro.plate("data", len(x)):
            if y is not None:
                q = dist.OneHotCategorical(logits=self.label(x[:, None]))
                with pyro.poutine.scale(scale=46.0):
                    pyro.sample("y_aux", q, obs=y)

    def guide_classify(self, x: Tensor, y: Tensor | None = None) -> None:
        """Empty, as the auxiliary model has no latents."""


def auxiliary_loss(make: Make) -> Any:
    net, optim = Labelled(), adam(0.01)
    guide = pyro.infer.config_enumerate(net.guide, "parallel", expand=True)
    first = make(net.model, guide, optim, loss=TraceEnum_ELBO(max_plate_nesting=1))
    second = make(net.model_classify, net.guide_classify, optim, loss=Trace_ELBO())
    y = nn.functional.one_hot((X > 3).long()).to(X)
    losses = []
    for args in ((X,), (X[:20], y[:20]), (X,), (X[20:], y[20:])):
        losses += [first.step(*args), second.step(*args)]
    return losses, {n: p.detach().clone() for n, p in net.named_parameters()}


def momentum_of_what_a_step_leaves_out(make: Make) -> Any:
    def branching(x: Tensor) -> None:
        a, b = (pyro.param(name, torch.tensor(0.0)) for name in "ab")
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a if len(x) == 50 else b, 1.0), obs=x)

    svi = make(branching, lambda x: None, adam(0.1), Trace_ELBO())
    return [svi.step(x) for x in (X, X[:7], X, X[:7], X[:7], X)], store()


def parameter_that_a_step_does_not_meet(make: Make) -> Any:
    def branching(x: Tensor) -> None:
        loc = pyro.param("a" if len(x) == 50 else "b", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    svi = make(branching, lambda x: None, adam(0.1), Trace_ELBO())
    return [svi.step(x) for x in (X, X[:7], X, X[:7], X[:7], X)], store()


def function_as_loss(make: Make) -> Any:
    def loss(model: Any, guide: Any, *args: Any) -> Tensor:
        trace = pyro.poutine.trace(model).get_trace(*args)
        return -trace.log_prob_sum() * pyro.param("weight", torch.tensor(1.0)) ** 2

    def known(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=x.mean())

    return steps(make(known, lambda x: None, adam(), loss=loss), 5), store()


def function_and_gradients(make: Make) -> Any:
    elbo = Trace_ELBO()
    svi = make(model, guide, adam(), loss=elbo.loss, loss_and_grads=elbo.loss_and_grads)
    return steps(svi, 5), store()


def infinite_by_design(make: Make) -> Any:
    elbo = TraceTailAdaptive_ELBO(num_particles=3, vectorize_particles=True)
    return steps(make(model, guide, adam(), elbo), 5), store()


def nothing_to_train(make: Make) -> Any:
    def fixed(x: Tensor) -> None:
        pyro.sample("m", dist.Normal(3.0, 0.1))

    return steps(make(model, fixed, adam(), Trace_ELBO()), 3), store()


def enumerated(make: Make) -> Any:
    @pyro.infer.config_enumerate
    def mixture(x: Tensor) -> None:
        locs = pyro.param("locs", torch.tensor([0.0, 4.0]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)

    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    return steps(make(mixture, lambda x: None, adam(), elbo), 5), store()


SCRIPTS: dict[str, Script] = {
    each.__name__: each
    for each in (
        predictive,
        loss_of_an_elbo,
        value_of_a_parameter,
        second_svi_goes_on,
        second_svi_of_the_same_model,
        two_programs_in_training_share,
        value_set_before,
        value_set_meanwhile,
        store_cleared_meanwhile,
        trained_by_pyro_first,
        blocked_parameter,
        network_registered_or_not,
        network_from_the_store,
        options_by_parameter,
        clip_args,
        scheduler,
        plateau,
        other_optimisers,
        optimiser_state_saved_and_loaded,
        optimiser_of_two_svis,
        two_svis_in_turns,
        auxiliary_loss,
        momentum_of_what_a_step_leaves_out,
        parameter_that_a_step_does_not_meet,
        function_as_loss,
        function_and_gradients,
        infinite_by_design,
        nothing_to_train,
        enumerated,
    )
}
