"""Steps are counted alike in a graph, by tensors alone, and outside of one, by numbers."""

import random

import pytest
import torch

from pyrovae.infer.nonfinite.guard import Guard, NonFinite, StepRecord

NAN, INF = float("nan"), float("inf")
CPU = torch.device("cpu")


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("checks_loss", [False, True])
def test_both_ways_count_alike(policy: NonFinite, checks_loss: bool) -> None:
    draw = random.Random(0)
    by_tensors, by_numbers = (Guard(policy, CPU, checks_loss=checks_loss) for _ in range(2))
    for step in range(60):
        loss = torch.tensor(draw.choice([1.0, -1.0, 2.0, INF]))
        gradients = [torch.ones(2, 3), torch.tensor([1.0, draw.choice([0.0, 1.0, 3.0, NAN])])]
        for guard in (by_tensors, by_numbers):
            guard.record(StepRecord.at_start(step + 1, (), {}))
        by_tensors.count_step(by_tensors.counts, [loss], gradients)
        by_numbers.count([loss], gradients)
        assert by_numbers.counts.tolist() == by_tensors.counts.tolist()
        assert bool(by_numbers.blocked) == bool(by_tensors.blocked)
        if step % 20 == 19:
            assert by_numbers.report()[0] == by_tensors.report()[0]


def test_a_sum_that_overflows_counts() -> None:
    guard = Guard("stop", CPU)
    guard.count([torch.tensor(1.0)], [torch.full((2,), 3e38)])
    assert bool(guard.blocked)
    guard = Guard("stop", CPU)
    guard.count([torch.tensor(1.0)], [torch.full((2,), 3e38).double()])
    assert not bool(guard.blocked)
