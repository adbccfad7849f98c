"""The programs of ``benchmarks.programs`` give the same under our SVI as under Pyro's."""

import pytest
from pyro.infer import SVI as PyroSVI

from benchmarks.programs.compare import largest_difference, train, train_ours
from benchmarks.programs.families import load_all
from benchmarks.programs.program import PROGRAMS
from pyrovae.errors import InputError

load_all()

STEPS = 6

NOT_RECORDED = frozenset(
    {
        "AutoIAFNormal",
        "AutoNormalizingFlow",
        "Dawid-Skene annotators, enumerated",
        "GPLVM",
        "HMM 0, sequential sequences",
        "HMM 1, subsampled sequences, range(lengths.max())",
        "HMM 1, vectorised sequences, range(lengths.max())",
        "HMM 2, keys depend on those before",
        "HMM 5, neural emissions",
        "HMM, tensor Monte Carlo",
        "LDA, amortised, settings in a Namespace",
        "LKJ covariance",
        "LinearHMM with stable noise, reparametrised",
        "NumPy arrays as arguments, torch.from_numpy in the model",
        "ProdLDA, total_count=int(x.sum(-1).max())",
        "ReweightedWakeSleep with sleep, conditioned model",
        "a count of calls in the model, which weights the loss",
        "a function and a network as arguments",
        "a function as loss, which adds a penalty to differentiable_loss",
        "a generator of batches in the closure",
        "a lambda made anew at each step as argument",
        "a recursive model of random depth",
        "amortised guide with the flow conditional_spline",
        "amortised guide with the flow conditional_spline_autoregressive",
        "arguments in a Namespace with tensors and numbers",
        "arguments in a dataclass",
        "boolean mask of a fixed count",
        "boolean mask whose count differs",
        "conditional VAE, boolean masks of fixed count",
        "continuous VAE, ReweightedWakeSleep, vectorised",
        "continuous VAE, ReweightedWakeSleep, wake phi",
        "continuous VAE, TraceTMC_ELBO",
        "deep Markov model with inverse autoregressive flows",
        "deep Markov model, annealed by an argument",
        "deep Markov model, mean-field KL",
        "density by maximum likelihood, coupling, batchnorm and permute",
        "density by maximum likelihood, splines and a matrix exponential",
        "density of images, permuted channels",
        "discrete VAE, ReweightedWakeSleep",
        "guide with the flow affine_autoregressive",
        "guide with the flow affine_autoregressive, stable",
        "guide with the flow affine_coupling",
        "guide with the flow block_autoregressive",
        "guide with the flow householder",
        "guide with the flow matrix_exponential",
        "guide with the flow neural_autoregressive",
        "guide with the flow planar",
        "guide with the flow polynomial",
        "guide with the flow radial",
        "guide with the flow spline",
        "guide with the flow spline, quadratic",
        "guide with the flow spline_autoregressive",
        "guide with the flow spline_coupling",
        "guide with the flow sylvester",
        "if on a latent value",
        "if on a value of the data",
        "losses and values kept in a list by the model",
        "nonlinear state space, tensor Monte Carlo",
        "one_hot without a number of classes",
        "random indices by NumPy in the model",
        "regression, EnergyDistance",
        "regression, Trace_MMD",
        "rows up to a tensor n of another value each step",
        "rows up to a tensor n, x[:n]",
        "semi-supervised VAE, sampled labels and auxiliary loss",
        "stable distribution, EnergyDistance with a prior scale",
        "torch.arange(n) of a tensor n, and an assert that reads tensors",
        "toy mixture, sequential data and a neural baseline",
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
        "boolean mask of a fixed count",
        "if on a latent value",
        "optimiser Adam, options by parameter",
        "parameters that come with another kind of call",
        "mixture of Poissons, MixtureSameFamily",
        "VAE",
    }
)
"""Programs that record quickly; the tests of the others are slow."""


def _parameters() -> list[object]:
    names = [name for name in PROGRAMS if name != REFUSED]
    slow = pytest.mark.slow
    return [name if name in SHORT else pytest.param(name, marks=slow) for name in names]


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
