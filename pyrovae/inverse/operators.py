"""Operators p(y | x), which turn the likelihood p(x | z) of a model into p(y | z)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from pyro.distributions import Delta, Normal
from torch import Tensor

from ..arguments import TensorLike, as_tensor, describe, is_tensor_like
from ..distributions import (
    DirichletMultinomial,
    Multinomial,
    completed,
    denoised,
    expectation,
    marginal,
    noisy,
)
from ..errors import InputError
from ..likelihoods.support import check_values

__all__ = ["Additive", "Mask", "Noise", "Operator"]

_TARGETS = ("datum", "mean")


class Operator(ABC):
    """p(y | x): how an observation y comes from a datum x.

    From p(x | z) of a model, an operator makes p(y | z), another likelihood of the same z, and
    p(x | y, z), which restores the datum once z is known. NaN marks entries of y that were not
    observed.

    To write another operator, implement :meth:`observe`, :meth:`start`, :meth:`seen` and
    :meth:`restored`; :class:`Mask` is the shortest.
    """

    noise: float | None = 0.0
    """The standard deviation s of the noise on y; None if it has to be estimated."""
    of: str = "datum"
    """What is observed: ``"datum"`` for x itself, ``"mean"`` for E[x | z]."""

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of y for a datum of shape ``event_shape``.

        Raises:
            InputError: if the operator does not apply to such data.
        """
        return tuple(event_shape)

    @abstractmethod
    def observe(self, x: Num[Tensor, "data *event"]) -> Num[Tensor, "data *seen"]:
        """Draw y ~ p(y | x)."""

    @abstractmethod
    def start(
        self, y: Num[Tensor, "data *seen"], centre: Float[Tensor, "*event"]
    ) -> Num[Tensor, "data *event"]:
        """A datum that resembles y, as input for an encoder.

        Arguments:
            y: observations.
            centre: a typical datum, which fills in where y says nothing.
        """

    @abstractmethod
    def seen(
        self,
        p: Any,
        y: Num[Tensor, "rows *seen"],
        noise: Float[Tensor, "rows"],
        fill: Float[Tensor, "rows *event"],
    ) -> tuple[Any, Num[Tensor, "rows *seen"]]:
        """p(y | z), and y in the form that its density accepts.

        Arguments:
            p: p(x | z), with a datum in each row.
            y: observations.
            noise: s.
            fill: a datum in the support of p.

        Raises:
            InputError: if p(y | z) is not known for this p.
        """

    @abstractmethod
    def restored(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Float[Tensor, "rows"]) -> Any:
        """p(x | y, z), with draws and a mean; its density covers what y leaves open.

        Raises:
            InputError: as for :meth:`seen`.
        """

    def check(self, y: Num[Tensor, "..."], event_shape: Sequence[int]) -> None:
        """Check that y can be an observation of data of shape ``event_shape``.

        Raises:
            InputError: if y has another shape, holds infinite values, or is empty.
        """
        check_values(y, self.shape(event_shape), what="the observations", missing=True)
        if y.ndim != 1 + len(self.shape(event_shape)):
            raise InputError(
                f"the observations have shape {tuple(y.shape)}; give one of shape "
                f"{self.shape(event_shape)} for each datum, with data in the first dimension"
            )


class Mask(Operator):
    """Some entries of x are observed exactly, the others are missing.

    p(y | z) is the marginal of p(x | z), for any likelihood.

    Arguments:
        observed: which entries :meth:`observe` keeps, of the shape of a datum or of all data.
            Inference does not use it: missing is what is NaN in y.

    Raises:
        InputError: if ``observed`` is not a boolean tensor.

    Example:
        >>> Mask(torch.tensor([True, False])).observe(torch.tensor([[1.0, 2.0]]))
        tensor([[1., nan]])
    """

    def __init__(self, observed: TensorLike | None = None) -> None:
        if observed is not None:
            is_one = is_tensor_like(observed)
            mask = as_tensor("observed", observed) if is_one else torch.empty(0)
            if mask.dtype != torch.bool:
                raise InputError(f"observed must be a boolean tensor; got {describe(observed)}")
            observed = mask
        self._observed = observed

    def observe(self, x: TensorLike) -> Num[Tensor, "data *event"]:
        """x, with NaN in place of missing entries.

        Raises:
            InputError: if the mask has another shape.
        """
        data = as_tensor("x", x)
        data = data if data.is_floating_point() else data.to(torch.get_default_dtype())
        observed = self._observed
        if observed is None:
            return data
        if observed.shape not in (data.shape, data.shape[1:]):
            raise InputError(
                f"observed has shape {tuple(observed.shape)}; it must have the shape of all data, "
                f"{tuple(data.shape)}, or of one datum"
            )
        return torch.where(observed, data, torch.nan)

    def start(
        self, y: Num[Tensor, "data *event"], centre: Float[Tensor, "*event"]
    ) -> Num[Tensor, "data *event"]:
        """y itself; the caller fills in NaN, or passes it on as missing."""
        return y

    def seen(
        self,
        p: Any,
        y: Num[Tensor, "rows *event"],
        noise: Float[Tensor, "rows"],
        fill: Float[Tensor, "rows *event"],
    ) -> tuple[Any, Num[Tensor, "rows *event"]]:
        """The marginal of the observed entries."""
        observed = ~y.isnan()
        return marginal(p, observed), torch.where(observed, y, fill)

    def restored(self, p: Any, y: Num[Tensor, "rows *event"], noise: Float[Tensor, "rows"]) -> Any:
        """The missing entries given the observed ones, which stay as they are."""
        return completed(p, y)


