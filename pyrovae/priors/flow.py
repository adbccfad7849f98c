"""Normalising flows as priors."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..distributions.flows import FlowDistribution, import_zuko
from ..errors import InputError

__all__ = ["FlowPrior"]


class FlowPrior(nn.Module):
    """p(z) = Normal(f(z); 0, I) |det df/dz|, f being neural spline transforms (Durkan et al. 2019).

    f is autoregressive: f_d is a monotonic rational-quadratic spline of z_d on [-5, 5], the
    identity beyond, whose knots a masked network computes from the dimensions before d, in an order
    that turns around from transform to transform. So a density takes one pass of each network,
    which is what training needs; a draw takes as many passes as there are dimensions. Splines
    rather than the affine maps of a masked autoregressive flow, since they make several modes.
    Networks end in zeros at first, so that f starts as the identity and p(z) as the standard
    normal.

    Arguments:
        latent_dim: number of latent dimensions.
        num_transforms: how many transforms are composed.
        hidden: widths of the hidden layers of each network.

    Raises:
        InputError: if there are no transforms.

    Example:
        >>> FlowPrior(3)().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self, latent_dim: int, num_transforms: int = 3, hidden: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        if num_transforms < 1:
            raise InputError(f"num_transforms is {num_transforms}; it must be 1 or more")
        # One dimension has nothing before it, and so no networks to make.
        networks = {"hidden_features": tuple(hidden)} if latent_dim > 1 else {}
        self.flow = import_zuko().flows.NSF(latent_dim, transforms=num_transforms, **networks)
        for transform in self.flow.transform.transforms:
            last = transform.hyper[-1] if latent_dim > 1 else transform
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self) -> FlowDistribution:
        transform: Any = self.flow.transform()  # f, from z to the base
        return FlowDistribution(transform.inv, self.flow.base())
