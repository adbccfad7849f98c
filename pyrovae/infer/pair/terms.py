"""The terms of the bound for each datum, at several samples of its latents: input to objectives.

For each datum x of a batch and each of K samples z_k ~ q(z | x): log p(x | z_k), log p(z_k) and
log q(z_k | x), in nats, without the scale by which a minibatch stands for all data.
"""

from collections.abc import Callable
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
from .latents import unwrap_independent
from .layout import ParticleLayout, PerSample
from .pair import Pair
from .particles import GradientPath, Particles
from .sites import Site, is_deterministic, sample_sites
from .sleep import trace_sleep_phase

__all__ = ["LatentSite", "Terms", "check_latents_are_independent", "evaluate_terms"]


@dataclass(frozen=True)
class LatentSite:
    """A latent of each datum.

    Attributes:
        name: name of the site.
        value: its samples.
        q: the distribution that the guide draws them from.
        p: their prior, given the latents it depends on.
    """

    name: str
    value: Tensor
    q: Distribution
    p: Distribution
    _layout: ParticleLayout
    _data_dim: int
    _obstacle: str

    def kl(self) -> Float[Tensor, "particles batch"]:
        """KL(q | p), in closed form if torch has it, else log q(z) - log p(z)."""
        return self.kl_of_dimensions().sum(-1)

    def kl_of_dimensions(self) -> Float[Tensor, "particles batch dims"]:
        """KL(q | p) of each dimension if q and p both factorise, else of all as one dimension.

        Raises:
            InputError: if q and p alone do not determine the latent's part of KL(q | p).
        """
        if self._obstacle:
            raise InputError(
                f"the KL of latent {self.name!r} cannot be computed from its distributions alone, "
                f"since {self._obstacle}; use kl='sampled', or 'elbo'"
            )
        q, p = self.factors()
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = q.log_prob(self.value) - p.log_prob(self.value)
        return self.rows(kl)

    def rows(self, x: Float[Tensor, "..."]) -> Float[Tensor, "particles batch dims"]:
        """Samples, or a quantity of each dimension, arranged by sample and datum."""
        return self._layout.rows(x, len(self.q.batch_shape), self._data_dim)

    def factors(self) -> tuple[Distribution, Distribution]:
        """q and p of single dimensions if both factorise; else q and p unchanged."""
        q, p = unwrap_independent(self.q), unwrap_independent(self.p)
        return (q, p) if not (q.event_shape or p.event_shape) else (self.q, self.p)


@dataclass(frozen=True)
class Terms:
    """The result of one evaluation of a pair, for K samples of each of B data, in nats.

    Attributes:
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_q: log q(z | x), with the gradients asked for.
        score: log q(z | x) of sites that cannot be reparameterised; None if there are none.
        shared: (log p - log q) of sites that all data share, divided by N.
        shared_sites: the names of these sites.
        unscored_sites: of these, the sites of the guide that cannot be reparameterised.
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
        """A function with the part of the gradient of ``total`` that flows through the samples.

        Arguments:
            total: a function of log p(x | z) and log p(z), evaluated with the path ``"separate"``.
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
    check: Callable[[Bound], None] | None = None,
    path: GradientPath = "total",
    gradient_scale: Callable[[], PerSample] | None = None,
) -> Terms:
    """Draw samples from the guide, and score them and the data.

    Arguments:
        particles: the pair, with several samples of each datum.
        args: of model and guide.
        kwargs: of model and guide.
        size: number of data N; the size of the plate by default.
        apart: refuse sites that all data share.
        check: called with the bound before anything is scored; may refuse it.
        path: which gradients the terms carry.
        gradient_scale: gives, in the backward pass, the factors that multiply gradients when they
            reach the samples.

    Raises:
        InputError: if a site is scaled, or shared although ``apart`` is set; or if model and guide
            disagree about the latents.
    """
    layout = particles.layout
    guide_trace, model_trace = particles.traces(args, kwargs, path)
    bound = Bound(model_trace, guide_trace, layout.plate, size)
    bound.check()
    if apart:
        bound.check_data_are_apart()
    if check is not None:
        check(bound)
    guide_sites = list(sample_sites(guide_trace))
    if gradient_scale is not None:
        for site in guide_sites:
            is_drawn = site["value"].requires_grad and not site["is_observed"]
            if is_drawn and layout.is_local(site):
                layout.scale_gradient(site, gradient_scale)
                # A new tensor, so that no transform finds the value in its cache.
                site["value"] = site["value"].view_as(site["value"])
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    model_sites = [site for site in sample_sites(model_trace) if not is_deterministic(site)]
    local = [site for site in model_sites if layout.is_local(site)]
    observed = [site for site in local if site["is_observed"]]
    latent = [site for site in local if not site["is_observed"]]
    local_q = [site for site in guide_sites if layout.is_local(site)]
    if not observed:
        raise InputError(
            f"the model observes no site in plate {layout.plate!r}, which is over data; give the "
            "data to a site in that plate"
        )
    log_likelihood = layout.total(observed)
    zeros = torch.zeros_like(log_likelihood)
    log_q = layout.total(local_q) if local_q else zeros
    if path == "partial":
        direct = layout.total(
            [site | {"log_prob": _log_q_at_fixed_samples(site)} for site in local_q]
        )
        log_q = log_q - (direct - direct.detach())
    obstacle = _find_obstacle(guide_sites, latent)
    num_data = layout.num_data(bound)
    scored = [site for site in local_q if not getattr(site["fn"], "has_rsample", False)]

    def log_q_of_dreams() -> Tensor:
        trace = trace_sleep_phase(particles.model, particles.guide, args, kwargs)
        parts = [site["log_prob"].sum() / site["scale"] for site in sample_sites(trace)]
        return torch.stack(parts).sum() / log_q.shape[1]

    return Terms(
        log_likelihood=log_likelihood,
        log_prior=layout.total(latent) if latent else zeros,
        log_q=log_q,
        score=layout.total(scored) if scored else None,
        shared=_shared_terms(layout, model_sites, guide_sites) / num_data,
        shared_sites=bound.shared_sites,
        unscored_sites=tuple(s["name"] for s in guide_sites if _is_unscored(layout, s)),
        size=num_data,
        latents=tuple(
            LatentSite(
                site["name"],
                site["value"],
                _distribution(guide_trace, site["name"]),
                site["fn"],
                layout,
                layout.data_dim(site),
                obstacle or ("it is masked" if site["mask"] is not None else ""),
            )
            for site in latent
        ),
        _copies=tuple(
            (_value(guide_trace, site["name"]), site["value"])
            for site in latent
            if path == "separate" and site["value"].requires_grad
        ),
        _log_q_of_dreams=log_q_of_dreams,
    )


