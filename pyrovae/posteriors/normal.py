"""Normal posteriors."""

import torch
from jaxtyping import Float
from pyro.distributions import MultivariateNormal, Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import pad

from ..arguments import as_whole
from ..data.memory import check_num_parameters
from ..described import Described
from ..distributions import LowRankNormal as LowRankNormalDistribution
from ..errors import InputError
from ..links import link_to
from ..priors import StandardNormal

__all__ = ["DiagonalNormal", "FullRankNormal", "LowRankNormal"]


class DiagonalNormal(Described, nn.Module):
    """q(z | x) = Normal(z; loc, diag(scale^2)), with h = (loc, unlinked scale).

    It is reparameterised as z = loc + scale * eps with eps ~ Normal(0, I), so log q(z | x) =
    log Normal(eps; 0, I) - sum_d log scale_d (Kingma and Welling 2014, sec. 2.4). scale is the
    softplus of its half of h.

    Arguments:
        latent_dim: number of latent dimensions.

    Attributes:
        in_shape: shape of h for one datum, ``(2, latent_dim)``.

    Example:
        >>> import torch
        >>> DiagonalNormal(3)(torch.zeros(5, 2, 3)).batch_shape
        torch.Size([5])
    """

    name = "diagonal"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        check_num_parameters(2 * latent_dim, "a posterior")
        self.in_shape = (2, latent_dim)
        self._positive = link_to(constraints.positive)

    def forward(self, h: Float[Tensor, "*batch 2 latent"]) -> TorchDistributionMixin:
        loc, unlinked_scale = h.unbind(-2)
        q: TorchDistributionMixin = Normal(loc, self._positive(unlinked_scale)).to_event(1)
        return q

    def centre(self, h: Float[Tensor, "*batch 2 latent"]) -> Float[Tensor, "*batch latent"]:
        """The mean of q(z | x)."""
        return h.select(-2, 0)

    def prior(self) -> StandardNormal:
        """The standard normal."""
        return StandardNormal(self.in_shape[1])


class FullRankNormal(Described, nn.Module):
    """q(z | x) = Normal(z; loc, L L'), with h = (loc, unlinked diagonal of L, L below it by rows).

    L is lower triangular. q is reparameterised as z = loc + L eps with eps ~ Normal(0, I), so
    log q(z | x) = log Normal(eps; 0, I) - sum_d log L_dd. The diagonal of L is the softplus of its
    part of h.

    Arguments:
        latent_dim: number of latent dimensions D.

    Attributes:
        in_shape: shape of h for one datum, ``(D + D (D + 1) / 2,)``.

    Example:
        >>> FullRankNormal(3)(torch.zeros(5, 9)).covariance_matrix.shape
        torch.Size([5, 3, 3])
    """

    name = "full_rank"

    _places: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        check_num_parameters(2 * latent_dim**2, "a posterior")
        num_below = latent_dim * (latent_dim - 1) // 2
        self.latent_dim = latent_dim
        self.in_shape = (2 * latent_dim + num_below,)
        self._positive = link_to(constraints.positive)
        # For each entry of L, its index in the part of h below the diagonal; others read padding 0.
        places = torch.full((latent_dim, latent_dim), num_below)
        row, column = torch.tril_indices(latent_dim, latent_dim, -1)
        places[row, column] = torch.arange(num_below)
        self.register_buffer("_places", places, persistent=False)

    def forward(self, h: Float[Tensor, "*batch h"]) -> TorchDistributionMixin:
        num = self.latent_dim
        loc, unlinked, below = h.split([num, num, h.shape[-1] - 2 * num], -1)
        padded = pad(below, (0, 1))
        lower = padded.index_select(-1, self._places.flatten()).unflatten(-1, (num, num))
        scale_tril = lower + torch.diag_embed(self._positive(unlinked))
        q: TorchDistributionMixin = MultivariateNormal(loc, scale_tril=scale_tril)
        return q

    def centre(self, h: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch latent"]:
        """The mean of q(z | x)."""
        return h[..., : self.latent_dim]

    def prior(self) -> StandardNormal:
        """The standard normal."""
        return StandardNormal(self.latent_dim)


class LowRankNormal(Described, nn.Module):
    """q(z | x) = Normal(z; loc, W W' + diag(scale^2)), with h = (loc, unlinked scale, W').

    W has D rows and few columns. q is reparameterised as z = loc + W eps + scale * eps' with
    independent standard normal eps and eps'. With r = (z - loc) / scale, V = diag(1 / scale) W and
    C = I + V'V,

        log q(z | x) = -1/2 [r'r - (V'r)' C^-1 V'r + D log 2 pi] - sum_d log scale_d - 1/2 log det C

    by the matrix inversion and matrix determinant lemmas: det(W W' + diag(scale^2)) =
    det C prod_d scale_d^2. scale is the softplus of its part of h. The distribution adds a
    millionth of the diagonal of W W' to scale^2, as C may not be invertible in single precision
    without it.

    Arguments:
        latent_dim: number of latent dimensions D.
        rank: number of columns of W.

    Attributes:
        in_shape: shape of h for one datum, ``(2 + rank, D)``.

    Raises:
        InputError: if rank is below 1.

    Example:
        >>> LowRankNormal(5, rank=2)(torch.zeros(7, 4, 5)).event_shape
        torch.Size([5])
    """

    name = "low_rank"

    def __init__(self, latent_dim: int, rank: int = 2) -> None:
        super().__init__()
        latent_dim, rank = as_whole("latent_dim", latent_dim, 1), as_whole("rank", rank, 0)
        if rank == 0:
            raise InputError(f"rank is {rank}; it must be 1 or more; for rank 0 use DiagonalNormal")
        check_num_parameters((2 + rank) * latent_dim, "a posterior")
        self.in_shape = (2 + rank, latent_dim)
        self._positive = link_to(constraints.positive)

    def forward(self, h: Float[Tensor, "*batch parts latent"]) -> TorchDistributionMixin:
        loc, unlinked_scale, factor = h[..., 0, :], h[..., 1, :], h[..., 2:, :].mT
        q: TorchDistributionMixin = LowRankNormalDistribution(
            loc, factor, self._positive(unlinked_scale).square()
        )
        return q

    def centre(self, h: Float[Tensor, "*batch parts latent"]) -> Float[Tensor, "*batch latent"]:
        """The mean of q(z | x)."""
        return h.select(-2, 0)

    def prior(self) -> StandardNormal:
        """The standard normal."""
        return StandardNormal(self.in_shape[1])
