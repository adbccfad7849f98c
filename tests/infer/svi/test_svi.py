"""A recorded and compiled step does what the step of the program does, on the same noise."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyrovae import InputError
from pyrovae.errors import NotFinite
from pyrovae.infer import ELBO, SVI
from tests.infer.programs import NUM, PROGRAMS, Networks, Program, adam, data, each_batch

STEPS = 200
ALIKE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def no_compiler(tmp_path: Path) -> Iterator[None]:
    """A machine without a C++ compiler, and without what one compiled before."""
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    with fresh_cache(), config.patch({"cpp.cxx": (None, str(tmp_path / "no-compiler"))}):
        yield


def trained(
    make: Callable[[], Program],
    steps: int = STEPS,
    optimiser: Any = adam,
    can_compile: bool = True,
    **options: Any,
) -> tuple[dict[str, Tensor], Tensor, SVI]:
    """Parameters and buffers after some steps, the losses on the way, and the SVI."""
    torch.manual_seed(3)
    program = make()
    svi = SVI(
        program.model,
        program.guide,
        optimiser,
        program.loss,
        transform=program.transform,
        **options,
    )
    svi._gradients.tiered.can_compile = can_compile
    losses = []
    for i in range(steps):
        args, kwargs = program.arguments(i)
        loss = svi.step(*args, **kwargs)
        losses.append(torch.as_tensor(loss if isinstance(loss, Tensor) else loss.loss))
    state = svi.pair.params()
    for number, module in enumerate(program.modules):
        tensors = [*module.named_parameters(), *module.named_buffers()]
        state |= {f"{number}.{name}": tensor.detach().clone() for name, tensor in tensors}
    return state, torch.stack(losses), svi


@cache
def eagerly(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters and losses of the program as it is, in double precision."""
    state, losses, _ = trained(PROGRAMS[name], compile=False)
    return state, losses


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_steps_end_where_eager_ones_do(name: str) -> None:
    eager, eager_losses = eagerly(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        compiled, losses, svi = trained(PROGRAMS[name], compile=True)
    recorded, num_compiled = svi.num_graphs
    assert num_compiled == 1
    assert recorded == (2 if name in ("a ragged last batch", "data on the device") else 1)
    torch.testing.assert_close(compiled, eager, **ALIKE)
    torch.testing.assert_close(losses, eager_losses, **ALIKE)


@pytest.mark.usefixtures("float64")
def test_a_steady_loop_follows_batches_and_learning_rates() -> None:
    def run(compile: bool, steady: bool) -> tuple[dict[str, Tensor], SVI]:
        torch.manual_seed(3)
        program = PROGRAMS["a ragged last batch"]()
        svi = SVI(program.model, program.guide, adam, program.loss, compile=compile)
        for start in (0, 20):
            with svi.steady() if steady else nullcontext():
                for i in range(start, start + 20):
                    svi.step(*program.arguments(i)[0])
                    if i == 30:
                        assert svi.optimiser is not None
                        svi.optimiser.param_groups[0]["lr"] = 1e-3
            if start == 0:
                next(program.modules[0].parameters()).requires_grad_(False)
        return dict(program.modules[0].named_parameters()), svi

    eager, _ = run(compile=False, steady=False)
    steady, svi = run(compile=True, steady=True)
    assert svi.num_graphs[1] == 1
    torch.testing.assert_close(steady, eager, **ALIKE)
    (batch,), _ = PROGRAMS["a ragged last batch"]().arguments(1)
    with svi.steady():
        svi.step(batch)
        with pytest.raises(InputError, match="neither a tensor without a gradient"):
            svi.step(batch.clone().requires_grad_())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_steps_end_there_too(name: str) -> None:
    eager, eager_losses = eagerly(name)
    replayed, losses, svi = trained(PROGRAMS[name], compile=True, can_compile=False)
    assert svi.num_graphs[0] >= 1
    assert svi.num_graphs[1] == 0
    torch.testing.assert_close(replayed, eager, **ALIKE)
    torch.testing.assert_close(losses, eager_losses, **ALIKE)


@pytest.mark.usefixtures("float64", "no_compiler")
def test_without_a_compiler_recorded_steps_are_taken() -> None:
    eager, _ = eagerly("our VAE")
    with pytest.warns(RuntimeWarning, match="runs uncompiled, since torch's compiler stopped"):
        replayed, _, svi = trained(PROGRAMS["our VAE"], compile=True)
    assert svi.num_graphs == (1, 0)
    torch.testing.assert_close(replayed, eager, **ALIKE)


@pytest.mark.usefixtures("float64")
def test_eager_steps_are_those_of_pyros_svi() -> None:
    mine, losses, _ = trained(PROGRAMS["score function"], compile=False, steps=20)
    torch.manual_seed(3)
    program = PROGRAMS["score function"]()
    theirs = PyroSVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-2}), program.loss)
    their_losses = [theirs.step(*program.arguments(i)[0]) for i in range(20)]
    assert losses.tolist() == pytest.approx(their_losses, rel=1e-10)
    for name, value in pyro.get_param_store().items():
        torch.testing.assert_close(mine[name], value.detach(), **ALIKE)


