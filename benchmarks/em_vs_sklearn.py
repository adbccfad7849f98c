"""Time and memory of one EM iteration, compared with scikit-learn on the same data.

    python benchmarks/em_vs_sklearn.py

Both start from the same parameters. After one warm-up iteration each, iterations alternate between
the two. The script prints the median times and their ratio. Peak memory (Linux only) is measured in
a new process, as the increase after the data are in memory.
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
from sklearn.mixture import GaussianMixture as ScikitLearnMixture

from pyrovae.gmm import Mixture
from pyrovae.gmm.em import maximisation
from pyrovae.gmm.moments import expectation


def make_data(n: int, d: int, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw data from a mixture of k normals, and return them with the k means."""
    random = np.random.default_rng(0)
    locs = 3 * random.normal(size=(k, d))
    return locs[random.integers(k, size=n)] + random.normal(size=(n, d)), locs


class Ours:
    """EM iterations of this package."""

    def __init__(self, x: NDArray[Any], locs: NDArray[Any], kind: Any) -> None:
        k, d = locs.shape
        covariances = {"full": np.tile(np.eye(d), (k, 1, 1)), "diag": np.ones((k, d))}[kind]
        self.mixture = Mixture.of(np.full(k, 1 / k), locs, covariances, kind)
        self.x, self.floor = torch.from_numpy(x), torch.full((d,), 1e-6, dtype=torch.float64)

    def iterate(self) -> float:
        """Run one iteration, and return the mean log-likelihood before it."""
        statistics = expectation(self.x, self.mixture)
        self.mixture, _ = maximisation(statistics, self.floor, self.mixture)
        return statistics.log_normaliser.item() / len(self.x)


class ScikitLearn:
    """EM iterations of scikit-learn, by its private methods for the E-step and the M-step."""

    def __init__(self, x: NDArray[Any], locs: NDArray[Any], kind: str) -> None:
        k, d = locs.shape
        self.x = x
        self.estimator = ScikitLearnMixture(k, covariance_type=kind, reg_covar=0.0)
        factors = {"full": np.tile(np.eye(d), (k, 1, 1)), "diag": np.ones((k, d))}[kind]
        self.estimator.weights_ = np.full(k, 1 / k)
        self.estimator.means_ = locs
        self.estimator.precisions_cholesky_ = factors

    def iterate(self) -> float:
        """Run one iteration, and return the mean log-likelihood before it."""
        log_likelihood, log_q = self.estimator._e_step(self.x)
        self.estimator._m_step(self.x, log_q)
        return float(log_likelihood)


def compare_times(kind: str, n: int, d: int, k: int, rounds: int) -> None:
    """Time alternating iterations, check that both agree, and print the medians."""
    x, locs = make_data(n, d, k)
    runners = {"ours": Ours(x, locs, kind), "scikit-learn": ScikitLearn(x, locs, kind)}
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds + 1):
        log_likelihoods = []
        for name, runner in runners.items():
            start = perf_counter()
            log_likelihoods.append(runner.iterate())
            if number:
                seconds[name].append(perf_counter() - start)
        ours, theirs = log_likelihoods
        assert abs(ours - theirs) < 1e-9 * abs(theirs), log_likelihoods
    ours, theirs = median(seconds["ours"]), median(seconds["scikit-learn"])
    print(f"{kind}: ours {ours:.3f} s, scikit-learn {theirs:.3f} s, ratio {theirs / ours:.1f}")


def measure_memory(name: str, kind: str, n: int, d: int, k: int) -> float:
    """Return the peak memory of two iterations in MiB, measured in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(sender, name, kind, n, d, k))
    process.start()
    sender.close()
    peak: float = receiver.recv()
    process.join()
    return peak


def _send_peak(sender: Any, name: str, kind: str, n: int, d: int, k: int) -> None:
    warnings.simplefilter("ignore")
    x, locs = make_data(n, d, k)
    make_runner: Any = Ours if name == "ours" else ScikitLearn
    make_runner(x[:20_000].copy(), locs, kind).iterate()  # libraries allocate their own memory here
    runner = make_runner(x, locs, kind)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _peak_memory()
    for _ in range(2):
        runner.iterate()
    sender.send(_peak_memory() - before)


def _peak_memory() -> float:
    """Return the peak resident memory of this process, in MiB."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def main(n: int = 1_000_000, d: int = 16, k: int = 16, rounds: int = 7) -> None:
    """Measure full and diagonal covariances.

    Arguments:
        n: number of data.
        d: number of columns.
        k: number of components.
        rounds: number of timed iterations of each.
    """
    print(f"n = {n:,}, d = {d}, K = {k}, {torch.get_num_threads()} threads")
    for kind in ("full", "diag"):
        compare_times(kind, n, d, k, rounds)
    for kind in ("full", "diag"):
        for components in (k, 4 * k):
            peaks = {
                name: measure_memory(name, kind, n, d, components) for name in ("ours", "theirs")
            }
            print(
                f"{kind}, K = {components}: peak above the data, ours {peaks['ours']:.0f} MiB, "
                f"scikit-learn {peaks['theirs']:.0f} MiB "
                f"(n x K: {n * components * 8 / 2**20:.0f}, n x K x d: "
                f"{n * components * d * 8 / 2**20:,.0f})"
            )


if __name__ == "__main__":
    run(main)
