"""What the README shows runs as it stands there."""

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyrovae import VAE, Likelihood, Mixed, fit
from pyrovae.cli import main
from pyrovae.likelihoods import families

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
READY, OWN, SPEED, DECLARED, MIXED, SCORES, PARTS, MISSING, _, MIXTURE = re.findall(
    r"```python\n(.*?)```", TEXT, re.S
)


def test_the_ready_made_model(capsys: pytest.CaptureFixture[str]) -> None:
    exec(READY.replace("epochs=30", "epochs=1"), {})
    assert re.search(r"-\d+\.\d\d ± \d\.\d\d\n$", capsys.readouterr().out)


def test_ones_own_model() -> None:
    def guide(x: Tensor) -> None:
        pyro.sample("rate", dist.LogNormal(pyro.param("rate_loc", torch.zeros(())), 0.1))
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.zeros(len(x)))
            pyro.sample("z", dist.Normal(loc, 1.0))

    x = torch.tensor([0.0, 3.0, 1.0, 2.0])
    exec(OWN, {"pyro": pyro, "dist": dist, "fit": fit, "guide": guide, "x": x})


def test_compiled_steps(recwarn: pytest.WarningsRecorder) -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    scope = {"model": model, "guide": lambda x: None, "batches": [torch.ones(4)] * 5}
    exec(SPEED, scope)
    assert scope["svi"].pair.params()["loc"] > 0
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


def test_parts() -> None:
    scope: dict[str, Any] = {}
    exec(PARTS, scope)
    assert scope["vae"].sample(3).shape == (3, 1, 8, 8)


def test_what_is_missing() -> None:
    vae = VAE((1, 8, 8), 2, {"family": "Binomial", "total_count": 16})
    scope = {"vae": vae, "torch": torch, "x": torch.randint(0, 17, (2, 1, 8, 8)).float()}
    exec(MISSING.replace("50}", "5}"), scope)
    result: Any = scope["result"]
    assert torch.equal(result.mean[:, :, :4], scope["x"][:, :, :4])


def test_mixtures() -> None:
    scope: dict[str, float] = {}
    exec(MIXTURE.replace("BayesianGaussianMixture(3", "bound = BayesianGaussianMixture(3"), scope)
    assert -4 < scope["bound"] < -3


@pytest.mark.parametrize("line", DECLARED.strip().splitlines())
def test_declarations(line: str) -> None:
    class MyDistribution(torch.distributions.Exponential):
        pass

    likelihood = eval(line, {"Likelihood": Likelihood, "MyDistribution": MyDistribution})
    assert likelihood.build((3,)).in_shape[1:] == (3,)


def test_mixed() -> None:
    assert len(eval(MIXED, {"Mixed": Mixed, "Likelihood": Likelihood}).columns) == 4


def test_scores_of_a_representation() -> None:
    class Pooled:
        def encode(self, x: Tensor) -> "Pooled":
            self.mean = torch.nn.functional.avg_pool2d(x, 32).flatten(1)
            return self

    call = SCORES.replace("disentanglement(lambda", "scores = disentanglement(lambda")
    scope: dict[str, Any] = {"vae": Pooled()}
    exec(call.replace("values()))", "values()), num_samples=1000, progress=False)"), scope)
    assert 0 < scope["scores"].dci.informativeness < 1


def test_adding_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    tried = doctest.testfile("../README.md", module_relative=True)
    assert tried.attempted >= 8
    assert tried.failed == 0


def test_options_are_those_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("epochs: 3\n")
    block = TEXT[TEXT.index("## From the command line") :].split("```")[1]
    lines = [shlex.split(line) for line in block.splitlines() if line.startswith("pyrovae train")]
    assert len(lines) == 10
    for _, *arguments in lines:
        main([*arguments, *({"--print-config"} - set(arguments))])
