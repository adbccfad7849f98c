"""What goes wrong in training without an error, in words: collapse, vanishing scales."""

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
from ..infer.compiler.captured import without_trace
from ..infer.estimators.collapse import LatentReport, latent_report
from ..infer.nonfinite.arguments import tensor_arguments
from ..infer.objectives.elbo import ELBO
from ..infer.objectives.objective import Objective
from ..infer.objectives.schedules import Cyclical, Linear, weight_at
from ..infer.pair.pair import Pair
from .history import Epoch

__all__ = ["SymptomWarning", "Symptoms"]

_LITTLE = 0.1
"""Nats of KL about a datum below which it is looked whether latents are used at all."""

_UNUSED = 0.01
"""Nats below which they are as good as unused, where no more can be told."""

_EPOCHS = 5
"""Epochs running in which they are to be unused."""

_FAR = 1e4
"""By what factor a scale is to have changed."""

_WIDTHS = ("scale", "sigma", "std")
"""How arguments begin that are widths, in units of the variable."""

_VARIANCES = ("cov_diag", "covariance_matrix")
"""Arguments that are squares of widths."""

_VANISHED = {
    "model": (
        "the density of data that the model gives exactly grows without bound, so that the loss "
        "falls and says little; leave out features that are constant or repeated, add noise to "
        "rounded data, or give the scale as a constant"
    ),
    "guide": (
        "q is all but a point, and its KL grows without bound; give the likelihood a larger scale, "
        "standardise the data, or lower the learning rate"
    ),
}
"""What it leads to and what to try, where a scale of the likelihood or the posterior vanishes."""

_EXPLODED = {
    "model": (
        "the likelihood explains next to nothing of the data; standardise them, or lower the "
        "learning rate"
    ),
    "guide": (
        "latents are drawn far from all that the decoder has seen, where numbers overflow; lower "
        "the learning rate, clip the gradient, or standardise the data"
    ),
}
"""Likewise where it explodes."""


class SymptomWarning(RuntimeWarning):
    """Training went on, and what came of it may be of no use."""


