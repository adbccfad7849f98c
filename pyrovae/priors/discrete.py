"""Priors of discrete latents with equal probabilities for all classes."""

import torch
from pyro.distributions import OneHotCategorical
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..arguments import as_real, as_whole
from ..data.memory import check_num_parameters
from ..described import Described
from ..distributions.relaxed import RelaxedOneHot

__all__ = ["UniformConcrete", "UniformOneHot"]


class UniformConcrete(Described, nn.Module):
    """p(z) = prod_d Concrete(z_d; equal probabilities, temperature) on the simplex.

    :class:`~pyrovae.distributions.relaxed.RelaxedOneHot` documents the density.

    Arguments:
        latent_dim: number of latent variables.
        num_classes: number of classes of each variable.
        temperature: of the relaxation (Maddison et al. 2017).

    Example:
        >>> UniformConcrete(3, num_classes=4)().event_shape
        torch.Size([3, 4])
    """

    logits: Tensor
    temperature: Tensor

    def __init__(self, latent_dim: int, num_classes: int = 10, temperature: float = 2 / 3) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        num_classes = as_whole("num_classes", num_classes, 1)
        temperature = as_real("temperature", temperature, above=0)
        check_num_parameters(latent_dim * num_classes, "a prior")
        self.register_buffer("logits", torch.zeros(latent_dim, num_classes), persistent=False)
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        p: TorchDistributionMixin = RelaxedOneHot(self.temperature, logits=self.logits).to_event(1)
        return p


class UniformOneHot(Described, nn.Module):
    """p(z) = prod_d 1 / K for one-hot vectors z_d of K classes; log p(z) = -latent_dim log K.

    Arguments:
        latent_dim: number of latent variables.
        num_classes: K.

    Example:
        >>> UniformOneHot(3, num_classes=4)().event_shape
        torch.Size([3, 4])
    """

    logits: Tensor

    def __init__(self, latent_dim: int, num_classes: int = 10) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        num_classes = as_whole("num_classes", num_classes, 1)
        check_num_parameters(latent_dim * num_classes, "a prior")
        self.register_buffer("logits", torch.zeros(latent_dim, num_classes), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        p: TorchDistributionMixin = OneHotCategorical(logits=self.logits).to_event(1)
        return p
