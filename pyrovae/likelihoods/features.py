"""log p(x_d | z) of each entry d of a datum, for likelihoods whose entries are independent."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .layer import Given, LikelihoodLayer
from .mixed import MixedLayer

__all__ = ["feature_log_prob"]


def feature_log_prob(
    layer: LikelihoodLayer | MixedLayer,
    x: Float[Tensor, "..."],
    eta: Float[Tensor, "..."],
    given: Given | None = None,
) -> Float[Tensor, "..."] | None:
    """log p(x_d | z) of each entry of x in nats, 0 where it is missing.

    Arguments:
        layer: p(x | z).
        x: data.
        eta: the output of the decoder; further batch dimensions on the left are taken.
        given: tensors given with each datum.

    Returns:
        The terms; None if a distribution over vectors is among the likelihoods.

    Example:
        >>> from pyrovae import Likelihood
        >>> layer = Likelihood("Normal", scale=1.0).build((2,))
        >>> feature_log_prob(layer, torch.zeros(1, 2), torch.tensor([[[0.0, 1.0]]]))
        tensor([[-0.9189, -1.4189]])
    """
    if isinstance(layer, MixedLayer):
        blocks = [feature_log_prob(*block) for block in layer.split(x, eta)]
        terms = [each for each in blocks if each is not None]
        return torch.cat(terms, -1) if len(terms) == len(blocks) else None
    if layer.likelihood.family.is_vector:
        return None
    present = ~x.isnan()
    p: Any = layer(eta, given)
    log_prob = p.base_dist.log_prob(torch.where(present, x, layer.fill))
    return torch.where(present, log_prob, 0.0)