class Symptoms:
    """Watches a fit for what is no error and yet wrong, and warns of each thing once.

    Posterior collapse, by :func:`~pyrovae.infer.latent_report` on one batch, where the KL is below
    0.1 nats a datum for five epochs running, or in the last epoch of a shorter fit; below 0.01
    where that report cannot be had. Not where it is exactly 0, no latent belongs to one datum, or
    the objective's weights were still changing.

    Scales, of the posterior and of a likelihood that is a density, that are 10,000 times smaller or
    larger than at the start, and than any was then: on one batch, in eval mode, after epochs 1, 2,
    4, 8 and so on, and the last. A look runs model and guide once, without densities and gradients:
    some milliseconds.

    Parameters, random numbers and the modes of networks are left as they were.

    Arguments:
        pair: model and guide, as they start; this is the first look.
        loss: the objective.
        batch: arguments of both.
    """

    def __init__(self, pair: Pair, loss: ELBO | Objective, batch: Sequence[Any]) -> None:
        self._pair = pair
        self._loss = loss
        self._batch = tuple(batch)
        self._latents: tuple[str, ...] = ()
        self._num_changing = 0
        self._said: set[tuple[str, ...]] = set()
        self._first = self._scales()

    def check(self, epochs: Sequence[Epoch], is_last: bool) -> None:
        """Look at a fit after an epoch.

        Arguments:
            epochs: all until now.
            is_last: whether no other will follow.
        """
        if _is_changing(self._loss):
            self._num_changing = len(epochs)
        self._look_at_kl([epoch.kl for epoch in epochs[self._num_changing :]], is_last)
        number = len(epochs)
        if is_last or number & (number - 1) == 0:
            self._look_at_scales()

    def _look_at_kl(self, kl: list[float], is_last: bool) -> None:
        recent = kl[-_EPOCHS:] if len(kl) >= _EPOCHS else kl[-1:] if is_last else []
        is_said = ("collapse",) in self._said
        if (
            is_said
            or not (self._latents and recent)
            or any(not 0 < abs(each) < _LITTLE for each in recent)
        ):
            return
        report = self._latent_report()
        if report is not None:
            if report.is_collapsed:
                self._say(("collapse",), report.sentence)
            return
        if max(map(abs, recent)) >= _UNUSED:
            return
        # Of the latents it is known that I(x; z) is no more than the KL; not their means.
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
        self._say(
            ("collapse",),
            f"the KL has come below {_UNUSED} nats a datum: {report.sentence}",
        )

    def _latent_report(self) -> LatentReport | None:
        """How far the latents are used that are used the most; None where that cannot be told."""
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

    def _look_at_scales(self) -> None:
        now = self._scales()
        keys = [key for key, scale in now.items() if _have_one_shape(scale, self._first.get(key))]
        if not keys:
            return
        figures = torch.stack([_most_changed(self._first[key], now[key]) for key in keys])
        for key, (low_before, low, high_before, high) in zip(keys, figures.tolist(), strict=True):
            role, site, argument = key
            what = f"{argument} at site {site!r} of the {role}"
            first = self._first[key]
            if low * _FAR < low_before and low < float(first.min()):
                figure = f"it was {low_before:.2g} at the start, and is {low:.2g} now"
                self._say((*key, "low"), f"{what} has vanished: {figure}; {_VANISHED[role]}")
            if high > high_before * _FAR and high > float(first.max()):
                figure = f"it was {high_before:.2g} at the start, and is {high:.2g} now"
                self._say((*key, "high"), f"{what} has exploded: {figure}; {_EXPLODED[role]}")

    def _scales(self) -> dict[tuple[str, str, str], Float[Tensor, "entries"]]:
        """What every scale is, by role, site and argument."""
        found: dict[tuple[str, str, str], list[Tensor]] = {}
        starts = not self._pair.stored()  # what the first step draws is for it to draw
        store = self._pair.throwaway_store if starts else self._pair.store
        with without_trace(()), torch.no_grad(), store(), self._pair.eval_mode():
            model, guide = self._pair.functions
            of_guide: Any = poutine.trace(guide).get_trace(*self._batch)
            replayed = poutine.replay(model, trace=of_guide)
            of_model: Any = poutine.trace(replayed).get_trace(*self._batch)
            for role, trace in (("guide", of_guide), ("model", of_model)):
                for name, site in trace.nodes.items():
                    if _has_part(site, role):
                        for argument, scale in _scales_of(site["fn"]):
                            found.setdefault((role, name, argument), []).append(_entries(scale))
        self._latents = tuple(_local(of_guide, self._loss.plate))
        return {key: torch.cat(each) for key, each in found.items()}

    def _say(self, key: tuple[str, ...], sentence: str) -> None:
        if key not in self._said:
            self._said.add(key)
            warnings.warn(sentence, SymptomWarning, stacklevel=5)


def _is_changing(loss: ELBO | Objective) -> bool:
    """Whether a weight of the objective is on its way to where it ends."""
    schedules = [each for each in vars(loss).values() if isinstance(each, Linear | Cyclical)]
    if not schedules:
        return False
    assert isinstance(loss, Objective)
    now = [(float(weight_at(each, loss.step)), each.end) for each in schedules]
    return not all(isclose(weight, end, rel_tol=1e-4) for weight, end in now)


def _most_changed(
    before: Float[Tensor, "entries"], now: Float[Tensor, "entries"]
) -> Float[Tensor, "4"]:
    """The entry that shrank the most, before and now; and the one that grew the most, likewise."""
    ratio = (now / before).nan_to_num(nan=1.0, posinf=torch.inf)
    shrunk, grown = ratio.argmin(), ratio.argmax()
    return torch.stack([before[shrunk], now[shrunk], before[grown], now[grown]]).float()


def _have_one_shape(these: Tensor, those: Tensor | None) -> bool:
    return those is not None and these.shape == those.shape and these.numel() > 0


def _entries(scale: Tensor) -> Float[Tensor, "entries"]:
    """A copy of all that are apart in memory: of one scale for all data, one."""
    own = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in scale.stride())
    return scale[own].flatten().clone()


def _has_part(site: Any, role: str) -> bool:
    """Whether it is a latent of the guide, or what the model observes."""
    return site["type"] == "sample" and site["is_observed"] is (role == "model")


def _local(trace: Any, plate: str) -> Iterator[str]:
    """The latents that each datum has of its own."""
    for name, site in trace.nodes.items():
        is_latent = site["type"] == "sample" and not site["is_observed"]
        if is_latent and any(frame.name == plate for frame in site["cond_indep_stack"]):
            yield name


def _scales_of(fn: Any) -> Iterator[tuple[str, Tensor]]:
    """The scales of variables that have a density, each in words, in units of the variable."""
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
    except NotImplementedError:  # of a user's own
        return False
    return bool(getattr(support, "is_discrete", False))
