"""Warn of training that goes wrong without an error: posterior collapse, vanishing scales."""

import warnings
from collections.abc import Iterator, Sequence
from math import isclose
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from ..errors import InputError
from ..infer.compiler.preserve import preserve_state
from ..infer.estimators.collapse import LatentReport, latent_report
from ..infer.nonfinite.arguments import tensor_arguments
from ..infer.objectives.elbo import ELBO
from ..infer.objectives.objective import Objective
from ..infer.objectives.schedules import Cyclical, Linear, weight_at
from ..infer.pair.pair import Pair
from ..infer.pair.plates import trace_function
from .history import Epoch

__all__ = ["SymptomWarning", "Symptoms"]

_SMALL_KL = 0.1
"""KL in nats per datum below which a check finds out whether latents are used at all."""

_UNUSED_KL = 0.01
"""KL in nats per datum below which latents count as unused if that check is not possible."""

_NUM_EPOCHS = 5
"""Number of epochs in a row in which latents must be unused."""

_MAX_FACTOR = 1e4
"""Factor of change beyond which a scale has vanished or exploded."""

_WIDTHS = ("scale", "sigma", "std")
"""Prefixes of arguments that are in units of the variable."""

_VARIANCES = ("cov_diag", "covariance_matrix")
"""Arguments that are in squared units of the variable."""

_VANISHED = {
    "model": (
        "the density of data that the model reproduces exactly grows without bound, so that the "
        "loss falls but says little; leave out features that are constant or repeated, add noise "
        "to rounded data, or give the scale as a constant"
    ),
    "guide": (
        "q has become almost a point, and its KL grows without bound; give the likelihood a larger "
        "scale, standardise the data, or lower the learning rate"
    ),
}
"""Consequence and advice if a scale of the likelihood or the posterior vanishes."""

_EXPLODED = {
    "model": (
        "the likelihood explains almost nothing of the data; standardise them, or lower the "
        "learning rate"
    ),
    "guide": (
        "latents are drawn far from any that the decoder has seen, where numbers overflow; lower "
        "the learning rate, clip the gradient, or standardise the data"
    ),
}
"""Consequence and advice if a scale explodes."""


class SymptomWarning(RuntimeWarning):
    """Training continues, but its result may be useless."""


