"""Pictures show the numbers that they were given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyrovae.runs import plots


def texts(figure: Any) -> str:
    return " ".join(t.get_text() for axes in figure.axes for t in (axes.title, *axes.texts))


def test_image_grid_puts_images_side_by_side() -> None:
    images = torch.arange(5).reshape(5, 1, 1, 1).expand(5, 1, 2, 3).float()
    grid = plots.image_grid(images, columns=2)
    assert grid.shape == (3 * 3 + 1, 2 * 4 + 1)
    for i in range(5):
        top, left = i // 2 * 3 + 1, i % 2 * 4 + 1
        assert (grid[top : top + 2, left : left + 3] == i).all()
    assert np.isnan(grid[0]).all()  # the line between
    assert np.isnan(grid[7:, 5:]).all()  # the place of a sixth image
    assert plots.image_grid(torch.zeros(2, 3, 4, 4), 2).shape == (6, 11, 3)


@pytest.mark.parametrize("validation", [True, False])
def test_training_curves(validation: bool) -> None:
    epochs = [
        {
            "epoch": i,
            **dict.fromkeys(("loss", "reconstruction", "kl"), 10.0 / i),
            **{
                f"validation_{name}": 11.0 / i if validation else None
                for name in ("loss", "reconstruction", "kl")
            },
        }
        for i in range(1, 21)
    ]
    figure = plots.training_curves(epochs)
    for axes in figure.axes:
        curves = [line.get_ydata().tolist() for line in axes.lines]
        assert curves[0] == [10.0 / i for i in range(1, 21)]
        assert len(curves) == 1 + validation
        low, high = axes.get_ylim()
        assert low < 0.5
        assert high < 10  # the first two epochs do not flatten the rest


def test_rows_of_data_and_reconstructions_alternate() -> None:
    x, mean = torch.zeros(20, 1, 2, 2), torch.ones(20, 1, 2, 2)
    figure = plots.reconstructions(x, mean, limits=(0.0, 1.0))
    shown = figure.axes[0].images[0].get_array()
    assert [shown[3 * row + 1, 1] for row in range(4)] == [0, 1, 0, 1]
    assert shown.mask[3 * 2 + 1, 3 * 5 + 1]  # the second pair of rows has four images


@pytest.mark.slow
def test_samples_of_tables_lie_over_the_data() -> None:
    figure = plots.samples(
        torch.randn(50, 14), torch.randn(80, 14), (0.0, 1.0), [f"f{i}" for i in range(14)]
    )
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == [f"f{i}" for i in range(12)]
    assert "the first 12 of 14 features" in figure.get_suptitle()


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    z = torch.randn(60, 4) * torch.tensor([4.0, 3.0, 1.0, 0.5])
    figure = plots.latent_space(z, None)
    shown = np.asarray(figure.axes[0].collections[0].get_offsets())
    pca = PCA(2).fit(z.numpy())
    np.testing.assert_allclose(np.abs(shown), np.abs(pca.transform(z.numpy())), atol=1e-4)
    assert f"({pca.explained_variance_ratio_[0]:.0%} of" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("latents", [1, 2, 5])
@pytest.mark.parametrize("classes", [0, 3, 15, 300])
def test_latent_space_by_class(latents: int, classes: int) -> None:
    y = torch.arange(300) % classes if classes else None
    figure = plots.latent_space(torch.randn(300, latents), y)
    groups = figure.axes[0].collections
    assert len(groups) == (classes if classes in (3, 15) else 1)
    assert sum(len(group.get_offsets()) for group in groups) == 300


def test_the_manifold_has_z1_rightwards_and_z2_upwards() -> None:
    def decode(z: Tensor) -> Tensor:
        return z[:, 0].sigmoid().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    def decode_second(z: Tensor) -> Tensor:
        return z[:, 1].sigmoid().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    def shown(decoder: Callable[[Tensor], Tensor]) -> Any:
        draws = torch.stack([torch.linspace(-1, 1, 101), torch.linspace(0, 9, 101)], dim=1)
        figure = plots.manifold(decoder, draws, (0.0, 1.0), steps=5)
        return figure.axes[0].images[0].get_array()[1::3, 1::3]

    first, second = shown(decode), shown(decode_second)
    assert (np.diff(first, axis=1) > 0).all()
    np.testing.assert_allclose(first[0], torch.linspace(-0.96, 0.96, 5).sigmoid(), rtol=1e-5)
    assert np.allclose(np.diff(first, axis=0), 0)
    assert (np.diff(second, axis=0) < 0).all()


def test_traversals_move_one_latent_a_row() -> None:
    def decode(z: Tensor) -> Tensor:
        return z.reshape(-1, 1, 1, 4) / 10 + 0.5

    z = torch.tensor([0.1, 0.2, 0.3, 0.4])
    spread = torch.tensor([0.0, 0.0, 0.5, 0.0]), torch.tensor([1.0, 1.0, 0.5, 1.0])
    figure = plots.traversals(decode, z, [2, 0], ["two", "none"], spread, (0.0, 1.0), steps=7)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (2 * 2 + 1, 7 * 5 + 1)
    np.testing.assert_allclose(shown[1, 3::5], torch.linspace(-1, 2, 7) / 10 + 0.5, rtol=1e-5)
    np.testing.assert_allclose(shown[3, 3::5], 0.53, rtol=1e-5)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["two", "none"]


def test_pixels_are_shown_between_their_limits() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    figure = plots.samples(images, images, limits=(-1.0, 1.0))
    assert figure.axes[0].images[0].get_array()[1, 1::2].tolist() == [0.0, 0.5, 1.0]


def test_wide_images_stand_in_fewer_columns() -> None:
    figure = plots.samples(torch.zeros(64, 1, 4, 60), torch.zeros(64, 1, 4, 60), (0.0, 1.0))
    height, width = figure.axes[0].images[0].get_array().shape
    assert width / height < 4


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([1.6e18, 1.6e18, 1.6e18 + 1e11]),
        torch.tensor([3.0, 3.0, 3.0]),
        torch.tensor([0.5, 0.5, 0.5]),
        torch.tensor([0.0, 1.0, 7.0]),
        torch.tensor([1e30, -1e30, 0.0]),
    ],
)
def test_tables_of_any_size_are_drawn(values: Tensor) -> None:
    """With names that would be formulas, or too long."""
    x = torch.stack([values, values], dim=1)
    names = ["$x^$", "a very long name of a column that goes on"]
    for draw in (plots.samples, plots.reconstructions):
        figure = draw(x, x, (0.0, 1.0), names)
        figure.canvas.draw()
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == [r"\$x^\$", "a very long name of a colum…"]


def test_a_histogram_of_counts_has_a_bin_for_each() -> None:
    x = torch.tensor([[0.0], [1.0], [1.0], [4.0]])
    figure = plots.samples(x, x, (0.0, 1.0))
    (curve, _) = figure.axes[0].patches
    heights = curve.get_xy()[:, 1]
    assert heights.max() == 0.5
    assert set(heights.tolist()) == {0.0, 0.25, 0.5}


def test_the_legend_names_the_classes() -> None:
    figure = plots.latent_space(torch.randn(6, 2), torch.tensor([0, 1] * 3), ("cat", "dog"))
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["cat", "dog"]
