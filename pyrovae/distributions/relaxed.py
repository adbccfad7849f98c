"""Relaxations of one-hot vectors to the simplex, with gradients through samples."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["RelaxedOneHot", "StraightThroughOneHot"]

_FLOOR_FACTOR = 2**24
"""Floor relative to the smallest normal number, so that gradients, in 1 / z, do not overflow."""


def _floor(z: Tensor) -> float:
    return torch.finfo(z.dtype).tiny * _FLOOR_FACTOR


class RelaxedOneHot(dist.RelaxedOneHotCategorical):  # type: ignore[misc]
    """The Concrete distribution on the simplex (Maddison et al. 2017; Jang et al. 2017).

    z = softmax((l + g) / t), where the g_k ~ Gumbel(0, 1), with logits l and temperature t. Samples
    too close to a face for floating point, where torch's density is NaN, get their probability:
    coordinates below a floor m (2e-31 in single precision) become 0, and if U are the n others,

        log p(z) = log G(n) + (n - 1) log t + sum_{k in U} [l_k - (t + 1) log z_k - log S],
        S = sum_k exp(l_k) max(z_k, m)^-t,

    where G is the gamma function. Inside the simplex this is the density of the papers. On a face
    it is the density within the face of the samples there; at a corner it is a probability. The
    total probability is therefore one, and bounds and importance weights are correct. Gradients
    through samples ignore that probability moves between faces. This matters for temperatures below
    about 0.3 in single precision; use double precision there.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        # Samples of torch do not sum to one if the largest score is rounded.
        z: Tensor = self.base_dist.rsample(sample_shape).softmax(-1)
        return torch.where(z < _floor(z), 0.0, z)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        t: Tensor = self.temperature
        is_inside = value >= _floor(value)
        log_z = value.clamp_min(_floor(value)).log()
        score = self.logits - t * log_z
        each = score - score.logsumexp(-1, keepdim=True) - log_z
        num = is_inside.sum(-1).to(value.dtype)
        total: Tensor = torch.where(is_inside, each, 0.0).sum(-1)
        return torch.lgamma(num) + (num - 1) * t.log() + total


class StraightThroughOneHot(dist.OneHotCategorical):
    """One-hot vectors z whose gradient is that of the relaxed sample (Jang et al. 2017).

    z is the corner of the simplex nearest to a sample of :class:`RelaxedOneHot`, so it is exactly
    categorical (the Gumbel-max trick). The backward pass uses the relaxed sample itself. log p(z)
    is the log-probability of the category, computed as sum_k z_k log p_k so that it has a gradient
    in z.

    Arguments:
        temperature: temperature of the relaxed sample.
        logits: log p_k, unnormalised, on the last dimension.
    """

    has_rsample = True

    def __init__(
        self, temperature: Tensor, logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StraightThroughOneHot":
        expanded: StraightThroughOneHot = StraightThroughOneHot.__new__(StraightThroughOneHot)
        expanded.temperature = self.temperature
        super().expand(batch_shape, expanded)  # type: ignore[no-untyped-call]
        return expanded

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        relaxed = RelaxedOneHot(self.temperature, logits=self.logits, validate_args=False)
        soft = relaxed.rsample(sample_shape)
        hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
        return hard + (soft - soft.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_prob: Tensor = (self.logits * value).sum(-1)
        return log_prob
