"""Seconds and memory of one EM iteration, beside scikit-learn's, on the same data from one start.

    python benchmarks/em_vs_sklearn.py

Iterations alternate between the two, after one of each to warm up; what is printed are medians and
their ratio. Peak memory (Linux only) is that of a fresh process, above what it holds once the data
are made.
"""

import multiprocessing
import re
import warnings
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from cyclopts import run
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture as Theirs

from pyrovae.gmm import Mixture
from pyrovae.gmm.em import expectation, maximisation


def make(n: int, d: int, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Data about k points, and these points."""
    random = np.random.default_rng(0)
    locs = 3 * random.normal(size=(k, d))
    return locs[random.integers(k, size=n)] + random.normal(size=(n, d)), locs


class Ours:
    """An iteration of this package."""

    def __init__(self, x: NDArray[Any], locs: NDArray[Any], kind: Any) -> None:
        k, d = locs.shape
        covariances = {"full": np.tile(np.eye(d), (k, 1, 1)), "diag": np.ones((k, d))}[kind]
        self.mixture = Mixture.of(np.full(k, 1 / k), locs, covariances, kind)
        self.x, self.floor = torch.from_numpy(x), torch.full((d,), 1e-6, dtype=torch.float64)

    def iterate(self) -> float:
        """One round; the mean log-likelihood before it."""
        statistics = expectation(self.x, self.mixture)
        self.mixture, _ = maximisation(statistics, self.floor, self.mixture)
        return statistics.log_normaliser.item() / len(self.x)


class ScikitLearn:
    """An iteration of scikit-learn's, by the two halves of its loop."""

    def __init__(self, x: NDArray[Any], locs: NDArray[Any], kind: str) -> None:
        k, d = locs.shape
        self.x = x
        self.estimator = Theirs(k, covariance_type=kind, reg_covar=0.0)
        factors = {"full": np.tile(np.eye(d), (k, 1, 1)), "diag": np.ones((k, d))}[kind]
        self.estimator.weights_ = np.full(k, 1 / k)
        self.estimator.means_ = locs
        self.estimator.precisions_cholesky_ = factors

    def iterate(self) -> float:
        """One round; the mean log-likelihood before it."""
        log_likelihood, log_q = self.estimator._e_step(self.x)
        self.estimator._m_step(self.x, log_q)
        return float(log_likelihood)


def seconds(kind: str, n: int, d: int, k: int, rounds: int) -> None:
    """Print the medians of alternating iterations."""
    x, locs = make(n, d, k)
    runners = {"ours": Ours(x, locs, kind), "scikit-learn": ScikitLearn(x, locs, kind)}
    taken: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds + 1):
        reached = []
        for name, runner in runners.items():
            start = perf_counter()
            reached.append(runner.iterate())
            if number:
                taken[name].append(perf_counter() - start)
        assert abs(reached[0] - reached[1]) < 1e-9 * abs(reached[1]), reached
    ours, theirs = median(taken["ours"]), median(taken["scikit-learn"])
    print(f"{kind}: ours {ours:.3f} s, scikit-learn {theirs:.3f} s, ratio {theirs / ours:.1f}")


def memory(name: str, kind: str, n: int, d: int, k: int) -> float:
    """MiB that two iterations take at their peak, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, name, kind, n, d, k))
    process.start()
    sender.close()
    peak: float = receiver.recv()
    process.join()
    return peak


def _measure(sender: Any, name: str, kind: str, n: int, d: int, k: int) -> None:
    warnings.simplefilter("ignore")
    x, locs = make(n, d, k)
    runner: Any = Ours if name == "ours" else ScikitLearn
    runner(x[:20_000].copy(), locs, kind).iterate()  # libraries load what they need
    fitted = runner(x, locs, kind)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    before = _peak()
    for _ in range(2):
        fitted.iterate()
    sender.send(_peak() - before)


def _peak() -> float:
    """The largest resident memory so far, in MiB."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def main(n: int = 1_000_000, d: int = 16, k: int = 16, rounds: int = 7) -> None:
    """Measure both covariance types.

    Arguments:
        n: points.
        d: columns.
        k: components.
        rounds: iterations of each.
    """
    print(f"n = {n:,}, d = {d}, K = {k}, {torch.get_num_threads()} threads")
    for kind in ("full", "diag"):
        seconds(kind, n, d, k, rounds)
    for kind in ("full", "diag"):
        for components in (k, 4 * k):
            peaks = {name: memory(name, kind, n, d, components) for name in ("ours", "theirs")}
            print(
                f"{kind}, K = {components}: peak above the data, ours {peaks['ours']:.0f} MiB, "
                f"scikit-learn {peaks['theirs']:.0f} MiB "
                f"(n x K: {n * components * 8 / 2**20:.0f}, n x K x d: "
                f"{n * components * d * 8 / 2**20:,.0f})"
            )


if __name__ == "__main__":
    run(main)
