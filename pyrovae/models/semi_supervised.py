"""The semi-supervised VAE: some data have class labels, others do not (Kingma et al. 2014)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import Categorical
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..arguments import TensorLike, as_flag, as_real, as_shape, as_tensor, as_whole
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP
from .base import (
    Body,
    LatentVariableModel,
    Part,
    build_decoder,
    build_encoder,
    build_joint_encoder,
    build_posterior,
    build_prior,
    encoder_input_shape,
)
from .base.condition import Condition, check_labels, check_latent_vector
from .base.model import Given
from .labels import LabelGuide, LabelModel

__all__ = ["SemiSupervisedVAE"]


class SemiSupervisedVAE(LatentVariableModel):
    """p(y) p(z) p(x | z, y) and q(y | x) q(z | x, y), where only some data have labels y.

    This is the model M2 of Kingma et al. (2014), with p(y) uniform over C classes. In nats per
    datum,

        L(x, y) = E_q(z|x,y)[log p(x | z, y) + log p(z) - log q(z | x, y)] + log p(y) <= log p(x, y)
        U(x) = sum_y q(y | x) (L(x, y) - log q(y | x)) <= log p(x),

    (both with the opposite sign to the paper). In eval mode the ELBO is the sum of L over the data
    with labels and of U over the data without. In train mode each datum with a label adds
    weight * log q(y | x), so that labelled data train the classifier too. The paper adds alpha
    times the mean of log q(y | x) over the N_l labelled data to the same sum over all N data, with
    alpha = 0.1 N. Here this is a weight of alpha / N_l = 0.1 N / N_l: 0.1 if all data have labels,
    50 if 100 of 50,000 have.

    Call model and guide as ``model(x, y, *given)``, with y int64 of shape ``(batch,)``, and -1
    where the label is missing. Train with ``objective="enumerated"``, which sums over the site
    ``y_unobserved``, as ``pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)`` does. The plain ELBO
    samples y, and its gradients are noisy. With the sum, the networks of the encoder and the
    classifier run once for each x, and the decoder once for each class.

    Minibatches mix data with and without labels. If labels are few, most minibatches would have
    hardly any. Then repeat the labelled data, so that they make up a tenth to a half of the
    training data, as in ``x = torch.cat([x_labelled.repeat(20, 1, 1, 1), x_unlabelled])``, and
    repeat y likewise. Twenty repetitions multiply both L and the classification term of these data
    by twenty; divide the weight by twenty to keep the classification term the same.

    Arguments:
        event_shape: shape of one datum.
        latent_dim: number of latent dimensions of z.
        num_classes: number of classes C.
        likelihood: p(x | z, y) as a :class:`~pyrovae.Likelihood`, a :class:`~pyrovae.Mixed`, a name
            or a dict.
        prior: p(z), as a name, settings or a module; by default the posterior's ``prior()``, such
            as a standard normal.
        posterior: q(z | x, y), as a name, settings or a module from h with the shape of h as
            ``in_shape``; by default a diagonal normal.
        classifier: network from x to C logits, or a callable that makes one from (in_shape,
            out_shape), or a name; by default the callable ``encoder``, or an MLP if ``encoder`` is
            a network.
        encoder: callable that makes the body of a :class:`~pyrovae.nn.Joint` from (in_shape,
            out_shape), or the whole network, called as ``encoder(x, c)`` with c one-hot; their
            batch shapes broadcast against one another.
        decoder: network from the vector (z, c) to eta, or a callable that makes one from (in_shape,
            out_shape).
        width: width of the layers that combine x and y.
        missing: whether entries of x may be missing (NaN), as in :class:`~pyrovae.VAE`.
        weight: weight of log q(y | x) in train mode.

    Raises:
        InputError: if the parts do not fit together.

    Example:
        >>> vae = SemiSupervisedVAE((1, 8, 8), latent_dim=2, num_classes=10)
        >>> vae.classify(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    objective = "enumerated"
    num_conditions = 1
    needs_condition = False

    model: LabelModel
    guide: LabelGuide

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        num_classes: int,
        likelihood: Likelihood | Mixed | str | Mapping[str, Any] = "Bernoulli",
        *,
        prior: Part | None = None,
        posterior: Part | None = None,
        classifier: Body | None = None,
        encoder: Body = MLP,
        decoder: Body = MLP,
        width: int = 400,
        missing: bool = False,
        weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.event_shape = as_shape("event_shape", event_shape)
        self.latent_dim = latent_dim = as_whole("latent_dim", latent_dim, 1)
        self.num_classes = num_classes = as_whole("num_classes", num_classes, 2)
        weight = as_real("weight", weight, 0)
        missing = as_flag("missing", missing)
        width = as_whole("width", width, 1)
        layer = Likelihood.of(likelihood).build(self.event_shape)
        shape = {"latent_dim": latent_dim, "event_shape": self.event_shape}
        q, trial = build_posterior(posterior, **shape)
        p = build_prior(prior, q, **shape)
        check_latent_vector(tuple(trial.event_shape), p, latent_dim)
        if classifier is None:
            classifier = MLP if isinstance(encoder, nn.Module) else encoder
        in_shape = encoder_input_shape(self.event_shape, missing)
        self.guide = LabelGuide(
            Condition(num_classes),
            build_encoder(classifier, in_shape, (num_classes,), "classifier"),
            build_joint_encoder(encoder, in_shape, num_classes, q.in_shape, width),
            q,
            self.event_shape,
            missing,
        )
        self.model = LabelModel(
            Condition(num_classes),
            p,
            build_decoder(decoder, (latent_dim + num_classes,), layer.in_shape),
            layer,
            missing,
            self.guide,
            weight,
        )

    def standardise(self, x: TensorLike, y: TensorLike | None = None, *given: TensorLike) -> None:
        """Learn the units of x, as :class:`LatentVariableModel` describes; labels have no units."""
        super().standardise(x, *given)

    @torch.no_grad()
    def classify(self, x: TensorLike) -> Float[Tensor, "*batch classes"]:
        """q(y | x), the probability of each class."""
        x = self.as_data(x)
        return self.guide.logits(self.guide.encoder_input(x)).softmax(-1)

    def label_accuracy(self, x: TensorLike, y: TensorLike) -> float:
        """Accuracy of the most probable class, over the data with a known label.

        Raises:
            InputError: if no label is known, or y are not valid labels.
        """
        x = self.as_data(x, batch_dims=1)
        labels = self.as_labels(y, x)
        is_known = labels >= 0
        if not bool(is_known.any()):
            raise InputError("all labels are missing (-1); the accuracy needs known labels")
        return (self.classify(x).argmax(-1) == labels)[is_known].double().mean().item()

    def as_labels(self, y: TensorLike, x: Tensor | None = None) -> Tensor:
        """Labels y as a tensor, after a check.

        Arguments:
            y: labels.
            x: data, for each of which there must be one label, -1 where it is missing; None for
                any number of labels, none of them missing.

        Raises:
            InputError: if they are not valid labels.
        """
        labels = as_tensor("y", y, like=self.guide.standardise.loc)
        check_labels(labels, self.num_classes, missing=x is not None)
        if x is not None and labels.shape != x.shape[: x.ndim - len(self.event_shape)]:
            raise InputError(
                f"y has shape {tuple(labels.shape)} for x of shape {tuple(x.shape)}; give one "
                "label for each datum"
            )
        return labels.long()

    def q(self, x: TensorLike, y: TensorLike | None = None) -> TorchDistributionMixin:
        """q(z | x, y), at the most probable y if y is missing or not given."""
        x = self.as_data(x)
        return self.guide.q(self.guide.encoder_input(x), self._label(x, y))

    def decode(
        self,
        z: TensorLike,
        y: TensorLike,
        given: Given = None,
    ) -> TorchDistributionMixin:
        """p(x | z, y), of event shape ``event_shape``; batch shapes of z and y broadcast."""
        z, y = self.as_latent(z, (self.latent_dim,)), self.as_labels(y)
        self.check_given(given)
        p: TorchDistributionMixin = self.likelihood(self.model.eta_given(z, y), given)
        return p

    def decode_mean(
        self,
        z: TensorLike,
        y: TensorLike,
        given: Given = None,
    ) -> Float[Tensor, "..."]:
        """E[x | z, y], of shape ``(*batch, *event_shape)``."""
        z, y = self.as_latent(z, (self.latent_dim,)), self.as_labels(y)
        self.check_given(given)
        return self.likelihood.mean(self.model.eta_given(z, y), given)

    def embed(
        self, x: TensorLike, y: TensorLike | None = None, *given: TensorLike
    ) -> Float[Tensor, "*batch latent"]:
        """The centre of q(z | x, y), at the most probable y if y is missing or not given."""
        x = self.as_data(x)
        return self.guide.centre(self.guide.encoder_input(x), self._label(x, y))

    def draw(
        self, num: int, y: TensorLike | None = None, *given: TensorLike
    ) -> tuple[Float[Tensor, "num latent"], Float[Tensor, "..."]]:
        """Draw z from the prior; return z and the decoder's output for z and y.

        Arguments:
            num: number of draws.
            y: labels, one for each draw or one for all; by default they are drawn from p(y).
            given: ignored; typical values of the training data are used.

        Raises:
            InputError: if y has neither 1 nor ``num`` values.
        """
        num = self.as_number(num)
        y = None if y is None else self.as_labels(y)
        if y is None:
            y = torch.randint(self.num_classes, (num,), device=self.model.logits.device)
        z: Tensor = self.model.prior().sample((num,))
        return z, self.model.eta_given(z, self.model.condition.expand(y, num))

    @property
    def _is_discrete(self) -> bool:
        return True

    def _draw_latents(
        self, num: int | None, x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        y = given[0]
        if num is None:
            y = self._label(x, y)
            return self.embed(x, y), y
        inputs = self.guide.encoder_input(x)
        drawn = Categorical(logits=self.guide.logits(inputs)).sample((num,))
        y = torch.where(y < 0, drawn, y)
        return self.guide.q(inputs, y).sample(), y

    def _decode(
        self, latents: tuple[Tensor, ...], x: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.model.eta_given(*latents), self.likelihood.given_with(x, *given[1:])

    def _moments(self, x: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        """Those of the mixture over the label, where it is missing."""
        y, inputs = given[0], self.guide.encoder_input(x)
        classes = torch.arange(self.num_classes, device=x.device)
        q: Any = self.guide.q(inputs, classes.unsqueeze(1).expand(-1, len(x)))
        probabilities = self.guide.logits(inputs).softmax(-1)
        known = one_hot(y.clamp_min(0), self.num_classes).to(probabilities)
        weight = torch.where((y < 0).unsqueeze(1), probabilities, known).T.unsqueeze(-1)
        try:
            mean, variance = q.mean, q.variance
        except NotImplementedError:
            return None
        overall = (weight * mean).sum(0)
        spread = variance + (mean - overall).square()
        return overall, (weight * spread).sum(0).sqrt()

    def _probabilities(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        return self.classify(x)

    def _label(self, x: Tensor, y: TensorLike | None) -> Tensor:
        """Return y, with the most probable label where it is not known."""
        y = None if y is None else self.as_labels(y, x)
        if y is not None and bool((y >= 0).all()):
            return y
        most_probable = self.classify(x).argmax(-1)
        return most_probable if y is None else torch.where(y < 0, most_probable, y)
