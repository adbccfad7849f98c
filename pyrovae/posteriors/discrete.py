"""Posteriors of discrete latents; a relaxation gives gradients through their samples."""

from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..arguments import as_real, as_whole
from ..data.memory import check_num_parameters
from ..described import Described
from ..distributions.relaxed import RelaxedOneHot, StraightThroughOneHot
from ..priors.discrete import UniformConcrete, UniformOneHot

__all__ = ["Concrete", "StraightThrough"]


class _CategoricalPosterior(Described, nn.Module):
    """Shared by both posteriors: h holds the class logits of each variable."""

    temperature: Tensor

    def __init__(self, latent_dim: int, num_classes: int, temperature: float) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        num_classes = as_whole("num_classes", num_classes, 2)
        temperature = as_real("temperature", temperature, above=0)
        check_num_parameters(latent_dim * num_classes, "a posterior")
        self.in_shape = (latent_dim, num_classes)
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)

    def centre(
        self, h: Float[Tensor, "*batch latent classes"]
    ) -> Float[Tensor, "*batch latent classes"]:
        """The probabilities of the classes."""
        return h.softmax(-1)


class Concrete(_CategoricalPosterior):
    """q(z | x) = prod_d Concrete(z_d; logits h_d) on the simplex (Maddison et al. 2017; Jang et al.
    2017).

    A relaxation of ``latent_dim`` categorical variables: z_d = softmax((h_d + g_d) / temperature)
    with Gumbel noise g_d. :class:`~pyrovae.distributions.relaxed.RelaxedOneHot` documents the
    density. With the relaxed prior, ``prior()``, the ELBO is a bound on log p(x) of the relaxed
    model, not of a model with categorical latents.

    Arguments:
        latent_dim: number of latent variables.
        num_classes: number of classes of each variable.
        temperature: temperature of the relaxation; samples are near one-hot if it is small.

    Attributes:
        in_shape: shape of h, and of z, for one datum: ``(latent_dim, num_classes)``.

    Raises:
        InputError: if there are fewer than two classes, or the temperature is not positive.

    Example:
        >>> Concrete(3, num_classes=4)(torch.zeros(5, 3, 4)).rsample().sum(-1).shape
        torch.Size([5, 3])
    """

    name = "concrete"

    def __init__(self, latent_dim: int, num_classes: int = 10, temperature: float = 2 / 3) -> None:
        super().__init__(latent_dim, num_classes, temperature)

    def forward(self, h: Float[Tensor, "*batch latent classes"]) -> TorchDistributionMixin:
        q: TorchDistributionMixin = RelaxedOneHot(self.temperature, logits=h).to_event(1)
        return q

    def prior(self) -> UniformConcrete:
        """The Concrete distribution with equal probabilities and the same temperature."""
        return UniformConcrete(*self.in_shape, float(self.temperature))


class StraightThrough(_CategoricalPosterior):
    """q(z | x) = prod_d Categorical(z_d; logits h_d) for one-hot vectors z_d, with gradients
    through samples by the straight-through Gumbel-softmax estimator (Jang et al. 2017).

    log q(z | x) = sum_d sum_k z_dk log softmax(h_d)_k. The ELBO and log p(x) by importance sampling
    are exactly those of the discrete model. The gradients are those of the relaxed sample, and so
    are biased.

    Arguments:
        latent_dim: number of latent variables.
        num_classes: number of classes of each variable.
        temperature: temperature of the relaxed sample; a small one has less bias and more variance.

    Attributes:
        in_shape: shape of h, and of z, for one datum: ``(latent_dim, num_classes)``.

    Raises:
        InputError: if there are fewer than two classes, or the temperature is not positive.

    Example:
        >>> z = StraightThrough(3, num_classes=4)(torch.zeros(5, 3, 4)).rsample()
        >>> z.unique().tolist()
        [0.0, 1.0]
    """

    name = "straight_through"

    def __init__(self, latent_dim: int, num_classes: int = 10, temperature: float = 2 / 3) -> None:
        super().__init__(latent_dim, num_classes, temperature)

    def forward(self, h: Float[Tensor, "*batch latent classes"]) -> TorchDistributionMixin:
        q: Any = StraightThroughOneHot(self.temperature, h)
        joint: TorchDistributionMixin = q.to_event(1)
        return joint

    def prior(self) -> UniformOneHot:
        """The uniform distribution over one-hot vectors."""
        return UniformOneHot(*self.in_shape)
