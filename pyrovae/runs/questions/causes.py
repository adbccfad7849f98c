"""Which columns of a row are unexpected, given its other columns."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.rows import Rows
from ...models.base import LatentVariableModel
from ...progress import LateProgress

__all__ = ["column_surprise"]

_NUM_DRAWS = 100
"""Number of draws from p(x_d | other columns)."""

_NUM_TYPICAL = 20
"""Number of these whose density says what is typical."""


def column_surprise(model: LatentVariableModel, rows: Rows) -> Float[Tensor, "rows columns"]:
    """How much less likely each cell is than a typical one, given the other cells of its row.

        s_d = log p(x_d | x_-d) - E[log p(x'_d | x_-d)],   x'_d ~ p(x_d | x_-d)

    in nats: about 0 for a typical cell, far below 0 for a cell that the others do not let expect.
    Both terms are estimated from draws of the latents given x_-d, by importance sampling.

    Arguments:
        model: a trained model of a table.
        rows: rows without missing cells.

    Raises:
        InputError: if the likelihood has no p(x_d | x_-d), as of whole vectors.
    """
    x, given = model.read(rows, ())
    x = x.to(torch.get_default_dtype()) if not x.is_floating_point() else x
    surprise = []
    with LateProgress("columns", x.shape[1]) as bar:
        for column in range(x.shape[1]):
            y = x.clone()
            y[:, column] = torch.nan
            observed = Rows(rows.name, y)  # binarised or dequantised already
            posterior = model.posterior(observed, *given, num_samples=_NUM_DRAWS, progress=False)
            typical = [posterior.log_prob(drawn) for drawn in posterior.x[:_NUM_TYPICAL]]
            surprise.append(posterior.log_prob(x) - torch.stack(typical).mean(0))
            bar.advance()
    return torch.stack(surprise, 1).cpu()