GROUPS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "AdamW": partial(AdamW, lr=1e-2, weight_decay=0.1),
    "Adam with L2": partial(Adam, lr=1e-2, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-4),
    "Adam, fused": partial(Adam, lr=1e-2, fused=True),
    "two groups": lambda p: Adam([{"params": p[:3], "lr": 0.05}, {"params": p[3:]}], lr=1e-3),
    "SGD, which follows the graph": partial(SGD, lr=1e-3, momentum=0.9),
    "AMSGrad, which follows the graph": partial(Adam, lr=1e-2, amsgrad=True),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", GROUPS)
def test_optimisers(name: str) -> None:
    options: dict[str, Any] = {
        "optimiser": GROUPS[name],
        "clip_norm": 20.0,
        "schedule": partial(CosineAnnealingLR, T_max=40),
        "steps": 40,
    }
    eager, _, eager_svi = trained(PROGRAMS["a ragged last batch"], compile=False, **options)
    compiled, _, svi = trained(PROGRAMS["a ragged last batch"], compile=True, **options)
    assert svi.num_graphs == (2, 1)
    torch.testing.assert_close(compiled, eager, **ALIKE)
    assert svi.learning_rate == eager_svi.learning_rate
    assert svi.optimiser is not None
    assert eager_svi.optimiser is not None
    states = [s.optimiser.state_dict()["state"] for s in (svi, eager_svi)]
    torch.testing.assert_close(states[0], states[1], **ALIKE)


