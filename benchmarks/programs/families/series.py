"""Time series: Kalman filters, local levels, epidemics, and animals captured again."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.contrib.timeseries import IndependentMaternGP, LinearlyCoupledMaternGP
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from pyro.infer.reparam import (
    DiscreteCosineReparam,
    HaarReparam,
    LinearHMMReparam,
    StableReparam,
    StudentTReparam,
)
from pyro.optim import DCTAdam
from torch import Tensor, nn
from torch.distributions import constraints

from ..program import Run, adam, always, program

STEPS = 16


def series(dim: int = 1) -> Tensor:
    """A random walk with noise, of some steps."""
    generator = torch.Generator().manual_seed(60)
    noise = torch.randn(2, STEPS, dim, generator=generator)
    return 0.3 * noise[0].cumsum(0) + 0.2 * noise[1]


@program("local level, a loop over steps")
def local_level() -> Run:
    y = series()[:, 0]

    def model(y: Tensor) -> None:
        drift = pyro.sample("drift", dist.LogNormal(-1.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        level: Any = torch.tensor(0.0)
        for t in range(len(y)):
            level = pyro.sample(f"level_{t}", dist.Normal(level, drift))
            pyro.sample(f"y_{t}", dist.Normal(level, noise), obs=y[t])

    return Run(model, AutoDiagonalNormal(model, init_scale=0.1), always(y))


@program("local level, cumsum and DiscreteCosineReparam")
def cosine() -> Run:
    y = series()[:, 0]

    @poutine.reparam(config={"steps": DiscreteCosineReparam()})
    def model(y: Tensor) -> None:
        drift = pyro.sample("drift", dist.LogNormal(-1.0, 1.0))
        steps = pyro.sample("steps", dist.Normal(0.0, drift).expand([len(y)]).to_event(1))
        pyro.sample("y", dist.Normal(steps.cumsum(-1), 0.3).to_event(1), obs=y)

    return Run(model, AutoNormal(model), always(y), optim=adam(0.02))


@program("local level, HaarReparam and StudentTReparam, DCTAdam")
def haar() -> Run:
    y = series()

    def model(y: Tensor) -> None:
        drift = pyro.sample("drift", dist.LogNormal(-1.0, 1.0))
        with pyro.plate("time", len(y), dim=-1):
            t = pyro.sample("steps", dist.StudentT(4.0, 0.0, drift))
            pyro.sample("y", dist.Normal(t.cumsum(-1), 0.3), obs=y[:, 0])

    tailed = poutine.reparam(model, config={"steps": StudentTReparam()})

    def wavelet(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
        pyro.sample("more", dist.Normal(z.cumsum(-1), 0.5).to_event(1), obs=y[:, 0])

    smooth = poutine.reparam(wavelet, config={"z": HaarReparam()})

    def both(y: Tensor) -> None:
        tailed(y)
        smooth(y)

    return Run(both, AutoNormal(both), always(y), optim=DCTAdam({"lr": 0.02}))


@program("GaussianHMM, a Kalman filter")
def gaussian_hmm() -> Run:
    y = series(2)

    def model(y: Tensor) -> None:
        initial = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
        matrix = pyro.param("matrix", 0.9 * torch.eye(2))
        transition = pyro.param("transition", torch.ones(2), constraint=constraints.positive)
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        hmm = dist.GaussianHMM(
            initial,
            matrix,
            dist.Normal(torch.zeros(2), transition).to_event(1),
            torch.eye(2),
            dist.Normal(torch.zeros(2), noise).to_event(1),
            duration=len(y),
        )
        pyro.sample("y", hmm, obs=y)

    return Run(model, AutoDelta(model), always(y), optim=adam(0.03))


@program("LinearHMM with stable noise, reparametrised")
def linear_hmm() -> Run:
    y = series()
    hmm = LinearHMMReparam(trans=StableReparam(), obs=StableReparam())

    @poutine.reparam(config={"y": hmm})
    def model(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
        one = torch.ones(1)
        initial = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
        transition = dist.Stable(1.8, 0.0, scale * one).to_event(1)
        noise = dist.Stable(1.9, 0.0, 0.3 * one).to_event(1)
        matrix = torch.eye(1)
        joint = dist.LinearHMM(initial, matrix, transition, matrix, noise, duration=len(y))
        pyro.sample("y", joint, obs=y)

    return Run(model, AutoNormal(model, init_scale=0.1), always(y))


@program("Kalman filter by hand, in place on a list")
def kalman() -> Run:
    y = series(2)

    def model(y: Tensor) -> None:
        a = pyro.param("a", 0.8 * torch.eye(2))
        q = pyro.param("q", torch.eye(2), constraint=constraints.positive_definite)
        mean, covariance, r = torch.zeros(2), torch.eye(2), 0.2 * torch.eye(2)
        for t in range(len(y)):
            mean, covariance = a @ mean, a @ covariance @ a.t() + q
            s = covariance + r
            pyro.sample(f"y_{t}", dist.MultivariateNormal(mean, s), obs=y[t])
            gain = torch.linalg.solve(s, covariance).t()
            mean = mean + gain @ (y[t] - mean)
            covariance = covariance - gain @ covariance

    def guide(y: Tensor) -> None:
        """There is nothing to infer."""

    return Run(model, guide, always(y))


class Seasonal(ForecastingModel):
    """A forecasting model with a trend and a period."""

    def model(self, zero_data: Tensor, covariates: Tensor) -> None:
        bias = pyro.sample("bias", dist.Normal(0.0, 10.0))
        weight = pyro.sample("weight", dist.Normal(0.0, 0.1))
        scale = pyro.sample("scale", dist.LogNormal(-2.0, 2.0))
        with self.time_plate:
            steps = pyro.sample("steps", dist.Normal(0.0, scale))
        mean = bias + weight * covariates + steps.cumsum(-1).unsqueeze(-1)
        self.predict(dist.Normal(torch.zeros(1), 0.5).to_event(1), mean)


@program("forecasting model of pyro.contrib.forecast")
def forecast() -> Run:
    model, y = Seasonal(), series()
    covariates = torch.arange(float(STEPS)).unsqueeze(-1) / STEPS
    return Run(model, AutoNormal(model), always(y, covariates), Trace_ELBO(), DCTAdam({"lr": 0.03}))


@program("IndependentMaternGP of pyro.contrib.timeseries")
def matern() -> Run:
    process, y = IndependentMaternGP(nu=1.5, obs_dim=2), series(2)

    def model(y: Tensor) -> None:
        pyro.module("process", process)
        pyro.factor("likelihood", process.log_prob(y).sum())

    def guide(y: Tensor) -> None:
        """There is nothing to infer."""

    return Run(model, guide, always(y))


@program("LinearlyCoupledMaternGP, a function of log_prob as loss")
def coupled() -> Run:
    process, y = LinearlyCoupledMaternGP(nu=0.5, obs_dim=2, num_gps=2), series(2)

    def model(y: Tensor) -> None:
        pyro.module("process", process)

    def loss(model: Any, guide: Any, y: Tensor) -> Tensor:
        model(y)
        return -process.log_prob(y).sum() / y.size(0)

    return Run(model, model, always(y), loss)


def infections(weeks: int = 8) -> Tensor:
    """New cases of each week."""
    return torch.tensor([1.0, 2.0, 4.0, 7.0, 9.0, 8.0, 5.0, 3.0])[:weeks]


@program("SIR, counts enumerated in small compartments")
def sir_enumerated() -> Run:
    found = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0])

    @config_enumerate
    def model(cases: Tensor) -> None:
        rate = pyro.sample("rate", dist.Beta(2.0, 4.0))
        seen = pyro.sample("seen", dist.Beta(5.0, 2.0))
        before: Any = torch.tensor(3)
        for t in pyro.markov(range(len(cases))):
            stay = _binomial_probs(before, 1 - rate)
            left = pyro.sample(f"left_{t}", dist.Categorical(stay))
            new = (before - left).clamp(min=0)
            pyro.sample(f"cases_{t}", dist.Poisson(seen * new + 0.1), obs=cases[t])
            before = left

    guide = AutoDelta(poutine.block(model, expose=["rate", "seen"]))
    return Run(model, guide, always(found), TraceEnum_ELBO(max_plate_nesting=0))


def _binomial_probs(total: Tensor, rate: Tensor, most: int = 3) -> Tensor:
    """The probabilities of a binomial count up to a number."""
    k = torch.arange(most + 1)
    n = total.unsqueeze(-1)
    rest = (n - k).clamp(min=0)
    choose = torch.lgamma(n + 1.0) - torch.lgamma(k + 1.0) - torch.lgamma(rest + 1.0)
    logits = choose + k * rate.log() + rest * torch.log1p(-rate)
    return torch.where(k <= n, logits, torch.full((), -float("inf"))).softmax(-1)


@program("SIR, relaxed to continuous compartments")
def sir_relaxed() -> Run:
    cases, population = infections(), 100.0

    def model(cases: Tensor) -> None:
        r0 = pyro.sample("R0", dist.LogNormal(0.5, 0.5))
        rho = pyro.sample("rho", dist.Beta(8, 2))
        tau = 3.0
        s, i = torch.tensor(population - 1.0), torch.tensor(1.0)
        for t in pyro.markov(range(len(cases))):
            mean = (s * (1 - (-r0 / tau * i / population).exp())).clamp(min=1e-3)
            scale = mean.sqrt()
            infected = pyro.sample(f"s2i_{t}", dist.Normal(mean, scale)).clamp(min=1e-3)
            s, i = (s - infected).clamp(min=1e-3), i + infected - i / tau
            pyro.sample(f"obs_{t}", dist.Normal(rho * infected, 1.0 + scale), obs=cases[t])

    return Run(
        model, AutoMultivariateNormal(model, init_scale=0.05), always(cases), optim=adam(0.005)
    )


@program("SIR, overdispersed counts and an ordinary differential equation")
def sir_ode() -> Run:
    cases = infections()

    def model(cases: Tensor) -> None:
        rate = pyro.sample("rate", dist.LogNormal(0.0, 0.3))
        k = pyro.sample("k", dist.Exponential(1.0))
        s, i, flows = torch.tensor(99.0), torch.tensor(1.0), []
        for _ in range(len(cases)):
            new = rate * s * i / 100
            s, i = s - new, i + new - 0.3 * i
            flows.append(new)
        mean = torch.stack(flows).clamp(min=1e-2)
        with pyro.plate("weeks", len(cases)):
            counts = dist.NegativeBinomial(k + 0.1, logits=mean.log() - (k + 0.1).log())
            pyro.sample("cases", counts, obs=cases)

    return Run(model, AutoDiagonalNormal(model, init_scale=0.05), always(cases), optim=adam(0.02))


def captures() -> Tensor:
    """Which animals were caught on which occasion."""
    generator = torch.Generator().manual_seed(61)
    caught = torch.bernoulli(torch.full((8, 5), 0.5), generator=generator)
    caught[:, 1] = 1.0
    return caught


def _capture_model(y: Tensor, by_time: bool) -> None:
    """Cormack, Jolly and Seber's model, with states enumerated."""
    animals, occasions = y.shape
    phi_mean = pyro.sample("phi_mean", dist.Uniform(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    plate = pyro.plate("animals", animals, dim=-1)
    z, seen = torch.ones(animals), torch.zeros(animals).bool()
    for t in pyro.markov(range(occasions)):
        phi = phi_mean
        if by_time:
            phi = pyro.sample(f"phi_{t}", dist.Beta(10 * phi_mean + 1, 10 * (1 - phi_mean) + 1))
        with plate, poutine.mask(mask=seen):
            alive = seen.to(y.dtype) * phi * z + (1 - seen.to(y.dtype))
            z = pyro.sample(f"z_{t}", dist.Bernoulli(alive), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=y[:, t])
        seen = seen | y[:, t].bool()


@program("capture and recapture, one rate of survival")
def capture() -> Run:
    model = partial(_capture_model, by_time=False)
    guide = AutoDiagonalNormal(poutine.block(model, expose=["phi_mean", "rho"]))
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Run(model, guide, always(captures()), loss, adam(0.02))


@program("capture and recapture, survival of each time")
def capture_by_time() -> Run:
    model = partial(_capture_model, by_time=True)

    def expose(message: dict[str, Any]) -> bool:
        return message["name"].startswith(("phi", "rho"))

    guide = AutoDiagonalNormal(poutine.block(model, expose_fn=expose))
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Run(model, guide, always(captures()), loss, adam(0.02))


@program("stochastic volatility, an LSTM as guide")
def volatility() -> Run:
    y, net, head = series(), nn.LSTM(1, 6, batch_first=True), nn.Linear(6, 2)

    def model(y: Tensor) -> None:
        sigma = pyro.param("sigma", torch.tensor(0.2), constraint=constraints.positive)
        with pyro.plate("time", len(y)):
            steps = pyro.sample("steps", dist.Normal(0.0, 1.0))
            volatility = torch.exp(0.5 * sigma * steps.cumsum(-1))
            pyro.sample("y", dist.StudentT(5.0, 0.0, volatility), obs=y[:, 0])

    def guide(y: Tensor) -> None:
        pyro.module("net", net)
        pyro.module("head", head)
        loc, log_scale = head(net(y[None])[0][0]).unbind(-1)
        with pyro.plate("time", len(y)):
            pyro.sample("steps", dist.Normal(loc, log_scale.exp()))

    return Run(model, guide, always(y))
