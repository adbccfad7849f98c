"""Objectives that change the weights of the terms of the ELBO, or add terms."""

from math import log
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...arguments import as_real, as_word
from ...errors import InputError
from ..pair.layout import PerSample
from ..pair.terms import LatentSite, Terms
from .objective import Objective, mean_of_others
from .schedules import Weight, as_weight, weight_at

__all__ = ["BetaELBO", "BetaTCVAE", "Capacity", "FreeBits", "InfoVAE"]

KL = Literal["sampled", "analytic"]


class BetaELBO(Objective):
    """E_q[log p(x | z)] - beta KL(q | p) (Higgins et al. 2017), averaged over samples.

    beta multiplies the KL of the latents of each datum; latents that all data share keep weight 1.

    Arguments:
        beta: a number, or a schedule (:class:`Linear`, :class:`Cyclical`).
        kl: ``"sampled"``, log q(z) - log p(z); or ``"analytic"``, in closed form if torch has one.
        num_particles: samples of each datum's latents.
        options: see :class:`Objective`.
    """

    name = "beta"
    takes_shared = True

    def __init__(
        self,
        beta: Weight = 1.0,
        kl: KL = "sampled",
        num_particles: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        self.beta = as_weight("beta", beta)
        self.kl = as_word("kl", kl, ("sampled", "analytic"))

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The objective for each datum."""
        return self._value_per_sample(terms).mean(0)

    def signal(self, terms: Terms) -> PerSample:
        """The value of a sample minus the mean of the others."""
        if self.kl == "analytic":
            return super().signal(terms)
        values = self._value_per_sample(terms).detach()
        return (values - mean_of_others(values)) / len(values)

    def _value_per_sample(self, terms: Terms) -> PerSample:
        kl = terms.kl if self.kl == "sampled" else _analytic_kl(terms)
        return terms.log_likelihood - weight_at(self.beta, self.step) * kl


class Capacity(Objective):
    """E[log p(x | z)] - gamma |KL - C|, averaged over a batch (Burgess et al. 2018).

    Arguments:
        capacity: C in nats, usually a schedule, such as ``Linear(steps=25_000, end=25.0)``.
        gamma: weight of the distance |KL - C|.
        num_particles: samples of each datum's latents.
        options: see :class:`Objective`.
    """

    name = "capacity"
    takes_shared = True
    is_mean_over_data = False

    def __init__(
        self,
        capacity: Weight,
        gamma: float = 100.0,
        num_particles: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        self.capacity = as_weight("capacity", capacity)
        self.gamma = as_real("gamma", gamma)

    def value(self, terms: Terms) -> Float[Tensor, ""]:
        """The objective, averaged over the batch."""
        distance = (_analytic_kl(terms).mean() - weight_at(self.capacity, self.step)).abs()
        return terms.log_likelihood.mean() - self.gamma * distance


class FreeBits(Objective):
    """E[log p(x | z)] - sum_j max(lambda, KL_j), KL_j averaged over a batch (Kingma et al. 2016).

    Arguments:
        free: lambda, the nats of each latent dimension that cost nothing. A site whose dimensions
            do not factorise counts as one dimension.
        num_particles: samples of each datum's latents.
        options: see :class:`Objective`.
    """

    name = "free_bits"
    takes_shared = True
    is_mean_over_data = False

    def __init__(self, free: float = 0.25, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.free = as_real("free", free, 0)

    def value(self, terms: Terms) -> Float[Tensor, ""]:
        """The objective, averaged over the batch."""
        kl = torch.cat([site.kl_of_dimensions().mean((0, 1)) for site in terms.latents])
        return terms.log_likelihood.mean() - kl.clamp(min=self.free).sum()


class BetaTCVAE(Objective):
    """E[log p(x | z)] - alpha I(x; z) - beta TC(z) - gamma sum_j KL(q(z_j) | p(z_j)) (Chen et al.
    2018); the ELBO if all three weights are 1.

    Minibatch-weighted sampling estimates the aggregate posterior from the batch:
    log q(z) ~ log (1 / (N B)) sum_b q(z | x_b).

    Arguments:
        beta: weight of the total correlation, a number or a schedule.
        alpha: weight of the mutual information between the latents and the index of the datum.
        gamma: weight of the KL of each dimension.
        options: see :class:`Objective`.
    """

    name = "beta_tc"
    is_mean_over_data = False

    def __init__(
        self, beta: Weight = 6.0, alpha: float = 1.0, gamma: float = 1.0, **options: Any
    ) -> None:
        super().__init__(1, **options)
        self.beta = as_weight("beta", beta)
        self.alpha, self.gamma = as_real("alpha", alpha), as_real("gamma", gamma)

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The objective for each datum."""
        latent = _get_only_latent(terms, self.name)
        information, correlation, kl_of_dimensions = decompose_kl(latent, terms.size)
        penalty = self.alpha * information + weight_at(self.beta, self.step) * correlation
        return terms.log_likelihood[0] - penalty - self.gamma * kl_of_dimensions


class InfoVAE(Objective):
    """E[log p(x | z)] - (1 - alpha) KL(q(z | x) | p(z)) - (alpha + lambda - 1) MMD^2(q(z), p(z))
    (Zhao et al. 2019); with alpha = 1 a Wasserstein autoencoder (Tolstikhin et al. 2018).

    An unbiased estimate of the squared maximum mean discrepancy compares the samples of a batch
    with as many draws of the prior. The kernel is sum_s s C / (s C + |a - b|^2), with C twice the
    number of latent dimensions and s from 0.1 to 10.

    Arguments:
        alpha: 0 keeps the KL of the ELBO, 1 removes it.
        weight: lambda.
        options: see :class:`Objective`.
    """

    name = "info"
    is_mean_over_data = False

    def __init__(self, alpha: float = 0.0, weight: float = 100.0, **options: Any) -> None:
        super().__init__(1, **options)
        self.alpha, self.weight = as_real("alpha", alpha), as_real("weight", weight)

    def value(self, terms: Terms) -> Float[Tensor, ""]:
        """The objective, averaged over the batch."""
        latent = _get_only_latent(terms, self.name)
        prior: Any = latent.p
        draws = prior.rsample() if prior.has_rsample else prior.sample()
        if not prior.has_rsample and prior.log_prob(draws).requires_grad:
            raise InputError(
                "info compares the latents with draws of the prior, but draws of "
                f"{type(prior).__name__} give its parameters no gradient; use a prior that is not "
                "learned, one with reparameterised draws, such as 'learned' or 'flow', or 'elbo'"
            )
        posterior_rows, prior_rows = (latent.rows(z).flatten(0, 1) for z in (latent.value, draws))
        discrepancy = squared_mmd(posterior_rows, prior_rows)
        elbo = terms.log_likelihood.mean() - (1 - self.alpha) * terms.kl.mean()
        return elbo - (self.alpha + self.weight - 1) * discrepancy


def decompose_kl(
    latent: LatentSite, size: int
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Split the KL into mutual information, total correlation, and KL of single dimensions.

    Their sum is log q(z | x) - log p(z) at each sample.

    Arguments:
        latent: a latent with one sample for each of B data.
        size: number of data N.

    Raises:
        InputError: if q or p do not factorise.
    """
    q, p = latent.factors()
    z = latent.value
    if q.event_shape or p.event_shape or z.dim() != 2 or len(latent.q.batch_shape) != 1:
        raise InputError(
            f"'beta_tc' needs a latent vector that factorises over dimensions in model and guide, "
            f"which latent {latent.name!r} does not; use Normal(...).to_event(1) for both"
        )
    log_q_of_pairs = q.log_prob(z[:, None])  # log q(z_ij | x_b) in [i, b, j]
    log_size = log(size * len(z))
    log_q_given_x = q.log_prob(z).sum(-1)
    log_q = log_q_of_pairs.sum(-1).logsumexp(1) - log_size
    log_q_of_dimensions = (log_q_of_pairs.logsumexp(1) - log_size).sum(-1)
    return (
        log_q_given_x - log_q,
        log_q - log_q_of_dimensions,
        log_q_of_dimensions - p.log_prob(z).sum(-1),
    )


def squared_mmd(
    first: Float[Tensor, "num dims"], second: Float[Tensor, "num dims"]
) -> Float[Tensor, ""]:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012).

    It needs two rows or more of each sample; the result for one row is 0.
    """
    num = len(first)
    if num < 2:
        return first.sum() * 0.0
    scales = first.new_tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]) * (2.0 * first.shape[1])

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a[:, None] - b[None]).square().sum(-1, keepdim=True)
        return (scales / (scales + squares)).sum(-1)

    off_diagonal = 1 - torch.eye(num, dtype=first.dtype, device=first.device)
    within = (kernel(first, first) + kernel(second, second)) * off_diagonal
    return within.sum() / (num * (num - 1)) - 2 * kernel(first, second).mean()


def _analytic_kl(terms: Terms) -> PerSample:
    """The KL of each datum's latents, in closed form if torch has it."""
    return sum((site.kl() for site in terms.latents), start=torch.zeros_like(terms.log_q))


def _get_only_latent(terms: Terms, name: str) -> LatentSite:
    if len(terms.latents) != 1:
        names = ", ".join(repr(site.name) for site in terms.latents)
        raise InputError(
            f"{name} needs a model with one latent of each datum; this has {names or 'none'}"
        )
    return terms.latents[0]
