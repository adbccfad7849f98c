"""A method seen from outside: log p(x), the ELBO and the gap between them, step by step."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .mixture import Mixture

__all__ = ["Climb", "State", "bound_terms", "record"]


@dataclass(frozen=True, eq=False)
class State:
    """Where a method stands after a step.

    Attributes:
        phase: what the step was: ``"E"``, ``"M"``, ``"gradient"``.
        mixture: the parameters theta; where these have a posterior, its mean.
        log_q: log q(z = k) for each datum.
        evidence_bound: where the parameters have a posterior, the ELBO on log p(x) with the
            parameters integrated out, in nats for all data.
        measure: gives the variance of the estimated gradient of the ELBO, in nats per datum,
            summed over the parameters of q; to be called before the next step.
        degenerate: components on the floor of the covariances, or without data.
        posterior: q(theta), where there is one.
        assign: log q of any data, where q is a network; of this network as it is when called, which
            learns on until the last step.
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
    """What a method went through, step by step, in nats per datum of the training data.

    Attributes:
        phases: what each step was.
        log_likelihood: mean of log p(x; theta) after each step.
        elbo: the bound that the method climbs: on log p(x; theta), or where the parameters have a
            posterior, on the evidence log p(x).
        kl: the gap KL(q || p) below what is bounded; NaN where that is not known.
        gradient_variance: NaN where it was not measured.
        seconds: when each step had ended. The terms of the identity are worked out off the clock;
            that each state holds log q of all data, and of variational Bayes its bound, is not.
        mixtures: theta after each step.
        watched: q of the data that were watched after each step, in single precision.
        last: where the method ended.
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
        """The same climb towards a log p(x), in nats per datum, that has since become known."""
        return replace(self, kl=[log_evidence - bound for bound in self.elbo])

    def rows(self) -> list[dict[str, Any]]:
        """One dict a step."""
        columns = ("phases", "log_likelihood", "elbo", "kl", "gradient_variance", "seconds")
        values = zip(*(getattr(self, column) for column in columns), strict=True)
        names = ("phase", *columns[1:])
        return [{"step": i, **dict(zip(names, row, strict=True))} for i, row in enumerate(values)]


def record(
    states: Iterable[State],
    x: Float[Tensor, "n d"],
    *,
    watch: Int[Tensor, "m"] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Climb:
    """Run a method to its end and write down what it goes through.

    Arguments:
        states: the method, under way.
        x: the data that it is fitted to.
        watch: which data to keep q of at each step; none unless given.
        on_step: called after each step.
    """
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
        raise ValueError("the method took no step")
    log_likelihood, elbo, kl = torch.stack(terms).T.tolist()
    variance = torch.stack(variances).tolist()
    return Climb(phases, log_likelihood, elbo, kl, variance, seconds, mixtures, watched, state)
