"""A compiled recording gives what the function gives, also where inductor by itself would not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.infer.compiler.direct_call import DirectCall
from pyrovae.infer.compiler.inductor import compile_recording
from pyrovae.infer.compiler.recording.record import record


def test_a_graph_is_of_the_shapes_that_it_was_made_for() -> None:
    """With dynamic shapes, the first graph would be taken from the cache for the second."""

    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        return [a[:100] @ b, a + 1]

    for size in (8, 200):
        inputs = [torch.randn(size, 14), torch.randn(14, size)]
        run = compile_recording(record(function, inputs), inputs)
        for got, want in zip(run(*inputs), function(*inputs), strict=True):
            torch.testing.assert_close(got, want)


def test_one_tensor_in_two_places_is_two_inputs() -> None:
    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        return [a - 2 * b]

    x, y = torch.randn(3), torch.randn(3)
    run = compile_recording(record(function, [x, x]), [x, x])
    for a, b in ((x, x), (x, y), (y, x)):
        torch.testing.assert_close(run(a, b), function(a, b))


def test_draws_are_those_of_torch() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [
            torch.rand(5, generator=None) + x,
            torch.randn(5, generator=None) + x,
            torch.randint(9, (5,), generator=None) + x,
            torch.randint(-(2**63), 2**63 - 1, (5,), generator=None),
            torch.randperm(5, generator=None) + x,
            torch.bernoulli(x.sigmoid().double()),
            torch.bernoulli(x.sigmoid()),
        ]

    x = torch.arange(5.0)
    run = compile_recording(record(function, [x]), [x])
    torch.manual_seed(7)
    got = run(x)
    torch.manual_seed(7)
    for each, want in zip(got, function(x), strict=True):
        torch.testing.assert_close(each, want, rtol=1e-6, atol=1e-6)


def test_later_calls_go_to_the_graph_itself() -> None:
    """Past torch's wrappers, with the constants of the graph, and as grad mode was before."""
    constant = torch.arange(3.0)
    weight = torch.ones(3, requires_grad=True)

    def function(x: Tensor) -> list[Tensor]:
        return [x * weight.detach() + constant, (x @ weight).detach()]

    x = torch.randn(3)
    call = DirectCall(_compiled(function, x))
    for _ in range(3):
        got = call(x)
        assert torch.is_grad_enabled()
        for each, want in zip(got, function(x), strict=True):
            torch.testing.assert_close(each, want)
        x = torch.randn(3)
    assert call.is_direct


def test_where_torch_makes_views_of_inputs_its_wrappers_are_kept() -> None:
    x = torch.randn(3)
    call = DirectCall(_compiled(lambda x: [x.view(3, 1), x + 1], x))
    for _ in range(3):
        view, more = call(x)
        assert view.data_ptr() == x.data_ptr()
        assert more.tolist() == (x + 1).tolist()
        x = torch.randn(3)
    assert not call.is_direct


def _compiled(function: Callable[[Tensor], list[Tensor]], x: Tensor) -> Callable[..., Any]:
    with torch.no_grad():
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(x)
        compiled: Callable[..., Any] = torch._inductor.standalone_compile(
            graph, [x], dynamic_shapes="from_example_inputs", options={}
        )
    return compiled