def check_latents_are_independent(
    particles: Particles, args: tuple[Any, ...], kwargs: dict[str, Any], objective: str
) -> None:
    """Check that the guide draws no reparameterised latent given another.

    Raises:
        InputError: if it does, so that gradients through the samples cannot be separated.
    """
    pair = Pair(particles.model, particles.guide)
    with torch.random.fork_rng(), torch.enable_grad(), pair.eval_mode():
        guide_trace, _ = particles.traces(args, kwargs)
        drawn = [
            site
            for site in sample_sites(guide_trace)
            if site["value"].requires_grad and not site["is_observed"]
        ]
        for number, site in enumerate(drawn):
            earlier = [each["value"] for each in drawn[:number]]
            total = site["value"].sum()
            gradients = (
                torch.autograd.grad(total, earlier, retain_graph=True, allow_unused=True)
                if earlier
                else ()
            )
            for each, gradient in zip(drawn[:number], gradients, strict=True):
                if gradient is not None:
                    raise InputError(
                        f"{objective} needs latents that the guide draws independently, given x, "
                        f"but {site['name']!r} is drawn given {each['name']!r}; use 'iwae', or one "
                        "site for both"
                    )


def _log_q_at_fixed_samples(site: Site) -> Tensor:
    """log q with a gradient only in its parameters."""
    value = site["value"].detach()
    try:
        log_prob = site["fn"].log_prob(value, *site["args"], **site["kwargs"])
    except (KeyError, NotImplementedError) as error:
        raise InputError(
            f"site {site['name']!r} of the guide can score only the values that it has just drawn, "
            "for example because it is a flow that cannot be inverted; use 'elbo' or 'iwae'"
        ) from error
    scaled: Tensor = scale_and_mask(log_prob, site["scale"], site["mask"])
    return scaled


def _shared_terms(
    layout: ParticleLayout, model_sites: list[Site], guide_sites: list[Site]
) -> Tensor:
    """log p - log q of the sites that all data share, averaged over samples."""
    zero: Tensor = model_sites[0]["log_prob_sum"].new_zeros(())
    log_p = (s["log_prob_sum"] for s in model_sites if not layout.is_local(s))
    log_q = (s["log_prob_sum"] for s in guide_sites if not layout.is_local(s))
    num = layout.num if layout.uses_plate else 1  # repeated rows share one draw
    return (sum(log_p, zero) - sum(log_q, zero)) / num


def _is_unscored(layout: ParticleLayout, site: Site) -> bool:
    is_drawn = not (site["is_observed"] or layout.is_local(site))
    return is_drawn and not getattr(site["fn"], "has_rsample", False)


def _find_obstacle(guide_sites: list[Site], latent: list[Site]) -> str:
    """Why KL(q | p) is not the sum over latents of their KL given earlier ones; empty if it is."""
    if any(site["infer"].get("is_auxiliary") for site in guide_sites):
        return "the guide draws it through an auxiliary site"
    names = [site["name"] for site in latent]
    drawn = [site["name"] for site in guide_sites if site["name"] in names]
    if drawn != names:
        return "model and guide draw their latents in different orders"
    return ""


def _distribution(trace: Trace, name: str) -> Any:
    return trace.nodes[name]["fn"]


def _value(trace: Trace, name: str) -> Any:
    return trace.nodes[name]["value"]
