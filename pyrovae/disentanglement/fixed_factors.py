"""Scores from data with one factor fixed: FactorVAE and BetaVAE."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ..arguments import as_callable, as_flag, as_whole, as_wholes
from ..data.memory import check_fits_memory
from ..errors import InputError
from ..progress import LateProgress
from .code_table import MAX_SEED, MIN_DATA, is_dead

__all__ = [
    "BATCH_SIZE",
    "NUM_POINTS",
    "CodeSampler",
    "Encode",
    "Sample",
    "beta_vae_score",
    "check_functions",
    "check_sizes",
    "classifier_accuracy",
    "factor_vae_score",
    "fixed_seed",
    "num_chunks",
    "vote_accuracy",
]

Encode = Callable[[Tensor], Tensor]
"""Maps data to their codes of shape (data, latents), without gradients.

It receives data as sampled, on the CPU, and must move them itself and be in eval mode.
"""

Sample = Callable[[Tensor], Tensor]
"""Maps factors of shape (data, factors), with values 0, 1, ..., to data with these factors."""

_MAX_DATA = 100_000_000
"""The largest number of data that a score draws."""

_CHUNK = 1000
"""Data to sample and encode at once."""

NUM_POINTS = 800
"""Votes, or points, for training; the same number again for testing."""

BATCH_SIZE = 64
"""Data per vote, or pairs per point."""


def factor_vae_score(
    encode: Encode,
    sample: Sample,
    factor_sizes: Sequence[int],
    *,
    num_votes: int = NUM_POINTS,
    batch_size: int = BATCH_SIZE,
    num_samples: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> float:
    """The score of Kim and Mnih (2018): accuracy of a majority vote; chance level 1 / factors.

    Each vote fixes a random factor at a random value and draws a batch with random values of all
    other factors. The vote is for the latent with the smallest variance in the batch relative to
    its variance in all data. Each latent then predicts the factor of most of its votes. The paper
    leaves open, and this implementation chooses: the accuracy is measured on the same number of new
    votes; the variance in all data is estimated from a sample; only latents that are constant in
    this sample are left out.

    Arguments:
        encode: maps data to codes.
        sample: maps factors to data.
        factor_sizes: number of values of each factor; all are drawn uniformly and independently.
        num_votes: votes for training; the same number again for testing.
        batch_size: data per vote.
        num_samples: data for the variances.
        seed: seed of all random numbers.
        progress: show a progress bar if the work takes more than two seconds.

    Raises:
        InputError: if there are fewer than two factors, latents or values of a factor, if a number
            is too small, or if codes are not finite.
    """
    check_functions(encode, sample, progress)
    factor_sizes = check_sizes(factor_sizes, num_votes, batch_size, num_samples)
    total = num_chunks(num_samples) + 2 * num_chunks(num_votes * batch_size)
    with LateProgress("FactorVAE score", total) as bar, fixed_seed(seed):
        advance = bar.advance if progress else lambda: None
        sampler = CodeSampler(encode, sample, factor_sizes, advance)
        codes = sampler.encode_factors(sampler.draw_factors(num_samples))
        return vote_accuracy(sampler, codes, num_votes, batch_size)


def beta_vae_score(
    encode: Encode,
    sample: Sample,
    factor_sizes: Sequence[int],
    *,
    num_points: int = NUM_POINTS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: bool = True,
) -> float:
    """The score of Higgins et al. (2017): accuracy of a linear classifier; chance 1 / factors.

    Each point draws a random factor and a batch of pairs of data that share the value of this
    factor and are independent in all others. A linear classifier predicts the factor from the mean
    of |z - z'| over the batch. The paper leaves open, and this implementation chooses: logistic
    regression of scikit-learn (L2, C = 1) on differences scaled to unit standard deviation; the
    accuracy is measured on the same number of new points.

    Arguments:
        encode: maps data to codes.
        sample: maps factors to data.
        factor_sizes: number of values of each factor; all are drawn uniformly and independently.
        num_points: points for training; the same number again for testing.
        batch_size: pairs per point.
        seed: seed of all random numbers.
        progress: show a progress bar if the work takes more than two seconds.

    Raises:
        InputError: as :func:`factor_vae_score` does.
    """
    check_functions(encode, sample, progress)
    factor_sizes = check_sizes(factor_sizes, num_points, batch_size)
    total = 2 * num_chunks(2 * num_points * batch_size)
    with LateProgress("BetaVAE score", total) as bar, fixed_seed(seed):
        advance = bar.advance if progress else lambda: None
        sampler = CodeSampler(encode, sample, factor_sizes, advance)
        return classifier_accuracy(sampler, num_points, batch_size)


@dataclass(frozen=True)
class CodeSampler:
    """Draws factors uniformly, and encodes data with these factors.

    Attributes:
        encode: maps data to codes.
        sample: maps factors to data.
        sizes: number of values of each factor.
        advance: called after each chunk of data; :func:`num_chunks` gives their number.
    """

    encode: Encode
    sample: Sample
    sizes: Sequence[int]
    advance: Callable[[], None]

    def draw_factors(self, num: int) -> Int[Tensor, "num factors"]:
        """Draw independent factors."""
        return torch.stack([torch.randint(size, (num,)) for size in self.sizes], 1)

    @torch.no_grad()
    def encode_factors(self, factors: Int[Tensor, "num factors"]) -> Float[Tensor, "num latents"]:
        """Codes of data with these factors, in double precision, on the CPU."""
        chunks = []
        for chunk in factors.split(_CHUNK):
            z = self.encode(self.sample(chunk))
            _check_codes(z, len(chunk))
            chunks.append(z.detach().cpu().double())
            self.advance()
        return torch.cat(chunks)

    def draw_groups(
        self, fixed: Int[Tensor, "groups"], size: int
    ) -> Float[Tensor, "groups size latents"]:
        """Codes of groups of data; the data of a group share the value of one factor.

        Arguments:
            fixed: number of the shared factor of each group.
            size: data in a group.
        """
        num = len(fixed)
        factors = self.draw_factors(num * size).view(num, size, -1)
        is_fixed = one_hot(fixed, len(self.sizes)).bool()[:, None]
        factors = torch.where(is_fixed, factors[:, :1], factors)
        return self.encode_factors(factors.flatten(0, 1)).view(num, size, -1)


def vote_accuracy(
    sampler: CodeSampler, codes: Float[Tensor, "data latents"], num_votes: int, batch_size: int
) -> float:
    """The FactorVAE score; codes of random data give the variances."""
    variance = codes.var(0).masked_fill(is_dead(codes), 0)
    num_factors = len(sampler.sizes)

    def count_votes() -> Int[Tensor, "latents factors"]:
        fixed = torch.randint(num_factors, (num_votes,))
        ratio = sampler.draw_groups(fixed, batch_size).var(1) / variance
        latent = ratio.masked_fill(variance == 0, torch.inf).argmin(1)
        cell = latent * num_factors + fixed
        return torch.bincount(cell, minlength=len(variance) * num_factors).view(-1, num_factors)

    majority = count_votes().argmax(1, keepdim=True)
    return int(count_votes().gather(1, majority).sum()) / num_votes


def classifier_accuracy(sampler: CodeSampler, num_points: int, batch_size: int) -> float:
    """The BetaVAE score."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def draw_points() -> tuple[Float[Tensor, "points latents"], Int[Tensor, "points"]]:
        fixed = torch.randint(len(sampler.sizes), (num_points,))
        first, second = sampler.draw_groups(fixed.repeat_interleave(batch_size), 2).unbind(1)
        return (first - second).abs().view(num_points, batch_size, -1).mean(1), fixed

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(*draw_points())
    return float(classifier.score(*draw_points()))


