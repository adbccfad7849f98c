"""The ELBO with discrete latents summed over instead of drawn."""

from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from ...errors import InputError
from ..pair.bound import PyroFunction
from ..pair.pair import Pair
from ..pair.particles import Particles, PerSample
from ..pair.terms import Terms
from .elbo import Loss
from .objective import Objective

__all__ = ["EnumeratedELBO"]

Site = dict[str, Any]

_MOST = 4096
"""Joint values above which summing over them is refused."""


class EnumeratedELBO(Objective):
    """The ELBO, exact in discrete latents: sum_y q(y | x) E_q(z|x,y)[log p(x, y, z) - log q(y, z |
    x)], with y all sites of the guide marked ``infer={"enumerate": "parallel"}``.

    The value and the gradient in q(y | x) have no noise of y, and no score function. Where a marked
    site is drawn given a continuous one before it, z, the sum is over q(y | x, z) within the
    expectation over z. Several marked sites are summed over in all combinations; each may depend
    on those before it. A site under a mask has the same weight at each value, as it should where
    the value is observed (``obs_mask``). Pyro's ``TraceEnum_ELBO`` is the same of such pairs.

    Model and guide run once, at all joint values of each datum.

    Arguments:
        num_particles: draws of the continuous latents, at each joint value.
        options: see :class:`Objective`.

    Example:
        >>> import pyro
        >>> from pyro.distributions import Bernoulli, Normal
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         y = pyro.sample("y", Bernoulli(0.5))
        ...         pyro.sample("x", Normal(2 * y - 1, 1.0), obs=x)
        >>> def guide(x):  # the posterior itself
        ...     with pyro.plate("data", len(x)):
        ...         q = Bernoulli(logits=2 * x)
        ...         pyro.sample("y", q, infer={"enumerate": "parallel"})
        >>> x = torch.tensor([0.0])
        >>> log_p = -EnumeratedELBO().loss(model, guide, x).loss
        >>> bool(torch.isclose(log_p, Normal(1.0, 1.0).log_prob(x)))
        True
    """

    name = "enumerated"
    is_bound = True
    takes_shared = True

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The bound on log p(x) of each datum."""
        return self._mean(terms.log_weight, terms)

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """The bound itself, weights and all."""
        return self.value(terms).mean()

    def _loss(self, terms: Terms, is_reported: bool = False) -> Loss:
        with torch.no_grad():
            reconstruction = -self._mean(terms.log_likelihood, terms).mean()
            kl = self._mean(terms.kl, terms).mean() - terms.shared
            return Loss(reconstruction + kl, reconstruction, kl)

    def _mean(self, values: PerSample, terms: Terms) -> Float[Tensor, "batch"]:
        """The sum over joint values y of q(y | x) f(y), averaged over draws."""
        combinations = self._particles
        assert isinstance(combinations, _Combinations)
        assert terms.score is not None
        # Marked sites are all that has no rsample. Masked, they add up to more than 1.
        log_q = terms.score.unflatten(0, (-1, combinations.num_values))
        weights = log_q.softmax(1).flatten(0, 1) / combinations.num_draws
        # The limit of q log q is 0, but not in floating point.
        mean: Tensor = (weights * torch.where(weights > 0, values, 0.0)).sum(0)
        return mean

    def _terms(
        self, model: PyroFunction, guide: PyroFunction, args: Any, kwargs: dict[str, Any]
    ) -> Terms:
        wanted = (model, guide, self.num_particles, self.plate)
        if self._particles is None or self._particles.settings != wanted:
            self._particles = _Combinations(*wanted, args, kwargs)
        return super()._terms(model, guide, args, kwargs)


class _Combinations(Particles):
    """Particles that take each joint value of the marked sites in turn.

    Number p of a datum's particles has the joint value p mod S, and belongs to draw p // S; the
    first marked site changes slowest.

    Arguments:
        num_draws: how often each joint value is taken.

    Attributes:
        num_values: S, the number of joint values.

    Raises:
        InputError: if there is nothing to sum over, or it cannot be.
    """

    def __init__(
        self,
        model: PyroFunction,
        guide: PyroFunction,
        num_draws: int,
        plate: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        pair = Pair(model, guide)
        with torch.random.fork_rng(), torch.no_grad(), pair.eval_mode():
            trace = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
        self.num_draws = num_draws
        self.num_values = _num_values(trace, plate)
        super().__init__(model, guide, num_draws * self.num_values, plate, args, kwargs)

    @property
    def settings(self) -> tuple[PyroFunction, PyroFunction, int, str]:
        """Model, guide, number of draws and name of the plate."""
        return self.model, self.guide, self.num_draws, self.plate

    def numbers(self, site: Site) -> tuple[int, Int[Tensor, "along"]] | None:
        """The dimension of a site that particles lie along, from the right of its batch shape, and
        their numbers there, those of all data in a row; None where it has but one for all.
        """
        if self.uses_plate:
            dim = self._dim
        elif self.is_local(site):
            dim = self.data_dim(site)
        else:
            return None
        return dim, torch.arange(site["fn"].batch_shape[dim])

    def _within(self, function: PyroFunction) -> PyroFunction:
        inner = super()._within(function)
        if function is not self.guide:
            return inner

        def at_values(*args: Any, **kwargs: Any) -> Any:
            with _AtValues(self):
                return inner(*args, **kwargs)

        return at_values


class _AtValues(Messenger):
    """Marked sites of the guide take their values in turn; what is drawn before is drawn once.

    A draw does not depend on marked sites that follow: their values share it, so that the weights
    q(y | x, z) of one z are complete.
    """

    def __init__(self, combinations: _Combinations) -> None:
        super().__init__()
        self._combinations = combinations
        self._block = combinations.num_values  # joint values of the marked sites that follow

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        is_marked = _is_marked(msg)
        size = len(_support(msg)) if is_marked else 1
        if self._block % size:
            raise InputError(
                f"site {msg['name']!r} of the guide has {size} values now, but the marked sites "
                "had others before; their supports must not change from batch to batch"
            )
        self._block //= size
        found = self._combinations.numbers(msg)
        if found is None:
            return
        dim, numbers = found
        if is_marked:
            msg["value"] = _along(_support(msg), numbers // self._block % size, dim, msg["fn"])
        elif self._block > 1:
            drawn = msg["fn"](*msg["args"], **msg["kwargs"])
            first = numbers // self._block * self._block
            along = dim - msg["fn"].event_dim
            msg["value"] = drawn.index_select(along, first.to(drawn.device))
        else:
            return
        msg["done"] = True


def _along(
    values: Tensor, numbers: Int[Tensor, "along"], dim: int, fn: Any
) -> Float[Tensor, "..."] | Int[Tensor, "..."]:
    """The values of these numbers along a dimension of the batch shape."""
    shape = [1] * len(fn.batch_shape)
    shape[dim] = len(numbers)
    chosen = values[numbers.to(values.device)].reshape(*shape, *fn.event_shape)
    return chosen.expand(*fn.batch_shape, *fn.event_shape)


def _support(site: Site) -> Tensor:
    values: Tensor = site["fn"].enumerate_support(expand=False)
    return values.reshape(len(values), *site["fn"].event_shape)


def _is_marked(site: Site) -> bool:
    return bool(site["infer"].get("enumerate") == "parallel")


def _num_values(trace: Trace, plate: str) -> int:
    """How many joint values the marked sites of a guide have.

    Raises:
        InputError: if there are none, too many, or any that cannot be summed over.
    """
    nodes: Any = trace.nodes.values()
    sites = [site for site in nodes if site["type"] == "sample"]
    marked = [site for site in sites if _is_marked(site) and not site["is_observed"]]
    if not marked:
        raise InputError(
            "enumerated sums over discrete latents, but the guide marks none: write "
            "pyro.sample(..., infer={'enumerate': 'parallel'}) there, or use 'elbo'"
        )
    for site in marked:
        _check_marked(site, plate)
    for site in sites:
        has_gradient = getattr(site["fn"], "has_rsample", False)
        if not (_is_marked(site) or site["is_observed"] or has_gradient):
            raise InputError(
                f"site {site['name']!r} of the guide cannot be reparameterised and is not marked: "
                "add infer={'enumerate': 'parallel'}, or use 'elbo'"
            )
    total = prod(len(_support(site)) for site in marked)
    if total > _MOST:
        names = ", ".join(repr(site["name"]) for site in marked)
        raise InputError(
            f"there are {total} joint values of {names}, of which {_MOST} at most are summed over; "
            "draw them, as 'elbo' and 'rws' do"
        )
    return total


def _check_marked(site: Site, plate: str) -> None:
    name, family = site["name"], type(site["fn"]).__name__
    frames = [frame.name for frame in site["cond_indep_stack"]]
    if plate not in frames:
        raise InputError(
            f"site {name!r} of the guide is marked to be enumerated, but is outside of plate "
            f"{plate!r}, shared by all data; put it in the plate, or use Pyro's TraceEnum_ELBO"
        )
    if len(frames) > 1:
        (other, *_) = (frame for frame in frames if frame != plate)
        raise InputError(
            f"site {name!r} of the guide is marked to be enumerated, but is in plate {other!r} "
            "too, so that each datum has several; give each a site of its own, or use Pyro's "
            "TraceEnum_ELBO"
        )
    if not site["fn"].has_enumerate_support:
        raise InputError(
            f"site {name!r} of the guide is marked to be enumerated, but the support of "
            f"{family} is no list of values; use a Categorical, or draw it, as 'elbo' does"
        )
    if site["fn"].has_rsample:
        raise InputError(
            f"site {name!r} of the guide is marked to be enumerated, but {family} has gradients "
            "through its draws; use OneHotCategorical"
        )
