"""A graph that differs from its program is found out, and what it did is undone."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain, repeat
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyrovae import InputError
from pyrovae.infer import SVI
from pyrovae.infer.compiler.audit import Outcome, agree
from pyrovae.infer.compiler.preserve import Snapshot
from pyrovae.infer.compiler.rounding import move_in_last_digits, rounding_at_random
from pyrovae.infer.compiler.specialisations import Compiled, OutputSpec
from pyrovae.infer.compiler.tiered import TieredFunction
from pyrovae.infer.svi.gradients import LossAndGradients
from tests.infer.programs import adam

X = torch.linspace(-1, 1, 12).reshape(4, 3)


class Program:
    """Adds to a total, draws, and returns its argument with noise; the kind of fault is chosen."""

    def __init__(self) -> None:
        self.network = nn.BatchNorm1d(3, affine=False)

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(x) + torch.randn(x.shape)


def make_tiered(fault: Callable[..., Any], compile: Any = "auto") -> tuple[TieredFunction, Program]:
    """A function whose compiled graph has a fault; it is compiled at its second call."""
    program = Program()

    def compiler(recording: Any, outputs: OutputSpec, inputs: list[Tensor]) -> Compiled:
        def run(*inputs: Tensor) -> Any:
            return fault(outputs.unflatten(recording(*inputs)), program)

        return Compiled(run, recording.writes)

    tiered = TieredFunction(program, (program,), compile=compile, compiler=compiler)
    tiered._break_even.of_recording = lambda *_: True  # type: ignore[method-assign]
    tiered._break_even.of_compiling = lambda *_: True  # type: ignore[method-assign]
    return tiered, program


def run(tiered: TieredFunction, num: int = 8) -> list[Tensor]:
    return [tiered((X,), {}) for _ in range(num)]


def wrong_result(result: Tensor, program: Program) -> Tensor:
    return result * 1.01


def wrong_entry(result: Tensor, program: Program) -> Tensor:
    result[1, 2] += 0.01
    return result


def wrong_type(result: Tensor, program: Program) -> Tensor:
    return result.double()


def wrong_buffer(result: Tensor, program: Program) -> Tensor:
    assert program.network.running_mean is not None
    program.network.running_mean += 0.01
    return result


def wrong_count(result: Tensor, program: Program) -> Tensor:
    assert program.network.num_batches_tracked is not None
    program.network.num_batches_tracked += 1
    return result


def wrong_draws(result: Tensor, program: Program) -> Tensor:
    torch.randn(())
    return result


def stops(result: Tensor, program: Program) -> Tensor:
    raise ValueError("a kernel stopped")


FAULTS = [wrong_result, wrong_entry, wrong_type, wrong_buffer, wrong_count, wrong_draws, stops]


@pytest.mark.filterwarnings("ignore:the recorded step runs uncompiled")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_graph_leaves_no_trace(fault: Callable[..., Any]) -> None:
    plain = Program()
    torch.manual_seed(0)
    want = [plain(X) for _ in range(8)]
    tiered, program = make_tiered(fault)
    torch.manual_seed(0)
    got = run(tiered)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    torch.testing.assert_close(program.network.state_dict(), plain.network.state_dict())
    assert tiered.num_graphs == (1, 0)


def test_a_call_that_is_refused_leaves_no_trace() -> None:
    num_calls = 0

    def late(result: Tensor, program: Program) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        return result * 1.01 if num_calls > 2 else result

    tiered, program = make_tiered(late, compile=True)
    state: Any = None

    def call_often() -> None:
        nonlocal state
        for _ in range(40):
            state = copy.deepcopy(program.network.state_dict()), torch.get_rng_state()
            tiered((X,), {})

    with pytest.raises(InputError, match="no longer computes what the program does"):
        call_often()
    torch.testing.assert_close(program.network.state_dict(), state[0], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state[1])


def test_graphs_are_audited_less_and_less_often() -> None:
    """At the first call, and when the number of calls has doubled."""
    tiered, _ = make_tiered(lambda result, _: result)
    num_graph_calls, audited = 0, []
    run_graph, audit = tiered._run_graph, tiered._audit

    def count(*args: Any) -> Any:
        nonlocal num_graph_calls
        num_graph_calls += 1
        return run_graph(*args)

    def note(*args: Any) -> Any:
        audited.append(num_graph_calls)
        return audit(*args)

    tiered._run_graph, tiered._audit = count, note  # type: ignore[method-assign]
    run(tiered, 70)
    assert audited == [1, 2, 4, 8, 16, 32, 64]


def test_a_wrong_graph_is_named_once() -> None:
    tiered, _ = make_tiered(wrong_result)
    with pytest.warns(RuntimeWarning, match="its result differs from the program's") as caught:
        run(tiered)
    assert len(caught) == 1


def test_a_graph_that_stops_is_named_with_its_error() -> None:
    tiered, _ = make_tiered(stops)
    with pytest.warns(RuntimeWarning, match="stopped with ValueError: a kernel stopped"):
        run(tiered)


def test_a_right_graph_is_kept() -> None:
    tiered, _ = make_tiered(lambda result, program: result)
    run(tiered)
    assert tiered.num_graphs == (1, 1)


@pytest.mark.parametrize("compile", ["auto", True])
def test_a_change_that_is_not_watched_is_found_and_its_step_undone(compile: Any) -> None:
    """The program reads an iterator, which nothing can watch."""
    factors = chain([1.0] * 6, repeat(3.0))

    def program(x: Tensor) -> Tensor:
        return x * next(factors) + torch.randn(())

    tiered = TieredFunction(program, (program,), compile=compile)
    tiered._break_even.of_recording = lambda *_: True  # type: ignore[method-assign]
    tiered.can_compile = False

    if compile is True:
        with pytest.raises(InputError, match="no longer computes what the program does"):
            run(tiered, 200)
    else:
        with pytest.warns(RuntimeWarning, match="no longer computes what the program does"):
            run(tiered, 200)
        torch.manual_seed(0)
        want = 3 * X + torch.randn(())
        torch.manual_seed(0)
        torch.testing.assert_close(tiered((X,), {}), want)


@pytest.mark.parametrize("what", ["gradient", "moment", "parameter", "buffer"])
@pytest.mark.filterwarnings("ignore:the recorded step runs uncompiled")
def test_a_wrong_update_is_undone(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, moments and their counts are those of steps that were never compiled."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(3, 2)
            self.norm = nn.BatchNorm1d(2)

        def model(self, x: Tensor) -> None:
            pyro.module("net", self)
            with pyro.plate("data", len(x)):
                y = self.norm(self.layer(x)).sum(-1) + torch.randn(len(x))
                pyro.sample("x", dist.Normal(y, 1.0), obs=x[:, 0])

        def guide(self, x: Tensor) -> None:
            pass

    def train(compile: Any) -> tuple[Any, Any, Any]:
        pyro.clear_param_store()
        net = Net()
        svi = SVI(net.model, net.guide, adam, Trace_ELBO(), compile=compile)
        torch.manual_seed(1)
        losses = [svi.step(X) for _ in range(8)]
        assert svi.optimiser is not None
        return losses, net.state_dict(), svi.optimiser.state_dict()["state"]

    want = train(False)
    runs = []

    def compile_wrongly(self: Any, recording: Any, outputs: Any, inputs: Any) -> Compiled:
        """A graph made of the recording and the plain update, with a fault."""

        def run(*inputs: Tensor) -> Any:
            loss, gradients = outputs.unflatten(recording(*inputs))
            runs.append(1)
            if what == "gradient":
                gradients[0] = gradients[0] * 1.01
            result = self._finish((loss, gradients))
            with torch.no_grad():
                parameter = self._parameters.tensors[0]
                moment = self._optimisation.optimiser.state[parameter]["exp_avg"]
                {"moment": moment, "parameter": parameter, "buffer": recording.writes[0]}.get(
                    what, torch.zeros(2)
                ).mul_(1.01)
            return result

        writes = [*recording.writes, self.guard.counts]
        for parameter in self._parameters.tensors:
            writes += [parameter, *self._optimisation.optimiser.state[parameter].values()]
        return Compiled(run, writes, self._finish, self._optimisation.sync)

    monkeypatch.setattr(LossAndGradients, "_compile", compile_wrongly)
    got = train(True)
    assert len(runs) == 1
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_rounding_is_told_from_a_fault_where_large_terms_cancel() -> None:
    """1e4 (a - b) with a = b + 1e-4: the result has three right digits in single precision."""
    a, b = torch.tensor([1.0001]), torch.tensor([1.0])
    state = Snapshot([])

    def run(factor: float = 1.0) -> Outcome:
        return Outcome([factor * (1e4 * a - 1e4 * b)], [])

    def run_again(is_rounded_at_random: bool) -> Outcome:
        with rounding_at_random(generator) if is_rounded_at_random else nullcontext():
            return run()

    generator = torch.Generator().manual_seed(0)
    assert agree(run(), run(1 + 1e-3), state, run_again, None)
    assert not agree(run(), run(1.5), state, run_again, None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_result_that_is_wrong_by_a_tenth_differs_in_any_precision(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, 3.0, -2.0], dtype=dtype)
    want, got = Outcome([x], []), Outcome([x * 1.1], [])
    assert not agree(want, got, Snapshot([]), lambda _: want, None)


def test_a_gradient_that_should_be_zero_is_zero() -> None:
    want, got = Outcome([torch.zeros(3)], []), Outcome([torch.full((3,), 1e-9)], [])
    assert not agree(want, got, Snapshot([]), lambda _: want, None)


def test_a_vanished_scale_loses_digits_that_no_parameter_shows() -> None:
    """(loc + 1e-7 eps - loc) / 1e-14: whole units in the last place of loc stay what they are."""
    loc, eps = torch.tensor([1.7, -2.3, 0.4]), torch.tensor([0.5, -1.1, 0.3])

    def run(loc: Tensor) -> Tensor:
        return (loc + 1e-7 * eps - loc) / 1e-14

    generator = torch.Generator().manual_seed(0)
    moved = loc.clone()
    move_in_last_digits([moved], generator)
    assert (moved != loc).all()
    with rounding_at_random(generator):
        rounded = run(loc)
    lost = (run(loc.double()).float() - run(loc)).abs()
    assert ((rounded - run(loc)).abs() > 0.1 * lost).any()


def test_draws_and_whole_numbers_are_not_rounded_at_random() -> None:
    counts = torch.tensor([0.0, 3.0, 500.0])
    torch.manual_seed(0)
    want = torch.randn(50)
    torch.manual_seed(0)
    with rounding_at_random(torch.Generator().manual_seed(0)):
        got = torch.randn(50)
        doubled = counts * 2
        halves = counts * 0.3
    assert torch.equal(got, want)
    assert torch.equal(doubled, counts * 2)
    assert (halves != counts * 0.3).tolist() == [False, True, False]


def test_last_digits_move_each_entry() -> None:
    x = torch.tensor([1.0, -1000.0, 1e-3])
    moved = x.clone()
    move_in_last_digits([moved, torch.empty(0)], torch.Generator().manual_seed(0))
    unit = torch.finfo(torch.float32).eps * (x.abs() + x.abs().mean())
    assert ((moved - x).abs() > 4 * unit).all()
    assert ((moved - x).abs() < 12 * unit).all()


def test_where_no_clock_decides_the_expected_kind_of_call_is_compiled() -> None:
    program = Program()
    kinds: list[torch.Size] = []

    def compiler(recording: Any, outputs: OutputSpec, inputs: list[Tensor]) -> Compiled:
        kinds.append(inputs[0].shape)
        return Compiled(lambda *given: outputs.unflatten(recording(*given)), recording.writes)

    tiered = TieredFunction(
        program, (program,), compile=True, compiler=compiler, repeatable=True, num_calls=1000
    )
    tiered.expect((X,))
    for _ in range(6):
        tiered((X[:3],), {})  # such as the last batch of a pass
        tiered((X,), {})
    assert kinds == [X.shape]
