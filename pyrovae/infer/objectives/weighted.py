"""Objectives that weigh the terms of the ELBO anew, or add to them."""

from math import log
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from ...errors import InputError
from ..pair.terms import LatentSite, Terms
from .objective import Objective, PerSample, mean_of_others
from .schedules import Weight, weight_at

__all__ = ["BetaELBO", "BetaTCVAE", "Capacity", "FreeBits", "InfoVAE"]

KL = Literal["sampled", "analytic"]


class BetaELBO(Objective):
    """E_q[log p(x | z)] - beta KL(q | p) (Higgins et al. 2017), averaged over samples.

    beta weighs the latents of each datum; those that all data share keep the weight 1.

    Arguments:
        beta: a number, or a schedule (:class:`Linear`, :class:`Cyclical`).
        kl: ``"sampled"``, log q(z) - log p(z); or ``"analytic"``, closed where torch has the form.
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
        if kl not in ("sampled", "analytic"):
            raise InputError(f"kl is {kl!r}; it may be 'sampled' or 'analytic'")
        self.beta = beta
        self.kl = kl

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The objective for each datum."""
        return self._of_samples(terms).mean(0)

    def signal(self, terms: Terms) -> PerSample:
        """The value of a sample above the mean of the others."""
        if self.kl == "analytic":
            return super().signal(terms)
        values = self._of_samples(terms).detach()
        return (values - mean_of_others(values)) / len(values)

    def _of_samples(self, terms: Terms) -> PerSample:
        kl = terms.kl if self.kl == "sampled" else _analytic(terms)
        return terms.log_likelihood - weight_at(self.beta, self.step) * kl


