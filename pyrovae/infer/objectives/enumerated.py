"""The ELBO with an exact sum over discrete latents in place of draws."""

from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from pyro.infer.util import torch_backward
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from ...errors import InputError
from ..pair.bound import PyroFunction, evaluate_bound
from ..pair.layout import ParticleLayout, PerSample
from ..pair.pair import Pair
from ..pair.particles import Particles
from ..pair.plates import trace_function
from ..pair.sites import Site, sample_sites
from ..pair.terms import Terms
from .elbo import Loss
from .marginal import MarginalELBO, find_enumerated_in_model
from .objective import Objective

__all__ = ["EnumeratedELBO"]

_MAX_JOINT_VALUES = 4096
"""The largest number of joint values to sum over."""


class EnumeratedELBO(Objective):
    """The ELBO, exact in discrete latents: sum_y q(y | x) E_q(z|x,y)[log p(x, y, z) - log q(y, z |
    x)], with y all sites of the guide marked ``infer={"enumerate": "parallel"}``.

    The value and the gradient in q(y | x) have no noise from y, and need no score function. If the
    guide draws a continuous z first and a marked site given z, the sum is over q(y | x, z) within
    the expectation over z. The sum runs over all combinations of several marked sites; each may
    depend on earlier ones. A masked site has the same weight at each value, which is right for
    observed values (``obs_mask``). Pyro's ``TraceEnum_ELBO`` gives the same for such pairs.

    Model and guide run once, at all joint values of each datum. If the model marks latents that the
    guide lacks, such as the states of a hidden Markov model, Pyro's ``TraceEnum_ELBO`` sums over
    these, and over marked latents of the guide (:class:`MarginalELBO`); ``kl`` is then that of the
    latents that the guide draws.

    Arguments:
        num_particles: draws of the continuous latents at each joint value.
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
        self._marginal: tuple[PyroFunction, PyroFunction, MarginalELBO | None] | None = None

    def loss(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> Loss:
        """The loss per datum, without a gradient."""
        marginal = self._find_marginal(model, guide, args, kwargs)
        if marginal is None:
            return super().loss(model, guide, *args, **kwargs)
        with torch.no_grad():
            return self._marginal_loss(marginal, model, guide, args, kwargs)[1]

    def differentiable_loss(
        self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any
    ) -> Float[Tensor, ""]:
        """The loss per datum, with the gradient that minimises it."""
        marginal = self._find_marginal(model, guide, args, kwargs)
        if marginal is None:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        self._count_step()
        return self._marginal_loss(marginal, model, guide, args, kwargs)[0]

    def loss_and_grads(
        self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any
    ) -> Loss:
        """Compute the loss per datum, and add its gradient to the ``grad`` of each parameter."""
        marginal = self._find_marginal(model, guide, args, kwargs)
        if marginal is None:
            return super().loss_and_grads(model, guide, *args, **kwargs)
        total, loss = self._marginal_loss(marginal, model, guide, args, kwargs)
        torch_backward(total)
        self._count_step()
        return loss

    def value(self, terms: Terms) -> Float[Tensor, "batch"]:
        """The bound on log p(x) of each datum."""
        return self._expectation(terms.log_weight, terms)

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """The bound itself; its gradient includes the gradient of the weights q(y | x)."""
        return self.value(terms).mean()

    def _loss(self, terms: Terms, is_reported: bool = False) -> Loss:
        with torch.no_grad():
            reconstruction = -self._expectation(terms.log_likelihood, terms).mean()
            kl = self._expectation(terms.kl, terms).mean() - terms.shared
            return Loss(reconstruction + kl, reconstruction, kl)

    def _expectation(self, values: PerSample, terms: Terms) -> Float[Tensor, "batch"]:
        """The sum over joint values y of q(y | x) f(y), averaged over draws."""
        combinations = self._particles
        assert isinstance(combinations, _Combinations)
        assert terms.score is not None
        # Only marked sites lack rsample. If masked, their weights add up to more than 1.
        log_q = terms.score.unflatten(0, (-1, combinations.num_values))
        weights = log_q.softmax(1).flatten(0, 1) / combinations.num_draws
        # q log q tends to 0 as q does, but is NaN in floating point.
        mean: Tensor = (weights * torch.where(weights > 0, values, 0.0)).sum(0)
        return mean

    def _find_marginal(
        self, model: PyroFunction, guide: PyroFunction, args: Any, kwargs: dict[str, Any]
    ) -> MarginalELBO | None:
        """The bound of a pair whose model marks latents that the guide lacks; None for others."""
        known = self._marginal
        if known is None or known[:2] != (model, guide):
            names, num_plates = find_enumerated_in_model(model, guide, args, kwargs)
            marginal = MarginalELBO(num_plates, self.num_particles, self.plate) if names else None
            known = self._marginal = model, guide, marginal
        return known[2]

    def _marginal_loss(
        self,
        marginal: MarginalELBO,
        model: PyroFunction,
        guide: PyroFunction,
        args: Any,
        kwargs: dict[str, Any],
    ) -> tuple[Float[Tensor, ""], Loss]:
        total, kl = marginal.evaluate(model, guide, args, kwargs, self.size)
        size = self.size
        if size is None:
            bound = evaluate_bound(model, guide, *args, plate=self.plate, kwargs=kwargs)
            size = bound.size
        loss, kl = total / size, kl / size
        value = loss.detach()
        return loss, Loss(value, value - kl, kl)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pair that it was last used with."""
        return super().__getstate__() | {"_marginal": None}

    def _terms(
        self, model: PyroFunction, guide: PyroFunction, args: Any, kwargs: dict[str, Any]
    ) -> Terms:
        settings = (model, guide, self.num_particles, self.plate)
        if self._particles is None or self._particles.settings != settings:
            self._particles = _Combinations(*settings, args, kwargs)
        return super()._terms(model, guide, args, kwargs)


