"""Conditions y of a model (classes, vectors or images), encoded as vectors for networks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Num
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from ...arguments import TensorLike, as_shape, as_tensor, as_whole
from ...data.memory import check_num_parameters
from ...errors import InputError
from ...nn import MLP, Standardise
from ...nn.build import ENCODERS, build_network, check_network
from ...priors import VampPrior
from .parts import trial_of

__all__ = [
    "BodyFactory",
    "Condition",
    "check_condition_shape",
    "check_labels",
    "check_latent_vector",
]

BodyFactory = Callable[[Sequence[int], Sequence[int]], nn.Module] | str | Mapping[str, Any]
"""A callable that makes a network from (in_shape, out_shape), or its name, or settings with one."""

_NUM_FEATURES = 64
"""Length of c if y is an image."""


class Condition(nn.Module):
    """Encode y as a vector c = c(y) of length :attr:`dim`.

    A class becomes one-hot. A vector is standardised. Any other array is standardised, then a
    network with a final ReLU computes features from it.

    Arguments:
        num_classes: number of classes, if y is a class: int64 of shape ``(*batch,)``, from 0.
        condition_shape: shape of one y, if it is an array: a vector ``(5,)``, or an image
            ``(1, 28, 28)``.
        body: callable that makes the network from an image to features, from (in_shape,
            out_shape).

    Attributes:
        dim: length of c.

    Raises:
        InputError: unless you give exactly one of num_classes and condition_shape, and it is valid.

    Example:
        >>> Condition(num_classes=3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    classes: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        condition_shape: Sequence[int] | None = None,
        body: BodyFactory = MLP,
    ) -> None:
        super().__init__()
        if (num_classes is None) == (condition_shape is None):
            raise InputError(
                "y is a class (num_classes=10) or an array (condition_shape=(5,)); give one of the "
                "two"
            )
        self.num_classes = num_classes
        self.condition_shape = (
            () if condition_shape is None else as_shape("condition_shape", condition_shape)
        )
        if num_classes is not None:
            self.num_classes = num_classes = as_whole("num_classes", num_classes, 2)
            check_num_parameters(num_classes, "a one-hot class")
            self.dim = num_classes
            # Floating point, so that c has the dtype of the networks.
            classes = torch.arange(num_classes, dtype=torch.get_default_dtype())
            self.register_buffer("classes", classes, persistent=False)
            return
        self.standardise = Standardise(self.condition_shape)
        if len(self.condition_shape) == 1:
            self.dim = self.condition_shape[0]
            return
        if isinstance(body, nn.Module):
            raise InputError(
                f"the model and the guide each need a network of their own for an image y; give a "
                f"callable from (in_shape, out_shape), not a {type(body).__name__}"
            )
        self.dim = _NUM_FEATURES
        network = build_network(body, self.condition_shape, (self.dim,), ENCODERS, "condition")
        check_network(network, self.condition_shape, (self.dim,), "the network of condition")
        self.body = nn.Sequential(network, nn.ReLU())

    def forward(self, y: Num[Tensor, "..."]) -> Float[Tensor, "*batch dim"]:
        """Return c(y) of each y.

        Raises:
            InputError: if y are not valid conditions (under Pyro's validation).
        """
        if is_validation_enabled():
            self.check(y)
        if self.num_classes is not None:
            return (y.unsqueeze(-1) == self.classes).to(self.classes.dtype)
        standard: Tensor = self.standardise(y)
        if len(self.condition_shape) == 1:
            return standard
        c: Tensor = self.body(standard).to(standard.dtype)
        return c

    def check(self, y: Num[Tensor, "..."]) -> None:
        """Check that y are valid conditions.

        Raises:
            InputError: if they are not; it names the first offending value and what to do.
        """
        if self.num_classes is not None:
            check_labels(y, self.num_classes, missing=False)
            return
        shape = self.condition_shape
        if tuple(y.shape[-len(shape) :]) != shape:
            raise InputError(
                f"the conditions y have shape {tuple(y.shape)}; the model expects {shape} for each "
                "datum"
            )
        if not bool(y.isfinite().all()):
            raise InputError(
                "the conditions y contain missing (NaN) or infinite values, but the model needs "
                "all of y; fill them, or leave these data out"
            )

    def as_condition(
        self, y: TensorLike, like: Tensor, batch: tuple[int, ...] | None = None
    ) -> Tensor:
        """Conditions y as a tensor on the device of the model, after :meth:`check`.

        Arguments:
            y: conditions.
            like: a tensor on that device.
            batch: batch shape that y must have; None for any.

        Raises:
            InputError: if they are not valid, or have another batch shape.
        """
        condition = as_tensor("y", y, like=like)
        self.check(condition)
        expected = (*(batch or ()), *self.condition_shape)
        if batch is not None and tuple(condition.shape) != expected:
            raise InputError(
                f"y has shape {tuple(condition.shape)}; it must be {expected}, with one condition "
                "for each datum"
            )
        return condition

    def expand(self, y: Num[Tensor, "..."], num: int) -> Num[Tensor, "num *condition"]:
        """Return one y for each of ``num`` draws; y is one for each, or one for all.

        Raises:
            InputError: if y has neither 1 nor ``num`` values.
        """
        if y.shape == self.condition_shape:
            return y.expand(num, *self.condition_shape)
        if y.shape != (num, *self.condition_shape):
            raise InputError(
                f"y has shape {tuple(y.shape)}; for {num} draws give one y for all, of shape "
                f"{self.condition_shape}, or one for each, of shape {(num, *self.condition_shape)}"
            )
        return y

    def set_units(self, y: Num[Tensor, "data *condition"]) -> None:
        """Learn the units of y from training data.

        Each number of a vector gets its own mean and scale; images share one mean and one scale.
        Classes, and values that are all 0 or 1, stay unchanged.
        """
        self.check(y)
        y = y.double()
        if self.num_classes is not None or bool(((y == 0) | (y == 1)).all()):
            return
        features = 0 if len(self.condition_shape) == 1 else tuple(range(y.ndim))
        scale = y.std(features, correction=0)
        self.standardise.set(y.mean(features), torch.where(scale > 0, scale, 1.0))


