"""The base class of objectives: a Pyro loss from a pure function of the terms of the bound."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pyro.infer.util import torch_backward
from torch import Tensor, nn

from ...arguments import as_text, as_whole
from ...errors import InputError
from ..pair.bound import Bound, PyroFunction
from ..pair.layout import PerSample
from ..pair.particles import GradientPath, Particles
from ..pair.terms import Terms, check_latents_are_independent, evaluate_terms
from .elbo import Loss

__all__ = ["MAX_PARTICLES", "Objective", "mean_of_others"]

MAX_PARTICLES = 100_000
"""The largest number of samples of each datum's latents in an objective."""


class Objective(nn.Module):
    """An objective to maximise in place of the ELBO, for any model and guide.

    It is a function of the :class:`~pyrovae.infer.pair.terms.Terms` of a batch and of the number
    of steps so far, which it counts. To write one, override :meth:`value`. It has the methods of a
    Pyro loss: pass it to ``SVI(..., loss=objective)``, or
    ``pyro.infer.SVI(..., loss=objective.differentiable_loss)``.

    A latent that cannot be reparameterised gets the score function gradient. The baseline is the
    mean over the other samples of a datum, or with one sample the mean over the other data of the
    batch (Kool et al. 2019); see :meth:`signal`.

    Arguments:
        num_particles: K, samples of the latents of each datum.
        size: number of data N that a batch stands for; the size of the plate by default.
        plate: name of the plate over data.

    Attributes:
        step: number of gradients computed so far.
    """

    name: ClassVar[str]
    path: ClassVar[GradientPath] = "total"
    is_bound: ClassVar[bool] = False
    """Whether its value is a lower bound on log p(x) and is reported as such."""
    fewest_particles: ClassVar[int] = 1
    takes_shared: ClassVar[bool] = False
    """Whether latents may be shared by all data."""

    is_mean_over_data: ClassVar[bool] = True
    """Whether its gradient is a mean over data, so that a batch may be computed in shards."""

    step: Int[Tensor, ""]

    def __init__(
        self, num_particles: int = 1, *, size: int | None = None, plate: str = "data"
    ) -> None:
        super().__init__()
        num_particles = as_whole("num_particles", num_particles, 1, MAX_PARTICLES)
        if num_particles < self.fewest_particles:
            raise InputError(
                f"num_particles is {num_particles}; {self.name} needs {self.fewest_particles} or "
                "more"
            )
        self.num_particles = num_particles
        self.size = None if size is None else as_whole("size", size, 1, 2**53)
        self.plate = as_text("plate", plate)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._particles: Particles | None = None

    def value(self, terms: Terms) -> Float[Tensor, "..."]:
        """The objective, in nats: for each datum, or averaged over the batch."""
        raise NotImplementedError

    def surrogate(self, terms: Terms) -> Float[Tensor, ""]:
        """A function whose gradient is followed to maximise the objective."""
        return self._add_score(self.value(terms).mean(), terms)

    def _add_score(self, surrogate: Float[Tensor, ""], terms: Terms) -> Float[Tensor, ""]:
        if terms.score is None:
            return surrogate
        return surrogate + (self.signal(terms).detach() * terms.score).sum(0).mean()

    def signal(self, terms: Terms) -> PerSample:
        """The factor of each sample's score function: the objective minus a baseline."""
        raise InputError(
            f"{self.name} needs latents that can be reparameterised, but a site of the guide has "
            "no rsample; use 'elbo', 'iwae' or 'rws'"
        )

    def gradient_scale(self, terms: Terms) -> PerSample | None:
        """Factors that multiply gradients when they reach the samples; None for 1."""
        return None

    def loss(self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any) -> Loss:
        """The loss per datum, without a gradient: minus the objective if it is a bound on log p(x),
        and minus the ELBO otherwise.

        Raises:
            InputError: if the objective cannot be computed for this pair.
        """
        with torch.no_grad():
            terms = self._terms(model, guide, args, kwargs)
            return self._loss(terms, is_reported=True)

    def differentiable_loss(
        self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any
    ) -> Float[Tensor, ""]:
        """The loss per datum, with the gradient that minimises it."""
        terms = self._terms(model, guide, args, kwargs)
        surrogate = -self.surrogate(terms) - terms.shared
        loss = self._loss(terms).loss
        self._count_step()
        return surrogate - surrogate.detach() + loss

    def loss_and_grads(
        self, model: PyroFunction, guide: PyroFunction, *args: Any, **kwargs: Any
    ) -> Loss:
        """Compute the loss per datum, and add its gradient to the ``grad`` of each parameter."""
        terms = self._terms(model, guide, args, kwargs)
        torch_backward(-self.surrogate(terms) - terms.shared)
        loss = self._loss(terms)
        self._count_step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pair that it was last used with."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state | {"_particles": None}

    @torch.no_grad()
    def _count_step(self) -> None:
        self.step.add_(1)

    def _loss(self, terms: Terms, is_reported: bool = False) -> Loss:
        with torch.no_grad():
            elbo = terms.log_weight.mean()
            value = elbo if is_reported and not self.is_bound else self.value(terms).mean()
            reconstruction = -terms.log_likelihood.mean()
            kl = terms.kl.mean() - terms.shared
            return Loss(-value - terms.shared, reconstruction, kl)

    def _terms(
        self, model: PyroFunction, guide: PyroFunction, args: Any, kwargs: dict[str, Any]
    ) -> Terms:
        particles = self._particles
        settings = (model, guide, self.num_particles, self.plate)
        if particles is None or particles.settings != settings:
            particles = Particles(model, guide, self.num_particles, self.plate, args, kwargs)
            if self.path == "partial":
                check_latents_are_independent(particles, args, kwargs, self.name)
            self._particles = particles
        scales: list[PerSample] = []
        scales_gradients = type(self).gradient_scale is not Objective.gradient_scale
        terms = evaluate_terms(
            particles,
            args,
            kwargs,
            size=self.size,
            check=self._check,
            path=self.path,
            gradient_scale=(lambda: scales[0]) if scales_gradients else None,
        )
        if terms.unscored_sites:
            raise InputError(
                f"site {terms.unscored_sites[0]!r} of the guide is shared by all data and cannot "
                "be reparameterised; use 'elbo' for this pair"
            )
        if self.step.device != terms.log_q.device:
            self.step = self.step.to(terms.log_q.device)
        scale = self.gradient_scale(terms)
        if scale is not None:
            scales.append(scale.detach())
        return terms

    def _check(self, bound: Bound) -> None:
        if bound.shared_sites and not self.takes_shared:
            raise InputError(
                f"{self.name} weights the samples of each datum separately, but site "
                f"{bound.shared_sites[0]!r} is outside of plate {self.plate!r}, shared by all "
                "data; use 'elbo' for this pair"
            )


def mean_of_others(values: PerSample) -> PerSample:
    """For each sample, the mean over the other samples of the same datum, or over other data."""
    dim = 0 if len(values) > 1 else 1
    num = values.shape[dim]
    if num == 1:
        return torch.zeros_like(values)
    return (values.sum(dim, keepdim=True) - values) / (num - 1)
