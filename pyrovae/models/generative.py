"""What every generative model does with x, whatever its latents are: check, fill and observe it."""

from collections.abc import Mapping

import pyro
import torch
from jaxtyping import Float, Num
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..likelihoods import LikelihoodLayer, MixedLayer
from .parameters import declare_parameters

__all__ = ["Generative", "Layer"]

Layer = LikelihoodLayer | MixedLayer


class Generative(nn.Module):
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
        beside: Mapping[str, Tensor] = self.likelihood.given_with(x, *given)
        if is_validation_enabled():
            self.likelihood.check(x, given=beside)
        return beside

    def observe(
        self,
        x: Num[Tensor, "batch *event"],
        eta: Float[Tensor, "..."],
        beside: Mapping[str, Tensor],
    ) -> Tensor:
        """Sample site ``x``, observed, within the plate over data.

        Arguments:
            x: data.
            eta: numbers of the likelihood, in the precision in which densities shall be summed.
            beside: as ``begin`` returned it.
        """
        x = x.to(eta.dtype)  # log-factorials of bytes would overflow
        present = None
        if self.missing:
            # Filled, then masked: a mask alone would leave NaN in the gradient.
            present = ~x.isnan()
            x = torch.where(present, x, self.likelihood.fill)
        observed: Tensor = pyro.sample("x", self.likelihood(eta, beside, present), obs=x)
        return observed
