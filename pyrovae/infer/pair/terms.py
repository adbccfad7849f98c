"""The terms of the bound for each datum, at several samples of its latents: what objectives read.

For each datum x of a batch and each of K samples z_k ~ q(z | x): log p(x | z_k), log p(z_k) and
log q(z_k | x), in nats, without the scale by which a batch stands for all data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from ...errors import InputError
from .bound import Bound
from .latents import factors_of
from .pair import Pair
from .particles import Particles, Path, PerSample

__all__ = ["LatentSite", "Terms", "evaluate_terms"]

Site = dict[str, Any]


@dataclass(frozen=True)
class LatentSite:
    """A latent of each datum.

    Attributes:
        name: of the site.
        value: its samples.
        q: what the guide draws them from.
        p: their prior, given whatever it depends on.
    """

    name: str
    value: Tensor
    q: Distribution
    p: Distribution
    _particles: Particles
    _data_dim: int
    _obstacle: str

    def kl(self) -> Float[Tensor, "particles batch"]:
        """KL(q | p), in closed form where torch has it, else log q(z) - log p(z)."""
        return self.kl_of_dimensions().sum(-1)

    def kl_of_dimensions(self) -> Float[Tensor, "particles batch dims"]:
        """The same of each dimension where both factorise; else of all, as one dimension.

        Raises:
            InputError: if it is not what KL(q | p) is made of.
        """
        if self._obstacle:
            raise InputError(
                f"the KL of latent {self.name!r} cannot be had from its distributions alone, since "
                f"{self._obstacle}; use kl='sampled', or 'elbo'"
            )
        q, p = self.factors()
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(self.value) - p.log_prob(self.value)
        return self.rows(kl)

    def rows(self, x: Float[Tensor, "..."]) -> Float[Tensor, "particles batch dims"]:
        """Values, or what each dimension has, for each sample and datum."""
        return self._particles.rows(x, len(self.q.batch_shape), self._data_dim)

    def factors(self) -> tuple[Distribution, Distribution]:
        """q and p of single dimensions where both factorise; else as they are."""
        q, p = factors_of(self.q), factors_of(self.p)
        return (q, p) if not (q.event_shape or p.event_shape) else (self.q, self.p)


@dataclass(frozen=True)
class Terms:
    """What one evaluation of a pair gives, for K samples of each of B data, in nats.

    Attributes:
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_q: log q(z | x), with the gradients asked for.
        score: log q(z | x) of sites that cannot be reparameterised; None where there are none.
        shared: (log p - log q) of sites that all data share, divided by N.
        shared_sites: the names of these sites.
        unscored_sites: of these, those of the guide that cannot be reparameterised.
        size: number of data N that the batch stands for.
        latents: each latent of a datum.
    """

    log_likelihood: PerSample
    log_prior: PerSample
    log_q: PerSample
    score: PerSample | None
    shared: Float[Tensor, ""]
    shared_sites: tuple[str, ...]
    unscored_sites: tuple[str, ...]
    size: int
    latents: tuple[LatentSite, ...]
    _copies: tuple[tuple[Tensor, Tensor], ...]
    _log_q_of_dreams: Callable[[], Tensor]

    @cached_property
    def kl(self) -> PerSample:
        """log q(z | x) - log p(z)."""
        return self.log_q - self.log_prior

    @cached_property
    def log_weight(self) -> PerSample:
        """log w = log p(x, z) - log q(z | x)."""
        return self.log_likelihood - self.kl

    def through_samples(self, total: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What has the gradient of a function of the model's terms through the samples alone.

        The terms are to be evaluated with the path ``"separate"``.
        """
        copies = [copy for _, copy in self._copies]
        gradients = (
            torch.autograd.grad(total, copies, retain_graph=True, materialize_grads=True)
            if copies
            else ()
        )
        parts = [
            (gradient * value).sum()
            for (value, _), gradient in zip(self._copies, gradients, strict=True)
        ]
        return torch.stack(parts).sum() if parts else torch.zeros_like(total)

    def log_q_of_dreams(self) -> Float[Tensor, ""]:
        """log q(z | x) of latents and data drawn from the model, averaged over the batch."""
        return self._log_q_of_dreams()


