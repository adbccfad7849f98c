"""What is observed of a datum: p(y | x), and with it p(y | z), whatever p(x | z) is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Num
from pyro.distributions import Delta, Normal
from torch import Tensor

from ..distributions import (
    DirichletMultinomial,
    Multinomial,
    completed,
    denoised,
    expectation,
    features,
    marginal,
    noisy,
)
from ..errors import InputError
from ..likelihoods.support import check_values

__all__ = ["Additive", "Mask", "Noise", "Operator"]

_OF = ("datum", "mean")


class Operator(ABC):
    """p(y | x): how an observation y comes from a datum x.

    With p(x | z) from a model it gives p(y | z), another likelihood of the same z, and
    p(x | y, z), the datum restored where z is known. y has NaN where it says nothing.
    """

    noise: float | None = 0.0
    """The standard deviation s of noise on y; None where it is to be found."""
    of: str = "datum"
    """Whether what is observed is x itself, or E[x | z]."""

    def shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of y for one datum of that shape.

        Raises:
            InputError: if there is none.
        """
        return tuple(event_shape)

    @abstractmethod
    def observe(self, x: Num[Tensor, "data *event"]) -> Num[Tensor, "data *seen"]:
        """Draw y ~ p(y | x)."""

    @abstractmethod
    def start(
        self, y: Num[Tensor, "data *seen"], centre: Float[Tensor, "*event"]
    ) -> Num[Tensor, "data *event"]:
        """A datum that would look like y, which an encoder can be shown.

        Arguments:
            y: what is observed.
            centre: a typical datum, which stands where y says nothing.
        """

    @abstractmethod
    def seen(
        self,
        p: Any,
        y: Num[Tensor, "rows *seen"],
        noise: Float[Tensor, "rows"],
        fill: Float[Tensor, "rows *event"],
    ) -> tuple[Any, Num[Tensor, "rows *seen"]]:
        """p(y | z), and y as its density takes it.

        Arguments:
            p: p(x | z), of one datum a row.
            y: what is observed.
            noise: s.
            fill: a datum in the support of p.

        Raises:
            InputError: if p(y | z) is not known for such a p.
        """

    @abstractmethod
    def restored(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Float[Tensor, "rows"]) -> Any:
        """p(x | y, z), with draws and a mean; its density is that of what y leaves open.

        Raises:
            InputError: as :meth:`seen`.
        """

    def check(self, y: Num[Tensor, "..."], event_shape: Sequence[int]) -> None:
        """Refuse what cannot be an observation of data of that shape.

        Raises:
            InputError: if y has another shape, holds infinite values, or is empty.
        """
        check_values(y, self.shape(event_shape), what="the observations", missing=True)
        if y.ndim != 1 + len(self.shape(event_shape)):
            raise InputError(
                f"the observations have shape {tuple(y.shape)}; give one of shape "
                f"{self.shape(event_shape)} for each datum, the data first"
            )


class Mask(Operator):
    """Some entries of x are observed as they are, the others not at all.

    p(y | z) is the marginal of p(x | z), whatever the likelihood is.

    Arguments:
        observed: which entries :meth:`observe` shows, of the shape of a datum or of all data;
            what matters to inference is where y is NaN.

    Raises:
        InputError: if it is no tensor of truth values.

    Example:
        >>> Mask(torch.tensor([True, False])).observe(torch.tensor([[1.0, 2.0]]))
        tensor([[1., nan]])
    """

    def __init__(self, observed: Bool[Tensor, "..."] | None = None) -> None:
        if observed is not None and getattr(observed, "dtype", None) != torch.bool:
            raise InputError(f"observed is a tensor of truth values; got {observed!r}")
        self._observed = observed

    def observe(self, x: Num[Tensor, "data *event"]) -> Num[Tensor, "data *event"]:
        """x, with NaN in place of what is not observed.

        Raises:
            InputError: if the mask has another shape.
        """
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        observed = self._observed
        if observed is None:
            return x
        if observed.shape not in (x.shape, x.shape[1:]):
            raise InputError(
                f"observed has shape {tuple(observed.shape)}; it must be that of the data, "
                f"{tuple(x.shape)}, or of one of them"
            )
        return torch.where(observed, x, torch.nan)

    def start(
        self, y: Num[Tensor, "data *event"], centre: Float[Tensor, "*event"]
    ) -> Num[Tensor, "data *event"]:
        """y itself, whose NaN the caller fills or shows as missing."""
        return y

    def seen(
        self,
        p: Any,
        y: Num[Tensor, "rows *event"],
        noise: Float[Tensor, "rows"],
        fill: Float[Tensor, "rows *event"],
    ) -> tuple[Any, Num[Tensor, "rows *event"]]:
        """The marginal of what is observed."""
        observed = ~y.isnan()
        return marginal(p, observed), torch.where(observed, y, fill)

    def restored(self, p: Any, y: Num[Tensor, "rows *event"], noise: Float[Tensor, "rows"]) -> Any:
        """The missing entries given those observed, and the latter as they are."""
        return completed(p, y)


