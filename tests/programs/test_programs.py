"""The programs of ``benchmarks.programs`` give the same under our SVI as under Pyro's."""

import pytest
from pyro.infer import SVI as PyroSVI

from benchmarks.programs.compare import largest_difference, train, train_ours
from benchmarks.programs.families import load_all
from benchmarks.programs.program import PROGRAMS
from pyrovae.errors import InputError

load_all()

STEPS = 6

ONE_OF = 4
"""One of so many programs is tested, besides the short ones; the benchmark runs them all."""

NOT_RECORDED = frozenset(
    {
        "Dawid-Skene annotators, enumerated",
        "GPLVM",
        "HMM 1, subsampled sequences, range(lengths.max())",
        "NumPy arrays as arguments, torch.from_numpy in the model",
        "a count of calls in the model, which weights the loss",
        "a generator of batches in the closure",
        "a recursive model of random depth",
        "if on a latent value",
        "losses and values kept in a list by the model",
        "random indices by NumPy in the model",
        "stable distribution, EnergyDistance with a prior scale",
    }
)
"""Programs whose steps run as ordinary Python."""

REFUSED = "CEVAE of pyro.contrib.cevae"
"""A program whose model and guide have parameters of the same names."""

SHORT = frozenset(
    {
        "arguments in a dataclass",
        "arguments in a namedtuple and nested dicts",
        "a lambda made anew at each step as argument",
        "torch.tensor of a NumPy array in the model",
        "weights of importance by data and poutine.scale of a tensor",
        "model as a class with __call__, guide as a bound method",
        "a bool argument and two sizes",
        "LDA, amortised, settings in a Namespace",
        "missing data, NaN to a mask",
        "VAE, weight self.beta of each step",
        "boolean mask of a fixed count",
        "guide with the flow affine_coupling",
        "if on a latent value",
        "rows up to a tensor n of another value each step",
        "optimiser Adam, options by parameter",
        "parameters that come with another kind of call",
        "mixture of Poissons, MixtureSameFamily",
        "VAE",
    }
)
"""Programs that record quickly; the tests of the others are slow."""


def _parameters() -> list[object]:
    others = [name for name in PROGRAMS if name not in SHORT | {REFUSED}][::ONE_OF]
    return [*sorted(SHORT), *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


@pytest.mark.parametrize("name", _parameters())
@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_same_as_pyro(name: str) -> None:
    theirs = train(PROGRAMS[name], PyroSVI, STEPS)
    ours, reason = train_ours(PROGRAMS[name], STEPS, can_compile=False)
    assert largest_difference({"loss": theirs.losses}, {"loss": ours.losses}) < 1e-9
    assert largest_difference(theirs.state, ours.state) < 1e-9
    assert bool(reason) == (name in NOT_RECORDED), reason


@pytest.mark.usefixtures("float64")
def test_shared_names_are_refused() -> None:
    with pytest.raises(InputError, match="both have a parameter"):
        train_ours(PROGRAMS[REFUSED], STEPS)


def test_lists_name_programs() -> None:
    assert PROGRAMS.keys() >= NOT_RECORDED | SHORT | {REFUSED}
