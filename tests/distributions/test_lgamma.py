"""Densities with gamma functions at small and large arguments, against 60 digits of mpmath."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae import distributions as ours
from pyrovae.distributions.lgamma import deviance, log_half_rise, stirling_remainder

ARGUMENTS = [1e-3, 0.1, 1.0, 7.0, 30.0, 1e3, 1e5, 1e7, 1e8]
LOGITS = [-16.0, -12.206, -5.0, -0.5, 0.0, 2.0, 12.0]
COUNTS = [0.0, 1.0, 5.0, 50.0, 1e3, 1e5, 999_999.0]
MANY = [*COUNTS, 1e7, 10_003_000.0]
POSITIVE = [1e-3, 0.5, 0.999, 1.0, 1.001, 3.0, 50.0, 1e4]
UNIT = [1e-4, 0.1, 0.5, 0.501, 0.999, 1 - 1e-5]
NUM = 10**6

lg: Any = mp.loggamma


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def log_choose(n: Any, x: Any) -> Any:
    return lg(n + 1) - lg(x + 1) - lg(n - x + 1)


def log_beta(a: Any, b: Any) -> Any:
    return lg(a) + lg(b) - lg(a + b)


def log_nb(x: Any, r: Any, p: Any) -> Any:
    return lg(r + x) - lg(r) - lg(x + 1) + x * mp.log(p) + r * mp.log(1 - p)


class Family(NamedTuple):
    """A family, its values and arguments, its log-density, and the size of what is rounded."""

    make: Callable[..., Any]
    values: list[float]
    arguments: list[list[float]]
    log_prob: Callable[..., Any]
    size: Callable[..., Any]


def total(like: Tensor) -> Tensor:
    return torch.tensor(float(NUM), dtype=like.dtype)


FAMILIES = {
    "Poisson": Family(
        lambda rate: ours.Poisson(rate),
        MANY,
        [ARGUMENTS],
        lambda x, r: x * mp.log(r) - r - lg(x + 1),
        lambda x, r: x + r,
    ),
    "Bernoulli of probabilities": Family(
        lambda probs: ours.Bernoulli(probs),
        [0.0, 1.0],
        [[1e-30, 1e-9, 1e-3, 0.3]],
        lambda x, p: x * mp.log(p) + (1 - x) * mp.log(1 - p),
        lambda x, p: x + p,
    ),
    "Geometric": Family(
        lambda logits: ours.Geometric(logits=logits),
        [*COUNTS, 1e8],
        [[*LOGITS, 25.0]],
        lambda x, t: x * mp.log(sigmoid(-t)) + mp.log(sigmoid(t)),
        lambda x, t: x,
    ),
    "Geometric of probabilities": Family(
        lambda probs: ours.Geometric(probs),
        [*COUNTS, 1e8],
        [[1e-12, 1e-9, 1e-3, 0.3]],
        lambda x, p: x * mp.log(1 - p) + mp.log(p),
        lambda x, p: x,
    ),
    "Binomial": Family(
        lambda logits: ours.Binomial(total(logits), logits=logits),
        COUNTS,
        [LOGITS],
        lambda x, t: log_choose(NUM, x) + x * mp.log(sigmoid(t)) + (NUM - x) * mp.log(sigmoid(-t)),
        lambda x, t: x + NUM * sigmoid(t),
    ),
    "Binomial of probabilities": Family(
        lambda probs: ours.Binomial(total(probs), probs),
        COUNTS,
        [[1e-12, 1e-9, 1e-3, 0.3]],
        lambda x, p: log_choose(NUM, x) + x * mp.log(p) + (NUM - x) * mp.log(1 - p),
        lambda x, p: x + NUM * p,
    ),
    "NegativeBinomial": Family(
        lambda r, logits: ours.NegativeBinomial(r, logits=logits),
        MANY,
        [ARGUMENTS, LOGITS],
        lambda x, r, t: log_nb(x, r, sigmoid(t)),
        lambda x, r, t: x + r * mp.exp(t),
    ),
    "NegativeBinomial of probabilities": Family(
        lambda r, probs: ours.NegativeBinomial(r, probs),
        MANY,
        [ARGUMENTS, [1e-9, 1e-3, 0.3]],
        log_nb,
        lambda x, r, p: x + r * p / (1 - p),
    ),
    "GammaPoisson": Family(
        lambda a, b: ours.GammaPoisson(a, b),
        MANY,
        [ARGUMENTS, ARGUMENTS],
        lambda x, a, b: log_nb(x, a, 1 / (1 + b)),
        lambda x, a, b: x + a / b,
    ),
    "BetaBinomial": Family(
        lambda a, b: ours.BetaBinomial(a, b, total(a)),
        COUNTS,
        [ARGUMENTS, ARGUMENTS],
        lambda x, a, b: log_choose(NUM, x) + log_beta(x + a, NUM - x + b) - log_beta(a, b),
        lambda x, a, b: min(x, NUM - x) + min(a, b),
    ),
    "Gamma": Family(
        lambda a, b: ours.Gamma(a, b),
        POSITIVE,
        [ARGUMENTS, ARGUMENTS],
        lambda x, a, b: a * mp.log(b) + (a - 1) * mp.log(x) - b * x - lg(a),
        lambda x, a, b: a + b * x,
    ),
    "Chi2": Family(
        lambda df: ours.Chi2(df),
        POSITIVE,
        [ARGUMENTS],
        lambda x, k: (k / 2 - 1) * mp.log(x) - x / 2 - lg(k / 2) - k / 2 * mp.log(2),
        lambda x, k: k + x,
    ),
    "InverseGamma": Family(
        lambda a, b: ours.InverseGamma(a, b),
        POSITIVE,
        [ARGUMENTS, ARGUMENTS],
        lambda x, a, b: a * mp.log(b) - (a + 1) * mp.log(x) - b / x - lg(a),
        lambda x, a, b: a + b / x,
    ),
    "Beta": Family(
        lambda a, b: ours.Beta(a, b),
        UNIT,
        [ARGUMENTS, ARGUMENTS],
        lambda x, a, b: (a - 1) * mp.log(x) + (b - 1) * mp.log(1 - x) - log_beta(a, b),
        lambda x, a, b: a + b,
    ),
    "FisherSnedecor": Family(
        lambda m, n: ours.FisherSnedecor(m, n),
        POSITIVE,
        [ARGUMENTS, ARGUMENTS],
        lambda x, m, n: (
            m / 2 * mp.log(m / n)
            + (m / 2 - 1) * mp.log(x)
            - (m + n) / 2 * mp.log(1 + m * x / n)
            - log_beta(m / 2, n / 2)
        ),
        lambda x, m, n: m + n,
    ),
    "StudentT": Family(
        lambda df, scale: ours.StudentT(df, torch.zeros_like(df), scale),
        POSITIVE,
        [ARGUMENTS, ARGUMENTS],
        lambda x, v, s: (
            lg((v + 1) / 2)
            - lg(v / 2)
            - mp.log(mp.pi * v) / 2
            - mp.log(s)
            - (v + 1) / 2 * mp.log(1 + (x / s) ** 2 / v)
        ),
        lambda x, v, s: min(v, (x / s) ** 2),
    ),
}


@pytest.fixture(autouse=True)
def _sixty_digits() -> Any:
    with mp.workdps(60):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_values_and_gradients_keep_their_digits(name: str, dtype: torch.dtype) -> None:
    """A relative rounding error e of the mean m moves the value by e |x - m|, which is
    e sqrt(2 m D) for a deviance of D, and the gradient in log m by e m.
    """
    family = FAMILIES[name]
    eps = torch.finfo(dtype).eps
    grid = list(itertools.product(family.values, *family.arguments))
    x, *arguments = (torch.tensor(column, dtype=dtype) for column in zip(*grid, strict=True))
    for argument in arguments:
        argument.requires_grad_()
    value = family.make(*arguments).log_prob(x)
    gradients = torch.autograd.grad(value.sum(), arguments)
    for i in range(len(grid)):
        exact = [mp.mpf(float(part.detach()[i])) for part in (x, *arguments)]
        expected, size = family.log_prob(*exact), float(family.size(*exact))
        scale = 1 + abs(float(expected))
        tolerance = eps * (32 * scale + 4 * (size * scale) ** 0.5)
        assert abs(value[i].item() - float(expected)) <= tolerance, grid[i]
        for k, gradient in enumerate(gradients, 1):
            at = exact[k] or mp.mpf(1)
            shifted = list(exact)
            shifted[k] += at * mp.mpf(10) ** -20
            slope = float((family.log_prob(*shifted) - expected) * mp.mpf(10) ** 20)
            error = abs(gradient[i].item() * float(at) - slope)
            assert error <= eps * 32 * (1 + abs(slope) + size), (grid[i], k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1e-2, 1.0, 50.0, 1e4, 1e7])
def test_vectors_keep_their_digits(size: float, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    a = torch.tensor([0.3, 1.0, 2.5], dtype=dtype) * size
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    x = (p * 4 * size).round().to(dtype)
    exact_a, exact_x = ([mp.mpf(float(v)) for v in t] for t in (a, x))
    n, sum_a = mp.fsum(exact_x), mp.fsum(exact_a)
    of_counts = lg(n + 1) - mp.fsum(lg(v + 1) for v in exact_x)
    compound = of_counts + lg(sum_a) - lg(n + sum_a)
    compound += mp.fsum(lg(v + b) - lg(b) for v, b in zip(exact_x, exact_a, strict=True))
    logits = p.log().to(dtype)
    weights = [mp.exp(mp.mpf(float(v))) for v in logits]
    plain = of_counts + mp.fsum(
        v * mp.log(w / mp.fsum(weights)) for v, w in zip(exact_x, weights, strict=True)
    )
    point = [mp.mpf(float(v)) for v in p.to(dtype)]
    simplex = lg(sum_a) + mp.fsum(
        (b - 1) * mp.log(v / mp.fsum(point)) - lg(b) for v, b in zip(point, exact_a, strict=True)
    )
    for found, expected in (
        (ours.DirichletMultinomial(a, validate_args=False).log_prob(x), compound),
        (ours.Multinomial(logits, validate_args=False).log_prob(x), plain),
        (ours.Dirichlet(a).log_prob(p.to(dtype)), simplex),
    ):
        tolerance = eps * (32 * (1 + abs(float(expected))) + 8 * size**0.5)
        assert abs(found.item() - float(expected)) <= tolerance


@pytest.mark.parametrize("gate", [0.0, 1e-9, 0.3, 1.0])
def test_a_gate_of_zeros(gate: float) -> None:
    """From the gate that was given, also after its logits were asked for, and expanded."""
    for base, p in (
        (
            ours.Poisson(torch.tensor(1e6)),
            ours.ZeroInflatedPoisson(torch.tensor(1e6), gate=gate_of(gate)),
        ),
        (
            ours.NegativeBinomial(torch.tensor(1e7), logits=torch.tensor(-12.0)),
            ours.ZeroInflatedNegativeBinomial(
                torch.tensor(1e7), logits=torch.tensor(-12.0), gate=gate_of(gate)
            ),
        ),
    ):
        x = torch.tensor([0.0, 60.0, 1e6])
        mass = (1 - gate) * base.log_prob(x).double().exp() + gate * (x == 0)
        _ = p.gate_logits, p.mean
        torch.testing.assert_close(p.expand((3,)).log_prob(x).double().exp(), mass)


def gate_of(gate: float) -> Tensor:
    return torch.tensor(gate)


def test_what_lies_between_the_series_and_the_formulas() -> None:
    for dtype in (torch.float32, torch.float64):
        a = torch.tensor([1e-8, 0.5, 9.99, 10.0, 10.01, 1e8], dtype=dtype, requires_grad=True)
        for found, formula, slope in (
            (
                stirling_remainder(a),
                lambda v: lg(v + 1) - v * mp.log(v) + v,
                lambda v: mp.digamma(v + 1) - mp.log(v),
            ),
            (
                log_half_rise(a),
                lambda v: lg(v + 0.5) - lg(v) - mp.log(v) / 2,
                lambda v: mp.digamma(v + 0.5) - mp.digamma(v) - 1 / v / 2,
            ),
        ):
            (gradient,) = torch.autograd.grad(found.sum(), a)
            for i, v in enumerate(a.detach().tolist()):
                exact, eps = mp.mpf(v), torch.finfo(dtype).eps
                assert found[i].item() == pytest.approx(float(formula(exact)), abs=32 * eps)
                expected = float(slope(exact))
                assert gradient[i].item() == pytest.approx(expected, rel=64 * eps, abs=16 * eps)


def test_deviance_keeps_relative_digits() -> None:
    x = torch.tensor([1.0, 1e3, 1e8], requires_grad=True)
    for share in (1e-7, 1e-3, 0.0999, 0.19, 0.3, 0.95, 1 - 1e-4, -1e-6, -0.2, -18.0, -1e6):
        excess = x.detach() * share
        exact = [
            (mp.mpf(float(v)), mp.mpf(float(e)))
            for v, e in zip(x.tolist(), excess.tolist(), strict=True)
        ]
        log_m = torch.tensor([float(mp.log(v - e)) for v, e in exact], requires_grad=True)
        value = deviance(x, log_m, excess)
        in_x, in_log_m = torch.autograd.grad(value.sum(), (x, log_m))
        for i, (v, e) in enumerate(exact):
            assert value[i].item() == pytest.approx(float(v * mp.log(v / (v - e)) - e), rel=5e-6)
            assert in_x[i].item() == pytest.approx(float(mp.log(v / (v - e))), rel=5e-6)
            assert in_log_m[i].item() == pytest.approx(float(-e), rel=1e-6)


def nb(r: Tensor, logits: Tensor, x: Tensor) -> Tensor:
    return ours.NegativeBinomial(r, logits=logits, validate_args=False).log_prob(x).sum()


def test_a_recorded_step_serves_other_regimes() -> None:
    """Near and far from the mean, small and large: the graph depends on none of it."""

    def step(r: Tensor, logits: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        r, logits = (t.detach().requires_grad_() for t in (r, logits))
        value = nb(r, logits, x)
        return (value, *torch.autograd.grad(value, (r, logits)))

    first = torch.full((5,), 1e6), torch.full((5,), -10.0), torch.full((5,), 50.0)
    second = torch.rand(5), torch.randn(5), torch.tensor([0.0, 1.0, 3.0, 100.0, 1e6])
    recorded = make_fx(step)(*first)
    for found, expected in zip(recorded(*second), step(*second), strict=True):
        assert torch.equal(found, expected)
    vectorised = torch.func.vmap(torch.func.grad(nb))(*second)
    torch.testing.assert_close(vectorised, step(*second)[1])


@pytest.mark.usefixtures("float64")
def test_second_derivatives() -> None:
    torch.manual_seed(0)
    a, b = (torch.rand(4) * 5 + 1).requires_grad_(), torch.rand(4).requires_grad_()
    counts, share = torch.tensor([0.0, 1.0, 3.0, 20.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    for log_prob in (
        lambda a, b: nb(a, b, counts),
        lambda a, b: ours.Gamma(a, b).log_prob(counts + 0.5),
        lambda a, b: ours.Beta(a, b).log_prob(share),
        lambda a, b: ours.StudentT(a, b).log_prob(share),
        lambda a, b: ours.Dirichlet(a).log_prob(share) + b,
        lambda a, b: ours.DirichletMultinomial(a, validate_args=False).log_prob(counts) + b,
    ):
        assert gradgradcheck(log_prob, (a, b))
    hessian = torch.func.hessian(lambda a: nb(a, b.detach(), counts))(a.detach())
    (slope,) = torch.autograd.grad(nb(a, b, counts), a, create_graph=True)
    torch.testing.assert_close(hessian.diagonal(), torch.autograd.grad(slope.sum(), a)[0])


def test_at_the_ends_of_the_support() -> None:
    """Zero, infinite or finite, as the concentration says."""
    concentration = torch.tensor([0.5, 1.0, 2.0])
    ends = torch.tensor([torch.inf, 0.0, -torch.inf])
    zeros, two = torch.zeros(3), torch.tensor(2.0)
    assert torch.equal(ours.Gamma(concentration, torch.ones(3)).log_prob(zeros), ends)
    torch.testing.assert_close(ours.Chi2(2 * concentration).log_prob(zeros), ends - two.log())
    for p, x in (
        (ours.Beta(concentration, torch.full((3,), 2.0)), zeros),
        (ours.Beta(torch.full((3,), 2.0), concentration), zeros + 1),
    ):
        torch.testing.assert_close(p.log_prob(x), ends + two.log())
