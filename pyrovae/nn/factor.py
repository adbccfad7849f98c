"""Networks for tables: linear factor analysis plus networks that correct it."""

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..arguments import as_shape
from ..described import Described
from ..links import link_to
from .mlp import MLP

__all__ = ["FactorDecoder", "FactorEncoder"]

_LEAST_VARIANCE = 0.05**2
"""Floor of the noise variance, in the data's units; the posterior needs it in single precision."""


class FactorEncoder(Described, nn.Module):
    """The posterior of factor analysis given the present entries, corrected by a network.

    Under x_d = v_d' z + b_d + Normal(0, 1 / a_d) and z ~ Normal(0, I), with m_d = 1 where x_d is
    present and 0 where it is not,

        p(z | x) = Normal(M^-1 r, M^-1),   M = I + sum_d m_d a_d v_d v_d',
                                           r = sum_d m_d a_d (x_d - b_d) v_d,

    for every mask m (Rubin and Thayer 1982 for complete data). The encoder learns its own v, b and
    a. With L L' = M^-1, a network outputs (t, s), which start at zero, and q(z | x) is
    Normal(M^-1 r + L e^s t, L e^2s L'). So q is exact at the start for a linear decoder with these
    v, b and a. It need not be exact for any other decoder.

    Arguments:
        in_shape: ``(2 D,)``: D numbers of order one, 0 where they are missing, and the mask of
            present entries.
        out_shape: the ``in_shape`` of :class:`~pyrovae.posteriors.FullRankNormal`.
        hidden: widths of the hidden layers of the network.

    Example:
        >>> from pyrovae.posteriors import FullRankNormal
        >>> FactorEncoder((10,), FullRankNormal(2).in_shape)(torch.zeros(7, 10)).shape
        torch.Size([7, 5])
    """

    _below: Tensor

    def __init__(
        self, in_shape: Sequence[int], out_shape: Sequence[int], hidden: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        in_shape, out_shape = as_shape("in_shape", in_shape), as_shape("out_shape", out_shape)
        num_columns = prod(in_shape) // 2
        # The latent dimension D, solved from prod(out_shape) = D + D (D + 1) / 2.
        latent_dim = (isqrt(9 + 8 * prod(out_shape)) - 3) // 2
        self.loadings = nn.Parameter(torch.randn(num_columns, latent_dim) * 0.3)
        self.loc = nn.Parameter(torch.zeros(num_columns))
        self.unlinked_scale = nn.Parameter(torch.zeros(num_columns))
        self.network = MLP(in_shape, (2, latent_dim), hidden)
        _zero_last_layer(self.network)
        self._positive = link_to(torch.distributions.constraints.positive)
        row, column = torch.tril_indices(latent_dim, latent_dim, -1)
        self.register_buffer("_below", row * latent_dim + column, persistent=False)

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch h"]:
        x, present = inputs.chunk(2, -1)
        precision = present / (softplus(self.unlinked_scale).square() + _LEAST_VARIANCE)
        identity = torch.eye(self.loadings.shape[1], dtype=inputs.dtype, device=inputs.device)
        m = (precision.unsqueeze(-1) * self.loadings).mT @ self.loadings + identity
        r = ((x - self.loc) * precision) @ self.loadings
        # M = U U' with U upper triangular, so M^-1 = L L' with L = (U')^-1 lower triangular.
        upper = torch.linalg.cholesky_ex(m.flip(-1, -2))[0].flip(-1, -2)
        inverse = torch.linalg.solve_triangular(upper, identity.expand_as(upper), upper=True)
        shift, log_scale = self.network(inputs).unbind(-2)
        lower = inverse.mT * log_scale.exp().unsqueeze(-2)
        loc = inverse.mT @ (inverse @ r.unsqueeze(-1)) + lower @ shift.unsqueeze(-1)
        diagonal = self._positive.inv(lower.diagonal(dim1=-2, dim2=-1))
        below = lower.flatten(-2).index_select(-1, self._below)
        return torch.cat([loc.squeeze(-1), diagonal, below], -1)


class FactorDecoder(Described, nn.Module):
    """A linear map of z, as in factor analysis, plus a network that starts at zero.

    Arguments:
        in_shape: shape of z.
        out_shape: shape of eta.
        hidden: widths of the hidden layers of the network; with none, eta is linear in z.

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
        _zero_last_layer(self.network)

    @property
    def bias(self) -> nn.Parameter:
        """The bias of the linear map: eta at z = 0, flattened, before training."""
        last: Any = self.linear.layers[-1]
        bias: nn.Parameter = last.bias
        return bias

    def forward(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        eta: Tensor = self.linear(z) + self.network(z)
        return eta


def _zero_last_layer(network: MLP) -> None:
    """Make the network output zeros until it is trained."""
    for parameter in network.layers[-1].parameters():
        nn.init.zeros_(parameter)
