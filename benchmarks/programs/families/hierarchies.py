"""Hierarchical models and regressions of small tables."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_median,
)
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from ..program import Run, adam, always, cycle, program


def schools() -> tuple[Tensor, Tensor]:
    """The effects of coaching in eight schools and their standard errors (Rubin 1981)."""
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return effects, torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools_model(sigma: Tensor, y: Tensor | None = None) -> None:
    """Eight schools, not centred."""
    eta = pyro.sample("eta", dist.Normal(torch.zeros(8), torch.ones(8)).to_event(1))
    mu = pyro.sample("mu", dist.Normal(torch.zeros(1), 10 * torch.ones(1)).to_event(1))
    tau = pyro.sample("tau", dist.HalfCauchy(scale=25 * torch.ones(1)).to_event(1))
    pyro.sample("obs", dist.Normal(mu + tau * eta, sigma).to_event(1), obs=y)


@program("eight schools, guide by hand with a TransformedDistribution")
def schools_by_hand() -> Run:
    y, sigma = schools()

    def guide(sigma: Tensor, y: Tensor | None = None) -> None:
        m_eta = pyro.param("loc_eta", torch.zeros(8))
        s_eta = pyro.param("scale_eta", 0.1 * torch.ones(8), constraint=constraints.positive)
        pyro.sample("eta", dist.Normal(m_eta, s_eta).to_event(1))
        m_mu = pyro.param("loc_mu", torch.tensor([4.0]))
        s_mu = pyro.param("scale_mu", torch.tensor([3.0]), constraint=constraints.positive)
        pyro.sample("mu", dist.Normal(m_mu, s_mu).to_event(1))
        m_tau, s_tau = (
            pyro.param("loc_tau", torch.tensor([1.0])),
            pyro.param("log_tau", torch.ones(1)),
        )
        base = dist.Normal(m_tau, s_tau.exp())
        transformed = dist.TransformedDistribution(base, dist.transforms.ExpTransform())
        pyro.sample("tau", transformed.to_event(1))

    return Run(schools_model, guide, always(sigma, y), Trace_ELBO(num_particles=4), adam(0.01))


@program("eight schools, AutoMultivariateNormal of a centred model with LocScaleReparam")
def schools_reparametrised() -> Run:
    y, sigma = schools()

    @poutine.reparam(config={"theta": LocScaleReparam(centered=None, shape_params=())})
    def model(sigma: Tensor, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.LogNormal(1.0, 1.0))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    guide = AutoMultivariateNormal(model, init_loc_fn=init_to_median)
    return Run(model, guide, always(sigma, y))


def batting() -> tuple[Tensor, Tensor]:
    """Times at bat and hits of some players."""
    generator = torch.Generator().manual_seed(10)
    at_bats = torch.full((18, 1), 45.0)
    rate = 0.2 + 0.15 * torch.rand(18, 1, generator=generator)
    return at_bats, torch.binomial(at_bats, rate, generator=generator)


@program("baseball, partially pooled")
def partially_pooled() -> Run:
    at_bats, hits = batting()

    def model(at_bats: Tensor, hits: Tensor) -> None:
        num = at_bats.shape[0]
        m = pyro.sample("m", dist.Uniform(0, 1))
        kappa = pyro.sample("kappa", dist.Pareto(1, 1.5))
        with pyro.plate("num_players", num):
            phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            pyro.sample("obs", dist.Binomial(at_bats[:, 0], phi), obs=hits[:, 0])

    return Run(model, AutoNormal(model), always(at_bats, hits))


@program("baseball, partially pooled logits")
def pooled_logits() -> Run:
    at_bats, hits = batting()

    def model(at_bats: Tensor, hits: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(-1, 1))
        scale = pyro.sample("scale", dist.HalfCauchy(1))
        with pyro.plate("num_players", at_bats.shape[0]):
            alpha = pyro.sample("alpha", dist.Normal(loc, scale))
            pyro.sample("obs", dist.Binomial(at_bats[:, 0], logits=alpha), obs=hits[:, 0])

    return Run(model, AutoDiagonalNormal(model), always(at_bats, hits), optim=adam(0.02))


def table(num: int = 60, columns: int = 3) -> tuple[Tensor, Tensor]:
    """Predictors, and a response that is linear in them."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(num, columns, generator=generator)
    noise = 0.3 * torch.randn(num, generator=generator)
    return x, x @ torch.arange(1.0, columns + 1) - 0.5 + noise


