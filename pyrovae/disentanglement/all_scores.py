"""Compute all five scores of a representation."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..progress import LateProgress
from .code_table import DCI, forest_scores, mutual_information_gap, prepare_table, sap
from .fixed_factors import (
    BATCH_SIZE,
    NUM_POINTS,
    CodeSampler,
    Encode,
    Sample,
    check_functions,
    check_sizes,
    classifier_accuracy,
    fixed_seed,
    num_chunks,
    vote_accuracy,
)

__all__ = ["Disentanglement", "disentanglement"]


@dataclass(frozen=True)
class Disentanglement:
    """Five scores of a representation, from 0 to 1; higher is better.

    Attributes:
        mig: see :func:`mutual_information_gap`.
        dci: see :func:`dci`.
        sap: see :func:`sap`.
        factor_vae: see :func:`factor_vae_score`; chance level 1 / number of factors.
        beta_vae: see :func:`beta_vae_score`; chance level 1 / number of factors.
    """

    mig: float
    dci: DCI
    sap: float
    factor_vae: float
    beta_vae: float


def disentanglement(
    encode: Encode,
    sample: Sample,
    factor_sizes: Sequence[int],
    *,
    num_samples: int = 10_000,
    seed: int = 0,
    progress: bool = True,
) -> Disentanglement:
    """All five scores of a representation of data with known factors.

    MIG, DCI and SAP, and the variances of the FactorVAE score, use the same samples. The FactorVAE
    and BetaVAE scores fix factors, so they draw their own: 800 votes of 64 data, or points of 64
    pairs, for training, and the same number again for testing.

    Arguments:
        encode: maps data to codes, such as the means of q(z | x).
        sample: maps factors to data, such as :func:`~pyrovae.data.sprites.sprites`.
        factor_sizes: number of values of each factor; all are drawn uniformly and independently.
        num_samples: data for MIG, DCI and SAP.
        seed: seed of all random numbers; torch's global random state does not change.
        progress: show a progress bar if the work takes more than two seconds.

    Raises:
        InputError: if a score is not defined; see the function of each score.

    Example:
        >>> perfect = lambda factors: factors.float()
        >>> disentanglement(perfect, lambda v: v, [3, 4, 5], num_samples=2000).mig > 0.9
        True
    """
    num, batch_size = NUM_POINTS, BATCH_SIZE
    check_functions(encode, sample, progress)
    factor_sizes = check_sizes(factor_sizes, num, batch_size, num_samples)
    total = num_chunks(num_samples) + len(factor_sizes)
    total += 2 * num_chunks(num * batch_size) + 2 * num_chunks(2 * num * batch_size)
    with LateProgress("disentanglement", total) as bar, fixed_seed(seed):
        advance = bar.advance if progress else lambda: None
        sampler = CodeSampler(encode, sample, factor_sizes, advance)
        factors = sampler.draw_factors(num_samples)
        codes, factors = prepare_table(sampler.encode_factors(factors), factors)
        return Disentanglement(
            mig=mutual_information_gap(codes, factors),
            dci=forest_scores(codes, factors, seed, advance),
            sap=sap(codes, factors, seed=seed),
            factor_vae=vote_accuracy(sampler, codes, num, batch_size),
            beta_vae=classifier_accuracy(sampler, num, batch_size),
        )
