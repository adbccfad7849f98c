"""Tables and sentences that the commands print."""

from collections.abc import Mapping, Sequence
from math import isnan, log
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch.distributions import constraints
from torch.distributions.constraints import is_dependent

from ..declared import describe_settings
from ..infer.estimators.evaluate import Estimate, Evaluation
from ..infer.estimators.pareto import describe_heavy_tails
from ..infer.objectives import OBJECTIVES
from ..likelihoods.families import FAMILIES, Family
from ..models.catalogue import list_parts

__all__ = [
    "evaluation_record",
    "print_annealed",
    "print_comparison",
    "print_evaluation",
    "print_likelihoods",
    "print_log_likelihood",
    "print_methods",
    "print_parts",
]


def evaluation_record(
    evaluation: Evaluation, likelihood: str, protocol: str, kind: str, size: int | None = None
) -> dict[str, Any]:
    """Return the test results, with everything that is needed to compare them with others.

    Arguments:
        evaluation: the ELBO and its terms.
        likelihood: p(x|z).
        protocol: the data, and how they were binarised or dequantised.
        kind: what log p(x|z) is the log of, such as a density.
        size: number of entries of a datum, for bits per dimension; None if the data are not whole
            numbers.
    """
    bits = None if size is None else -evaluation.elbo.mean / (size * log(2))
    return {
        **{
            name: {"mean": estimate.mean, "standard_error": estimate.standard_error}
            for name, estimate in _name_terms(evaluation).items()
        },
        "unit": "nats per datum",
        "bits_per_dimension": bits,
        "kind": kind,
        "estimator": "ELBO, sampled KL, mean over data; standard error over data",
        "num_particles": evaluation.num_particles,
        "num_data": evaluation.num_data,
        "likelihood": likelihood,
        "data": protocol,
    }


def print_evaluation(record: Mapping[str, Any], console: Console, what: str = "Test set") -> None:
    """Print the ELBO and its terms as a table, with the protocol below it.

    Arguments:
        record: what :func:`evaluation_record` returns.
        console: to print to.
        what: what to call the data.
    """
    table = Table(title=Text(f"{what} (nats per datum)"), title_justify="left")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("standard error", justify="right")
    labels = {
        "elbo": "ELBO = −reconstruction − KL",
        "reconstruction": "reconstruction, −E[log p(x|z)]",
        "kl": "KL, E[log q(z|x) − log p(z)]",
    }
    for name, label in labels.items():
        figures = record[name]
        table.add_row(Text(label), f"{figures['mean']:.2f}", f"{figures['standard_error']:.2f}")
    bits = record["bits_per_dimension"]
    if bits is not None:
        table.add_row("bits per dimension", f"{bits:.3f}", "")
    console.print(table)
    console.print(
        f"{record['likelihood']}: {record['kind']}; {record['num_data']:,} data, {record['data']}; "
        f"{record['num_particles']} samples of z per datum",
        highlight=False,
        soft_wrap=True,
    )


def print_log_likelihood(record: Mapping[str, Any], console: Console) -> None:
    """Print log p(x), lower bounds on it, its error and the protocol."""
    table = Table(title="Log-likelihood of the test set (nats per datum)", title_justify="left")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("standard error", justify="right")
    figures = {
        f"log p(x), {record['num_samples']:,} samples": record["log_likelihood"],
        **{
            "ELBO" if k == "1" else f"bound, {int(k):,} samples": bound
            for k, bound in sorted(record["bounds"].items(), key=lambda item: -int(item[0]))
        },
        "distortion, −E[log p(x|z)]": record["distortion"],
        "rate, E[log q(z|x) − log p(z)]": record["rate"],
    }
    for label, each in figures.items():
        table.add_row(Text(label), f"{each['mean']:.2f}", f"{each['standard_error']:.2f}")
    console.print(table)
    error, effective, tail = (
        record[name] for name in ("log_likelihood", "effective_samples", "pareto_k")
    )
    console.print(
        f"log p(x) by {record['estimator']}; Monte Carlo error {error['monte_carlo_error']:.2g}, "
        f"bias about {error['bias']:.2g}; effective samples: median {effective['median']:,.0f}, "
        f"smallest {effective['smallest']:,.1f}",
        highlight=False,
        soft_wrap=True,
    )
    if tail["num_heavy"]:
        sentence = describe_heavy_tails(record["num_data"], tail["num_heavy"], tail["num_useless"])
        console.print(
            f"{sentence}; the worst data are {', '.join(map(str, record['worst']))}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{record['likelihood']}: {record['kind']}; {record['num_data']:,} data, {record['data']}",
        highlight=False,
        soft_wrap=True,
    )


def print_annealed(record: Mapping[str, Any], console: Console) -> None:
    """Print log p(x) by annealed importance sampling, and its gap on simulated data."""
    figure, gap, other = (record[name] for name in ("log_likelihood", "gap", "importance_sampling"))
    comparison = "" if other is None else f" (importance sampling on the same data: {other:.2f})"
    console.print(
        f"log p(x) of {record['num_data']} data ({record['data']}) by {record['estimator']}: "
        f"{figure['mean']:.2f} ± {figure['standard_error']:.2f} nats per datum, Monte Carlo error "
        f"{figure['monte_carlo_error']:.2g}{comparison}; on {gap['num_data']} simulated data the "
        f"lower and upper bounds are {gap['mean']:.2g} ± {gap['standard_error']:.2g} apart",
        highlight=False,
        soft_wrap=True,
    )


