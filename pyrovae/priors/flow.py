"""Normalising flows as priors."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..arguments import as_whole, as_wholes
from ..described import Described
from ..distributions.flows import (
    MAX_HIDDEN,
    MAX_TRANSFORMS,
    NUM_BINS,
    FlowDistribution,
    check_flow,
    import_zuko,
)

__all__ = ["FlowPrior"]


class FlowPrior(Described, nn.Module):
    """p(z) = Normal(f(z); 0, I) |det df/dz| with neural spline transforms f (Durkan et al. 2019).

    f is autoregressive: f_d is a monotonic rational-quadratic spline of z_d on [-5, 5], and the
    identity outside. A masked network computes its knots from the dimensions before d; their order
    is reversed from one transform to the next. A density takes one pass of each network, and
    training needs no more; a sample takes as many passes as there are dimensions. Splines, unlike
    the affine maps of a masked autoregressive flow, can make several modes. The last layer of each
    network starts at zero, so f starts as the identity and p(z) as the standard normal.

    Arguments:
        latent_dim: number of latent dimensions.
        num_transforms: number of transforms to compose.
        hidden: widths of the hidden layers of each network.

    Raises:
        InputError: if an argument is invalid, or the flow does not fit into memory.

    Example:
        >>> FlowPrior(3)().sample((5,)).shape
        torch.Size([5, 3])
    """

    name = "flow"

    def __init__(
        self, latent_dim: int, num_transforms: int = 3, hidden: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        latent_dim = as_whole("latent_dim", latent_dim, 1)
        num_transforms = as_whole("num_transforms", num_transforms, 1, MAX_TRANSFORMS)
        hidden = as_wholes("hidden", hidden, most=MAX_HIDDEN)
        check_flow(latent_dim, num_transforms, hidden, 3 * NUM_BINS)
        # With one dimension there is none before it, and zuko makes no networks.
        networks = {"hidden_features": hidden} if latent_dim > 1 else {}
        self.flow = import_zuko().flows.NSF(latent_dim, transforms=num_transforms, **networks)
        for transform in self.flow.transform.transforms:
            last = transform.hyper[-1] if latent_dim > 1 else transform
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self) -> FlowDistribution:
        transform: Any = self.flow.transform()  # f, from z to the base distribution
        return FlowDistribution(transform.inv, self.flow.base())