def _check_codes(z: Any, num: int) -> None:
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != num or not z.is_floating_point():
        got = f"{z.dtype} of {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise InputError(
            f"encode must return a tensor of real numbers of shape ({num}, latents) for {num} "
            f"data; got {got} (for a VAE, pass lambda x: vae.encode(x.float()).mean)"
        )
    if z.shape[1] < 2 or not bool(z.isfinite().all()):
        raise InputError("encode must return finite codes with 2 latents or more")


def check_sizes(
    factor_sizes: Sequence[int], num: int, batch_size: int, num_samples: int = MIN_DATA
) -> tuple[int, ...]:
    """Check that sizes and numbers are large enough for the scores, and return the sizes.

    Raises:
        InputError: if one is too small or too large.
    """
    sizes = as_wholes("factor_sizes", factor_sizes, 0)
    num = as_whole("the number of votes or points", num, 0, _MAX_DATA)
    batch_size = as_whole("batch_size", batch_size, 0, _MAX_DATA)
    num_samples = as_whole("num_samples", num_samples, 0, _MAX_DATA)
    if len(sizes) < 2 or min(sizes) < 2:
        raise InputError(
            f"factor_sizes are {list(sizes)}; give at least 2 factors of at least 2 values"
        )
    if num < MIN_DATA * len(sizes):
        raise InputError(f"{num} votes or points are too few; give at least {MIN_DATA} per factor")
    if batch_size < 2:
        raise InputError(f"batch_size is {batch_size}; give 2 or more")
    if num_samples < MIN_DATA:
        raise InputError(f"num_samples is {num_samples}; give {MIN_DATA} or more")
    check_fits_memory(32 * num * batch_size * len(sizes), "the factors", "ask for fewer data")
    return sizes


def check_functions(encode: Encode, sample: Sample, progress: bool) -> None:
    """Check that both are functions.

    Raises:
        InputError: if one is not.
    """
    as_callable("encode", encode, "a function from data to codes")
    as_callable("sample", sample, "a function from factors to data")
    as_flag("progress", progress)


@contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """A context in which random numbers follow the seed; torch's global state does not change."""
    seed = as_whole("seed", seed, 0, MAX_SEED)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def num_chunks(num: int) -> int:
    """The number of chunks in which this number of data is drawn."""
    return ceil(num / _CHUNK)
