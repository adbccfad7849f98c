"""The scores of held-out data, kept with a run: how unusual a new datum is.

::

    RUN/held_out.json    log p(x) of test data
"""

import json
import warnings
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.rows import Rows
from ...errors import InputError, error_reason
from ...infer.estimators.pareto import HeavyTailWarning
from ..directory import RunDirectory
from ..trained import Trained

__all__ = ["HELD_OUT", "NUM_SAMPLES", "HeldOut"]

HELD_OUT = "held_out"

NUM_SAMPLES = 100
"""Default number of samples of z for log p(x) of a datum."""

_MAX_DATA = 2000
"""The largest number of test data that are scored when a run ends."""

_MAX_NUMBERS = 2**26
"""The largest number of pixels, or of other values, in all samples of these; large images are thus
fewer."""

_MAX_CHARACTERS = 10_000_000

_DIGITS = 5
"""Decimals of the scores in the file."""


@dataclass(frozen=True)
class HeldOut:
    """What is kept of the scores of held-out data.

    Attributes:
        scores: log p(x) of test data, in nats, sorted.
        num_samples: number of samples of z for each.
    """

    scores: NDArray[np.float64]
    num_samples: int

    @classmethod
    def of(cls, trained: Trained, num_samples: int) -> "HeldOut":
        """Score the test data of a run, or the first 2,000 of them, or fewer if they are large."""
        test = trained.data.test
        num = min(_MAX_DATA, max(1, _MAX_NUMBERS // (num_samples * test.x[0].numel())))
        rows = Rows(trained.data.name, test.x, test.y, test.exposure)[:num]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeavyTailWarning)  # of no use here
            estimate = trained.family.score(rows, num_samples=num_samples)
        scores = estimate.log_likelihood.double().sort().values.cpu().numpy()
        return cls(scores, num_samples)

    def percentiles(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The percentage of held-out data whose log p(x) is as low as that of each datum."""
        counts = np.searchsorted(self.scores, scores + 10.0**-_DIGITS, side="right")
        return 100.0 * counts / len(self.scores)

    def write(self, run: RunDirectory) -> None:
        """Write it to a run."""
        record = {
            "unit": "nats per datum",
            "num_samples": self.num_samples,
            "scores": [round(each, _DIGITS) for each in self.scores.tolist()],
        }
        run.write_record(HELD_OUT, record)

    @classmethod
    def read(cls, run: RunDirectory) -> "HeldOut | None":
        """Read it from a run; None if the run has none.

        Raises:
            InputError: if the file is damaged.
        """
        path = run.path / f"{HELD_OUT}.json"
        if not path.is_file():
            return None
        try:
            with path.open(encoding="utf-8") as file:
                record: dict[str, Any] = json.loads(file.read(_MAX_CHARACTERS))
            scores = np.array(record["scores"], dtype=float)
            num_samples = int(record["num_samples"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} cannot be read: {error_reason(error)}") from error
        if scores.ndim != 1 or not len(scores) or not isfinite(float(scores.sum())):
            raise InputError(f"{path} holds no scores; run pyrovae score again without it")
        return cls(np.sort(scores), num_samples)
