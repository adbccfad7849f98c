"""Links between pages resolve, and the README keeps its promises of form."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, README, ROOT, blocks_of, page_name, prose_of

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_resolve_to_a_file_and_a_heading(page: Path) -> None:
    for target in _LINK.findall(prose_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page_name(page)} links to {target}"
        assert linked.is_relative_to(ROOT), f"{page_name(page)} links out of the repository"
        if anchor:
            assert anchor in anchors_of(linked), f"{page_name(page)} links to {target}"


def test_anchors_are_those_of_github() -> None:
    assert "priors-posteriors-and-models" in anchors_of(ROOT / "docs/background/results.md")
    assert "two-commands" in anchors_of(README)


def test_every_page_is_in_the_table_of_contents() -> None:
    index = ROOT / "docs/index.md"
    linked = {(index.parent / each.partition("#")[0]).resolve() for each in
              _LINK.findall(index.read_text())}  # fmt: skip
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= linked


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=page_name)
def test_a_page_starts_with_one_sentence_on_what_the_reader_gets(page: Path) -> None:
    title, _, rest = page.read_text().partition("\n\n")
    assert re.fullmatch(r"# .+", title)
    assert re.match(r"(You|This page) [^#]+?[.](?= |\n)", rest), page_name(page)


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_has_the_two_commands_that_continuous_integration_runs() -> None:
    lines = [line for line in README.read_text().splitlines() if line.startswith("python3 -m venv")]
    assert len(lines) == 2
    assert lines[0].endswith("pip install . && pyrovae train")
    assert lines[1].endswith("pip install -e '.[test]' && python -m pytest -n auto")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_one_spelling_of_nats_per_datum(page: Path) -> None:
    assert not re.search(r"nats\s+a\s+datum", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_fence_is_closed_and_names_its_language(page: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.M)
    assert len(fences) == 2 * len(blocks_of(page))
    known = {"python", "sh", "text", "diff", "yaml", "toml"}
    assert set(fences[::2]) <= known
    assert not any(fences[1::2])


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    assert all(each.stat().st_size < 150_000 for each in pictures)
