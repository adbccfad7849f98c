"""The variational mixture of posteriors as a prior (Tomczak and Welling 2018)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import Categorical, MixtureSameFamily
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..distributions import DiagonalNormalMixture
from ..distributions.flows import FlowDistribution
from ..errors import InputError

__all__ = ["VampPrior"]

_NOISE = 0.01
"""Standard deviation, in standardised units, that tells pseudo-inputs from one datum apart."""


class VampPrior(nn.Module):
    """p(z) = sum_k pi_k q(z | u_k), q being the guide's own, with learned pseudo-inputs u_k.

    (Tomczak and Welling 2018.) In the paper's first form all pi_k are 1 / K; here they are learned,
    and start there. u_k are in the standardised units that the encoder sees, any real numbers, at
    first draws from Normal(0, I), until ``start_at`` takes data in their place.

    A :class:`~pyrovae.VAE` binds its prior to its guide. The guide's parameters stay the guide's
    alone: the prior's own are ``pseudo_inputs`` and ``logits``. Gradients of log p(z) reach
    both. The encoder runs on K pseudo-inputs in each step, so that batch normalisation
    sees them too.

    Arguments:
        event_shape: shape of one datum.
        num_components: K.

    Raises:
        InputError: if there are no components.

    Example:
        >>> from pyrovae import VAE
        >>> vae = VAE((4,), latent_dim=2, likelihood="Normal", prior=VampPrior((4,), 5))
        >>> vae.standardise(torch.randn(20, 4))
        >>> vae.model.prior().event_shape
        torch.Size([2])
    """

    def __init__(self, event_shape: Sequence[int], num_components: int = 500) -> None:
        super().__init__()
        if num_components < 1:
            raise InputError(f"num_components is {num_components}; it must be 1 or more")
        self.pseudo_inputs = nn.Parameter(torch.randn(num_components, *event_shape))
        self.logits = nn.Parameter(torch.zeros(num_components))
        self._guide: tuple[Any, ...] = ()  # which is no part of the prior

    def bind(self, guide: nn.Module) -> None:
        """Take q(z | u) from this guide from now on.

        Arguments:
            guide: has the ``event_shape`` of its data, and a method ``q_of_standard(u)``, which
                returns q(z | u) of standardised u.

        Raises:
            InputError: if it has none; if it takes data of another shape; or if q cannot be mixed,
                as a flow whose density of values that it did not draw is unknown or costs many
                passes.
        """
        if not hasattr(guide, "q_of_standard"):
            raise InputError(
                f"a VampPrior mixes q(z | u) of pseudo-inputs u, but {type(guide).__name__} has no "
                "method q_of_standard(u) that returns it; use another prior"
            )
        shape = tuple(self.pseudo_inputs.shape[1:])
        expected: Any = guide.event_shape
        if shape != tuple(expected):
            raise InputError(
                f"the pseudo-inputs have the shape {shape}, but the guide takes data of shape "
                f"{tuple(expected)}; give VampPrior that event_shape"
            )
        _check_mixes(guide, self.pseudo_inputs[:1])
        self._guide = (guide,)

    @torch.no_grad()
    def start_at(self, standard: Float[Tensor, "data *event"]) -> None:
        """Let pseudo-inputs start at different data, chosen at random; missing entries at the mean.

        Where there are fewer data than components, each stands for several of them, which differ by
        noise of standard deviation 0.01: without it they would stay alike, and with an error in its
        place a small table could not be fitted with the default number of components.

        Arguments:
            standard: training data, standardised.

        Raises:
            InputError: if there are none.
        """
        if not len(standard):
            raise InputError("there are no data for pseudo-inputs to start at; give one or more")
        u = self.pseudo_inputs
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        rounds = -(-len(u) // len(standard))
        orders = [torch.randperm(len(standard), generator=generator) for _ in range(rounds)]
        chosen = torch.cat(orders)[: len(u)]
        start = standard[chosen.to(standard.device)].nan_to_num(0.0).to(u)
        if rounds > 1:
            start += _NOISE * torch.randn(u.shape, generator=generator).to(u)
        u.copy_(start)

    def forward(self) -> TorchDistributionMixin:
        """The mixture.

        Raises:
            InputError: if the prior is not bound to a guide.
        """
        if not self._guide:
            raise InputError(
                "a VampPrior is a mixture of its guide's q(z | u), but is bound to no guide; give "
                "it to a VAE, or call its bind(guide)"
            )
        (guide,) = self._guide
        p: TorchDistributionMixin = _mixture(self.logits, guide.q_of_standard(self.pseudo_inputs))
        return p


def _mixture(logits: Float[Tensor, "components"], q: Any) -> Any:
    """sum_k pi_k q_k, with the components as the batch of q."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal) and len(q.event_shape) == 1:
        return DiagonalNormalMixture(logits, q.base_dist.loc, q.base_dist.scale)
    return MixtureSameFamily(Categorical(logits=logits), q)


@torch.no_grad()
def _check_mixes(guide: Any, u: Float[Tensor, "1 *event"]) -> None:
    modes = [(module, module.training) for module in guide.modules()]
    guide.eval()  # batch normalisation refuses a batch of one in training
    try:
        q = guide.q_of_standard(u)
    finally:
        for module, was_training in modes:
            module.training = was_training
    refusal = (
        f"the posterior's distribution, {type(q).__name__}, cannot be mixed, since the density of "
        "values that it did not draw is unknown or costs many passes; use another prior, or a "
        "normal posterior"
    )
    if isinstance(q, FlowDistribution):
        raise InputError(refusal)
    try:
        p = _mixture(u.new_zeros(1), q)
        value = q.sample((3,))[:, 0]
        is_dense = p.expand((3,)).log_prob(value).shape == (3,)
    except Exception as error:  # whatever a family without such a density raises
        raise InputError(f"{refusal} ({type(error).__name__}: {error})") from error
    if not is_dense:
        raise InputError(refusal)