def evaluate_terms(
    particles: Particles,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    size: int | None = None,
    apart: bool = False,
    path: Path = "total",
    gradient_scale: Callable[[], PerSample] | None = None,
) -> Terms:
    """Draw samples from the guide, and score them and the data.

    Arguments:
        particles: the pair, and how it is given several samples.
        args: of model and guide.
        kwargs: of model and guide.
        size: number of data N; what the plate declares unless given.
        apart: refuse sites that all data share.
        path: which gradients the terms have.
        gradient_scale: gives, in the backward pass, what gradients are multiplied by where they
            come to the samples.

    Raises:
        InputError: if a site is scaled, or shared where none may be; or if model and guide
            disagree about the latents.
    """
    guide_trace, model_trace = particles.traces(args, kwargs, path)
    bound = Bound(model_trace, guide_trace, particles.plate, size)
    bound.check()
    if apart:
        bound.check_data_are_apart()
    guide_sites = list(_sample_sites(guide_trace))
    if gradient_scale is not None:
        for site in guide_sites:
            if site["value"].requires_grad and not site["is_observed"]:
                particles.scale_gradient(site, gradient_scale)
                site["value"] = site["value"].view_as(site["value"])  # which no cache knows
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    model_sites = [s for s in _sample_sites(model_trace) if not s["infer"].get("_deterministic")]
    local = [site for site in model_sites if particles.is_local(site)]
    observed = [site for site in local if site["is_observed"]]
    hidden = [site for site in local if not site["is_observed"]]
    local_q = [site for site in guide_sites if particles.is_local(site)]
    if not observed:
        raise InputError(f"no observed site is in plate {particles.plate!r}, over data")
    log_likelihood = particles.total(observed)
    none = torch.zeros_like(log_likelihood)
    log_q = particles.total(local_q) if local_q else none
    if path == "partial":
        direct = particles.total([site | {"log_prob": _at_fixed_samples(site)} for site in local_q])
        log_q = log_q - (direct - direct.detach())
    obstacle = _obstacle(guide_sites, hidden)
    num_data = particles.num_data(bound)
    scored = [site for site in local_q if not getattr(site["fn"], "has_rsample", False)]
    return Terms(
        log_likelihood=log_likelihood,
        log_prior=particles.total(hidden) if hidden else none,
        log_q=log_q,
        score=particles.total(scored) if scored else None,
        shared=_shared(particles, model_sites, guide_sites) / num_data,
        shared_sites=bound.shared_sites,
        unscored_sites=tuple(s["name"] for s in guide_sites if _is_unscored(particles, s)),
        size=num_data,
        latents=tuple(
            LatentSite(
                site["name"],
                site["value"],
                _fn(guide_trace, site["name"]),
                site["fn"],
                particles,
                particles.data_dim(site),
                obstacle or ("it is masked" if site["mask"] is not None else ""),
            )
            for site in hidden
        ),
        _copies=tuple(
            (_value(guide_trace, site["name"]), site["value"])
            for site in hidden
            if path == "separate" and site["value"].requires_grad
        ),
        _log_q_of_dreams=lambda: (
            torch.stack(
                [
                    site["log_prob"].sum() / site["scale"]
                    for site in _sample_sites(particles.dreamt(args, kwargs))
                ]
            ).sum()
            / log_q.shape[1]
        ),
    )


def refuse_dependent_latents(
    particles: Particles, args: tuple[Any, ...], kwargs: dict[str, Any], objective: str
) -> None:
    """Make sure that no reparameterised latent of the guide is drawn given another.

    Raises:
        InputError: if one is, so that gradients through samples cannot be told apart.
    """
    pair = Pair(particles.model, particles.guide)
    with torch.random.fork_rng(), torch.enable_grad(), pair.eval_mode():
        guide_trace, _ = particles.traces(args, kwargs)
        drawn = [site for site in _sample_sites(guide_trace) if site["value"].requires_grad]
        for number, site in enumerate(drawn):
            earlier = [each["value"] for each in drawn[:number]]
            total = site["value"].sum()
            reached = (
                torch.autograd.grad(total, earlier, retain_graph=True, allow_unused=True)
                if earlier
                else ()
            )
            for each, gradient in zip(drawn[:number], reached, strict=True):
                if gradient is not None:
                    raise InputError(
                        f"{objective} needs latents that the guide draws independently, given x, "
                        f"but {site['name']!r} is drawn given {each['name']!r}; use 'iwae', or one "
                        "site for both"
                    )


def _at_fixed_samples(site: Site) -> Tensor:
    """log q with a gradient in its parameters alone."""
    value = site["value"].detach()
    try:
        log_prob = site["fn"].log_prob(value, *site["args"], **site["kwargs"])
    except (KeyError, NotImplementedError) as error:
        raise InputError(
            f"site {site['name']!r} of the guide has no density of values that it did not just "
            "draw, such as a flow that cannot be inverted; use 'elbo' or 'iwae'"
        ) from error
    scaled: Tensor = scale_and_mask(log_prob, site["scale"], site["mask"])
    return scaled


def _shared(particles: Particles, model_sites: list[Site], guide_sites: list[Site]) -> Tensor:
    like: Tensor = model_sites[0]["log_prob_sum"].new_zeros(())
    log_p = (s["log_prob_sum"] for s in model_sites if not particles.is_local(s))
    log_q = (s["log_prob_sum"] for s in guide_sites if not particles.is_local(s))
    num = particles.num if particles.uses_plate else 1  # else they are drawn once
    return (sum(log_p, like) - sum(log_q, like)) / num


def _is_unscored(particles: Particles, site: Site) -> bool:
    is_drawn = not (site["is_observed"] or particles.is_local(site))
    return is_drawn and not getattr(site["fn"], "has_rsample", False)


def _obstacle(guide_sites: list[Site], hidden: list[Site]) -> str:
    """Why KL(q | p) is not the sum of those of each latent, given those drawn before it."""
    if any(site["infer"].get("is_auxiliary") for site in guide_sites):
        return "the guide draws it by way of an auxiliary site"
    names = [site["name"] for site in hidden]
    drawn = [site["name"] for site in guide_sites if site["name"] in names]
    if drawn != names:
        return "model and guide draw their latents in different orders"
    return ""


def _fn(trace: Trace, name: str) -> Any:
    return trace.nodes[name]["fn"]


def _value(trace: Trace, name: str) -> Any:
    return trace.nodes[name]["value"]


def _sample_sites(trace: Trace) -> Iterator[Site]:
    nodes: Iterator[Any] = iter(trace.nodes.values())
    return (site for site in nodes if site["type"] == "sample")
