"""The exact evidence of a small Bayesian mixture: a sum over all assignments of its points."""

from functools import cache
from itertools import product
from math import lgamma, log, pi

import torch
from torch import Tensor

from pyrovae.gmm import Prior


def exact_log_evidence(x: Tensor, prior: Prior, num_components: int) -> float:
    """log sum_z p(z) p(x | z) over all K^n assignments z, with theta integrated out."""
    n, a = len(x), prior.concentration
    tied = prior.covariance_type == "tied"

    @cache
    def of_one(rows: tuple[int, ...]) -> float:
        return log_marginal(x, (rows,), prior)

    terms = []
    for z in product(range(num_components), repeat=n):
        groups = tuple(tuple(i for i in range(n) if z[i] == k) for k in range(num_components))
        log_p = lgamma(num_components * a) - lgamma(num_components * a + n)
        log_p += sum(lgamma(a + len(rows)) - lgamma(a) for rows in groups)
        of_x = log_marginal(x, groups, prior) if tied else sum(map(of_one, groups))
        terms.append(log_p + of_x)
    return torch.tensor(terms).double().logsumexp(0).item()


def log_marginal(x: Tensor, groups: tuple[tuple[int, ...], ...], prior: Prior) -> float:
    """log p(x_groups), where groups share one Lambda and have a mean each (Murphy 2007)."""
    d, n = x.shape[1], sum(map(len, groups))
    scatter = torch.zeros(d, d).double()
    log_ratio = 0.0
    for rows in filter(None, groups):
        own = x[list(rows)]
        centred, shift = own - own.mean(0), own.mean(0) - prior.loc
        weight = prior.precision * len(rows) / (prior.precision + len(rows))
        scatter += centred.mT @ centred + weight * torch.outer(shift, shift)
        log_ratio += d / 2 * log(prior.precision / (prior.precision + len(rows)))
    kind = prior.covariance_type
    if kind in ("full", "tied"):
        blocks, first, grown = scatter.unsqueeze(0), prior.scatter.unsqueeze(0), n
    elif kind == "diag":
        blocks, first, grown = scatter.diagonal().view(d, 1, 1), prior.scatter.view(d, 1, 1), n
    else:
        blocks, first, grown = scatter.trace().view(1, 1, 1), prior.scatter.view(1, 1, 1), n * d
    p, df = blocks.shape[-1], torch.tensor(prior.df).double()
    after = df + grown
    log_p = (
        torch.mvlgamma(after / 2, p)
        - torch.mvlgamma(df / 2, p)
        + df / 2 * torch.logdet(first)
        - after / 2 * torch.logdet(first + blocks)
    ).sum()
    return log_p.item() + log_ratio - n * d / 2 * log(pi)
