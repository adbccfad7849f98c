"""Views of the program in a graph that lays its tensors out anew."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyrovae.infer.compiler.inductor import compile_recording
from pyrovae.infer.compiler.recording.record import record
from pyrovae.infer.compiler.strides import CannotCompile, materialise

pytestmark = pytest.mark.slow

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "slice": lambda x: (x + 1)[:, 3:9],
    "slice of gathered rows": lambda x: x[torch.tensor([3, 0, 2])][:, 3:],
    "transposed": lambda x: (x * 2).t(),
    "every other": lambda x: (x * 2)[::2, 1::3],
    "unbound": lambda x: (x * 2).unbind(1)[4],
    "chunk": lambda x: (x * 2).chunk(3, 1)[1],
    "expanded": lambda x: (x * 2)[:, :1].expand(-1, 5),
    "unfolded": lambda x: (x * 2).unfold(1, 4, 2),
    "diagonal": lambda x: (x * 2).diagonal(),
    "input": lambda x: x[1:, 2:],
    "permuted": lambda x: (x * 2).view(4, 3, 4).permute(2, 0, 1),
}


def compiled(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return compile_recording(record(lambda x: [function(x)], [x]), [x])(x)[0]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_stored_with_its_values(view: str) -> None:
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))

    def function(x: Tensor) -> Tensor:
        part = materialise(VIEWS[view](x))
        return part.sin().cumsum(0) + part.sum()

    torch.testing.assert_close(compiled(function, x), function(x))


@pytest.mark.parametrize("view", ["slice", "transposed", "chunk", "input", "permuted"])
@pytest.mark.parametrize("offset", [None, 0, 2])
def test_as_strided_of_a_view_goes_by_the_strides_of_the_program(
    view: str, offset: int | None
) -> None:
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))

    def function(x: Tensor) -> Tensor:
        return VIEWS[view](x).as_strided((2, 3), (5, 1), offset) * 2

    torch.testing.assert_close(compiled(function, x), function(x), rtol=0, atol=0)


def test_as_strided_of_an_expanded_sum_is_refused() -> None:
    def function(x: Tensor) -> Tensor:
        return (x.t() + x.t()).t().contiguous().expand(2, 4, 12).clone().as_strided((2,), (1,))

    compiled(function, torch.ones(4, 12))  # a clone of that kind is compact


def test_memory_that_a_graph_writes_to_is_apart() -> None:
    weight = torch.ones(6)
    alias = weight[:3]

    def function(x: Tensor) -> list[Tensor]:
        total = (alias * x).sum()
        weight.mul_(2)
        return [total + (alias * x).sum()]

    with pytest.raises(CannotCompile, match="shares its memory"):
        compile_recording(record(function, [torch.ones(3)]), [torch.ones(3)])


def test_parts_of_one_memory_that_do_not_overlap_are_apart() -> None:
    flat = torch.ones(6)
    first, second = flat[:3], flat[3:]

    def function(x: Tensor) -> list[Tensor]:
        first.add_(x)
        return [first * second]

    run = compile_recording(record(function, [torch.ones(3)]), [torch.ones(3)])
    flat.fill_(1.0)
    torch.testing.assert_close(run(torch.full((3,), 2.0))[0], torch.full((3,), 3.0))
    torch.testing.assert_close(flat, torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 1.0]))
