"""What ``impute`` trains on: held-out rows, noise, and the model at the start."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyrovae import fit
from pyrovae.tables import imputation
from pyrovae.tables.imputation import impute
from tests.tables.examples import QUICK


class Training:
    """What ``impute`` gave to ``fit``."""

    def __init__(self, model: Any, guide: Any, train: Tensor, **settings: Any) -> None:
        self.model, self.guide, self.train = model, guide, train
        self.validation: Tensor | None = settings["validation"]
        self.transform: Callable[[Tensor], Tensor] = settings["transform"]
        self.scales = {
            name: parameter.detach().clone()
            for name, parameter in (*model.named_parameters(), *guide.named_parameters())
            if "unlinked_scale" in name
        }


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Training]:
    """Returns a function that imputes a table, and what it trained on."""

    def run(table: pd.DataFrame, **settings: Any) -> Training:
        seen: list[Training] = []

        def watched(model: Any, guide: Any, train: Tensor, **others: Any) -> Any:
            seen.append(Training(model, guide, train, **others))
            return fit(model, guide, train, **others)

        monkeypatch.setattr(imputation, "fit", watched)
        impute(table, **(QUICK | settings))
        return seen[0]

    return run


def linear_table(num_rows: int = 400) -> pd.DataFrame:
    """Two columns that share a cause, in units far apart, and counts; a few cells are missing."""
    random = np.random.default_rng(1)
    z = random.normal(size=num_rows)
    table = pd.DataFrame(
        {
            "metres": 5 + 0.01 * (z + 0.3 * random.normal(size=num_rows)),
            "grams": 4000 + 300 * (z + 0.6 * random.normal(size=num_rows)),
            "visits": random.poisson(3.0, num_rows).astype(float),
        }
    )
    table.loc[::50, "grams"] = np.nan
    return table


def test_a_tenth_of_the_rows_is_held_out(training: Callable[..., Training]) -> None:
    """No row is trained on and held out too, and each is one of the two."""
    table = linear_table()
    found = training(table, steps=100)
    assert found.validation is not None
    assert len(found.validation) == 40
    assert len(found.train) == 360
    rows = torch.cat([found.train, found.validation]).nan_to_num(-1.0)
    rows = rows[rows[:, 0].argsort()]  # by the metres, which no two rows share
    expected = torch.tensor(table.sort_values("metres").to_numpy()).nan_to_num(-1.0)
    torch.testing.assert_close(rows, expected)


def test_few_rows_are_all_trained_on(training: Callable[..., Training]) -> None:
    found = training(linear_table(94))
    assert found.validation is None
    assert len(found.train) == 94
    found = training(linear_table(95))
    assert found.validation is not None
    assert len(found.validation) == 10


def test_real_numbers_get_noise_of_a_tenth_of_their_deviation(
    training: Callable[..., Training],
) -> None:
    table = linear_table()
    found = training(table)
    x = torch.tensor(table.to_numpy())
    torch.manual_seed(0)
    noise = torch.cat([found.transform(x) - x for _ in range(20)])
    noise = noise[~noise.isnan().any(1)]
    deviation = torch.tensor(table.std(ddof=0).to_numpy())
    # The deviation of n normal numbers has relative error 1 / sqrt(2 n).
    bound = 4.5 / (2 * len(noise)) ** 0.5
    assert ((noise.std(0) / deviation)[:2] / 0.1 - 1).abs().max() < bound
    assert (noise[:, 2] == 0).all()  # counts stay whole


def test_scales_start_at_the_part_that_principal_components_leave(
    training: Callable[..., Training],
) -> None:
    """Of complete columns: the deviation that the first component does not explain."""
    table = linear_table().drop(columns="visits")
    table["grams"] = table["grams"].fillna(table["grams"].mean())
    table.loc[0, "grams"] = np.nan  # something to impute
    found = training(table, latent_dim=1)
    standard = found.guide.standardise(torch.tensor(table.to_numpy())).nan_to_num(0.0)
    values, vectors = torch.linalg.eigh(standard.mT @ standard / len(standard))
    unexplained = (1 - values[-1] * vectors[:, -1].square()).sqrt()
    assert 0.15 < unexplained.min() < unexplained.max() < 0.6
    of_encoder = softplus(found.scales["encoder.unlinked_scale"])
    torch.testing.assert_close(of_encoder, unexplained, rtol=1e-5, atol=1e-5)
    # All real columns of one likelihood share a block, whose scale is in standard units.
    (of_model,) = (v for k, v in found.scales.items() if k.startswith("likelihood."))
    torch.testing.assert_close(softplus(of_model), unexplained, rtol=1e-5, atol=1e-5)