class Additive(Operator):
    """y = A x + s e,  e ~ Normal(0, I),  with x ~ p(x | z) or x = E[x | z].

    With ``of="datum"``, x ~ p(x | z), and p(y | z) is exact, but known for some likelihoods only.
    With ``of="mean"``, x = E[x | z], which many papers write as y = A g(z) + noise. This works for
    every likelihood that has a mean, and restored data have no noise of their own.

    Arguments:
        noise: the standard deviation s, in units of y; None if it is not known.
        of: ``"datum"`` or ``"mean"``.

    Raises:
        InputError: if s is negative or infinite, or zero with ``of="mean"``.
    """

    needs_noise: ClassVar[bool] = False
    """Whether y has a density only if s is above zero."""

    def __init__(self, noise: float | None, of: str = "datum") -> None:
        if not isinstance(of, str) or of not in _TARGETS:
            raise InputError(
                f"of is {describe(of)}; it must be 'datum', for x itself, or 'mean', for E[x | z]"
            )
        needs_noise = self.needs_noise or of == "mean"
        is_number = isinstance(noise, Real) and not isinstance(noise, bool)
        if noise is not None and not (
            is_number and (0 < noise < torch.inf or (noise == 0 and not needs_noise))
        ):
            least = "above 0" if needs_noise else "0 or more"
            raise InputError(
                f"noise is {describe(noise)}; it must be a standard deviation {least} in units of "
                "y, or None if it is not known"
            )
        self.noise, self.of = None if noise is None else float(noise), of

    @abstractmethod
    def apply(self, x: Num[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_seen"]:
        """A x."""

    @abstractmethod
    def seen_of_datum(
        self, p: Any, y: Num[Tensor, "rows *seen"], noise: Float[Tensor, "..."]
    ) -> Any:
        """p(y | z) for x ~ p(x | z)."""

    @abstractmethod
    def restored_datum(
        self, p: Any, y: Num[Tensor, "rows *seen"], noise: Float[Tensor, "..."]
    ) -> Any:
        """p(x | y, z) for x ~ p(x | z)."""

    def observe(self, x: TensorLike) -> Float[Tensor, "data *seen"]:
        """A x, with noise added.

        Raises:
            InputError: if s is not known.
        """
        if self.noise is None:
            raise InputError("noise of unknown size cannot be simulated; give the operator a noise")
        x = as_tensor("x", x)
        self.shape(tuple(x.shape[1:]))
        clean = self.apply(x)
        return clean + self.noise * torch.randn_like(clean)

    def seen(
        self,
        p: Any,
        y: Num[Tensor, "rows *seen"],
        noise: Float[Tensor, "rows"],
        fill: Float[Tensor, "rows *event"],
    ) -> tuple[Any, Num[Tensor, "rows *seen"]]:
        """p(y | z) of the observed entries of y."""
        scale = _unsqueeze_noise(noise, y)
        if self.of == "mean":
            clean = self.apply(_compute_mean(p))
            seen: Any = Normal(clean, scale.expand(clean.shape)).to_event(y.ndim - 1)
        else:
            seen = self.seen_of_datum(p, y, scale)
        observed = ~y.isnan()
        if bool(observed.all()):
            return seen, y
        return marginal(seen, observed), torch.where(observed, y, 0.0)

    def restored(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Float[Tensor, "rows"]) -> Any:
        """p(x | y, z); with ``of="mean"``, a point mass at E[x | z]."""
        if self.of == "mean":
            return Delta(_compute_mean(p), event_dim=len(p.event_shape))
        return self.restored_datum(p, y, _unsqueeze_noise(noise, y))


class Noise(Additive):
    """y = x + s e,  e ~ Normal(0, I): noise on each entry; entries that are NaN in y are missing.

    With ``of="datum"``, p(y | z) is known under likelihoods that are normal (also over all features
    at once: LowRankNormal, MultivariateNormal), mixtures of normals, or discrete with few values
    (Bernoulli, Binomial, Categorical), where the sum over the values is exact. The columns of a
    table may differ in this.

    Arguments:
        noise: the standard deviation s, in units of x; None if it is not known.
        of: ``"datum"`` or ``"mean"``; see :class:`Additive`.

    Example:
        >>> Noise(0.1).observe(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    needs_noise = True

    def apply(self, x: Num[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_event"]:
        """x."""
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())

    def start(
        self, y: Num[Tensor, "data *event"], centre: Float[Tensor, "*event"]
    ) -> Num[Tensor, "data *event"]:
        """y itself."""
        return y

    def seen_of_datum(self, p: Any, y: Num[Tensor, "rows *event"], noise: Tensor) -> Any:
        """p(x | z) convolved with the noise."""
        return noisy(p, noise.expand(y.shape))

    def restored_datum(self, p: Any, y: Num[Tensor, "rows *event"], noise: Tensor) -> Any:
        """p(x | y, z), by Bayes' rule in each entry."""
        return denoised(p, y, noise.expand(y.shape))


def _compute_mean(p: Any) -> Tensor:
    if isinstance(p, Multinomial | DirichletMultinomial):
        raise InputError(
            f"{type(p).__name__} is a likelihood of counts given their total, and noisy "
            "observations do not determine the total; use a likelihood of independent counts, such "
            "as Poisson"
        )
    return expectation(p)


def _unsqueeze_noise(noise: Float[Tensor, "rows"], y: Tensor) -> Float[Tensor, "..."]:
    """Append dimensions of size one, so that the noise broadcasts against y."""
    return noise.reshape(-1, *[1] * (y.ndim - 1))
