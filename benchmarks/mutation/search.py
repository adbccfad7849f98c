"""Draw mutants at random, and find those that no test catches."""

import json
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter

from rich.progress import Progress

from .copies import Copy, Outcome
from .mutants import Mutant, mutants_of
from .tracing import LineMap, rank_of

__all__ = ["Record", "Result", "draw", "read", "search"]


@dataclass
class Result:
    """What became of a mutant.

    Attributes:
        caught: whether a test failed, or the tests hung or crashed.
        by: the first test that failed, or what else happened.
        num_tests: number of tests to run.
        num_running: number of tests that run the changed statement.
        seconds: time taken.
    """

    caught: bool
    by: str
    num_tests: int
    num_running: int
    seconds: float


@dataclass
class Record:
    """The mutants of a search, and what became of them so far.

    Attributes:
        wings: folders or files in ``pyrovae/``.
        seed: seed of the draw.
        num_candidates: number of mutants to draw from.
        mutants: those drawn.
        results: by number of the mutant.
    """

    wings: tuple[str, ...]
    seed: int
    num_candidates: int
    mutants: list[Mutant]
    results: dict[int, Result] = field(default_factory=dict)

    @property
    def survivors(self) -> list[int]:
        """Numbers of the mutants that no test caught."""
        return [number for number, result in self.results.items() if not result.caught]

    def write(self, path: Path) -> None:
        """Write all as JSON, so that a file that is read is never torn."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        beside.replace(path)


def draw(root: Path, wings: tuple[str, ...], num: int, seed: int) -> Record:
    """Draw mutants of some wings, all with equal probability."""
    candidates = mutants_of(root, wings)
    chosen = random.Random(seed).sample(candidates, min(num, len(candidates)))
    return Record(wings, seed, len(candidates), chosen)


def read(root: Path, path: Path) -> tuple[Record, list[Mutant]]:
    """Read the record of an earlier search, with its mutants at the places where they are now.

    Returns:
        The record, and the mutants that are left out since the code has changed.
    """
    kept = json.loads(path.read_text())
    alike: dict[tuple[str, ...], list[Mutant]] = defaultdict(list)
    for mutant in mutants_of(root, tuple(kept["wings"])):
        alike[mutant.change].append(mutant)
    record = Record(tuple(kept["wings"]), kept["seed"], kept["num_candidates"], [])
    gone = []
    for number, each in enumerate(kept["mutants"]):
        mutant = Mutant(**each)
        places = alike[mutant.change]
        if not places:
            gone.append(mutant)
            continue
        result = kept["results"].get(str(number))
        if result is not None:
            record.results[len(record.mutants)] = Result(**result)
        record.mutants.append(min(places, key=lambda m: abs(m.line - mutant.line)))
    return record, gone


def search(
    root: Path,
    record: Record,
    output: Path,
    *,
    slow: bool = False,
    budget: float = 60.0,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Try the mutants of a record that have no result yet, and write the record after each.

    Arguments:
        root: root of the checkout, which is not changed.
        record: mutants, and the results so far; the new ones are added.
        output: the file to write. What lines each test runs is kept beside it.
        slow: whether to run slow tests too.
        budget: seconds of tests for each mutant.
        workers: number of processes.
        progress: where to show progress.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    left = [number for number in range(len(record.mutants)) if number not in record.results]
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder, progress or nullcontext():
        copies = [Copy(root, Path(folder, str(number))) for number in range(workers)]
        lines = LineMap(output.with_suffix(".lines.json"), copies[0].root)
        files = lines.stale_files(slow)
        if files:
            show = _bar(progress, "lines that tests run")
            lines.add(files, copies[0].trace(files, slow, show), slow)
        free: SimpleQueue[Copy] = SimpleQueue()
        for copy in copies:
            free.put(copy)

        def try_one(number: int) -> tuple[int, Result]:
            copy = free.get()
            try:
                return number, _try(record.mutants[number], lines, copy, budget)
            finally:
                free.put(copy)

        show = _bar(progress, "mutants")
        show(len(record.results), len(record.mutants))
        with ThreadPoolExecutor(workers) as threads:
            for number, result in threads.map(try_one, left):
                record.results[number] = result
                record.write(output)
                show(len(record.results), len(record.mutants))


def _bar(progress: Progress | None, name: str) -> Callable[[int, int], None]:
    """A function that shows how many are done of how many."""
    if progress is None:
        return lambda done, total: None
    task = progress.add_task(name, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


def _try(mutant: Mutant, lines: LineMap, copy: Copy, budget: float) -> Result:
    """Run the tests of a mutant: first those of its wing, then those of others."""
    start = perf_counter()
    running, others = lines.tests_of(mutant)
    tests = _take(running or others, lines, budget)
    outcome = Outcome(False)
    for is_near in (True, False):
        some = [test for test in tests if (rank_of(test, mutant.path) < 3) == is_near]
        if some and not outcome.caught:
            limit = 30.0 + 5 * sum(lines.traces[test].seconds for test in some)
            outcome = copy.try_mutant(mutant, some, limit)
    seconds = round(perf_counter() - start, 1)
    return Result(outcome.caught, outcome.by, len(tests), len(running), seconds)


def _take(tests: Iterable[str], lines: LineMap, budget: float) -> list[str]:
    """The first tests that take so many seconds, but at least one."""
    taken: list[str] = []
    for test in tests:
        budget -= lines.traces[test].seconds
        if taken and budget < 0:
            break
        taken.append(test)
    return taken
