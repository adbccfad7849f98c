"""Records of a fit: log p(x), the ELBO and the gap between them, step by step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..arguments import TensorLike
from .mixture import Mixture
from .points import as_points

__all__ = ["Climb", "State", "bound_terms", "record"]


@dataclass(frozen=True, eq=False)
class State:
    """The state of a method after a step.

    Attributes:
        phase: the kind of step: ``"start"``, ``"E"``, ``"M"`` or ``"gradient"``.
        mixture: the parameters theta; if they have a posterior, its mean.
        log_q: log q(z = k) for each datum.
        evidence_bound: if the parameters have a posterior, the ELBO on log p(x) with the
            parameters integrated out, in nats for all data.
        measure: returns the variance of the estimated gradient of the ELBO, in nats per datum,
            summed over the parameters of q; call it before the next step.
        degenerate: components at the covariance floor, or without data.
        posterior: q(theta), if there is one.
        assign: if q is a network, a function that computes log q of any data. It uses the current
            weights of the network, which change until the last step.
    """

    phase: str
    mixture: Mixture
    log_q: Float[Tensor, "n k"]
    evidence_bound: Float[Tensor, ""] | None = None
    measure: Callable[[], Float[Tensor, ""]] | None = None
    degenerate: tuple[int, ...] = ()
    posterior: Any = None
    assign: Callable[[Tensor], Tensor] | None = None


@torch.no_grad()
def bound_terms(log_q: Float[Tensor, "n k"], log_joint: Float[Tensor, "n k"]) -> Float[Tensor, "3"]:
    """(log p(x), ELBO, KL(q || p(z | x))), each from its own formula; means over data, in nats.

    ::

        log p(x) = log sum_k exp(log_joint_k)
        ELBO     = sum_k q_k (log_joint_k - log q_k)
        KL       = sum_k q_k (log q_k - log p(z = k | x))
    """
    q = log_q.exp()
    log_posterior = log_joint.log_softmax(1)

    def expected(term: Tensor) -> Tensor:
        return torch.where(q > 0, q * term, 0.0).sum(1).mean()

    return torch.stack(
        [
            log_joint.logsumexp(1).mean(),
            expected(log_joint - log_q),
            expected(log_q - log_posterior),
        ]
    )


@dataclass(frozen=True)
class Climb:
    """The record of a fit, step by step, in nats per datum of the training data.

    Attributes:
        phases: the kind of each step.
        log_likelihood: mean of log p(x; theta) after each step.
        elbo: the bound that the method maximises: on log p(x; theta) or, if the parameters have a
            posterior, on the evidence log p(x).
        kl: the gap KL(q || p) between the bound and what it bounds; NaN if the latter is unknown.
        gradient_variance: variance of the estimated gradient; NaN where it was not measured.
        seconds: time from the start to the end of each step. It leaves out the terms of the
            identity, but includes log q of all data and, in variational Bayes, the bound.
        mixtures: theta after each step.
        watched: q of the watched data after each step, in single precision.
        last: the last state.
    """

    phases: list[str]
    log_likelihood: list[float]
    elbo: list[float]
    kl: list[float]
    gradient_variance: list[float]
    seconds: list[float]
    mixtures: list[Mixture]
    watched: list[Float[Tensor, "m k"]]
    last: State

    def with_evidence(self, log_evidence: float) -> "Climb":
        """Return a copy with ``kl`` computed from log p(x), which is given in nats per datum."""
        return replace(self, kl=[log_evidence - bound for bound in self.elbo])

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each step."""
        columns = ("phases", "log_likelihood", "elbo", "kl", "gradient_variance", "seconds")
        values = zip(*(getattr(self, column) for column in columns), strict=True)
        names = ("phase", *columns[1:])
        return [{"step": i, **dict(zip(names, row, strict=True))} for i, row in enumerate(values)]


def record(
    states: Iterable[State],
    x: TensorLike,
    *,
    watch: Int[Tensor, "m"] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Climb:
    """Run a method to its end and record every step.

    Arguments:
        states: the states of the method, such as ``em(...)``.
        x: the data that it is fitted to.
        watch: indices of data whose q to keep at each step; none unless given.
        on_step: called after each step.

    Raises:
        ValueError: if there are no states.
    """
    x = as_points(x, missing=True)
    phases, terms, variances, mixtures, watched, seconds = [], [], [], [], [], []
    unknown = x.new_tensor(float("nan"), dtype=torch.float64)
    clock, started = 0.0, perf_counter()
    state = None
    for state in states:
        clock += perf_counter() - started
        figures = bound_terms(state.log_q, state.mixture.log_joint(x))
        if state.evidence_bound is not None:
            bound = state.evidence_bound / len(x)
            figures = torch.stack([figures[0], bound, unknown])
        terms.append(figures)
        variances.append(unknown if state.measure is None else state.measure())
        phases.append(state.phase)
        mixtures.append(state.mixture)
        if watch is not None:
            watched.append(state.log_q[watch].exp().float())
        seconds.append(clock)
        if on_step is not None:
            on_step()
        started = perf_counter()
    if state is None:
        raise ValueError("states is empty; a method must yield at least one state")
    log_likelihood, elbo, kl = torch.stack(terms).T.tolist()
    variance = torch.stack(variances).tolist()
    return Climb(phases, log_likelihood, elbo, kl, variance, seconds, mixtures, watched, state)
