"""The autoencoder (Rumelhart, Hinton and Williams 1986), as a pair of Pyro programs."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..arguments import TensorLike
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP
from ..posteriors.point import Point
from .base import Body
from .vae import VAE

__all__ = ["Autoencoder"]


class Autoencoder(VAE):
    """An encoder z(x) and a decoder: the VAE with a point as q(z | x) and a flat p(z).

        guide: z = encoder(x),    model: log p(z) = 0,  x ~ likelihood(decoder(z))

    The loss is -log p(x | z(x)), in nats: least squares for a normal of fixed scale, cross-entropy
    for ``"Bernoulli"``. It takes the place of the negative ELBO but is not a bound: without p(z)
    there is no p(x). Nothing keeps the codes together either, so a point of the latent space that
    is not the code of a datum may decode to anything. ``draw`` and ``sample`` raise InputError.

    Arguments:
        event_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        likelihood: p(x | z), as for the VAE. Fix the scale of a normal; otherwise it goes to zero
            if the networks can reproduce the data.
        encoder: network from x to z, or a callable that makes one from (in_shape, out_shape).
        decoder: network from z to eta, or a callable that makes one from (in_shape, out_shape).
        missing: whether entries of x may be missing (NaN), as for the VAE.

    Raises:
        InputError: if the parts do not fit together.

    Example:
        >>> import torch
        >>> least_squares = {"family": "Normal", "scale": 1.0}
        >>> autoencoder = Autoencoder((13,), latent_dim=2, likelihood=least_squares)
        >>> autoencoder.embed(torch.randn(5, 13)).shape
        torch.Size([5, 2])
    """

    has_prior = False

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        likelihood: Likelihood | Mixed | str | Mapping[str, Any] = "Bernoulli",
        encoder: Body = MLP,
        decoder: Body = MLP,
        missing: bool = False,
    ) -> None:
        point = Point(latent_dim)
        super().__init__(
            event_shape,
            latent_dim,
            likelihood,
            prior=point.prior(),
            posterior=point,
            encoder=encoder,
            decoder=decoder,
            missing=missing,
        )

    @property
    def _is_exact_at_centre(self) -> bool:
        return True

    def draw(self, num: int, *given: TensorLike) -> NoReturn:
        """Raise InputError, as there is no prior; ``sample`` does too.

        Raises:
            InputError: always.
        """
        raise InputError(
            "an autoencoder has no p(z) to draw from; decode latents of your own, such as draws "
            "from a density fitted to embed(x), or train a VAE, which has a p(z)"
        )
