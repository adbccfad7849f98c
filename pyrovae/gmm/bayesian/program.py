"""The Bayesian mixture as a Pyro program, with its posterior by SVI and by NUTS."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import log

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.mcmc import MCMC, NUTS
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from ...arguments import TensorLike, as_flag, as_instance, as_real, as_whole
from ...distributions import Wishart
from ...models.base.parameters import declare_parameters
from ..climb import State
from ..gradient import MIN_LOG_Q, Program, ascend
from ..matrices import root_of_inverse
from ..mixture import CovarianceType, Mixture, as_mixture
from ..moments import expectation
from ..points import as_points, check_complete
from ..program import INFER, Gradient, observe
from ..randomness import Randomness, as_seed
from .conjugate import Posterior, Prior
from .coordinate_ascent import check_prior, make_state, update

__all__ = [
    "BayesianGuide",
    "BayesianMixtureModel",
    "Draws",
    "bayesian_svi",
    "locs_given_precision",
    "make_mixture",
    "nuts",
    "wishart",
]


class BayesianMixtureModel:
    """p(weights) p(Lambda) p(locs | Lambda) p(x, z | theta); calling it runs the Pyro model.

    Its sites are ``weights``, ``precision`` (Lambda), ``loc``, and the sites of :func:`observe`.

    Arguments:
        prior: p(theta).
        num_components: K.
        marginalised: whether to sum over z in closed form.
    """

    def __init__(self, prior: Prior, num_components: int, *, marginalised: bool = False) -> None:
        self.prior = as_instance("prior", prior, Prior, "a Prior; see Prior.of")
        self.num_components = as_whole("num_components", num_components, 1)
        self.marginalised = as_flag("marginalised", marginalised)

    def __call__(self, x: Float[Tensor, "n d"]) -> None:
        prior, k, kind = self.prior, self.num_components, self.prior.covariance_type
        ones = prior.loc.new_ones(k)
        weights = pyro.sample("weights", dist.Dirichlet(prior.concentration * ones))
        precision_distribution = wishart(prior.df * prior.loc.new_ones(()), prior.scatter, kind)
        if kind == "tied":
            precision = pyro.sample("precision", precision_distribution)
        with pyro.plate("components", k):
            if kind != "tied":
                precision = pyro.sample("precision", precision_distribution)
            locs = pyro.sample(
                "loc", locs_given_precision(prior.loc, prior.precision * ones, precision, kind)
            )
        observe(x, make_mixture(weights, locs, precision, prior.covariance_type), self.marginalised)


class BayesianGuide(nn.Module):
    """q(z) q(weights) q(locs, Lambda) in the family of coordinate ascent, with learned parameters.

    Arguments:
        posterior: initial q(theta).
        log_q: initial q(z), which has free parameters for each datum.
    """

    gradient: Gradient = "enumerated"
    has_exact_gradient = False

    def __init__(self, posterior: Posterior, log_q: Float[Tensor, "n k"]) -> None:
        super().__init__()
        self._prior = posterior.prior
        self._has_matrices = posterior.covariance_type in ("full", "tied")
        d = posterior.locs.shape[1]
        # Wishart variables need df > d - 1, Gamma variables df > 0.
        self._least_df = float(d - 1) if self._has_matrices else 0.0
        self.log_concentration = nn.Parameter(posterior.concentration.log())
        self.locs = nn.Parameter(posterior.locs.clone())
        self.log_precision = nn.Parameter(posterior.precision.log())
        self.log_df = nn.Parameter((posterior.df - self._least_df).log())
        if self._has_matrices:
            factor = torch.linalg.cholesky(posterior.scatter)
            self.log_diagonal = nn.Parameter(factor.diagonal(dim1=-2, dim2=-1).log())
            self.below = nn.Parameter(factor.tril(-1))
        else:
            self.log_scatter = nn.Parameter(posterior.scatter.log())
        self.free = nn.Parameter(log_q.clone())

    def posterior(self) -> Posterior:
        """The current q(theta)."""
        if self._has_matrices:
            factor = self.below.tril(-1) + self.log_diagonal.exp().diag_embed()
            scatter = factor @ factor.mT
        else:
            scatter = self.log_scatter.exp()
        return Posterior(
            self.log_concentration.exp(),
            self.locs,
            self.log_precision.exp(),
            self._least_df + self.log_df.exp(),
            scatter,
            self._prior,
        )

    def log_q(self) -> Float[Tensor, "n k"]:
        """log q(z) for each datum."""
        return self.free.log_softmax(1)

    def forward(self, x: Float[Tensor, "n d"]) -> None:
        declare_parameters(self)
        q = self.posterior()
        pyro.sample("weights", dist.Dirichlet(q.concentration))
        precision_distribution = wishart(q.df, q.scatter, q.covariance_type)
        if q.covariance_type == "tied":
            precision = pyro.sample("precision", precision_distribution)
        with pyro.plate("components", len(q.locs)):
            if q.covariance_type != "tied":
                precision = pyro.sample("precision", precision_distribution)
            pyro.sample(
                "loc", locs_given_precision(q.locs, q.precision, precision, q.covariance_type)
            )
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=self.log_q()), infer=INFER[self.gradient])


def bayesian_svi(
    x: TensorLike,
    start: Mixture,
    prior: Prior,
    *,
    lr: float = 0.1,
    num_steps: int = 1000,
    seed: int = 0,
) -> Iterator[State]:
    """Mean-field variational Bayes by SVI, which maximises the bound of coordinate ascent.

    Each step enumerates z, and draws weights, precisions and locs, which are reparameterised. The
    recorded bound is exact, since it has a closed form.

    Arguments:
        x: data; standardise the columns, because the learning rate is in their units.
        start: initial mixture. As in coordinate ascent, q(z) starts as its posterior, and q(theta)
            as the optimum for this q(z).
        prior: p(theta).
        lr: learning rate of Adam, which falls to zero along a cosine.
        num_steps: steps, each on all data.
        seed: seed of the draws.

    Raises:
        InputError: if an argument is not what is said here, or data are missing.
    """
    x = as_points(x, missing=True)
    start, seed = as_mixture(start, x), as_seed(seed)
    check_prior(prior, start)
    as_real("lr", lr, above=0)
    as_whole("num_steps", num_steps, 1)
    check_complete(x, "bayesian_svi")
    log_q = start.log_responsibilities(x).clamp_min(MIN_LOG_Q)
    posterior = update(expectation(x, start), prior)
    guide = BayesianGuide(posterior, log_q)
    model = BayesianMixtureModel(prior, start.num_components)
    program = Program(model, guide, x, seed)

    @torch.no_grad()
    def state(phase: str) -> State:
        q = guide.posterior()
        fixed = replace(q, locs=q.locs.clone())
        return make_state(phase, x, guide.log_q(), fixed)

    return ascend(program, lr, num_steps, state)


@dataclass(frozen=True)
class Draws:
    """Draws of theta from its posterior, by one chain.

    Attributes:
        mixtures: one for each draw.
        num_divergent: divergent transitions; if there are more than a few, do not trust the draws.
    """

    mixtures: tuple[Mixture, ...]
    num_divergent: int

    def predictive(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """log of the mean of p(x | theta) over draws, in nats."""
        log_prob = torch.stack([mixture.log_prob(x) for mixture in self.mixtures])
        return log_prob.logsumexp(0) - log(len(self.mixtures))


def nuts(
    x: TensorLike,
    start: Mixture,
    prior: Prior,
    *,
    num_draws: int = 300,
    num_warmup: int = 200,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Draws:
    """Draw theta by the no-U-turn sampler (Hoffman and Gelman 2014), with z summed out.

    Use it as the reference for small data: it is exact up to the finite length of the chain. Modes
    that differ only in the order of the components are not visited; the chain stays in the one of
    the start.

    Arguments:
        x: data.
        start: the mixture that the chain starts from.
        prior: p(theta).
        num_draws: draws to keep.
        num_warmup: draws before these, during which the step size and the mass matrix adapt.
        seed: seed of the chain.
        on_step: called after each draw.

    Raises:
        InputError: if an argument is not what is said here, or data are missing.
    """
    x = as_points(x, missing=True)
    start, seed = as_mixture(start, x), as_seed(seed)
    check_prior(prior, start)
    num_draws = as_whole("num_draws", num_draws, 4)
    num_warmup = as_whole("num_warmup", num_warmup, 1)
    check_complete(x, "nuts")
    model = BayesianMixtureModel(prior, start.num_components, marginalised=True)
    has_matrices = prior.covariance_type in ("full", "tied")
    covariances = start.covariances
    values = {
        "weights": start.weights,
        "precision": torch.linalg.inv(covariances) if has_matrices else covariances.reciprocal(),
        "loc": start.locs,
    }
    to_unconstrained = {
        "weights": biject_to(constraints.simplex).inv,
        "precision": (_FromVector() if has_matrices else biject_to(constraints.positive)).inv,
        "loc": biject_to(constraints.real).inv,
    }
    with (
        Randomness(seed, x.device).use(),
        pyro.get_param_store().scope(),
        pyro.validation_enabled(False),
    ):
        kernel = NUTS(
            model, transforms=to_unconstrained, init_strategy=init_to_value(values=values)
        )
        chain = MCMC(
            kernel,
            num_draws,
            warmup_steps=num_warmup,
            disable_progbar=True,
            hook_fn=None if on_step is None else lambda *_: on_step(),
        )
        chain.run(x)
        draws = chain.get_samples()
    mixtures = tuple(
        make_mixture(weights, locs, precision, prior.covariance_type)
        for weights, locs, precision in zip(
            draws["weights"], draws["loc"], draws["precision"], strict=True
        )
    )
    divergent = sum(len(draws) for draws in chain.diagnostics()["divergences"].values())
    return Draws(mixtures, divergent)


def wishart(df: Tensor, scatter: Tensor, covariance_type: CovarianceType) -> TorchDistributionMixin:
    """The distribution of Lambda, or of its diagonal entries if it is diagonal."""
    p: TorchDistributionMixin
    if covariance_type in ("full", "tied"):
        p = Wishart(df, precision_matrix=scatter)
    elif covariance_type == "diag":
        p = dist.Gamma(0.5 * df.unsqueeze(-1), 0.5 * scatter).to_event(1)
    else:
        p = dist.Gamma(0.5 * df, 0.5 * scatter)
    return p


def locs_given_precision(
    loc: Tensor, precision: Tensor, lambda_: Tensor, covariance_type: CovarianceType
) -> TorchDistributionMixin:
    """Normal(loc, (precision Lambda)^-1), with Lambda = lambda_."""
    p: TorchDistributionMixin
    if covariance_type in ("full", "tied"):
        p = dist.MultivariateNormal(loc, precision_matrix=precision.view(-1, 1, 1) * lambda_)
    else:
        diagonal = lambda_ if covariance_type == "diag" else lambda_.unsqueeze(-1)
        p = dist.Normal(loc, (precision.unsqueeze(-1) * diagonal).rsqrt()).to_event(1)
    return p


def make_mixture(
    weights: Tensor, locs: Tensor, precision: Tensor, covariance_type: CovarianceType
) -> Mixture:
    """Make a mixture from weights, locs and Lambda."""
    if covariance_type in ("full", "tied"):
        scales = root_of_inverse(precision)
    else:
        scales = precision.rsqrt()
    return Mixture(weights.log(), locs, scales, covariance_type)


class _FromVector(Transform):
    """Maps d (d + 1) / 2 real numbers to a positive definite matrix, by its Cholesky factor."""

    bijective = True
    domain = constraints.real_vector
    codomain = constraints.positive_definite

    def _call(self, x: Tensor) -> Tensor:
        d = round((2 * x.shape[-1] + 0.25) ** 0.5 - 0.5)
        rows, columns = torch.tril_indices(d, d)
        factor = x.new_zeros(*x.shape[:-1], d, d)
        factor[..., rows, columns] = x
        diagonal = factor.diagonal(dim1=-2, dim2=-1)
        factor = factor.tril(-1) + diagonal.exp().diag_embed()
        matrix: Tensor = factor @ factor.mT
        return matrix

    def _inverse(self, y: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(y)
        unconstrained = factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).log().diag_embed()
        rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1])
        vector: Tensor = unconstrained[..., rows, columns]
        return vector

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        d = y.shape[-1]
        log_diagonal = torch.linalg.cholesky(y).diagonal(dim1=-2, dim2=-1).log()
        times = torch.arange(d + 1, 1, -1, dtype=y.dtype, device=y.device)
        log_det: Tensor = d * log(2) + (times * log_diagonal).sum(-1)
        return log_det
