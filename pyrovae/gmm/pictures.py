"""Pictures of a comparison as matplotlib figures, and an animation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.animation import FuncAnimation
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from torch import Tensor

from .climb import Climb
from .compare import Comparison
from .mixture import Mixture

__all__ = [
    "FRAMES_PER_SECOND",
    "animate_fits",
    "plot_bounds",
    "plot_densities",
    "plot_gradient_variances",
]

FRAMES_PER_SECOND = 6

_BOUND = "C0"
_TRUTH = "0.15"
_NUM_FRAMES = 40
_GRID_SIZE = 160
_COMPARED_METHODS = ("EM", "VI, amortised q")
"""The two methods to show next to each other."""


def plot_bounds(comparison: Comparison) -> Figure:
    """Plot the bound of each method and what it bounds, with the gap shaded; below, all gaps.

    Steps are on a logarithmic scale, and the start is step 1.
    """
    climbs = _climbs(comparison)
    columns = 4
    rows = -(-len(climbs) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * (rows + 1)), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns)
    for number, (name, climb) in enumerate(climbs.items()):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _plot_bound(axes, name, climb)
    below = figure.add_subplot(grid[rows, :])
    for number, (name, climb) in enumerate(climbs.items()):
        gap = np.array(climb.kl)
        if np.isnan(gap).all():
            continue
        steps = np.arange(1, len(gap) + 1)
        if name == "EM":  # its gap is zero after each E-step
            steps, gap = steps[1::2], gap[1::2]
            name = "EM, after M-steps"
        below.plot(steps, np.where(gap > 1e-16, gap, np.nan), label=name, color=f"C{number}")
    below.set(xscale="log", yscale="log", xlabel="step", ylabel="KL(q || p), nats per datum")
    below.set_title("the gap of each method", fontsize="medium")
    below.legend(frameon=False, fontsize="small", ncols=2)
    below.grid(alpha=0.3)
    return figure


def _plot_bound(axes: Any, name: str, climb: Climb) -> None:
    steps = np.arange(1, len(climb.elbo) + 1)
    elbo = np.array(climb.elbo)
    bounded = elbo + np.array(climb.kl)
    is_bayesian = climb.last.posterior is not None
    label = "evidence, log p(x)" if is_bayesian else "log p(x; θ)"
    gap: Any = {"color": _BOUND, "alpha": 0.25, "linewidth": 0, "label": "KL(q || p)"}
    axes.fill_between(steps, elbo, bounded, **gap)
    axes.plot(steps, bounded, color=_TRUTH, linewidth=1.2, label=label)
    axes.plot(steps, elbo, color=_BOUND, linewidth=1.2, label="ELBO")
    top, low = np.fmax(bounded, elbo).max(), elbo.min()
    if not is_bayesian:
        # The first bounds of the network are very low: show 1.5 times the range of log p(x).
        low = max(low, top - 1.5 * (top - bounded.min()))
    margin = 0.06 * (top - low) or 1e-3
    axes.set_ylim(low - margin, top + margin)
    axes.set(xscale="log", xlabel="step", ylabel="nats per datum")
    axes.set_title(name, fontsize="medium")
    axes.legend(frameon=False, fontsize="x-small", loc="lower right")
    axes.grid(alpha=0.3)


def plot_densities(comparison: Comparison) -> Figure:
    """Plot p(x) and q(z | x) at the end of EM and of amortised VI.

    In two dimensions, q is shown over the plane. In more, data and mixture are projected to the two
    leading principal components, and q is shown for each datum.
    """
    figure = Figure(figsize=(9.5, 8.5), layout="constrained")
    grid = figure.subplots(2, 2, squeeze=False)
    view = _View(comparison)
    for row, name in enumerate(_COMPARED_METHODS):
        climb = _climbs(comparison)[name]
        mixture, q = climb.last.mixture, climb.watched[-1]
        view.draw_density(grid[row, 0], mixture)
        along = "" if view.is_plane else ", along these axes"
        grid[row, 0].set_title(f"{name}: p(x; θ){along}", fontsize="medium")
        if view.is_plane:
            assign = climb.last.assign or mixture.log_responsibilities
            view.draw_assignments(grid[row, 1], assign)
        view.draw_points(grid[row, 1], q, edge=view.is_plane)
        view.draw_components(grid[row, 1], mixture)
        what = "p(z | x)" if climb.last.assign is None else "q(z | x)"
        grid[row, 1].set_title(f"{name}: {what}", fontsize="medium")
    for axes in grid.flatten():
        view.set_limits(axes)
    return figure


def plot_gradient_variances(comparison: Comparison) -> Figure:
    """Plot the variance of the score-function gradient by step, with and without a baseline."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, climb in _climbs(comparison).items():
        variance = np.array(climb.gradient_variance)
        (measured,) = np.nonzero(variance > 0)
        if len(measured):
            axes.plot(measured, variance[measured], marker="o", markersize=3, label=name)
    axes.set(
        yscale="log" if axes.get_lines() else "linear",
        xlabel="step",
        ylabel="total variance",
        title="gradient of the ELBO in the network's parameters, from one draw of z",
    )
    axes.title.set_fontsize("medium")
    if axes.get_lines():
        axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def animate_fits(comparison: Comparison) -> FuncAnimation:
    """Animate EM and amortised VI on the same data, from the same start."""
    figure = Figure(figsize=(9, 4.6))
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.11, top=0.87, wspace=0.18)
    view = _View(comparison)
    climbs = {name: _climbs(comparison)[name] for name in _COMPARED_METHODS}
    frames = {name: _choose_frames(len(climb.elbo)) for name, climb in climbs.items()}

    def draw(frame: int) -> list[Any]:
        for axes, (name, climb) in zip(panels, climbs.items(), strict=True):
            step = frames[name][frame]
            axes.clear()
            view.draw_points(axes, climb.watched[step])
            view.draw_components(axes, climb.mixtures[step])
            view.set_limits(axes)
            axes.set_title(
                f"{name}, step {step}\nELBO {climb.elbo[step]:.4f}, gap {climb.kl[step]:.4f}",
                fontsize="medium",
                family="monospace",
            )
        return list(panels)

    return FuncAnimation(figure, draw, frames=_NUM_FRAMES, blit=False)


