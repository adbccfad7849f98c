"""Probabilistic principal component analysis (Roweis 1998; Tipping and Bishop 1999)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import MultivariateNormal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..arguments import TensorLike, as_data, as_flag, as_real, as_shape, as_whole, as_word
from ..errors import InputError
from ..likelihoods import Likelihood
from ..likelihoods.support import check_values
from ..nn import MLP
from ..priors import StandardNormal
from .base import AmortisedGuide, DeepLatentModel, encoder_input_shape
from .linear_gaussian import fit_closed_form, fit_em, posterior
from .vae import VAE

__all__ = ["ExactPosterior", "ProbabilisticPCA"]


class ExactPosterior(nn.Module):
    """p(z | x) of a model with a linear decoder and noise Normal(0, sigma^2 I).

        p(z | x) = Normal(z; M^-1 W^T (x - mu), sigma^2 M^-1),   M = W^T W + sigma^2 I

    (Tipping and Bishop 1999), with the rows of W and mu for the observed entries of x. It has no
    parameters: it uses the parameters of the model, which it does not own.

    Arguments:
        model: the model p(x, z).

    Attributes:
        in_shape: shape of h for one datum: x in units of the model, followed by the mask of
            observed entries if entries may be missing.
    """

    def __init__(self, model: DeepLatentModel) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that it is not registered here too
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
        """The prior of the model, under which this is the exact posterior."""
        return StandardNormal(_linear_layer(self._model[0]).in_features)

    def _moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        (model,) = self._model
        linear = _linear_layer(model)
        x, observed = h.chunk(2, -1) if model.missing else (h, None)
        residual = x - linear.bias
        if observed is not None:
            residual = residual * observed
        return posterior(residual, observed, linear.weight, _noise_scale(model).square())


class ProbabilisticPCA(VAE):
    """z ~ Normal(0, I),  x ~ Normal(W z + mu, sigma^2 I), with the exact posterior as the guide.

    It is the VAE with one linear map as decoder, and with q(z | x) = p(z | x) computed from the
    decoder. The ELBO is log p(x), and each sample of z gives it without noise. So ``pyrovae.fit``
    and Pyro's SVI ascend the likelihood itself; :meth:`fit` reaches its maximum in closed form or
    by EM.

    All features share one sigma, in the units of x. So, unlike factor analysis, the model depends
    on these units. Standardise x if the columns of a table have different units.

    Arguments:
        event_shape: shape of one datum, of D numbers in all.
        latent_dim: number of latent dimensions L, below D.
        missing: whether entries of x may be missing (NaN).

    Raises:
        InputError: if latent_dim is not from 1 to D - 1.

    Example:
        >>> x = torch.randn(100, 2) @ torch.randn(2, 5) + 0.1 * torch.randn(100, 5)
        >>> ppca = ProbabilisticPCA((5,), latent_dim=2)
        >>> exact, em = ppca.fit(x)[-1], ppca.fit(x, method="em")[-1]
        >>> abs(exact - em) < 1e-4
        True
    """

    def __init__(self, event_shape: Sequence[int], latent_dim: int, missing: bool = False) -> None:
        super(VAE, self).__init__()
        self.event_shape = event_shape = as_shape("event_shape", event_shape)
        self.latent_dim = latent_dim = as_whole("latent_dim", latent_dim)
        self.latent_shape = (latent_dim,)
        missing = as_flag("missing", missing)
        if not 1 <= latent_dim < prod(event_shape):
            raise InputError(
                f"latent_dim is {latent_dim}; it must be from 1 to {prod(event_shape) - 1}, as a "
                f"datum has {prod(event_shape)} numbers and the noise needs one dimension"
            )
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

    def standardise(self, x: TensorLike, *given: TensorLike) -> None:
        """Learn the units of the data from training data x. Call it before training.

        Parameters are then of order one. Each feature is shifted by its mean, and all features are
        divided by one scale, which does not change the model.

        Raises:
            InputError: if x have another shape, or infinite values.
        """
        x = as_data("x", x, self.event_shape, like=self.guide.standardise.loc, batch_dims=1)
        check_values(x, self.event_shape, missing=True)
        x = x.double()
        loc = x.nanmean(0).nan_to_num(0.0)
        scale = (x - loc).square().nanmean().sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        self.guide.standardise.set(loc, scale)
        self.likelihood.set_units(loc, scale)

    @property
    def loadings(self) -> Float[Tensor, "*event latent"]:
        """W, in units of x. After :meth:`fit` its columns are orthogonal, the longest first."""
        weight = _linear_layer(self.model).weight.view(*self.event_shape, self.latent_dim)
        return self.guide.standardise.scale.unsqueeze(-1) * weight

    @property
    def loc(self) -> Float[Tensor, "*event"]:
        """mu, in units of x."""
        constants = self.guide.standardise
        bias = _linear_layer(self.model).bias.view(self.event_shape)
        return constants.loc + constants.scale * bias

    @property
    def scale(self) -> Float[Tensor, ""]:
        """sigma, in units of x."""
        sigma: Tensor = self.guide.standardise.scale.flatten()[0] * _noise_scale(self.model)
        return sigma

    @property
    def _is_exact_at_centre(self) -> bool:
        return True

    def log_prob(self, x: TensorLike) -> Float[Tensor, "..."]:
        """log p(x) = log Normal(x; mu, W W^T + sigma^2 I) of the observed entries, in nats.

        Computed by Bayes' rule, as log p(x, z) - log p(z | x) at the mean z of p(z | x), so that no
        matrix of D by D is made.

        Raises:
            InputError: if x has another shape or is not finite.
        """
        x = self.as_data(x)
        q: Any = self.q(x)
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
        x: TensorLike,
        method: str = "exact",
        *,
        max_iter: int = 1000,
        tol: float = 1e-9,
    ) -> list[float]:
        """Maximise the likelihood, in double precision.

        ``"exact"`` is the closed form from the singular values of the data: mu is their mean,
        sigma^2 is the mean of the D - L smallest eigenvalues of their covariance, and W = U_L
        (Lambda_L - sigma^2 I)^1/2 is from the others (Tipping and Bishop 1999). ``"em"`` starts
        from a random W, never decreases log p(x), and handles missing entries exactly.

        Arguments:
            x: data; :meth:`standardise` learns the units from them.
            method: ``"exact"`` or ``"em"``; data with missing entries need EM.
            max_iter: maximal number of EM iterations.
            tol: EM stops when an iteration raises log p(x) by less than this, in nats per datum.

        Returns:
            The mean of log p(x) over data, in nats, before each EM iteration and at the end.

        Raises:
            InputError: if an argument or the data are invalid, or the data lie in an affine space
                of L dimensions, where the likelihood has no maximum.
        """
        x = as_data("x", x, self.event_shape, like=self.guide.standardise.loc, batch_dims=1)
        method = as_word("method", method, ("exact", "em"))
        max_iter = as_whole("max_iter", max_iter, 1)
        tol = as_real("tol", tol)
        self._check_fit_data(x, method)
        self.standardise(x)
        constants = self.guide.standardise
        rows = ((x.double() - constants.loc) / constants.scale).flatten(1)
        observed = ~rows.isnan()
        is_complete = bool(observed.all())
        residual_mean = rows.nanmean(0)  # left by rounding
        rows = (rows - residual_mean).nan_to_num(0.0)
        if method == "exact":
            maximum = fit_closed_form(rows, self.latent_dim)
        else:
            mask = None if is_complete else observed.to(rows.dtype)
            maximum = fit_em(rows, self.latent_dim, mask, max_iter, tol)
        u, length, _ = torch.linalg.svd(maximum.weight, full_matrices=False)
        sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
        linear = _linear_layer(self.model)
        linear.weight.copy_(u * length * sign)
        linear.bias.copy_(maximum.bias + residual_mean)
        self.likelihood.get_parameter("unlinked_scale").copy_(maximum.variance.log() / 2)
        log_unit = constants.scale.flatten()[0].double().log().item()
        mean_num_observed = observed.sum().item() / len(rows)
        return [log_p - mean_num_observed * log_unit for log_p in maximum.history]

    def _check_fit_data(self, x: Tensor, method: str) -> None:
        check_values(x, self.event_shape, missing=self.model.missing)
        absent = x.isnan()
        if method == "exact" and bool(absent.any()):
            raise InputError(
                "the data contain missing (NaN) values, for which there is no closed form; use "
                "method='em', or fill them"
            )
        if bool(absent.all(0).any()):
            raise InputError("a feature is missing in all data; remove this feature")
        if len(x) < self.latent_dim + 2:
            raise InputError(
                f"there are {len(x)} data, which lie in {self.latent_dim} dimensions or fewer; "
                f"latent_dim {self.latent_dim} needs {self.latent_dim + 2} data or more"
            )


def _linear_layer(model: DeepLatentModel) -> nn.Linear:
    decoder: Any = model.decoder
    linear: nn.Linear = decoder.layers[0]
    return linear


def _noise_scale(model: DeepLatentModel) -> Float[Tensor, ""]:
    """sigma, in units of the model."""
    return model.likelihood.get_parameter("unlinked_scale").exp()
