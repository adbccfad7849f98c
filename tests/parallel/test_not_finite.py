"""A gradient that is not finite in one process stops, or skips, the step in all."""

from functools import partial
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.optim import SGD

from pyrovae import Batches
from pyrovae.errors import NotFinite

from .fits import Settings, result_of_fit, user_program
from .processes import get_results, run_processes


def _setup(non_finite: str, compile: bool) -> Settings:
    """The gradient of one datum is NaN, in the second shard of the second batch."""
    program = user_program()
    x = program["data"]
    is_bad = torch.arange(len(x)) == 12

    def model(x: Tensor, is_bad: Tensor) -> None:
        program["model"](x)
        loc = pyro.param("loc")[0]
        pyro.factor("bad", ((loc - loc.detach()).abs() + ~is_bad.any()).sqrt())

    def guide(x: Tensor, is_bad: Tensor) -> None:
        program["guide"](x)

    return program | {
        "model": model,
        "guide": guide,
        "data": Batches((x, is_bad), 8, shuffle=False),
        "optimiser": partial(SGD, lr=1e-3, momentum=0.9),
        "non_finite": non_finite,
        "compile": compile,
        "skip_compiler": True,
        "shards": 2,
    }


def _results(group: ProcessGroup | None) -> dict[str, Tensor]:
    results = {}
    for compile in (False, True):
        result = result_of_fit(partial(_setup, "skip", compile), group)
        results |= {f"{compile} {name}": tensor for name, tensor in result.items()}
        try:
            result_of_fit(partial(_setup, "stop", compile), group)
        except NotFinite as error:
            print(error)
        torch.set_default_dtype(torch.float32)
    return results


def _results_alone(group: ProcessGroup) -> dict[str, Tensor]:
    return _results(None)


@pytest.mark.slow
def test_all_processes_skip_or_stop_alike(tmp_path: Path) -> None:
    ended = run_processes(_results, folder=tmp_path)
    alone = run_processes(_results_alone, folder=tmp_path, num=1)
    first, second = get_results(ended)
    (expected,) = get_results(alone)
    for name, value in first.items():
        assert value.isfinite().all()
        assert torch.equal(value, second[name])
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)
    assert ended[0].out == ended[1].out == alone[0].out
    eager, recorded = ended[0].out.splitlines()
    assert eager.startswith("in batch 2 of epoch 1, ")
    assert recorded == eager
