"""A compiled recording gives what the function gives, also where inductor by itself would not."""

import torch
from torch import Tensor

from pyrovae.infer.compiled import compile_recording
from pyrovae.infer.record import record


def test_a_graph_is_of_the_shapes_that_it_was_made_for() -> None:
    """With dynamic shapes, the first graph would be taken from the cache for the second."""

    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        return [a[:100] @ b, a + 1]

    for size in (8, 200):
        inputs = [torch.randn(size, 14), torch.randn(14, size)]
        run = compile_recording(record(function, inputs), inputs)
        for got, want in zip(run(*inputs), function(*inputs), strict=True):
            torch.testing.assert_close(got, want)


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
