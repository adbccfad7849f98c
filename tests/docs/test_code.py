"""The code in the README and in docs/ runs as it stands there, at small sizes."""

import doctest
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pyrovae
from pyrovae import Likelihood
from pyrovae.cli import main
from pyrovae.likelihoods import families
from tests.docs.pages import PAGES, ROOT, blocks_of, page_name

SMALLER: dict[str, list[tuple[str, str]]] = {
    "README.md": [("epochs=30", "epochs=1"), ("num_samples=1000", "num_samples=50")],
    "docs/tutorials/first-steps.md": [("epochs=30", "epochs=1")],
    "docs/tutorials/own-model-and-guide.md": [("epochs=50", "epochs=2")],
    "docs/tutorials/swap-the-likelihood.md": [("epochs=30", "epochs=1")],
    "docs/how-to/objectives.md": [("epochs=5", "epochs=1")],
    "docs/how-to/evaluate-a-model.md": [
        ("epochs=30", "epochs=1"),
        ("test[:10])", "test[:10], num_steps=5, num_samples=50)"),
        ('vae = VAE((1, 64, 64), latent_dim=10, likelihood="Bernoulli")', "vae = Pooled()"),
        ("tuple(FACTORS.values()))", "tuple(FACTORS.values()), num_samples=1000, progress=False)"),
    ],
    "docs/how-to/missing-parts.md": [
        ("epochs=30", "epochs=1"),
        ("vae.posterior(seen)", "vae.posterior(seen, method=FEW_STEPS)"),
        ('method="refined"', 'method=FEW_STEPS["proposal"]'),
        ('"warm_up": 50}', '"warm_up": 5}, num_samples=10'),
    ],
    "docs/how-to/impute-a-table.md": [("steps=300", "steps=20")],
    "docs/how-to/data-larger-than-memory.md": [("epochs=5", "epochs=1")],
    "docs/how-to/stop-and-resume.md": [("epochs=5", "epochs=1")],
}
"""What the tests replace on a page so that it runs in seconds; all of it must be there."""

FEW_STEPS = {"name": "importance", "proposal": {"name": "refined", "num_steps": 20}}
"""A method that draws from p(z | y) in little time."""


class Pooled:
    """An encoder that needs no training: means of large pixels."""

    def encode(self, x: Tensor) -> "Pooled":
        self.mean = torch.nn.functional.avg_pool2d(x, 32).flatten(1)
        return self


