"""Whether a pair uses its latents: information, active dimensions, posterior collapse."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import kl_divergence

from ...arguments import as_whole
from ...data.batches import Batches, LoaderBatches, Transform, as_batches
from ...errors import InputError
from ...progress import LateProgress
from ..pair.bound import PyroFunction
from ..pair.latents import LocalLatent, find_local_latents, flatten_per_datum, unwrap_independent
from ..pair.pair import Pair
from ..pair.rows import has_row_per_datum
from .aggregate import BatchPosterior, log_aggregate_posterior
from .options import check_options

__all__ = ["LatentReport", "latent_report"]

_MIN_ACTIVITY = 0.01
"""The activity above which a dimension counts as active, as in Burda et al. (2016)."""

_MIN_INFORMATION = 0.01
"""Mutual information in nats per datum below which latents count as unused."""


@dataclass(frozen=True)
class LatentReport:
    """How much one latent site of the guide is used, over N data.

    With q(z) = (1/N) sum_n q(z | x_n), the KL divergence averaged over data is
    ``mutual_information + aggregate_kl`` (Hoffman and Johnson 2016). The same samples of z estimate
    both.

    Attributes:
        site: name of the site.
        kl: KL(q(z_j | x) || p(z_j)) of each independent factor j, averaged over data, in nats: one
            for each dimension if q and prior both factorise over dimensions, and one total if
            either has a joint density.
        activity: Var_x E_q[z_j] of each dimension (Burda et al. 2016), in units of z squared; NaN
            if the family has no mean in closed form. For a categorical site, z is the index of the
            category.
        active: whether activity is above 0.01, a threshold for priors of unit variance.
        mutual_information: I_q(x; z) = E_x KL(q(z | x) || q(z)), in nats; at most log N.
        aggregate_kl: KL(q(z) || p(z)), in nats; if the prior differs between data, the mean KL
            minus the mutual information.
        num_data: N.
    """

    site: str
    kl: Float[Tensor, "factors"]
    activity: Float[Tensor, "dims"]
    active: Bool[Tensor, "dims"]
    mutual_information: float
    aggregate_kl: float
    num_data: int

    @property
    def num_active(self) -> int:
        """Number of active dimensions."""
        return int(self.active.sum())

    @property
    def is_collapsed(self) -> bool:
        """Whether no dimension is active and the mutual information is below 0.01 nats."""
        return self.num_active == 0 and self.mutual_information < _MIN_INFORMATION

    @property
    def is_at_limit(self) -> bool:
        """Whether mutual information is within 5 percent of log N, its upper limit for N data."""
        return self.mutual_information > 0.95 * log(self.num_data)

    @property
    def sentence(self) -> str:
        """A sentence that says whether the latents are used, and what to try if they are not."""
        if self.is_collapsed:
            return (
                f"the latents have collapsed: q({self.site} | x) is nearly the same for all x, and "
                "the decoder ignores it; try a lower beta or warming it up (annealing), free bits, "
                "a weaker decoder, or a smaller scale of the likelihood"
            )
        known = not bool(self.activity.isnan().all())
        active = f"{self.num_active} of {len(self.active)} dimensions are active; " if known else ""
        information = (
            f"{self.site} holds {self.mutual_information:.2f} nats about a datum, of a KL of "
            f"{self.kl.sum().item():.2f}"
        )
        limit = (
            f", which is near log {self.num_data} = {log(self.num_data):.2f}, the most that "
            f"{self.num_data} data can show: the true value may be higher"
        )
        return active + information + (limit if self.is_at_limit else "")


@torch.no_grad()
def latent_report(
    model: PyroFunction,
    guide: PyroFunction,
    data: Any,
    *,
    num_samples: int = 1,
    max_data: int = 10_000,
    batch_size: int = 1000,
    seed: int = 0,
    transform: Transform | None = None,
    device: torch.device | str | None = None,
    plate: str = "data",
    progress: bool = True,
) -> list[LatentReport]:
    """Report how much any pair uses each of its latents, in eval mode and without gradients.

        I_q(x; z) ~ (1/N) sum_i log q(z_i | x_i) - log (1/N) sum_n q(z_i | x_n),   z_i ~ q(z | x_i)

    The sum over n includes i itself, so no estimate is above log N (Hoffman and Johnson 2016). KL
    divergences are exact if torch has a formula, and estimated at the samples otherwise. The cost
    is that of the densities of all pairs of data. The seed determines all random numbers; torch's
    own random state does not change.

    Arguments:
        model: p(x, z), with all latents in the plate over data.
        guide: q(z | x), likewise; the distribution of one latent may not depend on the draw of
            another.
        data: a tensor, a tuple of tensors, :class:`~pyrovae.Batches` or a ``DataLoader``.
        num_samples: samples of the latents for each datum.
        max_data: N, the most data to use; if there are more, N are chosen at random.
        batch_size: data in a batch, if data are tensors.
        seed: seed of all random numbers.
        transform: applied to the parts of each batch, as in ``fit``.
        device: device to move batches to; by default tensors stay where they are.
        plate: name of the plate over data.
        progress: show a progress bar if it takes more than two seconds.

    Returns:
        One report for each latent site, in the order of the guide.

    Raises:
        InputError: if a latent is shared by all data, masked, or depends on another in the guide;
            if its q cannot score the samples of other data; or if an argument is invalid.
        FloatingPointError: if a KL divergence is NaN.

    Example:
        >>> from pyrovae import VAE
        >>> vae = VAE((4,), latent_dim=2, likelihood="Normal")
        >>> (report,) = latent_report(vae.model, vae.guide, torch.randn(50, 4))
        >>> report.site, len(report.kl)
        ('z', 2)
    """
    as_whole("num_samples", num_samples, 1)
    check_options(
        model=model,
        guide=guide,
        max_data=max_data,
        batch_size=batch_size,
        seed=seed,
        transform=transform,
        device=device,
        plate=plate,
        progress=progress,
    )
    batches = as_batches(data, batch_size, shuffle=False, transform=transform, device=device)
    if batches.size < 2:
        raise InputError(
            f"there is {batches.size} datum; a variance over data needs 2 data or more"
        )
    pair = Pair(model, guide)
    summaries: dict[str, list[_BatchSummary]] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        chosen = torch.zeros(batches.size, dtype=torch.bool)
        chosen[torch.randperm(batches.size)[:max_data]] = True
        with LateProgress("latents", len(batches)) as bar:
            for batch in _select_data(batches, chosen):
                for latent in find_local_latents(pair, batch, plate):
                    summary = _summarise(latent, num_samples)
                    summaries.setdefault(latent.name, []).append(summary)
                if progress:
                    bar.advance()
    return [_report(name, parts, progress) for name, parts in summaries.items()]


def _select_data(
    batches: Batches | LoaderBatches, chosen: Bool[Tensor, "data"]
) -> Iterator[list[Any]]:
    """Reduce each batch to its chosen data, and skip batches without any."""
    start = 0
    for batch in batches:
        num = len(batch[0])
        rows = chosen[start : start + num]
        start += num
        if rows.all():
            yield list(batch)
        elif rows.any():
            yield [
                part[rows.to(part.device)] if has_row_per_datum(part, num) else part
                for part in batch
            ]


@dataclass(frozen=True)
class _BatchSummary:
    """Results for one latent and the data of one batch.

    Attributes:
        kl: KL(q || p) of each factor.
        mean: E_q[z].
        z: samples; the samples of one datum are successive rows.
        log_q: log q(z | x) at the samples, given their own datum.
        log_prior: log p(z), likewise.
        posterior: q(z | x) of the data.
    """

    kl: Float[Tensor, "batch factors"]
    mean: Float[Tensor, "batch dims"]
    z: Tensor
    log_q: Float[Tensor, "samples"]
    log_prior: Float[Tensor, "samples"]
    posterior: BatchPosterior


def _summarise(latent: LocalLatent, num_samples: int) -> _BatchSummary:
    q, prior, data_axis = latent.q, latent.prior, latent.data_axis
    z = q.sample((num_samples,))
    rows = z.movedim(data_axis + 1, 0).flatten(0, 1)
    kl = flatten_per_datum(_compute_kl(q, prior, z), data_axis)
    if kl.isnan().any():
        raise FloatingPointError(
            f"the KL divergence of site {latent.name!r} is not a number: a parameter of the guide "
            "or of the prior is NaN"
        )
    posterior = BatchPosterior.from_latent(latent, rows)
    log_q, log_prior = (_sum_per_sample(p.log_prob(z), data_axis) for p in (q, prior))
    mean = flatten_per_datum(_posterior_mean(unwrap_independent(q), z[0]), data_axis)
    return _BatchSummary(kl, mean, rows, log_q, log_prior, posterior)


def _sum_per_sample(log_prob: Tensor, data_axis: int) -> Float[Tensor, "samples"]:
    """Sum over plates other than the one over data, with the samples of one datum in succession."""
    moved = log_prob.double().movedim(data_axis + 1, 0)
    return moved.reshape(*moved.shape[:2], -1).sum(-1).flatten()


def _compute_kl(q: Any, prior: Any, z: Tensor) -> Tensor:
    """KL(q || p) of each factor if both have the same factors; else of the whole."""
    factors = unwrap_independent(q), unwrap_independent(prior)
    if factors[0].batch_shape == factors[1].batch_shape:
        q, prior = factors
    try:
        kl: Tensor = kl_divergence(q, prior)
    except NotImplementedError:
        kl = (q.log_prob(z) - prior.log_prob(z)).mean(0)
    return kl


def _posterior_mean(q: Any, z: Tensor) -> Tensor:
    """E_q[z]: by formula, else by enumeration, else NaN."""
    try:
        mean: Tensor = q.mean
    except NotImplementedError:
        mean = torch.full_like(z, torch.nan, dtype=torch.double)
    if q.has_enumerate_support and mean.isnan().all():
        values = q.enumerate_support(expand=False)
        mean = (q.log_prob(values).exp() * values).sum(0)
    return mean


def _report(site: str, parts: list[_BatchSummary], progress: bool) -> LatentReport:
    kl, mean, z, log_q, log_prior = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("kl", "mean", "z", "log_q", "log_prior")
    )
    activity = mean.var(0)
    posteriors = [part.posterior for part in parts]
    log_aggregate = log_aggregate_posterior(posteriors, z, progress=progress)
    return LatentReport(
        site=site,
        kl=kl.mean(0),
        activity=activity,
        active=activity > _MIN_ACTIVITY,
        mutual_information=(log_q - log_aggregate).mean().item(),
        aggregate_kl=(log_aggregate - log_prior).mean().item(),
        num_data=len(kl),
    )
