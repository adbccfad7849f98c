"""A VAE with several layers of latents (Rezende et al. 2014; Sønderby et al. 2016)."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import kl_divergence

from ..arguments import TensorLike, as_flag, as_shape, as_whole, as_wholes, as_word
from ..data.memory import check_fits_memory
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP
from .base import (
    Body,
    LatentVariableModel,
    build_decoder,
    build_encoder,
    encoder_input_shape,
)
from .base.conditional_normal import ConditionalNormal
from .ladder import BottomUpGuide, HierarchicalModel, TopDownGuide

__all__ = ["HierarchicalVAE"]

_MAX_LAYERS = 100
"""The largest number of latent layers, and of hidden layers between them."""

_GUIDES = ("top_down", "bottom_up")


class HierarchicalVAE(LatentVariableModel):
    """A chain of latent layers, each drawn given the one above, with deep networks between them.

        z_L ~ Normal(0, I),   z_l ~ Normal(m_l(z_{l+1}), diag(s_l(z_{l+1})^2)),   x ~ p(x | z_1)

    The sites are ``z1``, next to x, to ``zL``. There are two guides:

    - ``"bottom_up"``: q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}) (Rezende et al. 2014; Burda et
      al. 2016), see :class:`~pyrovae.models.ladder.BottomUpGuide`;
    - ``"top_down"``: q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x), where each q below the top
      is the precision-weighted product of a normal from x and of p(z_l | z_{l+1}) (the ladder of
      Sønderby et al. 2016), see :class:`~pyrovae.models.ladder.TopDownGuide`.

    Train the ladder with a warm-up of beta, as its authors do; otherwise q may follow the model's
    p(z_l | z_{l+1}) before it uses x: ``objective={"name": "beta", "beta": Linear(steps=...)}``.

    Latents depend on one another under either guide, so objectives and reports that need
    independent latents (``stl``, ``dreg``, :func:`~pyrovae.infer.latent_report`,
    :func:`~pyrovae.infer.inference_gap`) refuse them; :meth:`layer_kl` shows which layers are used.
    Only ``"top_down"`` has the KL of whole layers in closed form, given the layers above. With one
    layer, both guides equal the guide of :class:`~pyrovae.VAE`.

    Arguments:
        event_shape: shape of one datum.
        latent_dims: numbers of dimensions of z_1, ..., z_L.
        likelihood: p(x | z_1), as :class:`~pyrovae.VAE` takes it.
        guide: ``"bottom_up"`` or ``"top_down"``.
        encoder: the first upward network, from x, or a callable that makes one from (in_shape,
            out_shape). Its output has shape ``(2, latent_dims[0])`` for ``"bottom_up"``. For
            ``"top_down"`` it has as many numbers in one row, followed by ``hidden[-1]`` features if
            there is a layer above.
        decoder: network from z_1 to eta, or a callable that makes one.
        hidden: widths of the hidden layers of the MLPs between latent layers.
        missing: whether entries of x may be missing (NaN), as in :class:`~pyrovae.VAE`.

    Raises:
        InputError: if the parts do not fit together.

    Example:
        >>> vae = HierarchicalVAE((1, 8, 8), latent_dims=(5, 2))
        >>> vae.sample(4).shape, vae.layer_kl(vae.sample(4)).shape
        (torch.Size([4, 1, 8, 8]), torch.Size([2]))
    """

    model: HierarchicalModel
    guide: BottomUpGuide | TopDownGuide

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dims: Sequence[int] = (64, 32),
        likelihood: Likelihood | Mixed | str | Mapping[str, Any] = "Bernoulli",
        guide: str = "bottom_up",
        encoder: Body = MLP,
        decoder: Body = MLP,
        hidden: Sequence[int] = (256,),
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape("event_shape", event_shape)
        self.latent_dims = as_wholes("latent_dims", latent_dims, fewest=1, most=_MAX_LAYERS)
        hidden = as_wholes("hidden", hidden, fewest=1, most=_MAX_LAYERS)
        guide = as_word("guide", guide, _GUIDES)
        missing = as_flag("missing", missing)
        layer = Likelihood.of(likelihood).build(self.event_shape)
        mlp = partial(MLP, hidden=hidden)
        first, *above = self.latent_dims

        def conditional(in_dim: int, out_dim: int) -> ConditionalNormal:
            return ConditionalNormal(mlp((in_dim,), (2, out_dim)), out_dim)

        self.model = HierarchicalModel(
            [conditional(upper, lower) for lower, upper in pairwise(self.latent_dims)],
            self.latent_dims[-1],
            build_decoder(decoder, (first,), layer.in_shape),
            layer,
            missing,
        )
        in_shape = encoder_input_shape(self.event_shape, missing)
        if guide == "bottom_up":
            self.guide = BottomUpGuide(
                build_encoder(encoder, in_shape, (2, first)),
                first,
                [conditional(lower, upper) for lower, upper in pairwise(self.latent_dims)],
                self.event_shape,
                missing,
            )
        else:
            features = [hidden[-1]] * len(above) + [0]
            widths = [2 * dim + num for dim, num in zip(self.latent_dims, features, strict=True)]
            self.guide = TopDownGuide(
                build_encoder(encoder, in_shape, widths[:1]),
                [mlp((hidden[-1],), (width,)) for width in widths[1:]],
                self.latent_dims,
                self.model,
                self.event_shape,
                missing,
            )

    def embed(self, x: TensorLike, *given: TensorLike) -> Float[Tensor, "*batch top"]:
        """The top latent z_L, computed by passing the means of q from layer to layer.

        The top layer has the fixed prior Normal(0, I), on which plots of the latent space are
        based, and :meth:`draw` starts from it. With ``"top_down"``, the result is the mean of
        q(z_L | x). See :meth:`means` for the other layers.
        """
        return self.means(x)[-1]

    def means(self, x: TensorLike) -> list[Float[Tensor, "..."]]:
        """z_1, ..., z_L: each is the mean of its q given the means of the layers drawn before."""
        return self.guide.chain(self.as_data(x), lambda _, q: q.mean)

    def draw(
        self, num: int, *given: TensorLike
    ) -> tuple[Float[Tensor, "num top"], Float[Tensor, "..."]]:
        """Draw z_L to z_1 down the chain; return z_L and the decoder's output for z_1."""
        num = self.as_number(num)
        z = self.model.chain(lambda _, p: p.expand((num,)).sample())
        return z[-1], self.model.decoder(z[0])

    @torch.no_grad()
    def layer_kl(self, x: TensorLike, num_samples: int = 10) -> Float[Tensor, "layers"]:
        """E_q[log q(z_l | ...) - log p(z_l | z_{l+1})] of layers l = 1, ..., L, averaged over x.

        In nats. The sum is the rate, E_q[log q(z | x) - log p(z)]. A layer near zero is not used:
        there q is the prior. The expectation over the top layer, and for ``"top_down"`` over each
        layer, is in closed form given the layers drawn before. The other terms are averages over
        samples and may be negative.

        Arguments:
            x: data.
            num_samples: number of samples of the latents for each datum.

        Raises:
            InputError: if num_samples is below 1.
        """
        x = self.as_data(x, batch_dims=1)
        num_samples = as_whole("num_samples", num_samples, 1)
        size = 4 * num_samples * len(x) * sum(self.latent_dims)
        check_fits_memory(size, f"{num_samples:,} samples", "lower num_samples")
        q: dict[int, Any] = {}

        def sample(layer: int, q_layer: Any) -> Tensor:
            q[layer] = q_layer
            z: Tensor = q_layer.sample((num_samples,) if len(q) == 1 else ())
            return z

        z = self.guide.chain(x, sample)
        top = len(z)
        terms = []
        for layer in range(1, top + 1):
            is_top = layer == top
            p: Any = self.model.prior() if is_top else self.model.below(layer, z[layer])
            if is_top or self.guide.follows_model:
                kl = kl_divergence(q[layer], p)
            else:
                kl = q[layer].log_prob(z[layer - 1]) - p.log_prob(z[layer - 1])
            terms.append(kl.mean())
        return torch.stack(terms)

    def _q(self, x: Tensor, given: tuple[Tensor, ...]) -> TorchDistributionMixin | None:
        """q(z_L | x), where it does not depend on layers below."""
        if isinstance(self.guide, TopDownGuide):
            top: TorchDistributionMixin = self.guide.evidence(x)[-1]
            return top
        if len(self.latent_dims) > 1:
            return None
        found: list[TorchDistributionMixin] = []

        def keep(_: int, q: TorchDistributionMixin) -> Tensor:
            found.append(q)
            mean: Tensor = q.mean
            return mean

        self.guide.chain(x, keep)
        return found[0]

    def _draw_latents(
        self, num: int | None, x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        if num is None:
            return tuple(self.means(x))
        first = 1 if isinstance(self.guide, BottomUpGuide) else len(self.latent_dims)

        def draw(layer: int, q: TorchDistributionMixin) -> Tensor:
            z: Tensor = q.sample((num,) if layer == first else ())
            return z

        return tuple(self.guide.chain(x, draw))

    def _decode(
        self, latents: tuple[Tensor, ...], x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.model.decoder(latents[0]), self.likelihood.given_with(x, *given)

    def _code(self, latents: tuple[Tensor, ...]) -> Tensor:
        return latents[-1]
