"""The variational mixture of posteriors as a prior (Tomczak and Welling 2018)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import Categorical, MixtureSameFamily
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..arguments import as_data, as_instance, as_shape, as_whole
from ..data.memory import check_num_parameters
from ..described import Described
from ..distributions import DiagonalNormalMixture
from ..distributions.flows import FlowDistribution
from ..errors import InputError

__all__ = ["VampPrior"]

_NOISE = 0.01
"""Standard deviation, in standardised units, of the noise on pseudo-inputs of the same datum."""


class VampPrior(Described, nn.Module):
    """p(z) = sum_k pi_k q(z | u_k), a mixture of the guide's q at learned pseudo-inputs u_k.

    (Tomczak and Welling 2018.) In the paper's first form all pi_k are 1 / K; here they are learned
    and start at 1 / K. u_k are any real numbers, in the standardised units of the encoder's input.
    They start at draws from Normal(0, I); ``start_at`` replaces these by data.

    A :class:`~pyrovae.VAE` binds its prior to its guide. The guide keeps its own parameters; the
    prior owns only ``pseudo_inputs`` and ``logits``. Gradients of log p(z) reach both. The encoder
    runs on K pseudo-inputs in each step, so batch normalisation sees them too.

    Arguments:
        event_shape: shape of one datum.
        num_components: number of components K.

    Raises:
        InputError: if an argument is invalid, or the prior does not fit into memory.

    Example:
        >>> from pyrovae import VAE
        >>> vae = VAE((4,), latent_dim=2, likelihood="Normal", prior=VampPrior((4,), 5))
        >>> vae.standardise(torch.randn(20, 4))
        >>> vae.model.prior().event_shape
        torch.Size([2])
    """

    name = "vamp"

    def __init__(self, event_shape: Sequence[int], num_components: int = 500) -> None:
        super().__init__()
        event_shape = as_shape("event_shape", event_shape)
        num_components = as_whole("num_components", num_components, 1)
        check_num_parameters(num_components * prod(event_shape), "a VampPrior")
        self.pseudo_inputs = nn.Parameter(torch.randn(num_components, *event_shape))
        self.logits = nn.Parameter(torch.zeros(num_components))
        self._guide: tuple[Any, ...] = ()  # in a tuple, so that it is not registered as a submodule

    def bind(self, guide: nn.Module) -> None:
        """Take q(z | u) from this guide from now on.

        Arguments:
            guide: a guide with the ``event_shape`` of its data and a method ``q_of_standard(u)``
                that returns q(z | u) for standardised u.

        Raises:
            InputError: if the guide has no such method or takes data of another shape; or if q
                cannot be mixed. A flow cannot, where the density of a value that it did not draw is
                unknown or costs many passes.
        """
        as_instance("guide", guide, nn.Module, "the guide of a model, a module")
        if not hasattr(guide, "q_of_standard"):
            raise InputError(
                f"a VampPrior mixes q(z | u) over pseudo-inputs u, but {type(guide).__name__} has "
                "no method q_of_standard(u) that returns q(z | u); use another prior"
            )
        shape = tuple(self.pseudo_inputs.shape[1:])
        expected: Any = guide.event_shape
        if shape != tuple(expected):
            raise InputError(
                f"the pseudo-inputs have shape {shape}, but the guide takes data of shape "
                f"{tuple(expected)}; give VampPrior that event_shape"
            )
        _check_mixable(guide, self.pseudo_inputs[:1])
        self._guide = (guide,)

    @torch.no_grad()
    def start_at(self, standard: Float[Tensor, "data *event"]) -> None:
        """Set the pseudo-inputs to different data, chosen at random; missing entries to the mean.

        If there are fewer data than components, several components start at the same datum, plus
        noise of standard deviation 0.01. Without the noise they would stay equal. An error instead
        would keep you from fitting a small table with the default number of components.

        Arguments:
            standard: standardised training data.

        Raises:
            InputError: if there are no data.
        """
        shape = tuple(self.pseudo_inputs.shape[1:])
        standard = as_data("standard", standard, shape, batch_dims=1)
        if not len(standard):
            raise InputError("there are no data to start the pseudo-inputs at; give one or more")
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
        """Return the mixture p(z).

        Raises:
            InputError: if the prior is not bound to a guide.
        """
        if not self._guide:
            raise InputError(
                "a VampPrior mixes q(z | u) of a guide, but this one is bound to no guide; give it "
                "to a VAE, or call its bind(guide)"
            )
        (guide,) = self._guide
        p: TorchDistributionMixin = _mixture(self.logits, guide.q_of_standard(self.pseudo_inputs))
        return p


def _mixture(logits: Float[Tensor, "components"], q: Any) -> Any:
    """sum_k pi_k q_k, where the batch of q holds the components."""
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal) and len(q.event_shape) == 1:
        return DiagonalNormalMixture(logits, q.base_dist.loc, q.base_dist.scale)
    return MixtureSameFamily(Categorical(logits=logits), q)


@torch.no_grad()
def _check_mixable(guide: Any, u: Float[Tensor, "1 *event"]) -> None:
    """Refuse a q that has no cheap density of values that it did not draw."""
    modes = [(module, module.training) for module in guide.modules()]
    guide.eval()  # batch normalisation refuses a batch of one in training mode
    try:
        q = guide.q_of_standard(u)
    finally:
        for module, was_training in modes:
            module.training = was_training
    refusal = (
        f"the posterior's distribution, {type(q).__name__}, cannot be mixed by a VampPrior, as the "
        "density of values that it did not draw is unknown or costs many passes; use another "
        "prior, or a normal posterior"
    )
    if isinstance(q, FlowDistribution):
        raise InputError(refusal)
    try:
        p = _mixture(u.new_zeros(1), q)
        value = q.sample((3,))[:, 0]
        has_density = p.expand((3,)).log_prob(value).shape == (3,)
    except Exception as error:  # families without such a density raise errors of any type
        raise InputError(f"{refusal} ({type(error).__name__}: {error})") from error
    if not has_density:
        raise InputError(refusal)