def check_labels(y: Num[Tensor, "..."], num_classes: int, *, missing: bool) -> None:
    """Check that y are valid class labels.

    Arguments:
        y: the labels.
        num_classes: number of classes C; labels are from 0 to C - 1.
        missing: whether labels may be missing (-1).

    Raises:
        InputError: if they are not; it names the first offending label and what to do.
    """
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(
            f"the labels y have dtype {y.dtype}; give integers from 0 to {num_classes - 1}, as in "
            "y.long()"
        )
    if not missing and bool((y == -1).any()):
        raise InputError(
            f"{int((y == -1).sum())} of {y.numel()} labels are missing (-1), but the model needs "
            "the label of each datum; leave these data out, or use SemiSupervisedVAE"
        )
    outside = (y < (-1 if missing else 0)) | (y >= num_classes)
    if bool(outside.any()):
        first = int(y[tuple(outside.nonzero()[0].tolist())])
        also = ", or -1 where they are missing" if missing else ""
        raise InputError(
            f"the labels y contain {first}; labels of {num_classes} classes are from 0 to "
            f"{num_classes - 1}{also}"
        )


def check_condition_shape(x: Tensor, y: Tensor, condition_shape: tuple[int, ...] = ()) -> None:
    """Check that there is one y of the right shape for each datum.

    Raises:
        InputError: if not; it names both shapes.
    """
    if y.shape != (len(x), *condition_shape):
        raise InputError(
            f"y has shape {tuple(y.shape)} for {len(x)} data; it must be "
            f"{(len(x), *condition_shape)}"
        )


def check_latent_vector(
    shape: tuple[int, ...], prior: Any, latent_dim: int, *condition: Tensor
) -> None:
    """Check that z is a vector, which can be concatenated with c(y), and that the prior allows y.

    Raises:
        InputError: if not; it names what was given and what to do.
    """
    if shape != (latent_dim,):
        raise InputError(
            f"latents of shape {shape} cannot be concatenated with y; use a posterior on vectors, "
            "such as 'diagonal' or 'full_rank'"
        )
    if isinstance(prior, VampPrior):
        raise InputError(
            "a VampPrior mixes q(z | u) over pseudo-inputs u, but this model's q depends on y too; "
            "use another prior"
        )
    prior_shape = tuple(trial_of(prior, "prior", *condition).event_shape)
    if prior_shape != (latent_dim,):
        raise InputError(
            f"the prior has latents of shape {prior_shape}, but the posterior has latents of shape "
            f"{(latent_dim,)}; give both the same latent_dim"
        )