class Regression(PyroModule):
    """Linear regression with priors of the weights."""

    def __init__(self, inputs: int, outputs: int = 1) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](inputs, outputs)
        weight = dist.Normal(0.0, 1.0).expand([outputs, inputs]).to_event(2)
        self.linear.weight = PyroSample(weight)
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([outputs]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


@program("Bayesian regression, PyroSample")
def regression() -> Run:
    model = Regression(3)
    return Run(model, AutoDiagonalNormal(model), always(*table()), optim=adam(0.03))


@program("regression by hand, interaction of two predictors")
def regression_by_hand() -> Run:
    x, y = table()
    africa = (x[:, 0] > 0).to(x.dtype)

    def model(region: Tensor, ruggedness: Tensor, response: Tensor | None = None) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        b = [pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("bA", "bR", "bAR")]
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = a + b[0] * region + b[1] * ruggedness + b[2] * region * ruggedness
        with pyro.plate("data", len(ruggedness)):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=response)

    def guide(region: Tensor, ruggedness: Tensor, response: Tensor | None = None) -> None:
        loc = pyro.param("weights_loc", lambda: torch.randn(3))
        scale = pyro.param("weights_scale", lambda: torch.ones(3), constraint=constraints.positive)
        for i, name in enumerate(("bA", "bR", "bAR")):
            pyro.sample(name, dist.Normal(loc[i], scale[i]))
        a_loc = pyro.param("a_loc", lambda: torch.tensor(0.0))
        a_scale = pyro.param("a_scale", torch.tensor(1.0), constraint=constraints.positive)
        pyro.sample("a", dist.Normal(a_loc, a_scale))
        sigma_loc = pyro.param("sigma_loc", torch.tensor(0.5), constraint=constraints.positive)
        pyro.sample("sigma", dist.LogNormal(sigma_loc.log(), torch.tensor(0.05)))

    return Run(model, guide, always(africa, x[:, 1], y), optim=adam(0.02))


@program("logistic regression, subsample of a plate in model and guide")
def logistic() -> Run:
    x, response = table(200)
    y = (response > 0).to(x.dtype)

    def model(x: Tensor, y: Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=32) as index:
            logits = x[index] @ weight + bias
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y[index])

    def guide(x: Tensor, y: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(4))
        tril = pyro.param("tril", torch.eye(4), constraint=constraints.lower_cholesky)
        joint = dist.MultivariateNormal(loc, scale_tril=tril)
        both = pyro.sample("both", joint, infer={"is_auxiliary": True})
        pyro.sample("weight", dist.Delta(both[:3], event_dim=1))
        pyro.sample("bias", dist.Delta(both[3]))

    return Run(model, guide, always(x, y))


@program("multinomial regression, horseshoe prior")
def horseshoe() -> Run:
    x, response = table()
    y = (response > 0).long() + (response > 1).long()

    def model(x: Tensor, y: Tensor) -> None:
        tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(0.5)))
        with pyro.plate("columns", x.size(1)), pyro.plate("classes", 3):
            lam = pyro.sample("lam", dist.HalfCauchy(torch.tensor(1.0)))
            w = pyro.sample("w", dist.Normal(0.0, lam * tau))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=x @ w.transpose(-1, -2)), obs=y)

    return Run(model, AutoNormal(model), always(x, y), TraceMeanField_ELBO())


