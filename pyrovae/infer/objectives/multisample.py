"""Objectives of several samples for each datum: tighter bounds, and better gradients of them.

With log w_k = log p(x, z_k) - log q(z_k | x), all are functions of K log weights of each datum.
"""

from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import InputError
from ..pair.terms import Terms
from .objective import Objective, PerSample, mean_of_others

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

    Where samples cannot be reparameterised, the signal of each is by how much the bound is above
    that with its weight replaced by the geometric mean of the others (Mnih and Rezende 2016).
    """

    name = "iwae"
    is_bound = True

    def __init__(self, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The bound on log p(x) of each datum."""
        return self.of_weights(terms.log_weight)

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights, the samples of which are last but one."""
        return log_weights.logsumexp(-2) - log(log_weights.shape[-2])

    def signal(self, terms: Terms) -> PerSample:
        """The bound above that without one's own weight."""
        log_weights = terms.log_weight.detach()
        num = len(log_weights)
        if num == 1:
            return log_weights - mean_of_others(log_weights)
        others = (log_weights.sum(0) - log_weights) / (num - 1)
        left_out = torch.eye(num, dtype=torch.bool, device=others.device)[:, :, None]
        replaced = torch.where(left_out, others[:, None], log_weights)
        return self.of_weights(log_weights) - self.of_weights(replaced)


class Renyi(IWAE):
    """Renyi's bound of order alpha (Li and Turner 2016).

        1 / (1 - alpha) log (1/K) sum_k w_k^(1 - alpha)

    alpha = 0 is the importance-weighted bound, alpha to 1 the ELBO. Below 0 it is no lower bound.
    """

    name = "renyi"

    def __init__(self, alpha: float = 0.5, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not 0 <= alpha < 1:
            raise InputError(
                f"alpha is {alpha}; it must be at least 0 and below 1, which is 'elbo'"
            )
        self.alpha = alpha

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights."""
        return super().of_weights((1 - self.alpha) * log_weights) / (1 - self.alpha)


class StickingTheLanding(IWAE):
    """The ELBO, or with K samples the importance-weighted bound, by the gradient that vanishes
    where q is the posterior (Roeder et al. 2017): that through the samples alone.

    For one sample it is unbiased; for more it is biased, as its authors' is; :class:`DReG` is not.
    """

    name = "stl"
    path = "partial"
    signal = Objective.signal

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)


class DReG(IWAE):
    """The importance-weighted bound by its doubly reparameterised gradient (Tucker et al. 2019).

    The parameters of the guide have the gradient sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi)
    with v_k = w_k / sum_j w_j, which is unbiased, and whose signal does not fade as K grows.
    """

    name = "dreg"
    path = "partial"
    signal = Objective.signal

    def gradient_scale(self, terms: Terms) -> PerSample:
        """The normalised weights, by which gradients come weighted already."""
        return terms.log_weight.softmax(0)


class MIWAE(IWAE):
    """The mean of M importance-weighted bounds of K / M samples each (Rainforth et al. 2018)."""

    name = "miwae"

    def __init__(self, num_particles: int = 64, num_groups: int = 8, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.num_groups = _divisor(num_groups, num_particles)

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights."""
        return super().of_weights(log_weights.unflatten(-2, (self.num_groups, -1))).mean(-2)


class CIWAE(IWAE):
    """beta ELBO + (1 - beta) importance-weighted bound (Rainforth et al. 2018)."""

    name = "ciwae"

    def __init__(self, beta: float = 0.5, num_particles: int = 10, **options: Any) -> None:
        super().__init__(num_particles, **options)
        if not 0 <= beta <= 1:
            raise InputError(f"beta is {beta}; it must be from 0 ('iwae') to 1 ('elbo')")
        self.beta = beta

    def of_weights(self, log_weights: Float[Tensor, "*extra batch"]) -> Float[Tensor, "*means"]:
        """The bound as a function of log weights."""
        tight = super().of_weights(log_weights)
        return self.beta * log_weights.mean(-2) + (1 - self.beta) * tight


class PIWAE(MIWAE):
    """The model by the bound of all K samples, the guide by that of M groups of K / M (Rainforth
    et al. 2018): the first is tighter, the second has the better gradient in the guide.
    """

    name = "piwae"
    path = "separate"

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The bound of all samples, by which the model is trained."""
        return IWAE.of_weights(self, terms.log_weight)

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """Weights of all samples for the model, those of groups for what goes through them."""
        log_weights = terms.log_weight.detach().requires_grad_()
        with torch.enable_grad():
            groups = self.of_weights(log_weights).sum()
        (of_groups,) = torch.autograd.grad(groups, log_weights)
        of_all = log_weights.detach().softmax(0)
        joint = terms.log_likelihood + terms.log_prior
        through = terms.through_samples((of_groups * joint).sum())
        total = (of_all * joint).sum() + through - (of_groups * terms.log_q).sum()
        return self._with_score(total / joint.shape[1], terms)


class RWS(IWAE):
    """Reweighted wake-sleep (Bornschein and Bengio 2015), whose guide learns from weighted samples.

    The model follows the gradient of the importance-weighted bound; the guide that of
    sum_k v_k log q(z_k | x) with the normalised weights v: the inclusive KL(p | q) gets smaller.
    Samples of any kind will do, discrete ones too; no gradient goes through them.
    """

    name = "rws"
    path = "none"
    fewest_particles = 2

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """The weighted log densities of model and guide."""
        weights = terms.log_weight.detach().softmax(0)
        log_joint = terms.log_likelihood + terms.log_prior
        return (weights * (log_joint + terms.log_q)).sum(0).mean()


class WakeSleep(IWAE):
    """Wake-sleep (Hinton et al. 1995), both phases in each step.

    Awake, the model follows the gradient of log p(x, z) at samples of q; asleep, the guide that of
    log q(z | x) at latents and data that the model has drawn.
    """

    name = "wake_sleep"
    path = "none"

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """The log densities of both phases."""
        awake = (terms.log_likelihood + terms.log_prior).mean()
        return awake + terms.log_q_of_dreams()


def _divisor(num_groups: int, num_particles: int) -> int:
    if num_groups < 1 or num_particles % num_groups:
        raise InputError(
            f"num_groups is {num_groups}; it must divide num_particles, which is {num_particles}"
        )
    return num_groups
