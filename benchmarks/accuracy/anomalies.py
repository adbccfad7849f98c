"""Anomalies by log p(x), beside IsolationForest and LocalOutlierFactor, as ROC AUC.

``python -m benchmarks.accuracy.anomalies`` trains each method on normal data alone, scores other
normal data and anomalies, and prints the mean ROC AUC over random splits, with its standard error.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cyclopts import App
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from pyrovae import VAE, Mixed, ProbabilisticPCA, fit
from pyrovae.infer.estimators.pareto import HeavyTailWarning
from pyrovae.likelihoods.likelihood import propose

app = App(name="python -m benchmarks.accuracy.anomalies", help_format="markdown")

_EPOCHS, _BATCH, _LATENT, _HIDDEN = 200, 64, 5, (64,)
_HELD_OUT = 0.5
"""Share of the normal data that is scored rather than learned from."""


@dataclass(frozen=True)
class Problem:
    """Data with anomalies.

    Attributes:
        normal: normal data.
        anomalies: anomalies.
    """

    normal: pd.DataFrame
    anomalies: pd.DataFrame


def _breast_cancer(seed: int) -> Problem:
    """Benign tumours are normal, malignant ones are anomalies."""
    data = load_breast_cancer(as_frame=True)
    return Problem(data.data[data.target == 1], data.data[data.target == 0])


def _wine(seed: int) -> Problem:
    """One of three kinds of wine is the anomaly, another for each seed."""
    data = load_wine(as_frame=True)
    is_odd = data.target == seed % 3
    return Problem(data.data[~is_odd], data.data[is_odd])


def _digits(seed: int) -> Problem:
    """One of ten digits is the anomaly, another for each seed; its pixels are counts to 16."""
    data = load_digits(as_frame=True)
    is_odd = data.target == seed % 10
    varied = data.data.loc[:, data.data[~is_odd].nunique() > 1]
    return Problem(varied[~is_odd], varied[is_odd])


def _connections(seed: int) -> Problem:
    """Simulated network connections like those of KDD Cup 99: words, counts, sizes; few attacks.

    Services determine protocol, sizes and durations. Attacks are floods (many small connections),
    scans (many refused connections to many ports) and theft (a large upload by a service of small
    ones), each with words and numbers that occur in normal traffic too.
    """
    draw = np.random.default_rng(seed)

    def traffic(num: int, attack: str = "") -> pd.DataFrame:
        services = np.array(["http", "smtp", "dns", "ftp", "ssh"])
        which = draw.choice(5, num, p=[0.5, 0.2, 0.2, 0.05, 0.05])
        if attack == "flood":
            which = np.zeros(num, dtype=int)
        elif attack == "theft":
            which = draw.choice([2, 4], num)
        sent = np.exp(draw.normal(np.array([5.5, 7.0, 3.8, 5.0, 7.5])[which], 0.6))
        got = np.exp(draw.normal(np.array([8.5, 5.8, 4.8, 9.0, 7.8])[which], 0.8))
        seconds = np.exp(draw.normal(np.array([0.0, 0.5, -4.0, 3.0, 4.0])[which], 0.7))
        same_host = draw.poisson(np.array([9.0, 3.0, 12.0, 2.0, 1.0])[which])
        refused = draw.binomial(same_host, 0.02)
        ports = 1 + draw.binomial(same_host, 0.1)
        if attack == "flood":
            same_host = draw.poisson(60, num)
            sent, got = sent / 8, got / 50
            refused, ports = draw.binomial(same_host, 0.05), np.ones(num, dtype=int)
        elif attack == "scan":
            same_host = draw.poisson(12, num)
            refused, ports = draw.binomial(same_host, 0.7), 1 + draw.binomial(same_host, 0.8)
        elif attack == "theft":
            sent = sent * np.exp(draw.normal(4.0, 0.8, num))
        protocol = np.where(services[which] == "dns", "udp", "tcp")
        flag = np.where(draw.random(num) < np.maximum(0.01, refused / 30), "REJ", "SF")
        return pd.DataFrame(
            {
                "protocol": protocol,
                "service": services[which],
                "flag": flag,
                "sent": sent,
                "received": got,
                "seconds": seconds,
                "same_host": same_host,
                "refused": refused,
                "ports": ports,
            }
        )

    attacks = [traffic(40, attack) for attack in ("flood", "scan", "theft")]
    return Problem(traffic(4000), pd.concat(attacks, ignore_index=True))


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "breast cancer": _breast_cancer,
    "wine": _wine,
    "digits": _digits,
    "connections (simulated)": _connections,
}


def _is_word(column: "pd.Series[Any]") -> bool:
    return not pd.api.types.is_numeric_dtype(column)


def _as_numbers(train: pd.DataFrame, *others: pd.DataFrame) -> list[NDArray[np.float64]]:
    """Standardised numbers, with words in one-hot code, for methods that need them."""
    words = [name for name in train if _is_word(train[name])]
    numbers = [name for name in train if name not in words]
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    transform = make_column_transformer(
        (make_pipeline(StandardScaler()), numbers), (encode, words)
    ).fit(train)
    return [np.asarray(transform.transform(each), dtype=float) for each in (train, *others)]


def _as_codes(train: pd.DataFrame, *others: pd.DataFrame) -> list[pd.DataFrame]:
    """Tables with words as codes; all words occur in normal data."""
    coded = [each.copy() for each in (train, *others)]
    for name in train:
        if _is_word(train[name]):
            words = sorted(set().union(*(each[name] for each in coded)))
            for each in coded:
                each[name] = each[name].map({word: code for code, word in enumerate(words)})
    return coded


def _vae(train: pd.DataFrame, test: pd.DataFrame, seed: int, likelihood: str) -> Any:
    """log p(x) of a VAE with 100 samples, trained with settings that are the same everywhere."""
    coded, other = (
        torch.tensor(each.to_numpy(dtype=float), dtype=torch.float32)
        for each in _as_codes(train, test)
    )
    torch.manual_seed(seed)
    declared: Any = {"family": likelihood, "scale": "per_feature"}
    if likelihood == "infer":
        both, blocks = torch.cat([coded, other]), defaultdict(list)
        for place, name in enumerate(train):
            num_words = train[name].nunique() if _is_word(train[name]) else None
            blocks[propose(str(name), both[:, place].double(), num_words)[0]].append(place)
        declared = Mixed([(tuple(map(str, names)), each) for each, names in blocks.items()])
        order = [place for places in blocks.values() for place in places]
        coded, other = coded[:, order], other[:, order]
    network = {"name": "mlp", "hidden": list(_HIDDEN)}
    vae = VAE((coded.shape[1],), _LATENT, declared, encoder=network, decoder=network)
    vae.standardise(coded)
    fit(
        vae.model,
        vae.guide,
        coded,
        epochs=_EPOCHS,
        batch_size=_BATCH,
        lr=1e-3,
        progress=False,
    )
    return vae.eval().score(other, progress=False).log_likelihood.numpy()


def _ppca(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Any:
    """log p(x) of probabilistic PCA with half as many latents as columns, at most 20."""
    numbers, other = (torch.tensor(each).float() for each in _as_numbers(train, test))
    keep = numbers.std(0) > 0
    numbers, other = numbers[:, keep], other[:, keep]
    ppca = ProbabilisticPCA((numbers.shape[1],), min(20, numbers.shape[1] // 2))
    ppca.fit(numbers)
    return ppca.eval().score(other, progress=False).log_likelihood.numpy()


def _forest(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Any:
    numbers, other = _as_numbers(train, test)
    return IsolationForest(random_state=seed).fit(numbers).score_samples(other)


def _lof(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Any:
    numbers, other = _as_numbers(train, test)
    return LocalOutlierFactor(novelty=True).fit(numbers).score_samples(other)


METHODS: dict[str, Callable[[pd.DataFrame, pd.DataFrame, int], Any]] = {
    "VAE, likelihoods by column": lambda a, b, seed: _vae(a, b, seed, "infer"),
    "VAE, Normal": lambda a, b, seed: _vae(a, b, seed, "Normal"),
    "probabilistic PCA": _ppca,
    "IsolationForest": _forest,
    "LocalOutlierFactor": _lof,
}


@app.default
def main(num_seeds: int = 10, output: Path | None = None) -> None:
    """Print the ROC AUC of each method on each problem.

    Args:
        num_seeds: number of random splits.
        output: CSV file for the figures of each split.
    """
    import warnings

    warnings.simplefilter("ignore", HeavyTailWarning)
    rows = []
    for seed in track(range(num_seeds), "splits", transient=True):
        for problem_name, make in PROBLEMS.items():
            problem = make(seed)
            order = np.random.default_rng(seed).permutation(len(problem.normal))
            num = round(_HELD_OUT * len(order))
            held_out, train = (problem.normal.iloc[part] for part in (order[:num], order[num:]))
            test = pd.concat([held_out, problem.anomalies], ignore_index=True)
            is_normal = np.arange(len(test)) < num
            for method_name, method in METHODS.items():
                auc = roc_auc_score(is_normal, method(train, test, seed))
                rows.append((problem_name, method_name, seed, auc))
    results = pd.DataFrame(rows, columns=["problem", "method", "seed", "auc"])
    if output is not None:
        results.to_csv(output, index=False)
    table = Table("method", *PROBLEMS, title=f"ROC AUC, mean of {num_seeds} splits")
    grouped = results.groupby(["method", "problem"])["auc"]
    mean, error = grouped.mean(), grouped.std() / num_seeds**0.5
    for name in METHODS:
        cells = [f"{mean[name, each]:.3f} ± {error[name, each]:.3f}" for each in PROBLEMS]
        table.add_row(name, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    app()
