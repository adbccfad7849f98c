"""Training curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["training_curves"]


def training_curves(epochs: Sequence[dict[str, Any]]) -> Figure:
    """Plot loss, reconstruction and KL by epoch, in nats per datum, for training and validation.

    Arguments:
        epochs: a dict for each epoch, as :meth:`pyrovae.training.history.History.rows` gives them.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    number = [epoch["epoch"] for epoch in epochs]
    titles = {
        "loss": "loss (negative objective)",
        "reconstruction": "reconstruction, −E[log p(x|z)]",
        "kl": "KL, E[log q(z|x) − log p(z)]",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        curves = {"training": [epoch[name] for epoch in epochs]}
        if epochs[0][f"validation_{name}"] is not None:
            curves["validation"] = [epoch[f"validation_{name}"] for epoch in epochs]
        marker = "o" if len(number) == 1 else None
        for label, values in curves.items():
            axes.plot(number, values, label=label, marker=marker, linewidth=1.5)
        _limit_to_later_epochs(axes, list(curves.values()))
        axes.set(title=title, xlabel="epoch", ylabel="nats per datum")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False)
    return figure


def _limit_to_later_epochs(axes: Any, curves: Sequence[Sequence[float]]) -> None:
    """Fit the y axis to the last nine tenths of the epochs.

    The first epochs are often so much higher that the rest would look flat.
    """
    later = np.concatenate([np.asarray(c, dtype=float)[len(c) // 10 :] for c in curves])
    later = later[np.isfinite(later)]
    if not len(later):
        return
    low, high = later.min(), later.max()
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
