"""Tables for people to read."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .infer.evaluate import Estimate, Evaluation

__all__ = ["evaluation_record", "print_evaluation"]


def evaluation_record(
    evaluation: Evaluation, likelihood: str, protocol: str, kind: str
) -> dict[str, Any]:
    """The figures, with everything that is needed to compare them with others."""
    return {
        **{
            name: {"mean": estimate.mean, "standard_error": estimate.standard_error}
            for name, estimate in _rows(evaluation).items()
        },
        "unit": "nats per datum",
        "kind": kind,
        "estimator": "ELBO, sampled KL, mean over data; standard error over data",
        "num_particles": evaluation.num_particles,
        "num_data": evaluation.num_data,
        "likelihood": likelihood,
        "data": protocol,
    }


def print_evaluation(record: Mapping[str, Any], console: Console) -> None:
    """The figures as a table, with their protocol beneath."""
    table = Table(title="Test set, nats per datum", title_justify="left")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("± s.e.", justify="right")
    labels = {
        "elbo": "ELBO = −reconstruction − KL",
        "reconstruction": "reconstruction, −E[log p(x|z)]",
        "kl": "KL, E[log q(z|x) − log p(z)]",
    }
    for name, label in labels.items():
        figures = record[name]
        table.add_row(Text(label), f"{figures['mean']:.2f}", f"{figures['standard_error']:.2f}")
    console.print(table)
    console.print(
        f"{record['likelihood']}: {record['kind']}; {record['num_data']:,} data, {record['data']}; "
        f"{record['num_particles']} samples of z a datum",
        highlight=False,
        soft_wrap=True,
    )


def _rows(evaluation: Evaluation) -> dict[str, Estimate]:
    return {
        "elbo": evaluation.elbo,
        "reconstruction": evaluation.reconstruction,
        "kl": evaluation.kl,
    }
