"""Gaussian processes of pyro.contrib.gp, and one by hand."""

from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroSample
from torch import Tensor, nn

from ..program import Run, adam, always, cycle, program


def curve(num: int = 20) -> tuple[Tensor, Tensor]:
    """A noisy curve."""
    generator = torch.Generator().manual_seed(50)
    x = torch.linspace(0, 5, num)
    return x, torch.sin(3 * x) / 2 + 0.2 * torch.randn(num, generator=generator)


def _run(process: Any, loss: Any = None) -> Run:
    return Run(process.model, process.guide, always(), loss or TraceMeanField_ELBO(), adam(0.01))


def _kernel() -> Any:
    return gp.kernels.RBF(1, variance=torch.tensor(1.0), lengthscale=torch.tensor(1.0))


@program("GPRegression, priors of the kernel")
def regression() -> Run:
    kernel = _kernel()
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 1.0))
    kernel.variance = PyroSample(dist.LogNormal(0.0, 1.0))
    kernel.autoguide("lengthscale", dist.Normal)
    process = gp.models.GPRegression(*curve(), kernel, noise=torch.tensor(0.5))
    return _run(process, Trace_ELBO())


@program("GPRegression, sum and product of kernels")
def sum_of_kernels() -> Run:
    periodic = gp.kernels.Periodic(1, period=torch.tensor(2.0))
    product = gp.kernels.Product(gp.kernels.Linear(1), periodic)
    kernel = gp.kernels.Sum(product, gp.kernels.Matern32(1))
    return _run(gp.models.GPRegression(*curve(), kernel, noise=torch.tensor(0.3), jitter=1e-5))


@program("SparseGPRegression, VFE")
def sparse() -> Run:
    inducing = torch.linspace(0, 5, 6)
    options = {"Xu": inducing, "approx": "VFE", "jitter": 1e-5}
    return _run(gp.models.SparseGPRegression(*curve(), _kernel(), **options))


@program("VariationalGP, binary likelihood")
def variational() -> Run:
    x, y = curve()
    labels = (y > 0).to(x.dtype)
    process = gp.models.VariationalGP(
        x, labels, _kernel(), likelihood=gp.likelihoods.Binary(), whiten=True, jitter=1e-4
    )
    return _run(process)


@program("VariationalSparseGP, classes and minibatches by set_data")
def variational_sparse() -> Run:
    x, y = curve(40)
    labels = (y > 0).long() + (y > 0.3).long()
    process = gp.models.VariationalSparseGP(
        x[:10],
        labels[:10],
        _kernel(),
        Xu=torch.linspace(0, 5, 6),
        likelihood=gp.likelihoods.MultiClass(num_classes=3),
        latent_shape=torch.Size([3]),
        num_data=40,
        whiten=True,
        jitter=1e-4,
    )
    data = cycle(10, x, labels)

    def set_data(step: int) -> None:
        process.set_data(*data(step)[0])

    run = _run(process)
    return Run(run.model, run.guide, run.batches, run.loss, run.optim, before_step=set_data)


@program("deep kernel learning, Warping by a network")
def deep_kernel() -> Run:
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 2))
    kernel = gp.kernels.Warping(gp.kernels.RBF(input_dim=2), iwarping_fn=net)
    x, y = curve()
    process = gp.models.VariationalSparseGP(
        x[:, None],
        y,
        kernel,
        Xu=torch.linspace(0, 5, 5)[:, None],
        likelihood=gp.likelihoods.Gaussian(),
        whiten=True,
        jitter=1e-4,
    )
    return _run(process)


@program("GPLVM")
def gplvm() -> Run:
    generator = torch.Generator().manual_seed(51)
    y = torch.randn(5, 15, generator=generator)
    prior = torch.zeros(15, 2)
    prior[:, 0] = torch.linspace(-1, 1, 15)
    kernel = gp.kernels.RBF(input_dim=2, lengthscale=torch.ones(2))
    inducing = prior[::3].clone()
    sparse = gp.models.SparseGPRegression(prior.clone(), y, kernel, inducing, jitter=1e-4)
    sparse.X = PyroSample(dist.Normal(prior, 0.1).to_event())
    sparse.autoguide("X", dist.Normal)
    process = gp.models.GPLVM(sparse)
    return _run(process, Trace_ELBO())


@program("GP of counts by hand, MultivariateNormal and Cholesky")
def by_hand() -> Run:
    x, _ = curve(12)
    generator = torch.Generator().manual_seed(52)
    counts = torch.poisson(torch.exp(torch.sin(x)), generator=generator)

    def model(x: Tensor, counts: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        square = (x[:, None] - x) ** 2
        covariance = torch.exp(-0.5 * square / scale**2) + 1e-4 * torch.eye(len(x))
        joint = dist.MultivariateNormal(torch.zeros(len(x)), covariance)
        f = pyro.sample("f", joint)
        with pyro.plate("data", len(x)):
            pyro.sample("counts", dist.Poisson(f.exp()), obs=counts)

    def guide(x: Tensor, counts: Tensor) -> None:
        pyro.sample("scale", dist.Delta(pyro.param("log_scale", torch.tensor(0.0)).exp()))
        loc = pyro.param("loc", torch.zeros(len(x)))
        tril = pyro.param(
            "tril", 0.3 * torch.eye(len(x)), constraint=dist.constraints.softplus_lower_cholesky
        )
        pyro.sample("f", dist.MultivariateNormal(loc, scale_tril=tril))

    return Run(model, guide, always(x, counts))
