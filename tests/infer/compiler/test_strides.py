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


X = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))


def compiled(function: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    return compile_recording(record(function, [X]), [X])(X)


def test_views_are_stored_with_their_values() -> None:
    def function(x: Tensor) -> list[Tensor]:
        parts = [materialise(view(x)) for view in VIEWS.values()]
        return [part.sin().cumsum(0) + part.sum() for part in parts]

    torch.testing.assert_close(compiled(function), function(X))


def test_as_strided_of_a_view_goes_by_the_strides_of_the_program() -> None:
    views = [VIEWS[name] for name in ("slice", "transposed", "chunk", "input", "permuted")]

    def function(x: Tensor) -> list[Tensor]:
        return [
            view(x).as_strided((2, 3), (5, 1), offset) * 2
            for view in views
            for offset in (None, 0, 2)
        ]

    torch.testing.assert_close(compiled(function), function(X), rtol=0, atol=0)


def test_as_strided_of_a_tensor_that_is_not_compact_is_refused() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [torch.empty_strided((2, 3), (8, 2)).zero_().as_strided((2,), (1,)) + x.sum()]

    with pytest.raises(CannotCompile, match="not compact"):
        compiled(function)


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