@pytest.mark.usefixtures("float64")
def test_accumulated_gradients_are_those_of_a_larger_batch() -> None:
    """In a model without latents the mean of two halves' gradients is the whole's."""

    def make(parts: int) -> Program:
        def model(x: Tensor) -> None:
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def arguments(i: int) -> Any:
            whole = each_batch(i // parts)[0][0]
            return (whole.chunk(parts)[i % parts],), {}

        return Program(model, lambda x: None, ELBO(NUM), arguments)

    whole, _, _ = trained(partial(make, 1), steps=30, compile=False)
    for compile in (False, True):
        halves, _, svi = trained(partial(make, 2), steps=60, accumulate=2, compile=compile)
        torch.testing.assert_close(halves, whole, **ALIKE)
    assert svi.num_graphs == (1, 1)


@pytest.mark.parametrize("compile", [False, True])
def test_a_gradient_of_the_first_half_alone_counts(compile: bool) -> None:
    """Of two parameters each is used in one half of every window."""

    def model(x: Tensor, number: int) -> None:
        loc = pyro.param(f"loc{number}", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    svi = SVI(model, lambda x, number: None, adam, ELBO(), accumulate=2, compile=compile)
    for i in range(12):
        svi.step(torch.ones(4, 3), i % 2)
    moved = svi.pair.params()
    torch.testing.assert_close(moved["loc0"], moved["loc1"])
    assert moved["loc0"].min() > 0.04


@pytest.mark.usefixtures("float64")
def test_the_optimiser_may_be_looked_at_saved_and_kept() -> None:
    def run(compile: bool, look: bool) -> dict[str, Tensor]:
        kept: list[Adam] = []

        def make(parameters: list[Tensor]) -> Adam:
            kept.append(Adam(parameters, lr=1e-2))
            return kept[0]

        torch.manual_seed(0)
        networks = Networks()
        svi = SVI(networks.model, networks.guide, make, ELBO(400), compile=compile)
        for i in range(12):
            svi.step(*each_batch(i)[0])
            if look and i > 5:
                assert kept[0].state_dict()["state"][0]["step"] == i + 1
                assert svi.optimiser is kept[0]
        return {name: p.detach() for name, p in networks.named_parameters()}

    eager = run(compile=False, look=True)
    torch.testing.assert_close(run(compile=True, look=True), eager, **ALIKE)
    torch.testing.assert_close(run(compile=True, look=False), eager, **ALIKE)


def test_an_optimiser_that_is_loaded_goes_on_from_there() -> None:
    def run(compile: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        networks = Networks()
        svi = SVI(networks.model, networks.guide, adam, ELBO(400), compile=compile)
        for i in range(6):
            svi.step(*each_batch(i)[0])
        assert svi.optimiser is not None
        state = svi.optimiser.state_dict()
        state["param_groups"][0]["lr"] = 0.3
        svi.optimiser.load_state_dict({**state, "state": dict(list(state["state"].items()))})
        for i in range(6):
            svi.step(*each_batch(i)[0])
        return {name: p.detach() for name, p in networks.named_parameters()}

    torch.testing.assert_close(run(True), run(False), rtol=1e-4, atol=1e-5)


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
        assert loss.item() == pytest.approx(want, rel=1e-5)

    def test_fresh_noise(self) -> None:
        _, svi = self.pair()
        x = each_batch(0)[0][0]
        losses = {svi.step(x).item() for _ in range(5)}
        assert len(losses) == 5

    def test_a_number_of_python(self) -> None:
        networks, svi = self.pair()
        networks.shift = 3.0
        self.compare(networks, svi)
        self.compare(networks, svi)
        assert svi.num_graphs[0] == 2

    def test_eval_mode_and_back(self) -> None:
        networks, svi = self.pair()
        for is_training in (False, True, False, True):
            networks.train(is_training)
            self.compare(networks, svi)
            self.compare(networks, svi)
        assert svi.num_graphs[0] == 2

    def test_a_parameter_replaced(self) -> None:
        networks, svi = self.pair()
        networks.decoder.weight = nn.Parameter(torch.ones(3, 2))
        self.compare(networks, svi)
        self.compare(networks, svi)

    def test_data_of_a_parameter_replaced(self) -> None:
        networks, svi = self.pair()
        networks.decoder.weight.data = torch.ones(3, 2)
        self.compare(networks, svi)

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

    def test_one_tensor_in_two_places(self) -> None:
        def model(x: Tensor, y: Tensor) -> None:
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc + y, 1.0).to_event(1), obs=x)

        svi = SVI(model, lambda x, y: None, partial(SGD, lr=0.0), Trace_ELBO(), compile=True)
        x, y = data()[0], data()[1]
        same = [svi.step(x, x).item() for _ in range(4)][-1]
        other = svi.step(x, y).item()
        assert same == pytest.approx(-dist.Normal(0.0, 1.0).log_prob(x - x).sum().item())
        assert other == pytest.approx(-dist.Normal(0.0, 1.0).log_prob(x - y).sum().item())

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
        assert loss.item() == pytest.approx(want, rel=1e-5)

    def test_a_float_that_becomes_none(self) -> None:
        def model(x: Tensor, scale: float | None) -> None:
            loc = pyro.param("loc", torch.zeros(3))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(loc, scale or 1.0).to_event(1), obs=x)

        x = data()[0]
        svi = SVI(model, lambda x, scale: None, partial(SGD, lr=0.0), Trace_ELBO())
        for scale in (1.0, 2.0, 3.0, None, 1.5, None):
            want = -dist.Normal(0.0, scale or 1.0).log_prob(x).sum().item()
            assert svi.step(x, scale).item() == pytest.approx(want, rel=1e-5)

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

    def test_another_type(self) -> None:
        networks, svi = self.pair()
        networks.double()
        with pytest.raises(InputError, match="changed their type or device"):
            svi.step(*each_batch(0)[0])

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
        assert loss.item() == pytest.approx(want, rel=1e-5)

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


def reads_item(z: Tensor) -> Tensor:
    return z * 2 if z.mean().item() > 0 else z


def reads_truth(z: Tensor) -> Tensor:
    if (z > 0).all():
        z = z + 1
    return z


def compares(z: Tensor) -> Tensor:
    return z + 1 if torch.equal(z, z.abs()) else z


def masks(z: Tensor) -> Tensor:
    return z + z[z > 0].sum()


def selects(z: Tensor) -> Tensor:
    return z + torch.masked_select(z, z > 0).sum()


def draws_from_numpy(z: Tensor) -> Tensor:
    import numpy as np

    return z + float(np.random.randn())  # noqa: NPY002


def draws_from_python(z: Tensor) -> Tensor:
    import random

    return z + random.random()


COUNTER = {"calls": 0}


def counts(z: Tensor) -> Tensor:
    COUNTER["calls"] += 1
    return z + 0.1 * COUNTER["calls"]


