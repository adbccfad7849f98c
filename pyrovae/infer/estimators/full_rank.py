"""log p(x) of each datum by importance sampling from a full-rank normal with a heavier tail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, lgamma, log, pi
from typing import Any

import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ..pair.bound import PyroFunction
from ..pair.rows import repeat_rows
from .densities import RowDensities
from .pareto import pareto_k

__all__ = ["Evidence", "FullRankProposal"]

_NUM_START_DRAWS = 64
"""Draws from the guide for each datum, whose mean and standard deviation are the start."""

_NUM_PARTICLES = 16
"""Samples of the latents of each datum in a step of the optimiser."""

_MAX_DIMS = 256
"""Most latent dimensions of a datum for which correlations are fitted."""

_MAX_ROWS = 2**14
"""Most rows in a run of the model."""

_TAIL_SHARE = 0.5
"""Share of the samples that come from the distribution with the heavier tail."""

_TAIL_DF = 3.0


@dataclass(frozen=True)
class Evidence:
    """log p(x) of each datum, in nats, with its standard error and the Pareto k of its weights."""

    log_likelihood: Float[Tensor, "data"]
    standard_error: Float[Tensor, "data"]
    pareto_k: Float[Tensor, "data"]


class FullRankProposal:
    """q(z | x) = Normal(m, S) / 2 + StudentT(3, m, S) / 2 for each datum, in R^n.

    Latents with other supports are mapped to R^n. m starts at the mean of the guide and S at the
    inverse of the negative Hessian of log p(x, z) there (Laplace), or at the variances of the guide
    where that is not positive definite. Adam then maximises the ELBO of the normal; the gradient is
    the one through the samples alone (Roeder et al. 2017), which vanishes where the normal is
    p(z | x). Above 256 dimensions S stays diagonal.

    Arguments:
        model: p(x, z), with all sites in the plate over data.
        guide: q(z | x) to start from.
        rows: arguments of both, with a row for each datum.
        plate: name of the plate over data.
    """

    def __init__(
        self, model: PyroFunction, guide: PyroFunction, rows: Sequence[Tensor], plate: str
    ) -> None:
        self._rows = rows
        self._num_data = len(rows[0])
        with _AnyNumberOfRows():
            args = tuple(repeat_rows(rows, _NUM_START_DRAWS))
            self._densities = RowDensities(model, guide, args, plate)
            state = self._densities.start()
        draws = state.position.view(self._num_data, _NUM_START_DRAWS, -1)
        self._loc = draws.mean(1)
        deviation = draws.std(1).clamp_min(torch.finfo(draws.dtype).tiny)
        self._is_full = draws.shape[2] <= _MAX_DIMS
        # Factors are matrices, or diagonals if there are too many dimensions.
        self._factor = deviation
        if self._is_full:
            self._factor = self._laplace(deviation)

    def _laplace(self, deviation: Float[Tensor, "data dims"]) -> Float[Tensor, "data dims dims"]:
        log_joint = self._log_joint(1)
        with torch.enable_grad():
            position = self._loc.clone().requires_grad_()
            total = log_joint(position.unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(total, position, create_graph=True)
            columns = [
                torch.autograd.grad(
                    gradient[:, i].sum(), position, retain_graph=True, materialize_grads=True
                )[0]
                if gradient.requires_grad
                else torch.zeros_like(position)
                for i in range(position.shape[1])
            ]
        precision = -torch.stack(columns, 1)
        precision = (precision + precision.mT) / 2
        root, failed = torch.linalg.cholesky_ex(precision.flip(-2, -1))
        upper = root.flip(-2, -1)  # upper upper^T = precision, so upper^-T is a factor of S
        eye = torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device)
        factor = torch.linalg.solve_triangular(upper.mT, eye, upper=False)
        is_usable = (failed == 0) & factor.isfinite().all(-1).all(-1)
        return torch.where(is_usable[:, None, None], factor, deviation.diag_embed())

    def fit(self, num_steps: int, lr: float, advance: Callable[[], None] = lambda: None) -> None:
        """Maximise the ELBO by Adam, whose learning rate falls linearly to zero."""
        loc, factor = self._loc, self._factor
        shift, log_scale = (torch.zeros_like(loc).requires_grad_() for _ in range(2))
        below = torch.zeros_like(factor).requires_grad_()
        free = [shift, log_scale, below] if self._is_full else [shift, log_scale]
        optimiser = torch.optim.Adam(free, lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / num_steps)
        log_joint = self._log_joint(_NUM_PARTICLES)

        def set_normal() -> None:
            if self._is_full:
                relative = below.tril(-1) + log_scale.exp().diag_embed()
                self._factor = factor @ relative
                self._loc = loc + (factor @ shift.unsqueeze(-1)).squeeze(-1)
            else:
                self._factor = factor * log_scale.exp()
                self._loc = loc + factor * shift

        for _ in range(num_steps):
            with torch.enable_grad():
                set_normal()
                noise = torch.randn(
                    self._num_data, _NUM_PARTICLES, loc.shape[1], dtype=loc.dtype, device=loc.device
                )
                z = self._place(noise)
                loss = (self._log_normal(z) - log_joint(z)).mean(1).sum()
                gradients = torch.autograd.grad(loss, free, materialize_grads=True)
            for part, gradient in zip(free, gradients, strict=True):
                # A datum whose density overflowed waits for a better sample.
                part.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            optimiser.step()
            schedule.step()
            advance()
        with torch.no_grad():
            set_normal()

    @torch.no_grad()
    def estimate(self, num_samples: int) -> Evidence:
        """log p(x) ~ log (1/K) sum_k p(x, z_k) / q(z_k)."""
        loc = self._loc
        dims = loc.shape[1]
        num_tail = ceil(_TAIL_SHARE * num_samples)
        noise = torch.randn(
            self._num_data, num_samples, dims, dtype=torch.double, device=loc.device
        )
        chi_squared = torch.distributions.Chi2(noise.new_tensor(_TAIL_DF))
        spread = (_TAIL_DF / chi_squared.sample((self._num_data, num_tail, 1))).sqrt()
        noise[:, :num_tail] *= spread
        distance = noise.square().sum(2)
        log_normal = -0.5 * (distance + dims * log(2 * pi))
        log_student = (
            lgamma((_TAIL_DF + dims) / 2)
            - lgamma(_TAIL_DF / 2)
            - 0.5 * dims * log(_TAIL_DF * pi)
            - 0.5 * (_TAIL_DF + dims) * torch.log1p(distance / _TAIL_DF)
        )
        share = num_tail / num_samples
        log_q = torch.logaddexp(log_normal + log(1 - share), log_student + log(share))
        log_q = log_q - self._log_det().double().unsqueeze(1)
        parts = []
        for some in noise.split(max(1, _MAX_ROWS // self._num_data), 1):
            parts.append(self._log_joint(some.shape[1])(self._place(some.to(loc))).double())
        log_weights = torch.cat(parts, 1) - log_q
        effective = 1 / log_weights.softmax(1).square().sum(1)
        error = ((num_samples / effective - 1).clamp_min(0) / (num_samples - 1)).sqrt()
        log_p = log_weights.logsumexp(1) - log(num_samples)
        return Evidence(log_p, error, pareto_k(log_weights))

    def _place(self, noise: Float[Tensor, "data num dims"]) -> Float[Tensor, "data num dims"]:
        scaled = noise @ self._factor.mT if self._is_full else noise * self._factor.unsqueeze(1)
        return self._loc.unsqueeze(1) + scaled

    def _log_det(self) -> Float[Tensor, "data"]:
        factor = self._factor
        diagonal = factor.diagonal(dim1=-2, dim2=-1) if self._is_full else factor
        return diagonal.abs().log().sum(1)

    def _log_normal(self, z: Float[Tensor, "data num dims"]) -> Float[Tensor, "data num"]:
        """log Normal(z; m, S), with m and S held fixed; up to a constant."""
        factor, apart = self._factor.detach(), z - self._loc.detach().unsqueeze(1)
        whitened: Tensor
        if self._is_full:
            whitened = torch.linalg.solve_triangular(factor, apart.mT, upper=False).mT
        else:
            whitened = apart / factor.unsqueeze(1)
        return -0.5 * whitened.square().sum(2)

    def _log_joint(self, num: int) -> Callable[[Tensor], Tensor]:
        """log p(x, z) of ``num`` vectors for each datum."""
        densities = self._densities.with_rows(tuple(repeat_rows(self._rows, num)))

        def log_joint(z: Float[Tensor, "data num dims"]) -> Float[Tensor, "data num"]:
            with _AnyNumberOfRows():
                return densities(z.flatten(0, 1))[1].view(self._num_data, num)

        return log_joint


class _AnyNumberOfRows(Messenger):
    """Let a plate with a declared subsample have more rows than it has data."""

    def _pyro_sample(self, msg: Any) -> None:
        plate = msg["fn"]
        if site_is_subsample(msg) and (plate.subsample_size or 0) > plate.size:
            msg["value"] = torch.arange(plate.subsample_size)
            msg["done"] = True
