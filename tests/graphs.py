"""Steps from a recorded graph give the same parameters as eager steps."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrovae import SVI
from pyrovae.infer import ELBO
from pyrovae.models.base import LatentVariableModel

__all__ = ["assert_graph_matches_eager"]


def assert_graph_matches_eager(
    make: Callable[[], LatentVariableModel],
    batches: Sequence[tuple[Tensor, ...]],
    loss: Callable[[], Any] = ELBO,
) -> None:
    """Check that parameters after these batches agree to 1e-9, in double precision.

    The compiler itself does not run, which saves half a minute: it gets nothing but the recorded
    graph.
    """
    parameters = []
    for compile in (False, True):
        torch.manual_seed(3)
        family = make()
        adam = partial(torch.optim.Adam, lr=1e-2)
        svi = SVI(family.model, family.guide, adam, loss(), compile=compile)
        svi._gradients.tiered.can_compile = False
        start = [p.detach().clone() for p in family.parameters()]
        for batch in batches:
            svi.step(*batch)
        assert svi.num_graphs == (int(compile), 0)
        assert not all(map(torch.equal, start, family.parameters()))
        parameters.append([p.detach() for p in family.parameters()])
    torch.testing.assert_close(*parameters, rtol=1e-9, atol=1e-9)