class _View:
    """A projection to two axes, the same in every picture of a comparison."""

    def __init__(self, comparison: Comparison) -> None:
        x = comparison.points.train
        n, d = x.shape
        self.is_plane = d == 2
        centred = x - x.mean(0)
        if d > 2:
            _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
            share = singular.square() / singular.square().sum()
            self._axes = directions[:2].mT
            self._labels = [f"principal component {i + 1} ({share[i]:.0%})" for i in (0, 1)]
        else:
            self._axes = torch.eye(d).to(x)
            self._labels = [f"{name} (standardised)" for name in comparison.points.features]
        shown = (x @ self._axes).cpu().numpy()
        if d == 1:
            spread = np.random.default_rng(0).uniform(-1, 1, size=(n, 1))
            shown, self._labels = np.hstack([shown, spread]), [self._labels[0], "(spread)"]
        watched = len(_climbs(comparison)[_COMPARED_METHODS[0]].watched[0])
        self._points = shown[:watched]
        low, high = shown.min(0), shown.max(0)
        margin = 0.08 * (high - low)
        self._low, self._high = low - margin, high + margin

    def _project(self, mixture: Mixture) -> tuple[NDArray[Any], NDArray[Any], Mixture]:
        axes = self._axes.to(mixture.locs)
        locs, matrices = mixture.locs @ axes, axes.mT @ mixture.matrices @ axes
        flat = Mixture.of(mixture.weights / mixture.weights.sum(), locs, matrices)
        return locs.cpu().numpy(), matrices.cpu().numpy(), flat

    def _grid(self) -> tuple[NDArray[Any], NDArray[Any]]:
        sides = [np.linspace(self._low[i], self._high[i], _GRID_SIZE) for i in (0, 1)]
        first, second = np.meshgrid(*sides)
        return first, second

    def draw_density(self, axes: Any, mixture: Mixture) -> None:
        """Draw contours of p(x), or its curve if there is one dimension."""
        _, _, flat = self._project(mixture)
        first, second = self._grid()
        if flat.locs.shape[1] == 1:
            line = first[:1].T
            curve = flat.log_prob(line).exp().numpy()
            height = self._high[1] - self._low[1]
            axes.plot(line, self._low[1] + 0.9 * height * curve / curve.max(), color=_TRUTH)
        else:
            log_prob = flat.log_prob(np.stack([first, second], -1).reshape(-1, 2)).numpy()
            levels = log_prob.max() - np.arange(0.5, 8, 0.75)[::-1] ** 1.2
            surface = log_prob.reshape(first.shape)
            axes.contour(first, second, surface, levels=levels, cmap="viridis", linewidths=1)
        axes.scatter(*self._points.T, s=5, color=_TRUTH, alpha=0.4, linewidths=0)

    def draw_assignments(self, axes: Any, assign: Any) -> None:
        """Draw q over the plane, as a blend of the colours of components."""
        first, second = self._grid()
        points = torch.from_numpy(np.stack([first, second], -1).reshape(-1, 2))
        with torch.no_grad():
            q = assign(points).exp().cpu()
        colours = _mix_colours(q).reshape(_GRID_SIZE, _GRID_SIZE, 3)
        extent = (self._low[0], self._high[0], self._low[1], self._high[1])
        axes.imshow(colours, extent=extent, origin="lower", aspect="auto", alpha=0.45)

    def draw_points(self, axes: Any, q: Float[Tensor, "m k"], *, edge: bool = False) -> None:
        """Draw the data, each in the blend of colours that its q gives."""
        outline = {"edgecolors": "white", "linewidths": 0.3} if edge else {"linewidths": 0}
        axes.scatter(*self._points.T, c=_mix_colours(q), s=14 if edge else 10, **outline)

    def draw_components(self, axes: Any, mixture: Mixture) -> None:
        """Draw each component at two standard deviations; larger weights have thicker lines."""
        locs, matrices, flat = self._project(mixture)
        weights = flat.weights.cpu().numpy()
        for k, (loc, matrix, weight) in enumerate(zip(locs, matrices, weights, strict=True)):
            colour, width = f"C{k % 10}", 0.8 + 2.5 * weight
            if len(loc) == 1:
                axes.axvspan(
                    loc[0] - 2 * matrix[0, 0] ** 0.5,
                    loc[0] + 2 * matrix[0, 0] ** 0.5,
                    color=colour,
                    alpha=0.15,
                )
                axes.axvline(loc[0], color=colour, linewidth=width)
                continue
            values, vectors = np.linalg.eigh(matrix)
            angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
            axes.add_patch(
                Ellipse(
                    loc,
                    4 * values[1] ** 0.5,
                    4 * values[0] ** 0.5,
                    angle=angle,
                    facecolor="none",
                    edgecolor=_darken(colour),
                    linewidth=width,
                )
            )
            axes.plot(*loc, marker="+", color=_darken(colour), markersize=8)

    def set_limits(self, axes: Any) -> None:
        """Set the limits and labels that all pictures share."""
        axes.set_xlim(self._low[0], self._high[0])
        axes.set_ylim(self._low[1], self._high[1])
        axes.set(xlabel=self._labels[0], ylabel=self._labels[1])


def _climbs(comparison: Comparison) -> dict[str, Climb]:
    results = comparison.results.items()
    return {name: result.climb for name, result in results if result.climb is not None}


def _choose_frames(num_steps: int) -> list[int]:
    """Choose steps for the frames, on a logarithmic scale; the last step stays for a second."""
    moving = _NUM_FRAMES - FRAMES_PER_SECOND
    steps = np.geomspace(1, num_steps, moving).round().astype(int) - 1
    return [*steps.tolist(), *[num_steps - 1] * FRAMES_PER_SECOND]


def _mix_colours(q: Tensor) -> NDArray[Any]:
    palette: Sequence[tuple[float, float, float]] = [to_rgb(f"C{i}") for i in range(10)]
    colours = np.array([palette[k % 10] for k in range(q.shape[1])])
    mixed: NDArray[Any] = np.clip(q.cpu().numpy() @ colours, 0, 1)
    return mixed


def _darken(colour: str) -> tuple[float, ...]:
    return tuple(0.65 * channel for channel in to_rgb(colour))