def print_comparison(records: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print the test ELBOs of several runs, ranked only among those that are comparable.

    Densities, probability masses and masses of binarised pixels have a section each. A bound on a
    mass is in the section of masses.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, record in records.items():
        kind = record["kind"].removeprefix("lower bound on ")
        of = "binarised pixels" if "binaris" in record["data"] else "the data"
        groups.setdefault(f"{kind} of {of}", {})[name] = record
    table = Table(title="Test ELBO (nats per datum)", title_justify="left")
    table.add_column("quantity")
    table.add_column("run", no_wrap=True)
    for column in ("ELBO", "standard\nerror", "bits/dim"):
        table.add_column(column, justify="right")
    for measure, members in groups.items():
        for name in sorted(members, key=lambda n: -members[n]["elbo"]["mean"]):
            record, bits = members[name], members[name]["bits_per_dimension"]
            table.add_row(
                measure,
                Text(name + (" (bound)" if "bound" in record["kind"] else "")),
                f"{record['elbo']['mean']:.2f}",
                f"{record['elbo']['standard_error']:.2f}",
                "" if bits is None else f"{bits:.3f}",
            )
        table.add_section()
    console.print(table)
    if len(groups) > 1:
        console.print(
            "Higher is better within a section. Values of different sections cannot be compared.",
            soft_wrap=True,
        )


_TABLE_WIDTH = 100
"""Characters that a line of the table may need."""


def print_methods(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the final values of each method of fitting a mixture; unknown ones are blank."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for column in ("log p", "held out", "ELBO", "gap", "steps", "seconds", "Rand"):
        table.add_column(column, justify="right", no_wrap=True)

    def write_number(value: float, form: str) -> str:
        return "" if isnan(value) else format(value, form)

    for row in rows:
        table.add_row(
            row["method"],
            *(write_number(row[name], ".4f") for name in ("log_likelihood", "held_out", "elbo")),
            write_number(row["gap"], ".0e" if abs(row["gap"]) < 1e-4 else ".4f"),
            f"{row['steps']:,}",
            write_number(row["seconds"], ".2f"),
            write_number(row["adjusted_rand"], ".2f"),
        )
    # Never cut numbers: if the console is too narrow, or a pipe, lines are longer than it.
    console.print(table, width=max(console.width, _TABLE_WIDTH), crop=False)


def print_likelihoods(console: Console) -> None:
    """Print every family that has a short name: its values, its arguments and their sources."""
    table = Table(title="Likelihoods", title_justify="left")
    table.add_column("family", no_wrap=True)
    for column in ("values of x", "arguments and defaults", "required"):
        table.add_column(column, overflow="fold")
    for family in FAMILIES.values():
        sources = family.resolve({n: 1 for n, c in family.constraints.items() if c.is_discrete})
        shown = {
            name: family.sources.get(name, "a constant" if c.is_discrete else sources[name])
            for name, c in family.constraints.items()
            if name in sources
        }
        vector = int(family.is_vector)
        dims: dict[str, Any] = {n: family.constraints[n].event_dim for n in sources}
        needs = [n for n, source in shown.items() if source == "a constant"]
        if any(dim > vector for n, dim in dims.items() if not family.is_square(n)):
            needs.append("rank" if vector else "num_classes")
        if family.exposure:
            needs.append("(exposure)")
        table.add_row(
            family.name,
            _describe_values(family),
            "\n".join(f"{name}: {source}" for name, source in shown.items()),
            ", ".join(needs),
        )
    console.print(table)
    console.print(
        "Each argument is predicted (by the decoder), shared (one learned number), per_feature "
        "(a learned number for each feature), data (given with each datum), or a constant. "
        "An exposure is optional. Any other class of pyro.distributions works by its name.",
        soft_wrap=True,
        highlight=False,
    )


def print_parts(console: Console) -> None:
    """Print the parts of a model and the objectives, each with its settings and defaults."""
    table = Table(title="Parts of a model, and objectives", title_justify="left")
    for column in ("option", "name", "settings and defaults"):
        table.add_column(column, overflow="fold")
    objectives = (
        ("objective", name, describe_settings(builder, "size", "plate"))
        for name, builder in OBJECTIVES.items()
    )
    last = ""
    for option, name, settings in (*list_parts(), *objectives):
        if last and option != last:
            table.add_section()
        table.add_row("" if option == last else f"--{option}", name, "\n".join(settings))
        last = option
    console.print(table)
    console.print(
        "Give a name, or a name with settings: --prior vamp --prior.num_components 500. In YAML: "
        "prior: {name: vamp, num_components: 500}.",
        soft_wrap=True,
        highlight=False,
    )


def _describe_values(family: Family) -> str:
    support: Any = family.distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is constraints.boolean:
        return "0 or 1"
    if support is constraints.one_hot:
        return "one 1 among 0s"
    if getattr(support, "is_discrete", False):
        bounded = {"total_count", "levels", "cutpoints", "logits"} & family.constraints.keys()
        return "whole, 0 to a maximum" if is_dependent(support) and bounded else "whole, 0 or more"
    if support is constraints.real:
        return "real"
    if support is constraints.simplex:
        return "shares that sum to 1"
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    return f"{low:.3g} to {high:.3g}" if high is not None else "positive"


def _name_terms(evaluation: Evaluation) -> dict[str, Estimate]:
    return {
        "elbo": evaluation.elbo,
        "reconstruction": evaluation.reconstruction,
        "kl": evaluation.kl,
    }
