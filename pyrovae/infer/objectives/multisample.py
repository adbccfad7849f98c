"""Objectives with several samples of each datum: tighter bounds, and better gradients of them.

All are functions of the K log weights log w_k = log p(x, z_k) - log q(z_k | x) of each datum.
"""

from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...arguments import as_real, as_whole
from ...errors import InputError
from ..pair.layout import PerSample
from ..pair.terms import Terms
from .objective import Objective, mean_of_others

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "RWS",
    "DReG",
    "Renyi",
    "StickingTheLanding",
    "WakeSleep",
]


class IWAE(Objective):
    """Importance-weighted bound (Burda et al. 2016): log (1/K) sum_k w_k.

    For samples that cannot be reparameterised, the baseline of each is the bound with its weight
    replaced by the geometric mean of the others (Mnih and Rezende 2016).
    """

    name = "iwae"
    is_bound = True

    def __init__(self, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The bound on log p(x) of each datum."""
        return self.of_weights(terms.log_weight)

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights, with samples in the last but one dimension."""
        return log_weights.logsumexp(-2) - log(log_weights.shape[-2])

    def signal(self, terms: Terms) -> PerSample:
        """The bound minus the bound without the sample's own weight."""
        log_weights = terms.log_weight.detach()
        num = len(log_weights)
        if num == 1:
            return log_weights - mean_of_others(log_weights)
        others = (log_weights.sum(0) - log_weights) / (num - 1)
        own = torch.eye(num, dtype=torch.bool, device=others.device)[:, :, None]
        replaced = torch.where(own, others[:, None], log_weights)
        return self.of_weights(log_weights) - self.of_weights(replaced)


class Renyi(IWAE):
    """Renyi's bound of order alpha (Li and Turner 2016).

        1 / (1 - alpha) log (1/K) sum_k w_k^(1 - alpha)

    alpha = 0 gives the importance-weighted bound, and alpha -> 1 the ELBO. Below 0 it is no lower
    bound.
    """

    name = "renyi"

    def __init__(self, alpha: float = 0.5, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)
        alpha = as_real("alpha", alpha)
        if not 0 <= alpha < 1:
            raise InputError(
                f"alpha is {alpha}; it must be at least 0 and below 1 (for 1 use 'elbo')"
            )
        self.alpha = alpha

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights."""
        return super().of_weights((1 - self.alpha) * log_weights) / (1 - self.alpha)


class StickingTheLanding(IWAE):
    """The ELBO, or with K samples the importance-weighted bound, with the gradient through the
    samples alone, which vanishes if q is the posterior (Roeder et al. 2017).

    It is unbiased for one sample, and biased for more, as in the paper; :class:`DReG` is unbiased.
    """

    name = "stl"
    path = "partial"
    signal = Objective.signal

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)


class DReG(IWAE):
    """The importance-weighted bound with its doubly reparameterised gradient (Tucker et al. 2019).

    The gradient in the parameters of the guide is sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi)
    with v_k = w_k / sum_j w_j. It is unbiased, and its signal-to-noise ratio does not fall as K
    grows.
    """

    name = "dreg"
    path = "partial"
    signal = Objective.signal

    def gradient_scale(self, terms: Terms) -> PerSample:
        """The normalised weights, which multiply the weights that the gradient of the bound has."""
        return terms.log_weight.softmax(0)


class MIWAE(IWAE):
    """The mean of M importance-weighted bounds of K / M samples each (Rainforth et al. 2018)."""

    name = "miwae"

    def __init__(self, num_particles: int = 64, num_groups: int = 8, **options: Any) -> None:
        super().__init__(num_particles, **options)
        num_groups = as_whole("num_groups", num_groups)
        if num_groups < 1 or self.num_particles % num_groups:
            raise InputError(
                f"num_groups is {num_groups}; it must divide num_particles, which is "
                f"{num_particles}"
            )
        self.num_groups = num_groups

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights."""
        return super().of_weights(log_weights.unflatten(-2, (self.num_groups, -1))).mean(-2)


class CIWAE(IWAE):
    """beta ELBO + (1 - beta) importance-weighted bound (Rainforth et al. 2018)."""

    name = "ciwae"

    def __init__(self, beta: float = 0.5, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)
        beta = as_real("beta", beta)
        if not 0 <= beta <= 1:
            raise InputError(f"beta is {beta}; it must be from 0 ('iwae') to 1 ('elbo')")
        self.beta = beta

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights."""
        tight = super().of_weights(log_weights)
        return self.beta * log_weights.mean(-2) + (1 - self.beta) * tight


class PIWAE(MIWAE):
    """Train the model on the bound of all K samples, and the guide on M groups of K / M samples.

    The first bound is tighter; the second has a better gradient in the guide (Rainforth et al.
    2018).
    """

    name = "piwae"
    path = "separate"

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The bound of all samples, on which the model is trained."""
        return IWAE.of_weights(self, terms.log_weight)

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """Weights of all samples for the model, and weights of groups for the guide."""
        log_weights = terms.log_weight.detach().requires_grad_()
        with torch.enable_grad():
            groups = self.of_weights(log_weights).sum()
        (of_groups,) = torch.autograd.grad(groups, log_weights)
        of_all = log_weights.detach().softmax(0)
        joint = terms.log_likelihood + terms.log_prior
        through = terms.through_samples((of_groups * joint).sum())
        total = (of_all * joint).sum() + through - (of_groups * terms.log_q).sum()
        return self._add_score(total / joint.shape[1], terms)


class RWS(IWAE):
    """Reweighted wake-sleep (Bornschein and Bengio 2015): the guide learns from weighted samples.

    The model follows the gradient of the importance-weighted bound. The guide follows the gradient
    of sum_k v_k log q(z_k | x) with the normalised weights v, which lowers the inclusive KL(p | q).
    No gradient flows through the samples, so latents may be discrete.
    """

    name = "rws"
    path = "none"
    fewest_particles = 2

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """The weighted log-densities of model and guide."""
        weights = terms.log_weight.detach().softmax(0)
        log_joint = terms.log_likelihood + terms.log_prior
        return (weights * (log_joint + terms.log_q)).sum(0).mean()


class WakeSleep(IWAE):
    """Wake-sleep (Hinton et al. 1995), both phases in each step.

    In the wake phase the model follows the gradient of log p(x, z) at samples of q. In the sleep
    phase the guide follows the gradient of log q(z | x) at latents and data drawn from the model.
    """

    name = "wake_sleep"
    path = "none"

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """The log-densities of both phases."""
        wake = (terms.log_likelihood + terms.log_prior).mean()
        return wake + terms.log_q_of_dreams()
