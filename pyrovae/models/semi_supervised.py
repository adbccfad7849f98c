"""The semi-supervised VAE: some data have class labels, others do not (Kingma et al. 2014)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Int, Num
from pyro.distributions import Categorical
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..arguments import TensorLike, as_flag, as_real, as_shape, as_tensor, as_whole
from ..errors import InputError
from ..likelihoods import Likelihood, Mixed
from ..nn import MLP, concatenate
from .base import (
    Body,
    GenerativeModel,
    LatentVariableModel,
    Layer,
    Part,
    build_decoder,
    build_encoder,
    build_joint_encoder,
    build_posterior,
    build_prior,
    encoder_input_shape,
)
from .base.condition import Condition, check_condition_shape, check_labels, check_latent_vector
from .base.model import Given
from .conditional import ConditionalGuide

__all__ = ["LabelGuide", "LabelModel", "SemiSupervisedVAE"]


class LabelGuide(ConditionalGuide):
    """The Pyro guide q(y | x) q(z | x, y): a classifier, and posterior(encoder(x, y))."""

    def __init__(
        self,
        condition: Condition,
        classifier: nn.Module,
        encoder: nn.Module,
        posterior: nn.Module,
        event_shape: Sequence[int],
        missing: bool,
    ) -> None:
        super().__init__(condition, encoder, posterior, event_shape, missing)
        self.classifier = classifier

    def forward(
        self, x: Num[Tensor, "batch *event"], y: Num[Tensor, "..."], *given: Tensor
    ) -> Tensor:
        """Sample sites ``y_unobserved`` and ``z`` in the plate ``data``.

        If y is known, ``y_unobserved`` is drawn from its prior, and nothing depends on it.

        Raises:
            InputError: if x has another shape or is not finite, or y are not valid labels (under
                Pyro's validation).
        """
        self.begin(x)
        _validate_labels(x, y, self.condition)
        is_missing = (y < 0).unsqueeze(-1)
        inputs = self.encoder_input(x)
        with pyro.plate("data", x.shape[0]):
            logits = torch.where(is_missing, self.logits(inputs), 0.0)
            q_y = Categorical(logits=logits)
            y_sample = pyro.sample("y_unobserved", q_y, infer={"enumerate": "parallel"})
            z: Tensor = pyro.sample("z", self.q(inputs, torch.where(y < 0, y_sample, y)))
            return z

    def logits(self, inputs: Float[Tensor, "..."]) -> Float[Tensor, "*batch classes"]:
        """log q(y | x) up to a constant, from ``encoder_input(x)``."""
        logits: Tensor = self.classifier(inputs).to(inputs.dtype)
        return logits


class LabelModel(GenerativeModel):
    """The Pyro model p(y) p(z) p(x | z, y), where known labels y are observed.

    Arguments:
        condition: module from y to one-hot.
        prior: module that returns p(z).
        decoder: network from (z, one-hot y) to eta.
        likelihood: layer from eta to p(x | z, y).
        missing: whether entries of x may be missing.
        guide: the guide, with a log q(y | x) that training adds to the objective; not owned.
        weight: weight of log q(y | x), for each datum with a known label.
    """

    logits: Tensor

    def __init__(
        self,
        condition: Condition,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: Layer,
        missing: bool,
        guide: LabelGuide,
        weight: float,
    ) -> None:
        super().__init__(decoder, likelihood, missing)
        self.condition = condition
        self.prior = prior
        self.weight = weight
        self._guide = (guide,)  # in a tuple, so that it is not registered here too
        self.register_buffer("logits", torch.zeros(condition.dim), persistent=False)

    def forward(
        self, x: Num[Tensor, "batch *event"], y: Num[Tensor, "..."], *given: Tensor
    ) -> Tensor:
        """Sample sites ``y_unobserved`` and ``z``; ``y_observed`` and ``x`` are observed.

        In train mode there is also the factor ``classification``. All are in the plate ``data``.

        Arguments:
            x: data.
            y: labels, -1 where they are missing.
            given: the tensors that come with each datum, as ``likelihood.given`` lists them.

        Raises:
            InputError: if x lies outside the support of the likelihood, or y are not valid labels
                (under Pyro's validation).
        """
        named_given = self.begin(x, *given)
        _validate_labels(x, y, self.condition)
        is_known = y >= 0
        known = torch.where(is_known, y, 0)
        with pyro.plate("data", x.shape[0]):
            p_y = Categorical(logits=self.logits)
            pyro.sample("y_observed", p_y.mask(is_known), obs=known)
            # No mask here, as Pyro's masks do not mask score functions. If y is known, model and
            # guide draw this site from the same p(y), which cancels whether summed or sampled.
            y_sample = pyro.sample("y_unobserved", p_y)
            z = pyro.sample("z", self.prior())
            eta = self.eta_given(z, torch.where(is_known, y, y_sample))
            if self.training:
                (guide,) = self._guide
                log_q = Categorical(logits=guide.logits(guide.encoder_input(x))).log_prob(known)
                pyro.factor("classification", torch.where(is_known, self.weight * log_q, 0.0))
            return self.observe(x, eta, named_given)

    def eta_given(
        self, z: Float[Tensor, "*_ latent"], y: Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The output of the decoder for z and y; their batch shapes broadcast."""
        return self.eta(concatenate(z, self.condition(y)))


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

    def encode(self, x: TensorLike, y: TensorLike | None = None) -> TorchDistributionMixin:
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

    @torch.no_grad()
    def reconstruct(
        self, x: TensorLike, y: TensorLike | None = None, *given: TensorLike
    ) -> Float[Tensor, "..."]:
        """E[x' | z, y] at ``z = embed(x, y)`` and the same y."""
        x = self.as_data(x)
        named_given = self.likelihood.given_with(x, *self.as_given(given, x))
        y = self._label(x, y)
        return self.decode_mean(self.embed(x, y), y, named_given)

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

    def _label(self, x: Tensor, y: TensorLike | None) -> Tensor:
        """Return y, with the most probable label where it is not known."""
        y = None if y is None else self.as_labels(y, x)
        if y is not None and bool((y >= 0).all()):
            return y
        most_probable = self.classify(x).argmax(-1)
        return most_probable if y is None else torch.where(y < 0, most_probable, y)


def _validate_labels(x: Tensor, y: Tensor, condition: Condition) -> None:
    if is_validation_enabled():
        check_condition_shape(x, y)
        check_labels(y, condition.dim, missing=True)