class Capacity(Objective):
    """E[log p(x | z)] - gamma |KL - C|, averaged over a batch (Burgess et al. 2018).

    Arguments:
        capacity: C in nats, a schedule as a rule, such as ``Linear(steps=25_000, end=25.0)``.
        gamma: weight of the distance.
        num_particles: samples of each datum's latents.
        options: see :class:`Objective`.
    """

    name = "capacity"
    takes_shared = True

    def __init__(
        self,
        capacity: Weight,
        gamma: float = 100.0,
        num_particles: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        self.capacity = capacity
        self.gamma = gamma

    def value(self, terms: Terms) -> Float[Tensor, ""]:
        """The objective, averaged over the batch."""
        distance = (_analytic(terms).mean() - weight_at(self.capacity, self.step)).abs()
        return terms.log_likelihood.mean() - self.gamma * distance


class FreeBits(Objective):
    """E[log p(x | z)] - sum_j max(lambda, KL_j), KL_j averaged over a batch (Kingma et al. 2016).

    Arguments:
        free: lambda, nats of each latent dimension that cost nothing; so do those of a site whose
            dimensions do not factorise, together.
        num_particles: samples of each datum's latents.
        options: see :class:`Objective`.
    """

    name = "free_bits"
    takes_shared = True

    def __init__(self, free: float = 0.25, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not free >= 0:
            raise InputError(f"free is {free}; it must be 0 nats or more")
        self.free = free

    def value(self, terms: Terms) -> Float[Tensor, ""]:
        """The objective, averaged over the batch."""
        kl = torch.cat([site.kl_of_dimensions().mean((0, 1)) for site in terms.latents])
        return terms.log_likelihood.mean() - kl.clamp(min=self.free).sum()


class BetaTCVAE(Objective):
    """E[log p(x | z)] - alpha I(x; z) - beta TC(z) - gamma sum_j KL(q(z_j) | p(z_j)) (Chen et al.
    2018), which is the ELBO where all three weights are 1.

    The aggregate posterior is estimated from the batch, by minibatch-weighted sampling:
    log q(z) ~ log (1 / (N B)) sum_b q(z | x_b).

    Arguments:
        beta: weight of the total correlation, a number or a schedule.
        alpha: weight of the mutual information of latents and numbers of data.
        gamma: weight of the KL of each dimension.
        options: see :class:`Objective`.
    """

    name = "beta_tc"

    def __init__(
        self, beta: Weight = 6.0, alpha: float = 1.0, gamma: float = 1.0, **options: Any
    ) -> None:
        super().__init__(1, **options)
        self.beta, self.alpha, self.gamma = beta, alpha, gamma

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The objective for each datum."""
        information, correlation, kl_of_dimensions = decomposed_kl(self._latent(terms), terms.size)
        penalty = self.alpha * information + weight_at(self.beta, self.step) * correlation
        return terms.log_likelihood[0] - penalty - self.gamma * kl_of_dimensions

    def _latent(self, terms: Terms) -> LatentSite:
        return _only_latent(terms, self.name)


class InfoVAE(Objective):
    """E[log p(x | z)] - (1 - alpha) KL(q(z | x) | p(z)) - (alpha + lambda - 1) MMD^2(q(z), p(z))
    (Zhao et al. 2019); with alpha = 1 a Wasserstein autoencoder (Tolstikhin et al. 2018).

    The squared maximum mean discrepancy is estimated without bias, from the samples of a batch and
    as many of the prior, with the kernel sum_s s C / (s C + |a - b|^2), with C twice the number of
    latent dimensions and s from 0.1 to 10.

    Arguments:
        alpha: 0 for the ELBO's KL, 1 for none.
        weight: lambda.
        options: see :class:`Objective`.
    """

    name = "info"

    def __init__(self, alpha: float = 0.0, weight: float = 100.0, **options: Any) -> None:
        super().__init__(1, **options)
        self.alpha, self.weight = alpha, weight

    def value(self, terms: Terms) -> Float[Tensor, ""]:
        """The objective, averaged over the batch."""
        latent = _only_latent(terms, self.name)
        prior: Any = latent.p
        drawn = prior.rsample() if prior.has_rsample else prior.sample()
        if not prior.has_rsample and prior.log_prob(drawn).requires_grad:
            raise InputError(
                f"info compares the codes with draws of the prior, and those of "
                f"{type(prior).__name__} give its parameters no gradient; use a prior that is not "
                "learned, one with reparameterised draws, such as 'learned' or 'flow', or 'elbo'"
            )
        codes, others = (latent.rows(z).flatten(0, 1) for z in (latent.value, drawn))
        discrepancy = squared_mmd(codes, others)
        elbo = terms.log_likelihood.mean() - (1 - self.alpha) * terms.kl.mean()
        return elbo - (self.alpha + self.weight - 1) * discrepancy


def decomposed_kl(
    latent: LatentSite, size: int
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Mutual information, total correlation, and KL of single dimensions, at each sample.

    Their sum is log q(z | x) - log p(z).

    Arguments:
        latent: with one sample for each of B data.
        size: number of data N.

    Raises:
        InputError: if q or p do not factorise.
    """
    q, p = latent.factors()
    z = latent.value
    if q.event_shape or p.event_shape or z.dim() != 2 or len(latent.q.batch_shape) != 1:
        raise InputError(
            f"latent {latent.name!r} is no vector whose dimensions factorise under model and "
            "guide, as 'beta_tc' needs; use Normal(...).to_event(1) for both"
        )
    of_each = _at_all(q, z)  # log q(z_ij | x_b) in [i, b, j]
    log_size = log(size * len(z))
    log_q_given_x = q.log_prob(z).sum(-1)
    log_q = of_each.sum(-1).logsumexp(1) - log_size
    log_q_of_dimensions = (of_each.logsumexp(1) - log_size).sum(-1)
    return (
        log_q_given_x - log_q,
        log_q - log_q_of_dimensions,
        log_q_of_dimensions - p.log_prob(z).sum(-1),
    )


def squared_mmd(
    these: Float[Tensor, "num dims"], those: Float[Tensor, "num dims"]
) -> Float[Tensor, ""]:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012).

    There is none from one row each, which gives 0.
    """
    num = len(these)
    if num < 2:
        return these.sum() * 0.0
    scales = these.new_tensor([0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]) * (2.0 * these.shape[1])

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = (a[:, None] - b[None]).square().sum(-1, keepdim=True)
        return (scales / (scales + squares)).sum(-1)

    apart = 1 - torch.eye(num, dtype=these.dtype, device=these.device)
    within = ((kernel(these, these) + kernel(those, those)) * apart).sum() / (num * (num - 1))
    return within - 2 * kernel(these, those).mean()


def _at_all(q: Distribution, z: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch batch dims"]:
    """log q of each sample under the posterior of each datum."""
    return q.log_prob(z[:, None])


def _analytic(terms: Terms) -> PerSample:
    """The KL of each datum's latents, in closed form where torch has it."""
    return sum((site.kl() for site in terms.latents), start=torch.zeros_like(terms.log_q))


def _only_latent(terms: Terms, name: str) -> LatentSite:
    if len(terms.latents) != 1:
        names = ", ".join(repr(site.name) for site in terms.latents)
        raise InputError(f"{name} needs one latent of each datum; the model has {names}")
    return terms.latents[0]
