"""Bodies for tables: linear maps, and networks that correct them."""

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..links import link_to
from .mlp import MLP

__all__ = ["FactorDecoder", "FactorEncoder"]

_LEAST_VARIANCE = 0.05**2
"""Of the noise, in the units of the data: the posterior of single precision's factor analysis."""


class FactorEncoder(nn.Module):
    """What factor analysis of the entries that are present knows of z, corrected by a network.

    Under x_d = v_d' z + b_d + Normal(0, 1 / a_d) and z ~ Normal(0, I), with m_d = 1 where x_d is
    present and 0 where it is not,

        p(z | x) = Normal(M^-1 r, M^-1),   M = I + sum_d m_d a_d v_d v_d',
                                           r = sum_d m_d a_d (x_d - b_d) v_d,

    for every mask m (Rubin and Thayer 1982 for complete data). v, b and a are learned by the guide
    itself. With L L' = M^-1, the network's (t, s), which start at zero, make it
    Normal(M^-1 r + L e^s t, L e^2s L'), so that it is exact at the start for a linear decoder of
    these v, b and a, and need not be for any other.

    Arguments:
        in_shape: ``(2 D,)``: D numbers of order one, 0 where they are missing, and the mask of
            what is present.
        out_shape: what :class:`~pyrovae.posteriors.FullRankNormal` takes.
        hidden: widths of the hidden layers of the network.

    Example:
        >>> from pyrovae.posteriors import FullRankNormal
        >>> FactorEncoder((10,), FullRankNormal(2).in_shape)(torch.zeros(7, 10)).shape
        torch.Size([7, 5])
    """

    _diagonal: Tensor
    _below: Tensor

    def __init__(
        self, in_shape: Sequence[int], out_shape: Sequence[int], hidden: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        num_columns = prod(in_shape) // 2
        num = (isqrt(9 + 8 * prod(out_shape)) - 3) // 2  # of n = D + D (D + 1) / 2 numbers
        self.loadings = nn.Parameter(torch.randn(num_columns, num) * 0.3)
        self.loc = nn.Parameter(torch.zeros(num_columns))
        self.unlinked_scale = nn.Parameter(torch.zeros(num_columns))
        self.network = MLP(in_shape, (2, num), hidden)
        _zero(self.network)
        self._positive = link_to(torch.distributions.constraints.positive)
        row, column = torch.tril_indices(num, num, -1)
        self.register_buffer("_below", row * num + column, persistent=False)

    def forward(self, seen: Float[Tensor, "*batch seen"]) -> Float[Tensor, "*batch h"]:
        x, present = seen.chunk(2, -1)
        precision = present / (softplus(self.unlinked_scale).square() + _LEAST_VARIANCE)
        identity = torch.eye(self.loadings.shape[1], dtype=seen.dtype, device=seen.device)
        m = (precision.unsqueeze(-1) * self.loadings).mT @ self.loadings + identity
        r = ((x - self.loc) * precision) @ self.loadings
        # M = U U' with U upper triangular, so that M^-1 = L L' with L = (U')^-1 below the diagonal.
        upper = torch.linalg.cholesky_ex(m.flip(-1, -2))[0].flip(-1, -2)
        inverse = torch.linalg.solve_triangular(upper, identity.expand_as(upper), upper=True)
        shift, log_scale = self.network(seen).unbind(-2)
        lower = inverse.mT * log_scale.exp().unsqueeze(-2)
        loc = inverse.mT @ (inverse @ r.unsqueeze(-1)) + lower @ shift.unsqueeze(-1)
        diagonal = self._positive.inv(lower.diagonal(dim1=-2, dim2=-1))
        below = lower.flatten(-2).index_select(-1, self._below)
        return torch.cat([loc.squeeze(-1), diagonal, below], -1)


class FactorDecoder(nn.Module):
    """A linear map of z, as in factor analysis, and a network that starts at zero added to it.

    Arguments:
        in_shape: shape of z.
        out_shape: shape of eta.
        hidden: widths of the hidden layers of the network; none for the linear map alone.

    Example:
        >>> FactorDecoder((2,), (1, 5))(torch.zeros(7, 2)).shape
        torch.Size([7, 1, 5])
    """

    def __init__(
        self, in_shape: Sequence[int], out_shape: Sequence[int], hidden: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        self.linear = MLP(in_shape, out_shape, ())
        self.network = MLP(in_shape, out_shape, hidden)
        _zero(self.network)

    @property
    def bias(self) -> nn.Parameter:
        """eta of z = 0, flattened, before the network has learned."""
        last: Any = self.linear.layers[-1]
        bias: nn.Parameter = last.bias
        return bias

    def forward(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        eta: Tensor = self.linear(z) + self.network(z)
        return eta


def _zero(network: MLP) -> None:
    """Let the network put out zeros until it learns."""
    for parameter in network.layers[-1].parameters():
        nn.init.zeros_(parameter)
