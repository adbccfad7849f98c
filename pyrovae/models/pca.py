"""Probabilistic principal component analysis (Roweis 1998; Tipping and Bishop 1999)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Num
from pyro.distributions import MultivariateNormal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from ..likelihoods import Likelihood
from ..likelihoods.support import check_values
from ..nn import MLP
from ..priors import StandardNormal
from .base import AmortisedGuide, DeepLatentModel, encoder_input_shape
from .linear_gaussian import closed_form, em, posterior
from .vae import VAE

__all__ = ["ExactPosterior", "ProbabilisticPCA"]


class ExactPosterior(nn.Module):
    """p(z | x) of a model whose decoder is linear and whose noise is Normal(0, sigma^2 I).

        p(z | x) = Normal(z; M^-1 W^T (x - mu), sigma^2 M^-1),   M = W^T W + sigma^2 I

    (Tipping and Bishop 1999), of the rows of W and mu whose entry of x is observed. It has no
    parameters: it follows those of the model, which is not its own.

    Arguments:
        model: what it is the posterior of.

    Attributes:
        in_shape: shape of h for one datum, which is x in units of the model, beside it, where
            entries may be missing, the mask of what is observed.
    """

    def __init__(self, model: DeepLatentModel) -> None:
        super().__init__()
        self._model = (model,)  # not registered
        self.in_shape = encoder_input_shape((prod(model.likelihood.event_shape),), model.missing)

    def forward(self, h: Float[Tensor, "*batch h"]) -> TorchDistributionMixin:
        mean, covariance = self._moments(h)
        q: TorchDistributionMixin = MultivariateNormal(
            mean, scale_tril=torch.linalg.cholesky(covariance)
        )
        return q

    def centre(self, h: Float[Tensor, "*batch h"]) -> Float[Tensor, "*batch latent"]:
        """The mean of p(z | x)."""
        return self._moments(h)[0]

    def prior(self) -> StandardNormal:
        """That of the model, under which this is the posterior."""
        return StandardNormal(_linear(self._model[0]).in_features)

    def _moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        (model,) = self._model
        linear = _linear(model)
        x, observed = h.chunk(2, -1) if model.missing else (h, None)
        residual = x - linear.bias
        if observed is not None:
            residual = residual * observed
        return posterior(residual, observed, linear.weight, _noise(model).square())


class ProbabilisticPCA(VAE):
    """z ~ Normal(0, I),  x ~ Normal(W z + mu, sigma^2 I), and its exact posterior as the guide.

    The VAE whose decoder is one linear map, and whose q(z | x) = p(z | x) follows the decoder: the
    ELBO is log p(x), and each sample of z gives it without noise. So ``pyrovae.fit`` and Pyro's SVI
    climb the likelihood itself, whose maximum :meth:`fit` reaches in closed form or by EM.

    One sigma for all features is meant in the units of x: the model is not indifferent to them, as
    factor analysis is. Give x standardised where the columns of a table have units of their own.

    Arguments:
        event_shape: shape of one datum, of D numbers in all.
        latent_dim: number L of latent dimensions, below D.
        missing: whether entries of x may be missing (NaN).

    Raises:
        InputError: if there is no room for noise.

    Example:
        >>> x = torch.randn(100, 2) @ torch.randn(2, 5) + 0.1 * torch.randn(100, 5)
        >>> ppca = ProbabilisticPCA((5,), latent_dim=2)
        >>> exact, em = ppca.fit(x)[-1], ppca.fit(x, method="em")[-1]
        >>> abs(exact - em) < 1e-4
        True
    """

    def __init__(self, event_shape: Sequence[int], latent_dim: int, missing: bool = False) -> None:
        super(VAE, self).__init__()
        if not 1 <= latent_dim < prod(event_shape):
            raise InputError(
                f"latent_dim is {latent_dim}; it must be from 1 to {prod(event_shape) - 1}, below "
                f"the {prod(event_shape)} numbers of a datum, as noise needs a dimension"
            )
        self.event_shape = tuple(event_shape)
        self.latent_dim = latent_dim
        likelihood = Likelihood("Normal", scale="shared", links={"scale": "exp"})
        layer = likelihood.build(self.event_shape)
        decoder = MLP((latent_dim,), layer.in_shape, hidden=())
        self.model = DeepLatentModel(StandardNormal(latent_dim), decoder, layer, missing)
        self.guide = AmortisedGuide(
            nn.Flatten(-len(self.event_shape)),
            ExactPosterior(self.model),
            self.event_shape,
            missing,
        )

    def standardise(self, x: Num[Tensor, "data *event"], *given: Tensor) -> None:
        """Learn the units of the data, before training, from training data x.

        Parameters are then of order one: the mean of each feature is taken for its zero, and one
        scale for all, which leaves the model what it is.
        """
        x = x.double()
        loc = x.nanmean(0).nan_to_num(0.0)
        scale = (x - loc).square().nanmean().sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        self.guide.standardise.set(loc, scale)
        self.likelihood.set_units(loc, scale)

    @property
    def loadings(self) -> Float[Tensor, "*event latent"]:
        """W, in units of x; :meth:`fit` leaves its columns orthogonal, the longest first."""
        weight = _linear(self.model).weight.view(*self.event_shape, self.latent_dim)
        return self.guide.standardise.scale.unsqueeze(-1) * weight

    @property
    def loc(self) -> Float[Tensor, "*event"]:
        """mu."""
        constants = self.guide.standardise
        return constants.loc + constants.scale * _linear(self.model).bias.view(self.event_shape)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """sigma, in units of x."""
        sigma: Tensor = self.guide.standardise.scale.flatten()[0] * _noise(self.model)
        return sigma

    def log_prob(self, x: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        """log p(x) = log Normal(x; mu, W W^T + sigma^2 I), in nats, of what is observed of x.

        By Bayes' rule, as log p(x, z) - log p(z | x) at the mean z of p(z | x): no matrix of D by D
        is made.

        Raises:
            InputError: if x has another shape or is not finite.
        """
        check_values(x, self.event_shape, missing=self.model.missing)
        q: Any = self.encode(x)
        z: Tensor = q.mean
        x = x.to(z.dtype)
        observed = None
        if self.model.missing:
            observed = ~x.isnan()
            x = torch.where(observed, x, self.likelihood.fill)
        p: Any = self.likelihood(self.model.decoder(z), None, observed)
        prior: Any = self.model.prior()
        log_p: Tensor = p.log_prob(x) + prior.log_prob(z) - q.log_prob(z)
        return log_p

    @torch.no_grad()
    def fit(
        self,
        x: Num[Tensor, "data *event"],
        method: str = "exact",
        *,
        max_iter: int = 1000,
        tol: float = 1e-9,
    ) -> list[float]:
        """Go to the maximum of the likelihood, computed in double precision.

        ``"exact"`` is the closed form by the singular values of the data: mu is their mean, sigma^2
        the mean of the D - L least eigenvalues of their covariance, and W = U_L (Lambda_L -
        sigma^2 I)^1/2 of the others (Tipping and Bishop 1999). ``"em"`` starts from a W drawn at
        random, never lets log p(x) fall, and takes missing entries for what they are.

        Arguments:
            x: data; units are learned from them as by :meth:`standardise`.
            method: ``"exact"`` or ``"em"``; data with missing entries need EM.
            max_iter: rounds of EM at most.
            tol: EM stops when a round raises log p(x) by less than this, in nats a datum.

        Returns:
            The mean of log p(x) over data, in nats: before each round of EM, and at the end.

        Raises:
            InputError: if the arguments or the data cannot be used, or the data lie in an affine
                space of L dimensions, where the likelihood has no maximum.
        """
        self._check(x, method, max_iter)
        self.standardise(x)
        constants = self.guide.standardise
        rows = ((x.double() - constants.loc) / constants.scale).flatten(1)
        observed = ~rows.isnan()
        is_complete = bool(observed.all())
        rest = rows.nanmean(0)  # what rounding has left
        rows = (rows - rest).nan_to_num(0.0)
        if method == "exact":
            found = closed_form(rows, self.latent_dim)
        else:
            mask = None if is_complete else observed.to(rows.dtype)
            found = em(rows, self.latent_dim, mask, max_iter, tol)
        u, length, _ = torch.linalg.svd(found.weight, full_matrices=False)
        sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
        linear = _linear(self.model)
        linear.weight.copy_(u * length * sign)
        linear.bias.copy_(found.bias + rest)
        self.likelihood.get_parameter("unlinked_scale").copy_(found.variance.log() / 2)
        log_unit = constants.scale.flatten()[0].double().log().item()
        numbers_a_datum = observed.sum().item() / len(rows)
        return [log_p - numbers_a_datum * log_unit for log_p in found.history]

    def _check(self, x: Tensor, method: str, max_iter: int) -> None:
        if method not in ("exact", "em"):
            raise InputError(f"unknown method {method!r}: {did_you_mean(method, ['exact', 'em'])}")
        if max_iter < 1:
            raise InputError(f"max_iter is {max_iter}; it must be 1 or more")
        check_values(x, self.event_shape, missing=self.model.missing)
        absent = x.isnan()
        if method == "exact" and bool(absent.any()):
            raise InputError(
                "the data hold missing (NaN) values, of which there is no closed form; use "
                "method='em', or fill them"
            )
        if bool(absent.all(0).any()):
            raise InputError("the data have a feature that is missing in all of them: remove it")
        if len(x) < self.latent_dim + 2:
            raise InputError(
                f"{len(x)} data lie in {self.latent_dim} dimensions or fewer; latent_dim "
                f"{self.latent_dim} needs {self.latent_dim + 2} data or more"
            )


def _linear(model: DeepLatentModel) -> nn.Linear:
    decoder: Any = model.decoder
    linear: nn.Linear = decoder.layers[0]
    return linear


def _noise(model: DeepLatentModel) -> Float[Tensor, ""]:
    """sigma, in units of the model."""
    return model.likelihood.get_parameter("unlinked_scale").exp()
