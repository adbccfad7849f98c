"""The mixture as Pyro programs: models p(x, z), and guides q(z | x).

Every pair is plain Pyro, and ``pyro.infer.SVI(model, guide, Adam({"lr": 0.01}),
TraceEnum_ELBO(max_plate_nesting=1))`` trains it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ..arguments import (
    TensorLike,
    as_flag,
    as_instance,
    as_whole,
    as_wholes,
    as_word,
    describe,
)
from ..errors import InputError
from ..models.base.parameters import declare_parameters
from ..nn import MLP
from .mixture import Mixture
from .points import as_double, as_floor, as_points

__all__ = [
    "INFER",
    "AmortisedGuide",
    "FreeGuide",
    "Gradient",
    "MixtureModel",
    "component",
    "observe",
]

Gradient = Literal["enumerated", "score", "score with baseline"]
"""Estimator of the gradient with respect to q: a sum over z, or the score function of one draw of
z, without a baseline or with a decaying average as baseline."""

INFER: dict[str, Any] = {
    "enumerated": {"enumerate": "parallel"},
    "score": {},
    "score with baseline": {"baseline": {"use_decaying_avg_baseline": True}},
}
"""The ``infer`` argument that selects each estimator, at the site of z in the guide."""


def component(mixture: Mixture, z: Any = ...) -> TorchDistributionMixin:
    """p(x | z) for one or many z; for all components unless z is given."""
    p: TorchDistributionMixin
    if mixture.covariance_type in ("full", "tied"):
        scale_tril = mixture.scales[z] if mixture.covariance_type == "full" else mixture.scales
        p = dist.MultivariateNormal(mixture.locs[z], scale_tril=scale_tril)
    else:
        scale = mixture.scales if mixture.covariance_type == "diag" else mixture.scales[:, None]
        p = dist.Normal(mixture.locs[z], scale[z]).to_event(1)
    return p


def observe(x: Float[Tensor, "n d"], mixture: Mixture, marginalised: bool = False) -> None:
    """z ~ Categorical(weights), x ~ p(x | z), in the plate ``data``.

    Arguments:
        x: data.
        mixture: theta.
        marginalised: whether to sum over z in closed form, so that ``x`` is the only site;
            otherwise ``z`` is a site that Pyro can enumerate.
    """
    assignment = dist.Categorical(logits=mixture.log_weights)
    with pyro.plate("data", len(x)):
        if marginalised:
            pyro.sample("x", dist.MixtureSameFamily(assignment, component(mixture)), obs=x)
        else:
            z = pyro.sample("z", assignment, infer=INFER["enumerated"])
            pyro.sample("x", component(mixture, z), obs=x)


class MixtureModel(nn.Module):
    """p(x, z) with learned parameters; calling it runs the Pyro model.

    The weights are a softmax of free parameters. The diagonals of the scales are
    0.999 sqrt(floor) + exp(free parameter), which keeps the likelihood bounded.

    Arguments:
        start: initial parameters.
        floor: the smallest variance allowed in each column.
        marginalised: whether to sum over z in closed form.

    Example:
        >>> import torch
        >>> from pyro.infer import TraceEnum_ELBO
        >>> start = Mixture.of([0.5, 0.5], [[0.0], [4.0]], [[1.0], [1.0]], "diag")
        >>> model = MixtureModel(start, floor=torch.tensor([1e-6]))
        >>> x = torch.tensor([[2.0]], dtype=torch.float64)
        >>> -TraceEnum_ELBO().loss(model, lambda x: None, x)  # log p(x), as Pyro sums over z
        -2.918...
    """

    def __init__(self, start: Mixture, floor: TensorLike, *, marginalised: bool = False) -> None:
        super().__init__()
        as_instance("start", start, Mixture, "a Mixture, such as k_means_plus_plus gives")
        floor = as_floor(floor, start.locs)
        self.marginalised = as_flag("marginalised", marginalised)
        self._type = start.covariance_type
        # A spherical scale meets the floor in every column if it meets the largest entry.
        least = floor.max() if self._type == "spherical" else floor
        self.register_buffer("least", 0.999 * least.sqrt().to(start.locs))
        self.logits = nn.Parameter(start.log_weights.clamp_min(-30))
        self.locs = nn.Parameter(start.locs.clone())
        diagonal, below = _split(start.scales, self._has_matrices)
        above = torch.maximum(diagonal - self.least, 1e-6 * self.least)
        self.log_diagonal = nn.Parameter(above.log())
        self.below = nn.Parameter(below) if self._has_matrices else None

    least: Tensor

    @property
    def _has_matrices(self) -> bool:
        return self._type in ("full", "tied")

    def mixture(self) -> Mixture:
        """The current parameters, with gradients."""
        scales = self.least + self.log_diagonal.exp()
        if self.below is not None:
            scales = self.below.tril(-1) + scales.diag_embed()
        return Mixture(self.logits.log_softmax(0), self.locs, scales, self._type)

    def forward(self, x: Float[Tensor, "n d"]) -> None:
        declare_parameters(self)
        observe(x, self.mixture(), self.marginalised)


def _split(scales: Tensor, has_matrices: bool) -> tuple[Tensor, Tensor]:
    if not has_matrices:
        return scales, scales
    return scales.diagonal(dim1=-2, dim2=-1), scales.tril(-1).clone()


class _Guide(nn.Module):
    """q(z | x) = Categorical(softmax(logits(x))); calling it runs the Pyro guide."""

    def __init__(self, gradient: Gradient) -> None:
        super().__init__()
        self.gradient = gradient

    @property
    def has_exact_gradient(self) -> bool:
        """Whether the gradient of the bound is exact, without draws."""
        return self.gradient == "enumerated"

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Unnormalised log q(z | x)."""
        raise NotImplementedError

    def log_q(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """log q(z | x)."""
        return self.logits(x).log_softmax(1)

    def forward(self, x: Float[Tensor, "n d"]) -> None:
        declare_parameters(self)
        q = dist.Categorical(logits=self.logits(x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", q, infer=INFER[self.gradient])


class FreeGuide(_Guide):
    """q with free parameters for each datum of the training data.

    Arguments:
        log_q: initial log q.
    """

    def __init__(self, log_q: Float[Tensor, "n k"]) -> None:
        super().__init__("enumerated")
        log_q = as_double("log_q", log_q)
        if log_q.ndim != 2 or log_q.isnan().any():
            raise InputError(
                "log_q must have shape (n, K), a row for each datum, and no NaN; got "
                f"{describe(log_q)}"
            )
        self.free = nn.Parameter(log_q.detach().clone())

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        if len(x) != len(self.free):
            raise InputError(
                f"this guide has parameters for {len(self.free)} data; got {len(x)}: pass all "
                "training data in the same order, or use AmortisedGuide"
            )
        return self.free


class AmortisedGuide(_Guide):
    """q(z | x) from a network, which applies to new data too.

    The network sees standardised data. Without hidden layers, q is a softmax of linear functions of
    x, which is the exact posterior if the covariances are tied; for other types the exact posterior
    is a softmax of quadratic functions.

    Arguments:
        x: training data; their mean and standard deviation standardise the input.
        num_components: K.
        hidden: widths of the hidden layers.
        gradient: estimator of the gradient with respect to q.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        x: TensorLike,
        num_components: int,
        hidden: Sequence[int] = (32,),
        gradient: Gradient = "enumerated",
    ) -> None:
        as_word("gradient", gradient, INFER)
        num_components = as_whole("num_components", num_components, 1)
        hidden = as_wholes("hidden", hidden)
        x = as_points(x)
        super().__init__(gradient)
        self.register_buffer("loc", x.mean(0))
        self.register_buffer("scale", x.std(0, correction=0))
        dim = x.shape[1]
        self.network = MLP((dim,), (num_components,), hidden, nn.Tanh).to(x)

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        y: Tensor = self.network((x - self.loc) / self.scale)
        return y