REFUSED = {
    reads_item: r"test_svi.py:\d+ \(in reads_item\) reads the value of a tensor, by item",
    reads_truth: r"test_svi.py:\d+ \(in reads_truth\) reads the value of a tensor, by __bool__",
    compares: r"test_svi.py:\d+ \(in compares\) reads the value of a tensor, by equal",
    masks: r"test_svi.py:\d+ \(in masks\) makes a tensor whose shape depends on values",
    selects: r"test_svi.py:\d+ \(in selects\) makes a tensor whose shape depends on values",
    draws_from_numpy: r"test_svi.py:\d+ \(in draws_from_numpy\) draws from NumPy's random",
    draws_from_python: r"test_svi.py:\d+ \(in draws_from_python\) draws from Python's random",
    counts: "COUNTER.calls change",
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("twist", REFUSED, ids=lambda f: f.__name__)
def test_what_cannot_be_recorded_is_named_once_and_runs_all_the_same(
    twist: Callable[[Tensor], Tensor],
) -> None:
    import random

    import numpy as np

    def make() -> Program:
        networks = Networks(nn.BatchNorm1d(6))
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        COUNTER["calls"] = 0

        def model(x: Tensor) -> None:
            pyro.module("networks", networks)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                mean = networks.decoder(twist(z))
                pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

        return Program(model, networks.guide, Trace_ELBO(), each_batch, (networks,))

    eager, eager_losses, _ = trained(make, steps=20, compile=False)
    with pytest.warns(RuntimeWarning, match=REFUSED[twist]) as caught:
        state, losses, svi = trained(make, steps=20, num_steps=10**9)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1
    assert svi.num_graphs == (0, 0)
    if twist is not draws_from_python:  # as the checker of types does here, and less with graphs
        torch.testing.assert_close(losses, eager_losses, **ALIKE)
        torch.testing.assert_close(state, eager, **ALIKE)
    with pytest.raises(InputError, match=f"compile=True, but .*{REFUSED[twist]}"):
        trained(make, steps=8, compile=True)


def test_what_cannot_be_recorded_is_an_error_each_time() -> None:
    def model(x: Tensor) -> None:
        reads_item(x)
        mean_of_data(x)

    svi = SVI(model, lambda x: None, adam, ELBO(), compile=True)
    svi.step(data()[0])
    for _ in range(2):
        with pytest.raises(InputError, match="compile=True, but"):
            svi.step(data()[0])


def test_short_runs_stay_as_they_are_and_long_ones_are_recorded() -> None:
    _, _, short = trained(PROGRAMS["our VAE"], steps=10, num_steps=10)
    _, _, long = trained(PROGRAMS["our VAE"], steps=10, num_steps=10_000)
    assert short.num_graphs == (0, 0)
    assert long.num_graphs[0] == 1


@pytest.mark.parametrize("compile", [False, True])
def test_a_loss_that_is_not_finite_is_noticed_within_a_hundred_steps(compile: bool) -> None:
    svi = SVI(mean_of_data, lambda x: None, partial(Adam, lr=1e-3), ELBO(), compile=compile)
    batches = [torch.full((5, 3), 0.0)] * 29 + [torch.full((5, 3), torch.nan)] * 121
    taken: list[int] = []

    def step(i: int) -> None:
        taken.append(i)
        svi.step(batches[i])

    with pytest.raises(NotFinite, match="parameters are as before that step") as error:
        repeat(150, step)
    assert len(taken) == 100
    assert error.value.step == 30


def repeat(times: int, step: Callable[[int], None]) -> None:
    for i in range(times):
        step(i)


def mean_of_data(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(3))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False).to_event(1), obs=x)


@pytest.mark.parametrize("compile", [False, True])
def test_autocast(compile: bool) -> None:
    """Products in bfloat16 move the loss by no more than their eight bits do."""
    make = PROGRAMS["our VAE"]
    _, exact, _ = trained(make, steps=6, compile=False)
    _, cast, svi = trained(make, steps=6, compile=compile, autocast=torch.bfloat16)
    torch.testing.assert_close(cast, exact, rtol=0.05, atol=0.05)
    assert (cast != exact).any()
    assert svi.num_graphs == ((1, 1) if compile else (0, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate is 0"),
        ({"loss": "elbo"}, "loss is an ELBO.*got str"),
        ({"optimiser": pyro.optim.Adam({"lr": 1.0}, {"clip_norm": 1.0})}, "clip_norm="),
        (
            {"optimiser": pyro.optim.ExponentialLR({"optimizer": Adam, "optim_args": {"lr": 1.0}})},
            "schedule=",
        ),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    networks = Networks()
    with pytest.raises(InputError, match=message):
        SVI(networks.model, networks.guide, **({"optimiser": adam} | options))


def test_evaluate_loss_is_in_eval_mode_and_takes_no_step() -> None:
    networks = Networks(nn.Dropout(0.5))
    svi = SVI(networks.model, networks.guide, adam, ELBO(400), compile=True)
    x = each_batch(0)[0][0]
    svi.step(x)
    before = {name: p.detach().clone() for name, p in networks.named_parameters()}
    losses = []
    for _ in range(4):
        torch.manual_seed(2)
        losses.append(svi.evaluate_loss(x).loss.item())
    networks.eval()
    torch.manual_seed(2)
    want = ELBO(400).loss(networks.model, networks.guide, x).loss.item()
    assert losses == pytest.approx([want] * 4, rel=1e-6)
    torch.testing.assert_close(dict(networks.named_parameters()), before, rtol=0, atol=0)
