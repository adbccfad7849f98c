"""The conditional variational autoencoder (Sohn et al. 2015)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Num
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..arguments import TensorLike, as_data, as_flag, as_shape, as_whole
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP, concatenate
from .base import (
    Body,
    GenerativeModel,
    LatentVariableModel,
    Layer,
    Part,
    RecognitionModel,
    build_decoder,
    build_joint_encoder,
    build_posterior,
    build_prior,
    encoder_input_shape,
)
from .base.condition import BodyFactory, Condition, check_condition_shape, check_latent_vector
from .base.conditional_normal import ConditionalNormal
from .base.model import Given

__all__ = ["ConditionalGuide", "ConditionalModel", "ConditionalVAE"]


class ConditionalModel(GenerativeModel):
    """The Pyro model p(z | y) p(x | z, y): x ~ likelihood(decoder(z, c(y))), for each datum."""

    def __init__(
        self,
        condition: Condition,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: Layer,
        missing: bool,
    ) -> None:
        super().__init__(decoder, likelihood, missing)
        self.condition = condition
        self.prior = prior

    def forward(
        self, x: Num[Tensor, "batch *event"], y: Num[Tensor, "..."], *given: Tensor
    ) -> Tensor:
        """Sample site ``z``, and site ``x`` observed, in the plate ``data``.

        Arguments:
            x: data.
            y: condition of each datum.
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.

        Raises:
            InputError: if x lies outside the support of the likelihood, or y are not valid
                conditions (under Pyro's validation).
        """
        named_given = self.begin(x, *given)
        if is_validation_enabled():
            check_condition_shape(x, y, self.condition.condition_shape)
        c = self.condition(y)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.p(c))
            return self.observe(x, self.eta_given(z, c), named_given)

    def p(self, c: Float[Tensor, "*batch context"]) -> TorchDistributionMixin:
        """p(z | y) as a function of c(y)."""
        is_conditional = isinstance(self.prior, ConditionalNormal)
        p: TorchDistributionMixin = self.prior(c) if is_conditional else self.prior()
        return p

    def eta_given(
        self, z: Float[Tensor, "*_ latent"], c: Float[Tensor, "*_ context"]
    ) -> Float[Tensor, "..."]:
        """The output of the decoder for z and c(y); their batch shapes broadcast."""
        return self.eta(concatenate(z, c))


class ConditionalGuide(RecognitionModel):
    """The Pyro guide q(z | x, y) = posterior(encoder(x, c(y))), with one network for all data."""

    def __init__(
        self,
        condition: Condition,
        encoder: nn.Module,
        posterior: nn.Module,
        event_shape: Sequence[int],
        missing: bool,
    ) -> None:
        super().__init__(encoder, event_shape, missing)
        self.condition = condition
        self.posterior = posterior

    def forward(
        self, x: Num[Tensor, "batch *event"], y: Num[Tensor, "..."], *given: Tensor
    ) -> Tensor:
        """Sample site ``z`` in the plate ``data``.

        Raises:
            InputError: if x has another shape or is not finite, or y are not valid conditions
                (under Pyro's validation).
        """
        self.begin(x)
        if is_validation_enabled():
            check_condition_shape(x, y, self.condition.condition_shape)
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.q(self.encoder_input(x), y))
            return z

    def q(self, inputs: Float[Tensor, "..."], y: Num[Tensor, "..."]) -> TorchDistributionMixin:
        """q(z | x, y) from ``encoder_input(x)`` and y; batch shapes broadcast."""
        q: TorchDistributionMixin = self.posterior(self.h(inputs, y))
        return q

    def centre(self, inputs: Float[Tensor, "..."], y: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A point that represents q(z | x, y): its mean if it is known."""
        posterior: Any = self.posterior
        centre: Tensor = posterior.centre(self.h(inputs, y))
        return centre

    def h(self, inputs: Float[Tensor, "..."], y: Num[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The output of the encoder for x and y: the parameters of q(z | x, y)."""
        h: Tensor = self.encoder(inputs, self.condition(y)).to(inputs.dtype)
        return h


class ConditionalVAE(LatentVariableModel):
    """p(x, z | y) = p(z | y) p(x | z, y) and q(z | x, y), with deep networks on both sides.

    The bound on log p(x | y) is E_q[log p(x | z, y)] - KL(q(z | x, y) || p(z | y)) (Sohn et al.
    2015). By default p(z | y) is the standard normal, and z holds what y does not tell about x.
    With ``conditional_prior``, p(z | y) is a normal with location and scale from a network of y, as
    in the paper. Call model and guide as ``model(x, y, *given)``, and train them as
    :class:`LatentVariableModel` describes, on data ``(x, y)``.

    Arguments:
        event_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        likelihood: p(x | z, y) as a :class:`~pyrovae.Likelihood`, a :class:`~pyrovae.Mixed`, a name
            or a dict.
        num_classes: number of classes, if y is a class: int64 of shape ``(batch,)``.
        condition_shape: shape of one y, if it is a vector ``(5,)`` or an image ``(1, 28, 28)``.
        prior: p(z), the same for all y, as a name, settings or a module; by default the
            posterior's ``prior()``, such as a standard normal.
        conditional_prior: whether p(z | y) is a normal with location and scale from a network of y.
        posterior: q(z | x, y), as a name, settings or a module from h with the shape of h as
            ``in_shape``; by default a diagonal normal.
        encoder: name of the body of a :class:`~pyrovae.nn.Joint`, as in :class:`~pyrovae.VAE`, or a
            callable that makes it from (in_shape, out_shape), or the whole network, called as
            ``encoder(x, c)`` with the vector c of y.
        decoder: network from the vector (z, c) to eta, or a callable that makes one from (in_shape,
            out_shape), or a name.
        condition: callable that makes the network from an image y to a vector, from (in_shape,
            out_shape), or its name; model and guide have one each.
        width: width of the layers that combine x and y.
        missing: whether entries of x may be missing (NaN), as in :class:`~pyrovae.VAE`.

    Raises:
        InputError: if the parts do not fit together.

    Example:
        >>> cvae = ConditionalVAE((1, 8, 8), latent_dim=2, num_classes=10)
        >>> cvae.sample(5, torch.tensor(3)).shape
        torch.Size([5, 1, 8, 8])
    """

    num_conditions = 1

    model: ConditionalModel
    guide: ConditionalGuide

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        likelihood: Likelihood | Mixed | str | Mapping[str, Any] = "Bernoulli",
        *,
        num_classes: int | None = None,
        condition_shape: Sequence[int] | None = None,
        prior: Part | None = None,
        conditional_prior: bool = False,
        posterior: Part | None = None,
        encoder: Body = MLP,
        decoder: Body = MLP,
        condition: BodyFactory = MLP,
        width: int = 400,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape("event_shape", event_shape)
        self.latent_dim = latent_dim = as_whole("latent_dim", latent_dim, 1)
        missing = as_flag("missing", missing)
        conditional_prior = as_flag("conditional_prior", conditional_prior)
        width = as_whole("width", width, 1)
        if conditional_prior and prior is not None:
            raise InputError("you gave both prior and conditional_prior; give one of the two")
        layer = Likelihood.of(likelihood).build(self.event_shape)
        shape = {"latent_dim": latent_dim, "event_shape": self.event_shape}
        q, trial = build_posterior(posterior, **shape)
        in_shape = encoder_input_shape(self.event_shape, missing)
        model_condition = Condition(num_classes, condition_shape, condition)
        p = build_prior(prior, q, **shape)
        c = (torch.zeros(model_condition.dim),) if isinstance(p, ConditionalNormal) else ()
        check_latent_vector(tuple(trial.event_shape), p, latent_dim, *c)
        if conditional_prior:
            p = ConditionalNormal(MLP((model_condition.dim,), (2, latent_dim)), latent_dim)
        self.model = ConditionalModel(
            model_condition,
            p,
            build_decoder(decoder, (latent_dim + model_condition.dim,), layer.in_shape),
            layer,
            missing,
        )
        self.guide = ConditionalGuide(
            Condition(num_classes, condition_shape, condition),
            build_joint_encoder(encoder, in_shape, model_condition.dim, q.in_shape, width),
            q,
            self.event_shape,
            missing,
        )

    def standardise(self, x: TensorLike, y: TensorLike, *given: TensorLike) -> None:
        """Learn the units of x, as :class:`LatentVariableModel` describes, and the units of y."""
        x = as_data("x", x, self.event_shape, like=self.guide.standardise.loc, batch_dims=1)
        y = self.as_condition(y, x)
        super().standardise(x, *given)
        for part in (self.model, self.guide):
            part.condition.set_units(y)

    def as_condition(self, y: TensorLike, x: Tensor | None = None) -> Tensor:
        """Conditions y as a tensor, after a check; with x, there must be one for each datum.

        Raises:
            InputError: if they are not valid conditions.
        """
        batch = None if x is None else tuple(x.shape[: x.ndim - len(self.event_shape)])
        return self.model.condition.as_condition(y, self.guide.standardise.loc, batch)

    def q(self, x: TensorLike, y: TensorLike) -> TorchDistributionMixin:
        """q(z | x, y), of event shape ``(latent_dim,)``."""
        x = self.as_data(x)
        y = self.as_condition(y, x)
        return self.guide.q(self.guide.encoder_input(x), y)

    def decode(
        self,
        z: TensorLike,
        y: TensorLike,
        given: Given = None,
    ) -> TorchDistributionMixin:
        """p(x | z, y), of event shape ``event_shape``; batch shapes of z and y broadcast."""
        z, y = self.as_latent(z, (self.latent_dim,)), self.as_condition(y)
        self.check_given(given)
        eta = self.model.eta_given(z, self.model.condition(y))
        p: TorchDistributionMixin = self.likelihood(eta, given)
        return p

    def decode_mean(
        self,
        z: TensorLike,
        y: TensorLike,
        given: Given = None,
    ) -> Float[Tensor, "..."]:
        """E[x | z, y], of shape ``(*batch, *event_shape)``."""
        z, y = self.as_latent(z, (self.latent_dim,)), self.as_condition(y)
        self.check_given(given)
        return self.likelihood.mean(self.model.eta_given(z, self.model.condition(y)), given)

    def embed(
        self, x: TensorLike, y: TensorLike, *given: TensorLike
    ) -> Float[Tensor, "*batch latent"]:
        """The centre of q(z | x, y), which is its mean if it is known."""
        x = self.as_data(x)
        y = self.as_condition(y, x)
        return self.guide.centre(self.guide.encoder_input(x), y)

    @torch.no_grad()
    def transfer(
        self,
        x: TensorLike,
        y: TensorLike,
        new_y: TensorLike,
        *given: TensorLike,
    ) -> Float[Tensor, "..."]:
        """E[x' | z, y'] at ``z = embed(x, y)``: the analogue of x under another y'.

        Arguments:
            x: data.
            y: condition of each datum.
            new_y: y', one for each datum, or of a shape that broadcasts, such as one for all.
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.
        """
        x = self.as_data(x)
        named_given = self.likelihood.given_with(x, *self.as_given(given, x))
        return self.decode_mean(self.embed(x, y), new_y, named_given)

    def draw(
        self, num: int, y: TensorLike, *given: TensorLike
    ) -> tuple[Float[Tensor, "num latent"], Float[Tensor, "..."]]:
        """Draw z from p(z | y); return z and the decoder's output for it.

        Arguments:
            num: number of draws.
            y: one for each draw, or one for all.
            given: ignored; typical values of the training data are used.

        Raises:
            InputError: if y has neither 1 nor ``num`` values.
        """
        num, y = self.as_number(num), self.as_condition(y)
        c = self.model.condition(self.model.condition.expand(y, num))
        p: Any = self.model.p(c)
        z: Tensor = p.sample(() if p.batch_shape else (num,))
        return z, self.model.eta_given(z, c)

    def _q(self, x: Tensor, given: tuple[Tensor, ...]) -> TorchDistributionMixin:
        return self.guide.q(self.guide.encoder_input(x), self.as_condition(given[0], x))

    def _draw_latents(
        self, num: int | None, x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        if num is None:
            return (self.embed(x, given[0]),)
        return (self._q(x, given).sample((num,)),)

    def _decode(
        self, latents: tuple[Tensor, ...], x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        y, *others = given
        eta = self.model.eta_given(latents[0], self.model.condition(self.as_condition(y, x)))
        return eta, self.likelihood.given_with(x, *others)
