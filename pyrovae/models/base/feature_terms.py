"""The part of each column in the reconstruction term of a datum."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...arguments import TensorLike
from ...likelihoods.features import feature_log_prob
from .model import LatentVariableModel
from .reading import Data

__all__ = ["feature_terms"]


@torch.no_grad()
def feature_terms(
    model: LatentVariableModel,
    data: Data,
    *given: TensorLike,
    num_draws: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> Float[Tensor, "data *event"] | None:
    """E_q[log p(x_d | z)] of each entry d of each datum, in nats; 0 where it is missing.

    The sum over entries is minus the reconstruction term of the ELBO.

    Arguments:
        model: a trained model.
        data: data, as every method of the model takes them.
        given: what comes with each datum, as the model takes it after x.
        num_draws: number of draws from q(z | x).
        seed: seed of the draws.
        progress: show a progress bar if it takes more than two seconds.

    Returns:
        The terms; None for likelihoods of whole vectors, whose entries are not independent given z.

    Raises:
        InputError: if the data are not such as the model was trained on.
    """
    x, tensors = model.read(data, given)

    def terms(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        eta, named_given = model.decode_draws(num_draws, x, given)
        each = feature_log_prob(model.likelihood, x.to(eta.dtype), eta, named_given)
        return () if each is None else (each.mean(0),)

    size = num_draws * x[0].numel()
    parts = model.map(terms, x, tensors, size, seed, "terms of columns", progress)
    return torch.cat([part for (part,) in parts]) if parts[0] else None