def programs_of(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of a page, with the line each starts on; doctests are not among them."""
    return [
        (block.line, block.text)
        for block in blocks_of(page)
        if block.language == "python" and not block.text.startswith(">>>")
    ]


def run_page(name: str) -> dict[str, Any]:
    """Run the Python blocks of a page one after another, and return the names they define."""
    scope: dict[str, Any] = {"Pooled": Pooled, "FEW_STEPS": FEW_STEPS}
    programs = programs_of(ROOT / name)
    for old, _ in SMALLER.get(name, []):
        assert any(old in text for _, text in programs), f"{name} no longer holds {old!r}"
    for line, text in programs:
        for old, new in SMALLER.get(name, []):
            text = text.replace(old, new)
        code = compile("\n" * (line - 1) + text, ROOT / name, "exec")  # errors show the page's line
        exec(code, scope)
    return scope


def check_readme(scope: dict[str, Any], printed: str) -> None:
    assert len(re.findall(r"^-\d+\.\d\d ± \d+\.\d\d$", printed, re.M)) == 2


def check_first_steps(scope: dict[str, Any], printed: str) -> None:
    assert re.search(r"-\d+\.\d\d ± \d\.\d\d\n$", printed)


def check_own_model(scope: dict[str, Any], printed: str) -> None:
    assert set(scope["history"].params) == {"rate_loc", "rate_scale", "slope", "offset", "spread"}
    assert math.isfinite(scope["loss"])


def check_swap(scope: dict[str, Any], printed: str) -> None:
    assert len(re.findall(r"-\d+\.\d\d ± \d+\.\d\d\n", printed)) == 3


def check_compiled_steps(scope: dict[str, Any], printed: str) -> None:
    assert scope["svi"].pair.params()["loc"] > 0


def check_parts(scope: dict[str, Any], printed: str) -> None:
    assert scope["vae"].sample(3).shape == (3, 1, 8, 8)


def check_scores(scope: dict[str, Any], printed: str) -> None:
    assert 0 < scope["scores"].dci.informativeness < 1


def check_missing_parts(scope: dict[str, Any], printed: str) -> None:
    assert torch.equal(scope["result"].mean[:, :, :4], scope["x"][:, :, :4])


def check_imputed(scope: dict[str, Any], printed: str) -> None:
    assert not scope["result"].filled.isna().any(axis=None)


def check_mixtures(scope: dict[str, Any], printed: str) -> None:
    assert -4 < scope["bayesian"].lower_bound_ < -3


CHECKS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "README.md": check_readme,
    "docs/tutorials/first-steps.md": check_first_steps,
    "docs/tutorials/own-model-and-guide.md": check_own_model,
    "docs/tutorials/swap-the-likelihood.md": check_swap,
    "docs/tutorials/em-and-vi.md": check_mixtures,
    "docs/how-to/compiled-steps.md": check_compiled_steps,
    "docs/how-to/priors-posteriors-models.md": check_parts,
    "docs/how-to/evaluate-a-model.md": check_scores,
    "docs/how-to/missing-parts.md": check_missing_parts,
    "docs/how-to/impute-a-table.md": check_imputed,
}
"""What a page must have computed, beyond running to its end."""

WITH_CODE = [page_name(page) for page in PAGES if programs_of(page)]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_python_of_a_page_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = run_page(name)
    CHECKS.get(name, lambda scope, printed: None)(scope, capsys.readouterr().out)
    if name == "docs/how-to/compiled-steps.md":
        assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


def test_every_replacement_and_check_is_of_a_page_with_code() -> None:
    assert set(SMALLER) | set(CHECKS) <= set(WITH_CODE)
    assert len(WITH_CODE) >= 12


def likelihood_declarations() -> list[str]:
    """The lines of the page on likelihoods that are a declaration by themselves."""
    programs = programs_of(ROOT / "docs/tutorials/swap-the-likelihood.md")
    lines = [line for _, text in programs for line in text.splitlines()]
    return [line for line in lines if line.startswith("Likelihood(")]


@pytest.mark.parametrize("line", likelihood_declarations())
def test_each_declared_likelihood_builds_a_layer(line: str) -> None:
    class MyDistribution(torch.distributions.Exponential):
        pass

    likelihood = eval(line, {"Likelihood": Likelihood, "MyDistribution": MyDistribution})
    assert likelihood.build((3,)).in_shape[1:] == (3,)


def test_the_declarations_are_found() -> None:
    assert len(likelihood_declarations()) == 9


def test_the_mixed_likelihood_has_its_four_columns() -> None:
    programs = programs_of(ROOT / "docs/tutorials/swap-the-likelihood.md")
    (line,) = [row for _, text in programs for row in text.splitlines() if row.startswith("Mixed(")]
    names = {"Mixed": pyrovae.Mixed, "Likelihood": Likelihood}
    assert len(eval(line, names).columns) == 4


def test_the_doctest_on_adding_a_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    page = ROOT / "docs/how-to/add-a-likelihood.md"
    tried = doctest.testfile(str(page), module_relative=False)
    assert tried.attempted >= 8
    assert tried.failed == 0


def test_options_in_the_docs_are_those_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("epochs: 3\n")
    block = blocks_of(ROOT / "docs/how-to/command-line.md")[0].text
    trainings = [line for line in block.splitlines() if line.startswith("pyrovae train")]
    lines = [shlex.split(line) for line in trainings if "--from" not in line]  # needs a run
    assert len(lines) == 10
    for _, *arguments in lines:
        main([*arguments, *({"--print-config"} - set(arguments))])


@pytest.mark.slow
def test_every_command_in_a_shell_block_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Each ``pyrovae COMMAND --option`` of any page, by the help of the command."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.language != "sh":
                continue
            for command, options in re.findall(r"^pyrovae ([\w-]+)(.*)$", block.text, re.M):
                main([command, "--help"])
                shown = capsys.readouterr().out
                for option in re.findall(r"(?<= )--[\w-]+", options):
                    assert option in shown, f"{page_name(page)}: {command} has no {option}"


def test_every_benchmark_and_example_in_the_docs_exists() -> None:
    found = 0
    for page in PAGES:
        text = page.read_text()
        for module in re.findall(r"python -m (benchmarks[\w.]*\w)", text):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
            found += 1
        for path_name in re.findall(r"(?:examples|benchmarks|tests|pyrovae)/[\w/]+\.py", text):
            assert (ROOT / path_name).is_file(), f"{page_name(page)}: {path_name}"
            found += 1
    assert found > 30
