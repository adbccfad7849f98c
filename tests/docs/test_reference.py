"""The reference lists every part that has a name, and no other."""

import re
import tomllib
from collections.abc import Iterable

import pytest

from pyrovae.cli.commands import app
from pyrovae.data.load import DATASETS
from pyrovae.infer import OBJECTIVES
from pyrovae.inverse.methods import METHODS
from pyrovae.likelihoods.families import FAMILIES
from pyrovae.models.base.refinement import INFERENCES
from pyrovae.models.catalogue import MODELS
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from tests.docs.pages import ROOT

EXAMPLES = [f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")]
COMMANDS = [name for name in app if not name.startswith("-")]

TABLES: dict[tuple[str, str], Iterable[str]] = {
    ("likelihoods.md", "Families"): FAMILIES,
    ("objectives.md", "Objectives"): OBJECTIVES,
    ("parts.md", "Priors"): PRIORS,
    ("parts.md", "Posteriors"): POSTERIORS,
    ("parts.md", "Inference"): INFERENCES,
    ("parts.md", "Models"): MODELS,
    ("operators-and-methods.md", "Methods"): METHODS,
    ("command-line.md", "Commands"): COMMANDS,
    ("command-line.md", "Data"): [*DATASETS, ".csv", ".npy", ".npz"],
    ("examples.md", "Examples"): EXAMPLES,
}
"""For the section of a page, the names that the first column of its table holds."""


def first_column(page: str, heading: str) -> set[str]:
    """The words in code in the first column of the first table below a heading."""
    text = (ROOT / "docs/reference" / page).read_text()
    section = re.split(rf"^#+ {heading}$", text, flags=re.M)[1]
    rows = re.findall(r"(?:^\|.*\n)+", section, re.M)[0].splitlines()[2:]
    cells = [re.split(r"(?<!\\)\|", row)[1] for row in rows]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize(("page", "heading"), TABLES)
def test_the_reference_lists_every_name(page: str, heading: str) -> None:
    assert first_column(page, heading) == set(TABLES[page, heading])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_reference_shows_the_arguments_of_a_family(name: str) -> None:
    text = (ROOT / "docs/reference/likelihoods.md").read_text()
    rows = re.findall(rf"^\| `{name}` \|.*$", text, re.M)
    assert len(rows) == 1, f"docs/reference/likelihoods.md should have one row for {name}"
    for argument, source in FAMILIES[name].sources.items():
        assert re.search(rf"{argument}\b[^;|]*: {source}\b", rows[0]), argument
    assert ("(exposure)" in rows[0]) == (FAMILIES[name].exposure is not None)


def test_the_floors_of_the_layout_are_those_that_lint_imports_checks() -> None:
    text = (ROOT / "docs/background/layout.md").read_text()
    floors = [set(re.findall(r"`(\w+)`", line)) for line in re.findall(r"^\d+\. (.+)$", text, re.M)]
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert floors == [set(re.findall(r"\w+", each)) for each in tool["contracts"][0]["layers"]]