class Additive(Operator):
    """y = A x + s e,  e ~ Normal(0, I),  with x ~ p(x | z), or E[x | z] in its place.

    Where x is meant (``of="datum"``), p(y | z) is exact, and so are the likelihoods that it is
    known for. The mean (``of="mean"``) is what many write as y = A g(z) + noise: the model is then
    x = E[x | z], of which every likelihood has one, and restored data have no noise of their own.

    Arguments:
        noise: s, in units of y; None if it is not known.
        of: ``"datum"`` or ``"mean"``.

    Raises:
        InputError: if s is negative or infinite, or of the mean and zero.
    """

    needs_noise: ClassVar[bool] = False
    """Whether s must be above zero for y to have a density."""

    def __init__(self, noise: float | None, of: str = "datum") -> None:
        if of not in _OF:
            raise InputError(f"of is {of!r}; it is 'datum', for x itself, or 'mean', for E[x | z]")
        needs_noise = self.needs_noise or of == "mean"
        is_number = isinstance(noise, int | float) and not isinstance(noise, bool)
        if noise is not None and not (
            is_number and (0 < noise < torch.inf or (noise == 0 and not needs_noise))
        ):
            least = "above 0" if needs_noise else "0 or more"
            raise InputError(
                f"noise is {noise}; it is a standard deviation {least} in units of y, or None "
                "where it is not known"
            )
        self.noise, self.of = noise, of

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

    def observe(self, x: Num[Tensor, "data *event"]) -> Float[Tensor, "data *seen"]:
        """A x, and noise on it.

        Raises:
            InputError: if s is not known.
        """
        if self.noise is None:
            raise InputError("noise of unknown size cannot be simulated; name its size")
        clean = self.apply(x)
        return clean + self.noise * torch.randn_like(clean)

    def seen(
        self,
        p: Any,
        y: Num[Tensor, "rows *seen"],
        noise: Float[Tensor, "rows"],
        fill: Float[Tensor, "rows *event"],
    ) -> tuple[Any, Num[Tensor, "rows *seen"]]:
        """p(y | z) of what is observed of y."""
        scale = _as_wide(noise, y)
        if self.of == "mean":
            clean = self.apply(_mean(p))
            seen: Any = Normal(clean, scale.expand(clean.shape)).to_event(y.ndim - 1)
        else:
            seen = self.seen_of_datum(p, y, scale)
        observed = ~y.isnan()
        if bool(observed.all()):
            return seen, y
        return marginal(seen, observed), torch.where(observed, y, 0.0)

    def restored(self, p: Any, y: Num[Tensor, "rows *seen"], noise: Float[Tensor, "rows"]) -> Any:
        """p(x | y, z), or the mean of p(x | z) where that was observed."""
        if self.of == "mean":
            return Delta(_mean(p), event_dim=len(p.event_shape))
        return self.restored_datum(p, y, _as_wide(noise, y))


class Noise(Additive):
    """y = x + s e,  e ~ Normal(0, I): every entry seen, or those where y is not NaN.

    For x itself p(y | z) is known under likelihoods that are normal, mixtures of normals, or of a
    few values (Bernoulli, Binomial, Categorical): the sum over these is exact.

    Arguments:
        noise: s, in units of x; None if it is not known.
        of: ``"datum"`` or ``"mean"``, as :class:`Additive` tells.

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
        """p(x | z) under the noise."""
        return noisy(p, noise.expand(features(p).batch_shape))

    def restored_datum(self, p: Any, y: Num[Tensor, "rows *event"], noise: Tensor) -> Any:
        """p(x | y, z), by Bayes' rule in each entry."""
        return denoised(p, y, noise.expand(features(p).batch_shape))


def _mean(p: Any) -> Tensor:
    if isinstance(p, Multinomial | DirichletMultinomial):
        raise InputError(
            f"{type(p).__name__} is of counts given their total, which noisy observations do not "
            "tell; use a likelihood of independent counts, such as Poisson"
        )
    return expectation(p)


def _as_wide(noise: Float[Tensor, "rows"], y: Tensor) -> Float[Tensor, "..."]:
    """With a dimension of size one for each of a datum's."""
    return noise.reshape(-1, *[1] * (y.ndim - 1))
