"""The Pyro programs of the semi-supervised VAE, in which some data have class labels."""

from collections.abc import Sequence

import pyro
import torch
from jaxtyping import Float, Int, Num
from pyro.distributions import Categorical
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ..nn import concatenate
from .base import GenerativeModel, Layer
from .base.condition import Condition, check_condition_shape, check_labels
from .conditional import ConditionalGuide

__all__ = ["LabelGuide", "LabelModel"]


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


def _validate_labels(x: Tensor, y: Tensor, condition: Condition) -> None:
    if is_validation_enabled():
        check_condition_shape(x, y)
        check_labels(y, condition.dim, missing=True)
