"""Mixtures with efficient densities for many data and many components."""

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["DiagonalNormalMixture"]


class DiagonalNormalMixture(TorchDistribution):
    """p(x) = sum_k pi_k Normal(x; m_k, diag(s_k^2)), one mixture for the whole batch.

    The sum over dimensions of (x - m_k)^2 / s_k^2 is expanded into one product of the matrix
    (x^2, x) with a matrix of the components. Unlike ``MixtureSameFamily``, this creates no tensor
    of data by components by dimensions. Cancellation in the expansion exceeds single precision, so
    the product is computed in double precision, whatever the type of x. The device must support
    double precision.

    Arguments:
        logits: log pi_k, unnormalised, of shape (components,).
        loc: m_k, of shape (components, dims).
        scale: s_k, of shape (components, dims).
        batch_shape: shape of independent copies.

    Example:
        >>> p = DiagonalNormalMixture(torch.zeros(2), torch.zeros(2, 3), torch.ones(2, 3))
        >>> p.log_prob(torch.zeros(3))  # -1.5 log(2 pi)
        tensor(-2.7568)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector

    def __init__(
        self,
        logits: Float[Tensor, "components"],
        loc: Float[Tensor, "components dims"],
        scale: Float[Tensor, "components dims"],
        batch_shape: Any = (),
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiagonalNormalMixture":
        expanded = DiagonalNormalMixture(self.logits, self.loc, self.scale, batch_shape, False)
        expanded._validate_args = self._validate_args
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        centre = self.loc.detach().double().mean(-2)
        x, loc, scale = value.double() - centre, self.loc.double() - centre, self.scale.double()
        precision = scale.square().reciprocal()
        slope = precision * loc
        log_norm = scale.log().sum(-1) + 0.5 * loc.shape[-1] * math.log(2 * math.pi)
        constant = self.logits.double().log_softmax(-1) - 0.5 * (slope * loc).sum(-1) - log_norm
        powers = torch.cat([x.square(), x], -1)
        log_joint = powers @ torch.cat([-0.5 * precision, slope], -1).mT + constant
        return log_joint.logsumexp(-1).to(value.dtype).expand(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            k = torch.distributions.Categorical(logits=self.logits).sample(shape)
            return torch.normal(self.loc[k], self.scale[k])

    @property
    def mean(self) -> Float[Tensor, "*batch dims"]:
        """sum_k pi_k m_k."""
        mean: Tensor = self.logits.softmax(-1) @ self.loc
        return mean.expand(self._extended_shape())

    @property
    def variance(self) -> Float[Tensor, "*batch dims"]:
        """sum_k pi_k (s_k^2 + (m_k - mean)^2)."""
        mean = self.logits.softmax(-1) @ self.loc
        spread = self.scale.square() + (self.loc - mean).square()
        variance: Tensor = self.logits.softmax(-1) @ spread
        return variance.expand(self._extended_shape())
