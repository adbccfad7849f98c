"""Generative models p(x, z): Pyro programs that check x, fill missing entries and observe x."""

from collections.abc import Mapping

import pyro
import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ...likelihoods import LikelihoodLayer, MixedLayer
from .parameters import declare_parameters
from .recognition import check_batch

__all__ = ["DeepLatentModel", "GenerativeModel", "Layer"]

Layer = LikelihoodLayer | MixedLayer


class GenerativeModel(nn.Module):
    """A model p(x, z) that ends in x ~ likelihood(eta), where eta is the output of a decoder.

    Missing entries of x (NaN) contribute exactly nothing: the density is that of the other entries.

    Arguments:
        decoder: network from latents to eta.
        likelihood: layer from eta to p(x | z).
        missing: whether entries of x may be missing.
    """

    def __init__(self, decoder: nn.Module, likelihood: Layer, missing: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.likelihood = likelihood
        self.missing = missing

    def begin(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Mapping[str, Tensor]:
        """Declare the parameters to Pyro and check x. Call it first in ``forward``, outside plates.

        The check of x against the support of the likelihood needs Pyro's validation, which is on by
        default.

        Arguments:
            x: data.
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.

        Returns:
            The tensors that the likelihood takes in addition to eta, by name.

        Raises:
            InputError: if x lies outside the support of the likelihood.
        """
        declare_parameters(self)
        if is_validation_enabled():
            check_batch(x, self.likelihood.event_shape)
        named_given: Mapping[str, Tensor] = self.likelihood.given_with(x, *given)
        if is_validation_enabled():
            self.likelihood.check(x, given=named_given)
        return named_given

    def eta(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The output of the decoder for z, in the dtype of z.

        Otherwise a decoder in half precision would have densities summed in half precision.
        """
        eta: Tensor = self.decoder(z).to(z.dtype)
        return eta

    def observe(
        self,
        x: Num[Tensor, "batch *event"],
        eta: Float[Tensor, "..."],
        named_given: Mapping[str, Tensor],
    ) -> Tensor:
        """Sample site ``x``, observed. Call it within the plate over data.

        Arguments:
            x: data.
            eta: parameters of the likelihood, in the dtype in which to sum densities.
            named_given: what ``begin`` returned.
        """
        p, x = self.observation(x, eta, named_given)
        observed: Tensor = pyro.sample("x", p, obs=x)
        return observed

    def observation(
        self,
        x: Num[Tensor, "batch *event"],
        eta: Float[Tensor, "..."],
        named_given: Mapping[str, Tensor],
    ) -> tuple[TorchDistributionMixin, Float[Tensor, "batch *event"]]:
        """Return p(x | z) of the present entries, and x with its missing entries filled."""
        x = x.to(eta.dtype)  # log-factorials of bytes would overflow
        present = None
        if self.missing:
            # Fill, then mask: a mask alone would leave NaN in the gradient.
            present = ~x.isnan()
            x = torch.where(present, x, self.likelihood.fill)
        return self.likelihood(eta, named_given, present), x


class DeepLatentModel(GenerativeModel):
    """The Pyro model p(z) p(x | z): z ~ prior, x ~ likelihood(decoder(z)), for each datum."""

    def __init__(
        self, prior: nn.Module, decoder: nn.Module, likelihood: Layer, missing: bool
    ) -> None:
        super().__init__(decoder, likelihood, missing)
        self.prior = prior

    def forward(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Tensor:
        """Sample site ``z``, and site ``x`` observed, in the plate ``data``.

        Arguments:
            x: data.
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.

        Raises:
            InputError: if x lies outside the support of the likelihood (under Pyro's validation).
        """
        named_given = self.begin(x, *given)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior())
            return self.observe(x, self.eta(z), named_given)

    def log_joint(
        self, z: Float[Tensor, "..."], x: Num[Tensor, "batch *event"], *given: Tensor
    ) -> Float[Tensor, "..."]:
        """log p(x, z) of each datum, in nats; z may have further batch dimensions on the left."""
        p, x = self.observation(x, self.eta(z), self.likelihood.given_with(x, *given))
        log_prior: Tensor = self.prior().log_prob(z)
        log_likelihood: Tensor = p.log_prob(x)
        return log_prior + log_likelihood
