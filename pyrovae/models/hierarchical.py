"""The VAE with several layers of latents (Rezende et al. 2014; Sønderby et al. 2016)."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.distributions import kl_divergence

from ..errors import InputError, did_you_mean
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP
from .base import Body, LatentVariableModel, build_network, encoder_input_shape
from .base.conditional_normal import ConditionalNormal
from .ladder import BottomUpGuide, HierarchicalModel, TopDownGuide

__all__ = ["HierarchicalVAE"]

_GUIDES = ("top_down", "bottom_up")


class HierarchicalVAE(LatentVariableModel):
    """A chain of latents, each layer drawn given the one above, with deep networks between them.

        z_L ~ Normal(0, I),   z_l ~ Normal(m_l(z_{l+1}), diag(s_l(z_{l+1})^2)),   x ~ p(x | z_1)

    Sites are ``z1``, next to x, to ``zL``. There are two guides:

    - ``"bottom_up"``: q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}) (Rezende et al. 2014; Burda et
      al. 2016), see :class:`~pyrovae.models.ladder.BottomUpGuide`;
    - ``"top_down"``: q(z_L | x) q(z_{L-1} | z_L, x) ... q(z_1 | z_2, x), each below the top being
      the precision-weighted product of a normal that x gives and of p(z_l | z_{l+1}) (the ladder
      of Sønderby et al. 2016), see :class:`~pyrovae.models.ladder.TopDownGuide`.

    The ladder is to be trained with a warm-up of beta, as its authors do, lest q follow the model's
    p(z_l | z_{l+1}) before x has a say: ``objective={"name": "beta", "beta": Linear(steps=...)}``.

    Latents depend on one another under either guide, so objectives and reports that need
    independent ones (``stl``, ``dreg``, :func:`~pyrovae.infer.latent_report`,
    :func:`~pyrovae.infer.inference_gap`) refuse them; :meth:`layer_kl` shows which layers are used.
    The KL of whole layers is in closed form, given the layers above, for ``"top_down"`` alone. With
    one layer both guides are that of :class:`~pyrovae.VAE`.

    Arguments:
        event_shape: shape of one datum.
        latent_dims: numbers of dimensions of z_1, ..., z_L.
        likelihood: p(x | z_1), as :class:`~pyrovae.VAE` takes it.
        guide: ``"bottom_up"`` or ``"top_down"``.
        encoder: the first upward network, from x, or a callable that makes one from (in_shape,
            out_shape). It puts out ``(2, latent_dims[0])`` numbers for ``"bottom_up"``; for
            ``"top_down"`` as many in one row, followed by ``hidden[-1]`` features if there is a
            layer above.
        decoder: network from z_1 to eta, or a callable that makes one.
        hidden: widths of the hidden layers of the networks between layers, which are MLPs.
        missing: whether entries of x may be missing (NaN), as :class:`~pyrovae.VAE` takes them.

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
        _check("latent_dims", latent_dims)
        _check("hidden", hidden)
        if guide not in _GUIDES:
            raise InputError(f"unknown guide {guide!r}: {did_you_mean(guide, _GUIDES)}")
        self.event_shape = tuple(event_shape)
        self.latent_dims = tuple(latent_dims)
        layer = Likelihood.of(likelihood).build(self.event_shape)
        between = partial(MLP, hidden=hidden)
        first, *above = self.latent_dims

        def normal(given: int, dim: int) -> ConditionalNormal:
            return ConditionalNormal(between((given,), (2, dim)), dim)

        self.model = HierarchicalModel(
            [normal(upper, lower) for lower, upper in pairwise(self.latent_dims)],
            self.latent_dims[-1],
            build_network(decoder, (first,), layer.in_shape),
            layer,
            missing,
        )
        seen = encoder_input_shape(self.event_shape, missing)
        if guide == "bottom_up":
            self.guide = BottomUpGuide(
                build_network(encoder, seen, (2, first)),
                first,
                [normal(lower, upper) for lower, upper in pairwise(self.latent_dims)],
                self.event_shape,
                missing,
            )
        else:
            features = [hidden[-1]] * len(above) + [0]
            widths = [2 * dim + num for dim, num in zip(self.latent_dims, features, strict=True)]
            self.guide = TopDownGuide(
                build_network(encoder, seen, widths[:1]),
                [between((hidden[-1],), (width,)) for width in widths[1:]],
                self.latent_dims,
                self.model,
                self.event_shape,
                missing,
            )

    def embed(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "*batch top"]:
        """The top latent z_L, with the means of q passed on from layer to layer.

        The top one, since it has the fixed prior Normal(0, I), which pictures of the latent space
        are drawn on, and is what :meth:`draw` starts from. With ``"top_down"`` it is the mean of
        q(z_L | x). See :meth:`means` for the other layers.
        """
        return self.means(x)[-1]

    def means(self, x: Num[Tensor, "..."]) -> list[Float[Tensor, "..."]]:
        """z_1, ..., z_L, each being the mean of its q given the means of those drawn before it."""
        return self.guide.chain(x, lambda _, q: q.mean)

    @torch.no_grad()
    def reconstruct(self, x: Num[Tensor, "..."], *given: Tensor) -> Float[Tensor, "..."]:
        """E[x' | z_1] at the z_1 of :meth:`means`."""
        eta = self.model.decoder(self.means(x)[0])
        return self.likelihood.mean(eta, self.likelihood.given_with(x, *given))

    def draw(
        self, num: int, *given: Tensor
    ) -> tuple[Float[Tensor, "num top"], Float[Tensor, "..."]]:
        """z_L from the prior, and what the decoder puts out for a z_1 drawn down the chain."""
        z = self.model.chain(lambda _, p: p.expand((num,)).sample())
        return z[-1], self.model.decoder(z[0])

    @torch.no_grad()
    def layer_kl(
        self, x: Num[Tensor, "data *event"], num_samples: int = 10
    ) -> Float[Tensor, "layers"]:
        """E_q[log q(z_l | ...) - log p(z_l | z_{l+1})] of layers l = 1, ..., L, averaged over x.

        In nats. The sum is the rate, E_q[log q(z | x) - log p(z)]. A layer near zero is not used:
        q is the prior there. The top layer, and for ``"top_down"`` each layer, is averaged in
        closed form given the layers that are drawn before it; other terms are averaged over
        samples alone, and may be below zero.

        Arguments:
            x: data.
            num_samples: samples of the latents for each datum.

        Raises:
            InputError: if num_samples is below 1.
        """
        if num_samples < 1:
            raise InputError(f"num_samples is {num_samples}; it must be 1 or more")
        q: dict[int, Any] = {}

        def take(layer: int, of_layer: Any) -> Tensor:
            q[layer] = of_layer
            z: Tensor = of_layer.sample((num_samples,) if len(q) == 1 else ())
            return z

        z = self.guide.chain(x, take)
        top = len(z)
        terms = []
        for layer in range(1, top + 1):
            is_top = layer == top
            p: Any = self.model.prior() if is_top else self.model.below(layer, z[layer])
            if is_top or self.guide.follows_model:
                kl = kl_divergence(q[layer], p)
            else:
                at = z[layer - 1]
                kl = q[layer].log_prob(at) - p.log_prob(at)
            terms.append(kl.mean())
        return torch.stack(terms)


def _check(name: str, sizes: Sequence[int]) -> None:
    if not sizes or min(sizes) < 1:
        raise InputError(f"{name} is {tuple(sizes)}; it must be one positive number or more")
