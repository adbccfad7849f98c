"""A table with columns of every kind, and settings for short training."""

from typing import Any

import numpy as np
import pandas as pd

QUICK: dict[str, Any] = {
    "steps": 60,
    "hidden": (8,),
    "num_particles": 2,
    "num_samples": 100,
    "compile": False,
    "progress": False,
}


def mixed_table(num_rows: int = 120) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table of every kind of column, whole, and with cells missing."""
    random = np.random.default_rng(0)
    z = random.normal(size=num_rows)
    whole = pd.DataFrame(
        {
            "height": 170 + 8 * z + random.normal(size=num_rows),
            "visits": random.poisson(np.exp(0.5 + 0.5 * z)).astype(float),
            "age": np.round(40 + 12 * z + random.normal(size=num_rows)),
            "code": pd.array(random.poisson(3.0, num_rows), dtype="Int64"),
            "smoker": (z + 0.5 * random.normal(size=num_rows) > 0).astype(object),
            "sure": pd.array(z > 0.3, dtype="boolean"),
            "colour": np.array(["blue", "green", "red"], object)[(z > -0.5) + 1 * (z > 0.5)],
            "size": pd.Categorical(np.array(["s", "m"])[1 * (z > 0)], ["s", "m", "l"]),
            "name": [f"person {i}" for i in range(num_rows)],
            "group": random.integers(0, 2, num_rows) + 1,
            7: 1.6e9 + 100 * z,
        },
        index=pd.Index(range(1000, 1000 + num_rows), name="key"),
    )
    removed = random.random(whole.shape) < 0.15
    removed[:, whole.columns.get_loc("group")] = False
    removed[3] = True  # a row of which only the group is known
    removed[3, whole.columns.get_loc("group")] = False
    removed[4] = True  # a row of which nothing is known
    return whole, whole.mask(removed)