class _Combinations(Particles):
    """Particles that take each joint value of the marked sites in turn.

    Particle p of a datum has the joint value p mod S and belongs to draw p // S. The first marked
    site changes slowest.

    Arguments:
        num_draws: number of particles at each joint value.

    Attributes:
        num_values: S, the number of joint values.

    Raises:
        InputError: if no site is marked, or a marked site cannot be summed over.
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
            trace = prune_subsample_sites(trace_function(guide, *args, **kwargs))
        self.num_draws = num_draws
        self.num_values = _count_joint_values(trace, plate)
        super().__init__(model, guide, num_draws * self.num_values, plate, args, kwargs)

    @property
    def settings(self) -> tuple[PyroFunction, PyroFunction, int, str]:
        """Model, guide, number of draws and name of the plate."""
        return self.model, self.guide, self.num_draws, self.layout.plate

    def _arrange(self, function: PyroFunction, layout: ParticleLayout) -> PyroFunction:
        arranged = super()._arrange(function, layout)
        if function is not self.guide:
            return arranged

        def run_at_values(*args: Any, **kwargs: Any) -> Any:
            with _SetValues(self.num_values, layout):
                return arranged(*args, **kwargs)

        return run_at_values


class _SetValues(Messenger):
    """Set marked sites of the guide to their values in turn.

    Each other site is drawn once for all values of the marked sites that follow it. They share its
    draw z, so that the weights q(y | x, z) of one z are complete.

    Arguments:
        num_values: number of joint values of all marked sites.
        layout: where the particles lie.
    """

    def __init__(self, num_values: int, layout: ParticleLayout) -> None:
        super().__init__()
        self._layout = layout
        self._block = num_values  # joint values of the marked sites that follow

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        is_marked = _is_marked(msg)
        size = len(_support(msg)) if is_marked else 1
        if self._block % size:
            raise InputError(
                f"site {msg['name']!r} of the guide has {size} values now, but the marked sites "
                "had other numbers of values before; their supports must not change between batches"
            )
        self._block //= size
        place = self._layout.particle_numbers(msg)
        if place is None:
            return
        dim, numbers = place
        if is_marked:
            chosen = numbers // self._block % size
            msg["value"] = _select_values(_support(msg), chosen, dim, msg["fn"])
        elif self._block > 1:
            draws = msg["fn"](*msg["args"], **msg["kwargs"])
            first = numbers // self._block * self._block
            along = dim - msg["fn"].event_dim
            msg["value"] = draws.index_select(along, first.to(draws.device))
        else:
            return
        msg["done"] = True


def _select_values(
    values: Tensor, numbers: Int[Tensor, "along"], dim: int, fn: Any
) -> Float[Tensor, "..."] | Int[Tensor, "..."]:
    """Lay out the values with these numbers along a dimension of the batch shape."""
    shape = [1] * len(fn.batch_shape)
    shape[dim] = len(numbers)
    selected = values[numbers.to(values.device)].reshape(*shape, *fn.event_shape)
    return selected.expand(*fn.batch_shape, *fn.event_shape)


def _support(site: Site) -> Tensor:
    values: Tensor = site["fn"].enumerate_support(expand=False)
    return values.reshape(len(values), *site["fn"].event_shape)


def _is_marked(site: Site) -> bool:
    return bool(site["infer"].get("enumerate") == "parallel")


def _count_joint_values(trace: Trace, plate: str) -> int:
    """The number of joint values of the marked sites of a guide.

    Raises:
        InputError: if no site is marked, there are too many values, or a site cannot be summed
            over.
    """
    sites = list(sample_sites(trace))
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
                f"site {site['name']!r} of the guide cannot be reparameterised and is not marked "
                "for enumeration: add infer={'enumerate': 'parallel'}, or use 'elbo'"
            )
    total = prod(len(_support(site)) for site in marked)
    if total > _MAX_JOINT_VALUES:
        names = ", ".join(repr(site["name"]) for site in marked)
        raise InputError(
            f"there are {total} joint values of {names}, and at most {_MAX_JOINT_VALUES} can be "
            "summed over; draw the latents instead, as 'elbo' and 'rws' do"
        )
    return total


def _check_marked(site: Site, plate: str) -> None:
    name, family = site["name"], type(site["fn"]).__name__
    frames = [frame.name for frame in site["cond_indep_stack"]]
    if plate not in frames:
        raise InputError(
            f"site {name!r} of the guide is marked for enumeration, but is outside of plate "
            f"{plate!r}, shared by all data; put it in the plate, or use Pyro's TraceEnum_ELBO"
        )
    if len(frames) > 1:
        (other, *_) = (frame for frame in frames if frame != plate)
        raise InputError(
            f"site {name!r} of the guide is marked for enumeration, but is in plate {other!r} too, "
            "so each datum has several values; give each value a site of its own, or use Pyro's "
            "TraceEnum_ELBO"
        )
    if not site["fn"].has_enumerate_support:
        raise InputError(
            f"site {name!r} of the guide is marked for enumeration, but the support of {family} is "
            "no list of values; use a Categorical, or draw it, as 'elbo' does"
        )
    if site["fn"].has_rsample:
        raise InputError(
            f"site {name!r} of the guide is marked for enumeration, but {family} has gradients "
            "through its draws; use OneHotCategorical"
        )