class BayesianNetwork(PyroModule):
    """A neural network whose weights are all random."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.fc1 = PyroModule[nn.Linear](3, hidden)
        self.fc1.weight = PyroSample(dist.Normal(0.0, 1.0).expand([hidden, 3]).to_event(2))
        self.fc1.bias = PyroSample(dist.Normal(0.0, 1.0).expand([hidden]).to_event(1))
        self.fc2 = PyroModule[nn.Linear](hidden, 1)
        self.fc2.weight = PyroSample(
            lambda self: dist.Normal(0.0, self.prior_scale).expand([1, hidden]).to_event(2)
        )
        self.fc2.prior_scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)
        self.activation = nn.Tanh()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.fc2(self.activation(self.fc1(x))).squeeze(-1)
        sigma = pyro.sample("sigma", dist.Gamma(0.5, 1.0))
        with pyro.plate("data", 60, subsample_size=x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


@program("Bayesian neural network, PyroSample of a function")
def bayesian_network() -> Run:
    model = BayesianNetwork()
    return Run(model, AutoNormal(model, init_scale=0.1), cycle(15, *table()))


@program("Bayesian neural network, pyro.random_module by hand")
def random_module() -> Run:
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
    shapes = {name: value.shape for name, value in net.named_parameters()}

    def weights(sample: Any) -> dict[str, Tensor]:
        return {name: sample(name, shape) for name, shape in shapes.items()}

    def model(x: Tensor, y: Tensor) -> None:
        def prior(name: str, shape: torch.Size) -> Tensor:
            return pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))

        mean = torch.func.functional_call(net, weights(prior), (x,)).squeeze(-1)
        with pyro.plate("data", 60, subsample=torch.arange(len(x))):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        def posterior(name: str, shape: torch.Size) -> Tensor:
            loc = pyro.param(f"{name}_loc", lambda: 0.3 * torch.randn(shape))
            scale = pyro.param(
                f"{name}_scale", torch.full(shape, 0.05), constraints.softplus_positive
            )
            return pyro.sample(name, dist.Normal(loc, scale).to_event(len(shape)))

        weights(posterior)

    return Run(model, guide, cycle(15, *table()), optim=adam(0.005))


@program("LKJ covariance")
def lkj() -> Run:
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(12))

    def model(y: Tensor) -> None:
        d = y.shape[1]
        options = {"dtype": y.dtype, "device": y.device}
        theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(d, **options)).to_event(1))
        eta = torch.ones(1, **options)
        l_omega = pyro.sample("L_omega", dist.LKJCholesky(d, eta[0]))
        l_sigma = torch.mm(torch.diag(theta.sqrt()), l_omega)
        mu = torch.zeros(d, **options)
        with pyro.plate("observations", y.shape[0]):
            pyro.sample("obs", dist.MultivariateNormal(mu, scale_tril=l_sigma), obs=y)

    return Run(model, AutoMultivariateNormal(model), always(x))


@program("varying intercepts, a list of groups as argument")
def varying_intercepts() -> Run:
    generator = torch.Generator().manual_seed(13)
    groups = [torch.randn(n, generator=generator) + n for n in (4, 6, 3)]

    def model(groups: list[Tensor]) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = pyro.sample("spread", dist.Exponential(1.0))
        for i in range(len(groups)):
            intercept = pyro.sample(f"intercept_{i}", dist.Normal(mean, spread))
            with pyro.plate(f"data_{i}", len(groups[i])):
                pyro.sample(f"y_{i}", dist.Normal(intercept, 1.0), obs=groups[i])

    return Run(model, AutoDiagonalNormal(model), always(groups), optim=adam(0.05))


@program("CEVAE, treatment and outcome of hidden confounders")
def cevae() -> Run:
    generator = torch.Generator().manual_seed(14)
    x = torch.randn(40, 4, generator=generator)
    t = torch.bernoulli(torch.sigmoid(x[:, 0]), generator=generator)
    y = torch.bernoulli(torch.sigmoid(t + x[:, 1]), generator=generator)
    x_net, z_nets = nn.Linear(2, 4), nn.ModuleList([nn.Linear(5, 4), nn.Linear(5, 4)])
    t_net, y_nets = nn.Linear(2, 1), nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    q_t, q_y = nn.Linear(4, 1), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])

    def outcome(nets: nn.ModuleList, z: Tensor, t: Tensor) -> Any:
        logits = [net(z).squeeze(-1) for net in nets]
        return dist.Bernoulli(logits=torch.where(t.bool(), logits[1], logits[0]))

    def model(x: Tensor, t: Tensor | None = None, y: Tensor | None = None, size: int = 0) -> None:
        pyro.module("x_net", x_net)
        pyro.module("t_net", t_net)
        pyro.module("y_nets", y_nets)
        with pyro.plate("data", size, subsample=x):
            z = pyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(x_net(z), 1.0).to_event(1), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=t_net(z).squeeze(-1)), obs=t)
            pyro.sample("y", outcome(y_nets, z, t), obs=y)

    def guide(x: Tensor, t: Tensor | None = None, y: Tensor | None = None, size: int = 0) -> None:
        for name, net in (("q_t", q_t), ("q_y", q_y), ("z_nets", z_nets)):
            pyro.module(name, net)
        with pyro.plate("data", size, subsample=x):
            options = {"is_auxiliary": True}
            q = dist.Bernoulli(logits=q_t(x).squeeze(-1))
            t = pyro.sample("t", q, obs=t, infer=options)
            y = pyro.sample("y", outcome(q_y, x, t), obs=y, infer=options)
            h = torch.cat([y.unsqueeze(-1), x], -1)
            both = torch.where(t.bool().unsqueeze(-1), z_nets[1](h), z_nets[0](h))
            loc, scale = both.chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(scale)).to_event(1))

    return Run(model, guide, cycle(10, x, t, y, size=40))


@program("regression with a missing predictor, enumerated")
def missing_predictor() -> Run:
    x, y = table()
    known = torch.arange(60) % 4 != 0
    treated = (x[:, 0] > 0).long()

    @config_enumerate
    def model(treated: Tensor, known: Tensor, y: Tensor) -> None:
        p = pyro.param("p", torch.tensor(0.4), constraint=constraints.unit_interval)
        loc = pyro.param("loc", torch.tensor([-0.5, 0.5]))
        with pyro.plate("data", len(y)):
            prior = dist.Bernoulli(p)
            with poutine.mask(mask=~known):
                hidden = pyro.sample("treated_hidden", prior)
            with poutine.mask(mask=known):
                pyro.sample("treated_known", prior, obs=treated.to(y.dtype))
            group = torch.where(known, treated.to(y.dtype), hidden).long()
            pyro.sample("y", dist.Normal(loc[group], 1.5), obs=y)

    def guide(treated: Tensor, known: Tensor, y: Tensor) -> None:
        """All is enumerated."""

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Run(model, guide, always(treated, known, y), loss, adam(0.03))