class Symptoms:
    """Watches a fit for problems that raise no error, and warns of each once.

    Posterior collapse: if the KL is below 0.1 nats per datum for five epochs in a row, or in the
    last epoch of a shorter fit, :func:`~pyrovae.infer.latent_report` on one batch decides; if that
    report is not possible, a KL below 0.01 does. There is no warning if the KL is exactly 0, if no
    latent belongs to a single datum, or while weights of the objective change.

    Scales that vanish or explode: scales of the posterior, and of a likelihood that is a density,
    that have become 10,000 times smaller or larger than at the start, and smaller or larger than
    any was then. They are checked on one batch, in eval mode, after epochs 1, 2, 4, 8 and so on,
    and after the last. A check runs model and guide once, without densities and gradients, in some
    milliseconds.

    Parameters, random numbers and the modes of networks stay unchanged.

    Arguments:
        pair: model and guide before training; their scales are recorded at once.
        loss: the objective.
        batch: arguments of model and guide.
    """

    def __init__(self, pair: Pair, loss: ELBO | Objective, batch: Sequence[Any]) -> None:
        self._pair = pair
        self._loss = loss
        self._batch = tuple(batch)
        self._latents: tuple[str, ...] = ()
        self._num_changing = 0
        self._warned: set[tuple[str, ...]] = set()
        self._start = self._read_scales()

    def check(self, epochs: Sequence[Epoch], is_last: bool) -> None:
        """Check a fit after an epoch.

        Arguments:
            epochs: all epochs so far.
            is_last: whether this is the last epoch.
        """
        if _is_changing(self._loss):
            self._num_changing = len(epochs)
        self._check_kl([epoch.kl for epoch in epochs[self._num_changing :]], is_last)
        number = len(epochs)
        if is_last or number & (number - 1) == 0:
            self._check_scales()

    def _check_kl(self, kl: list[float], is_last: bool) -> None:
        recent = kl[-_NUM_EPOCHS:] if len(kl) >= _NUM_EPOCHS else kl[-1:] if is_last else []
        has_warned = ("collapse",) in self._warned
        if (
            has_warned
            or not (self._latents and recent)
            or any(not 0 < abs(each) < _SMALL_KL for each in recent)
        ):
            return
        report = self._latent_report()
        if report is not None:
            if report.is_collapsed:
                self._warn(("collapse",), report.sentence)
            return
        if max(map(abs, recent)) >= _UNUSED_KL:
            return
        # I(x; z) is at most the KL; the means of the latents are unknown.
        known = torch.tensor([recent[-1]])
        report = LatentReport(
            site=", ".join(self._latents),
            kl=known,
            activity=known * torch.nan,
            active=torch.zeros(1, dtype=torch.bool),
            mutual_information=recent[-1],
            aggregate_kl=0.0,
            num_data=len(self._batch[0]),
        )
        self._warn(
            ("collapse",),
            f"the KL is below {_UNUSED_KL} nats per datum: {report.sentence}",
        )

    def _latent_report(self) -> LatentReport | None:
        """The report on the latents that are used the most; None if none is possible."""
        if not all(isinstance(part, Tensor) for part in self._batch):
            return None
        try:
            reports = latent_report(
                self._pair.model,
                self._pair.guide,
                self._batch,
                plate=self._loss.plate,
                progress=False,
            )
        except (InputError, FloatingPointError):
            return None
        return max(reports, key=lambda report: report.mutual_information)

    def _check_scales(self) -> None:
        now = self._read_scales()
        keys = [key for key, scale in now.items() if _have_same_shape(scale, self._start.get(key))]
        if not keys:
            return
        figures = torch.stack([_most_changed(self._start[key], now[key]) for key in keys])
        for key, (low_before, low, high_before, high) in zip(keys, figures.tolist(), strict=True):
            role, site, argument = key
            what = f"{argument} at site {site!r} of the {role}"
            first = self._start[key]
            if low * _MAX_FACTOR < low_before and low < float(first.min()):
                figure = f"it was {low_before:.2g} at the start, and is {low:.2g} now"
                self._warn((*key, "low"), f"{what} has vanished: {figure}; {_VANISHED[role]}")
            if high > high_before * _MAX_FACTOR and high > float(first.max()):
                figure = f"it was {high_before:.2g} at the start, and is {high:.2g} now"
                self._warn((*key, "high"), f"{what} has exploded: {figure}; {_EXPLODED[role]}")

    def _read_scales(self) -> dict[tuple[str, str, str], Float[Tensor, "entries"]]:
        """The entries of every scale, by role, site and argument."""
        found: dict[tuple[str, str, str], list[Tensor]] = {}
        pair = self._pair
        with preserve_state(()), torch.no_grad(), pair.throwaway_store(), pair.eval_mode():
            model, guide = self._pair.functions
            of_guide: Any = trace_function(guide, *self._batch)
            replayed = poutine.replay(model, trace=of_guide)
            of_model: Any = trace_function(replayed, *self._batch)
            for role, trace in (("guide", of_guide), ("model", of_model)):
                for name, site in trace.nodes.items():
                    if _is_relevant(site, role):
                        for argument, scale in _scales_of(site["fn"]):
                            found.setdefault((role, name, argument), []).append(_entries(scale))
        self._latents = tuple(_local_latents(of_guide, self._loss.plate))
        return {key: torch.cat(each) for key, each in found.items()}

    def _warn(self, key: tuple[str, ...], sentence: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(sentence, SymptomWarning, stacklevel=5)


def _is_changing(loss: ELBO | Objective) -> bool:
    """Whether a weight of the objective has not reached its end yet."""
    schedules = [each for each in vars(loss).values() if isinstance(each, Linear | Cyclical)]
    if not schedules:
        return False
    assert isinstance(loss, Objective)
    now = [(float(weight_at(each, loss.step)), each.end) for each in schedules]
    return not all(isclose(weight, end, rel_tol=1e-4) for weight, end in now)


def _most_changed(
    before: Float[Tensor, "entries"], now: Float[Tensor, "entries"]
) -> Float[Tensor, "4"]:
    """Before and now: the entry that shrank the most, then the entry that grew the most."""
    ratio = (now / before).nan_to_num(nan=1.0, posinf=torch.inf)
    shrunk, grown = ratio.argmin(), ratio.argmax()
    return torch.stack([before[shrunk], now[shrunk], before[grown], now[grown]]).float()


def _have_same_shape(these: Tensor, those: Tensor | None) -> bool:
    return those is not None and these.shape == those.shape and these.numel() > 0


def _entries(scale: Tensor) -> Float[Tensor, "entries"]:
    """A copy of the distinct entries in memory; a scale that all data share has one."""
    own = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in scale.stride())
    return scale[own].flatten().clone()


def _is_relevant(site: Any, role: str) -> bool:
    """Whether a site is a latent of the guide, or observed by the model."""
    return site["type"] == "sample" and site["is_observed"] is (role == "model")


def _local_latents(trace: Any, plate: str) -> Iterator[str]:
    """Names of the latents that belong to a single datum."""
    for name, site in trace.nodes.items():
        is_latent = site["type"] == "sample" and not site["is_observed"]
        if is_latent and any(frame.name == plate for frame in site["cond_indep_stack"]):
            yield name


def _scales_of(fn: Any) -> Iterator[tuple[str, Tensor]]:
    """Scales of continuous variables, with a description, in units of the variable."""
    for each in tensor_arguments(fn):
        is_variance = each.name in _VARIANCES
        if each.constraint is None or not (is_variance or each.name.startswith(_WIDTHS)):
            continue
        if isinstance(each.owner, Distribution) and not _is_discrete(each.owner):
            is_matrix = each.name in ("scale_tril", "covariance_matrix")
            scale = each.value.diagonal(dim1=-2, dim2=-1) if is_matrix else each.value
            yield f"{each.name} of {each.family}", scale.sqrt() if is_variance else scale


def _is_discrete(distribution: Distribution) -> bool:
    try:
        support: Any = distribution.support
    except NotImplementedError:  # a user's own distribution
        return False
    return bool(getattr(support, "is_discrete", False))
