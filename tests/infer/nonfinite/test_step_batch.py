"""Which data of a step are not finite, and their numbers in the data set."""

import torch

from pyrovae.infer.nonfinite.non_finite_tensor import StepBatch


def test_rows_kinds_and_numbers() -> None:
    x, y = torch.zeros(3, 2), torch.zeros(3)
    assert StepBatch.from_arguments((x, y)) == StepBatch(3, "", frozenset())
    x[1, 0], y[2] = torch.nan, torch.nan
    numbers = [10, 20, 30]
    found = StepBatch.from_arguments((x, {"y": y, "weight": torch.full((2,), torch.inf)}), numbers)
    assert found == StepBatch(3, "NaN", frozenset({1, 2}), numbers)
    y[0] = torch.inf
    found = StepBatch.from_arguments((x, y), [10, 20])  # not one for each datum
    assert found == StepBatch(3, "NaN or infinite", frozenset({0, 1, 2}), None)
    assert StepBatch.from_arguments((torch.tensor(1.0), x)).size is None
    assert StepBatch.from_arguments(("x", 1)).size is None
