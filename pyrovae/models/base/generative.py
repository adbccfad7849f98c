"""What every generative model does with x, whatever its latents are: check, fill and observe it."""

from collections.abc import Mapping

import pyro
import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ...likelihoods import LikelihoodLayer, MixedLayer
from .parameters import declare_parameters

__all__ = ["DeepLatentModel", "GenerativeModel", "Layer"]

Layer = LikelihoodLayer | MixedLayer


class GenerativeModel(nn.Module):
    """A model p(x, z) that ends in x ~ likelihood(eta), eta being what a decoder puts out.

    Missing entries of x (NaN) contribute exactly nothing: the density is that of the others.

    Arguments:
        decoder: network from latents to eta.
        likelihood: from eta to p(x | z).
        missing: whether entries of x may be missing.
    """

    def __init__(self, decoder: nn.Module, likelihood: Layer, missing: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.likelihood = likelihood
        self.missing = missing

    def begin(self, x: Num[Tensor, "batch *event"], *given: Tensor) -> Mapping[str, Tensor]:
        """Make the parameters known to Pyro; the head of a forward, outside of all plates.

        Under Pyro's validation (on by default) the data are checked against the support.

        Arguments:
            x: data.
            given: what comes with each datum, as ``likelihood.given`` lists it.

        Returns:
            What the likelihood takes beside eta, by name.

        Raises:
            InputError: if x lies outside the support of the likelihood.
        """
        declare_parameters(self)
        named_given: Mapping[str, Tensor] = self.likelihood.given_with(x, *given)
        if is_validation_enabled():
            self.likelihood.check(x, given=named_given)
        return named_given

    def eta(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What the decoder puts out for z, in the precision of z: densities are not summed in half
        of it.
        """
        eta: Tensor = self.decoder(z).to(z.dtype)
        return eta

    def observe(
        self,
        x: Num[Tensor, "batch *event"],
        eta: Float[Tensor, "..."],
        named_given: Mapping[str, Tensor],
    ) -> Tensor:
        """Sample site ``x``, observed, within the plate over data.

        Arguments:
            x: data.
            eta: numbers of the likelihood, in the precision in which densities shall be summed.
            named_given: as ``begin`` returned it.
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
        """p(x | z), of what is present of x, and x as it takes it."""
        x = x.to(eta.dtype)  # log-factorials of bytes would overflow
        present = None
        if self.missing:
            # Filled, then masked: a mask alone would leave NaN in the gradient.
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
            given: what comes with each datum, as ``likelihood.given`` lists it.

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
        """log p(x, z) of each datum, in nats, for z of any batch shape on its left."""
        p, x = self.observation(x, self.eta(z), self.likelihood.given_with(x, *given))
        log_prior: Tensor = self.prior().log_prob(z)
        log_likelihood: Tensor = p.log_prob(x)
        return log_prior + log_likelihood
