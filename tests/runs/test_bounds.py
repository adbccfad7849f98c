"""A run directory from someone else cannot keep a command busy.

Its counts have bounds, and what its options describe must fit the weights that it holds.
"""

import time
from typing import Any

import pytest
import yaml

from benchmarks.fuzz.file_trees import FileTree
from benchmarks.fuzz.harness import Case, run_case
from benchmarks.fuzz.run_directories import finished_run
from pyrovae import InputError
from pyrovae.data.memory import check_num_parameters, parameter_budget
from pyrovae.runs.config import validate
from pyrovae.runs.prepare import check_step_memory

LONGEST = 60
"""Seconds. Reading a long YAML file takes some; what would be built takes minutes and gigabytes."""


@pytest.fixture(scope="module")
def run() -> FileTree:
    return finished_run("table")


OPTIONS: list[dict[str, Any]] = [
    {"num_particles": 2**31 - 1},
    {"hidden": [1] * 90_000},
    {"hidden": [100_000, 100_000]},
    {"latent_dim": 2**31 - 1},
    {"latent_dim": 10_000_000},
    {"latent_dim": 30_000, "posterior": "full_rank"},
    {"prior": {"name": "flow", "num_transforms": 100_000_000}},
    {"prior": {"name": "flow", "hidden": [1] * 100_000}},
    {"prior": {"name": "flow", "hidden": [20_000, 20_000]}},
    {"prior": {"name": "vamp", "num_components": 200_000_000}},
    {"prior": {"name": "mixture", "num_components": 200_000_000}},
    {"posterior": {"name": "iaf", "num_transforms": 100_000_000}},
    {"posterior": {"name": "spline", "num_bins": 100_000_000}},
    {"posterior": {"name": "low_rank", "rank": 100_000_000}},
    {"posterior": {"name": "straight_through", "num_classes": 100_000_000}},
    {"inference": {"name": "semi_amortised", "num_steps": 100_000_000}},
    {"model": {"name": "hierarchical", "latent_dims": [2] * 90_000}},
    {"model": {"name": "mixture", "num_components": 500_000_000}},
    {"likelihood": {"family": "Normal", "num_components": 500_000_000}},
    {"likelihood": {"family": "Categorical", "num_classes": 500_000_000}},
    {"shards": 2**31 - 1},
]


def test_a_step_that_does_not_fit_into_memory_is_refused() -> None:
    config = validate({"objective": {"name": "iwae", "num_particles": 100_000}}, "options")
    check_step_memory(config.model_copy(update={"batch_size": 1}), (3,))
    with pytest.raises(InputError, match="a step with 100,000 samples of each of 128 data"):
        check_step_memory(config, (3, 1000, 1000))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options)[:60])
@pytest.mark.parametrize("command", ["evaluate run", "train --resume run"])
def test_counts_that_are_too_large_are_refused_at_once(
    run: FileTree, options: dict[str, Any], command: str
) -> None:
    config = run["run/config.yaml"]
    assert isinstance(config, bytes)
    text = yaml.safe_dump({**yaml.safe_load(config), **options}).encode()
    start = time.monotonic()
    outcome = run_case(Case(tuple(command.split()), {**run, "run/config.yaml": text}))
    assert outcome.is_refusal, outcome
    assert not outcome.lost
    assert time.monotonic() - start < LONGEST


def test_what_exceeds_the_weights_is_refused() -> None:
    check_num_parameters(10**8, "a network")
    with parameter_budget(1000):
        check_num_parameters(1000, "a network")
        with pytest.raises(InputError, match="does not fit the weights that were saved"):
            check_num_parameters(10**8, "a network")
    check_num_parameters(10**8, "a network")
