"""Sprites agree with outlines drawn pixel by pixel, and dSprites is read safely."""

from math import cos, isfinite, pi, sin
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from pyrovae import InputError, fit, load
from pyrovae.data.sprites import (
    DSPRITES_FILE,
    FACTORS,
    SHAPES,
    _outlines,
    all_factors,
    load_dsprites,
    load_sprites,
    read_dsprites,
    read_sprites,
    sprites,
)
from pyrovae.likelihoods import Likelihood
from pyrovae.runs.config import RunConfig
from pyrovae.runs.prepare import (
    build_model,
    check_data,
    make_training_batches,
    prepare_data,
)
from pyrovae.runs.resolve import resolve_options

SIZES = list(FACTORS.values())


def random_factors(num: int) -> Tensor:
    return torch.stack([torch.randint(size, (num,)) for size in SIZES], 1)


def draw_pixel_by_pixel(shape: int, scale: int, orientation: int, x: int, y: int) -> Tensor:
    """Decide each pixel by the definition of its shape."""
    size, angle = 0.5 + 0.1 * scale, 2 * pi * orientation / 40
    image = torch.zeros(64, 64, dtype=torch.uint8)
    for row in range(64):
        for column in range(64):
            right, up = (column - 16 - x) / size, (16 + y - row) / size
            # Rotating the sprite is rotating the frame in the opposite direction.
            u = right * cos(-angle) - up * sin(-angle)
            v = right * sin(-angle) + up * cos(-angle)
            if shape == 0:
                inside = abs(u) < 11.3 and abs(v) < 11.3
            elif shape == 1:
                inside = (u / 15.3) ** 2 + (v / 8.7) ** 2 < 1
            else:
                u, v = u / 11.2, v / 11.2
                inside = (u * u + v * v - 1) ** 3 < u * u * v**3
            image[row, column] = inside
    return image


@pytest.mark.slow
def test_sprites_fill_their_outlines() -> None:
    last = torch.tensor([size - 1 for size in SIZES])
    corners = torch.cartesian_prod(
        torch.arange(3), last[1:2], torch.tensor([0, 5, 33]), *[torch.tensor([0, 31])] * 2
    )
    factors = torch.cat([corners, random_factors(20)])
    images = sprites(factors)
    assert images.dtype == torch.uint8
    assert images.shape == (len(factors), 1, 64, 64)
    for row, image in zip(factors.tolist(), images[:, 0], strict=True):
        assert torch.equal(image, draw_pixel_by_pixel(*row)), row


def test_no_pixel_is_close_enough_to_an_outline_for_rounding_errors() -> None:
    assert _outlines().abs().min() > 1e-9


def test_images_depend_only_on_their_factors() -> None:
    factors = random_factors(50)
    assert torch.equal(sprites(factors), sprites(factors.flip(0)).flip(0))
    assert torch.equal(sprites(factors), sprites(factors.int()))
    assert sprites(factors[:0]).shape == (0, 1, 64, 64)


def test_squares_are_symmetric_under_quarter_turns() -> None:
    factors = torch.tensor([[0, scale, turn, 0, 0] for scale in range(6) for turn in range(40)])
    window = sprites(factors)[:, 0, :33, :33]  # its centre is pixel 16
    assert torch.equal(window, window.rot90(1, (1, 2)))


def test_images_differ_except_for_symmetries() -> None:
    factors = torch.cartesian_prod(*(torch.arange(size) for size in SIZES[:3]))
    factors = torch.cat([factors, torch.full((len(factors), 2), 7)], 1)
    images = sprites(factors).flatten(1)
    canonical = factors.clone()
    canonical[:, 2] %= torch.tensor([10, 20, 40])[factors[:, 0]]
    different, which = images.unique(dim=0, return_inverse=True)
    assert len(different) == 6 * (10 + 20 + 40)
    classes, which_class = canonical.unique(dim=0, return_inverse=True)
    pairs = torch.stack([which, which_class], 1).unique(dim=0)
    assert len(pairs) == len(different) == len(classes)


def test_positions_shift_images_without_cutting_them() -> None:
    factors = random_factors(300)
    factors[:, 3:] %= 31
    images, one = sprites(factors), torch.tensor([0, 0, 0, 1, 0])
    assert torch.equal(sprites(factors + one), images.roll(1, 3))
    assert torch.equal(sprites(factors + one.roll(1)), images.roll(1, 2))
    assert not images[..., -1].any()  # nothing wrapped around
    assert not images[..., -1, :].any()


def test_all_factors_are_row_major() -> None:
    factors = all_factors()
    assert len(factors) == 737_280
    strides = torch.tensor([6 * 40 * 32 * 32, 40 * 32 * 32, 32 * 32, 32, 1])
    assert torch.equal((factors * strides).sum(1), torch.arange(737_280))


def test_random_sprites_are_different_and_reproducible() -> None:
    state = torch.get_rng_state()
    data = load_sprites(2000, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(data.factors.unique(dim=0)) == 2000
    assert torch.equal(data.images, sprites(data.factors))
    assert data.names == ("shape", "scale", "orientation", "x", "y")
    assert torch.equal(data.factors, load_sprites(2000, seed=3).factors)
    assert not torch.equal(data.factors, load_sprites(2000, seed=4).factors)
    # Uniform values 0, ..., n - 1 have mean (n - 1) / 2 and variance (n^2 - 1) / 12.
    sizes = torch.tensor(SIZES)
    error = ((sizes**2 - 1) / 12 / 2000).sqrt()
    assert ((data.factors.float().mean(0) - (sizes - 1) / 2).abs() < 4.5 * error).all()


def test_named_data_set_has_shapes_as_classes() -> None:
    raw = read_sprites(None, False)
    assert raw.train.x.shape == (50_000, 1, 64, 64)
    assert (raw.levels, raw.classes) == (None, SHAPES)
    assert raw.train.y is not None
    assert raw.train.y.unique().tolist() == [0, 1, 2]


@pytest.mark.slow
def test_vae_of_sprites_is_bernoulli_without_binarisation() -> None:
    dataset = load("sprites")
    assert [len(part) for part in dataset.splits.values()] == [36_000, 4_000, 10_000]
    few = dataset.with_splits(*(part[torch.arange(64)] for part in dataset.splits.values()))
    config = RunConfig(data="sprites", network="conv", epochs=1)
    config = resolve_options(config, few, Path("run"), Console())
    assert config.likelihood == Likelihood("Bernoulli").to_dict()
    assert config.binarise == "none"
    vae, prepared = build_model(config, few), prepare_data(config, few)
    check_data(vae, prepared)
    batches = make_training_batches(config, few, prepared, torch.device("cpu"))
    history = fit(vae.model, vae.guide, batches, epochs=1, compile=False, progress=False)
    assert isfinite(history.epochs[0].loss)
    assert torch.equal(prepared.train.x, few.train.x)
    mean = vae.reconstruct(few.test.x)
    assert mean.shape == (64, 1, 64, 64)
    assert 0 < mean.min() < mean.max() < 1


def test_values_outside_the_range_of_a_factor_are_refused() -> None:
    with pytest.raises(InputError, match="values of factor 'orientation' must be from 0 to 39"):
        sprites(torch.tensor([[0, 0, 40, 0, 0]]))
    with pytest.raises(InputError, match="values of factor 'shape' must be from 0 to 2"):
        sprites(torch.tensor([[-1, 0, 0, 0, 0]]))
    for num in (0, 737_281):
        with pytest.raises(InputError, match="ask for 1 to 737,280 sprites"):
            load_sprites(num)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def arrays(num: int = 12) -> dict[str, Any]:
    factors = random_factors(num)
    classes = torch.cat([torch.zeros(num, 1, dtype=torch.int64), factors], 1)
    return {"imgs": sprites(factors)[:, 0].numpy(), "latents_classes": classes.numpy()}


def test_dsprites_is_read_without_unpickling(tmp_path: Path) -> None:
    path, trap_file = tmp_path / DSPRITES_FILE, tmp_path / "trap"
    saved = arrays()
    np.savez(path, allow_pickle=True, metadata=np.array(Trap(trap_file), dtype=object), **saved)
    data = load_dsprites(path)
    assert not trap_file.exists()
    assert torch.equal(data.images, sprites(data.factors))
    assert np.array_equal(data.factors.numpy(), saved["latents_classes"][:, 1:])
    raw = read_dsprites(tmp_path, False)
    assert torch.equal(raw.train.x, data.images)
    assert raw.train.y is not None
    assert torch.equal(raw.train.y, data.factors[:, 0])
    assert [len(part) for part in load("dsprites", root=tmp_path).splits.values()] == [9, 1, 2]
    with np.load(path, allow_pickle=True) as file:
        assert file["metadata"] is not None
    assert trap_file.exists()  # the trap works


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgs": np.zeros((12, 64, 63), np.uint8)}, r"must be uint8 of shape .* \(12, 64, 63\)"),
        ({"imgs": np.zeros((11, 64, 64), np.uint8)}, r"got uint8 \(11, 64, 64\)"),
        ({"imgs": np.zeros((12, 64, 64))}, "got float64"),
        ({"imgs": np.full((12, 64, 64), 255, np.uint8)}, "imgs must be 0 or 1"),
        ({"latents_classes": np.ones((12, 6), int)}, "numbers below 1, 3, 6, 40, 32, 32"),
        ({"latents_classes": np.zeros((12, 5), int)}, r"whole numbers of shape \(num, 6\)"),
        ({"latents_classes": np.zeros((12, 6))}, "got uint8 .* and float64"),
        ({"latents_classes": np.array(3)}, "is not dSprites"),
        ({"imgs": np.array([None] * 12)}, "cannot be read as dSprites"),
    ],
)
def test_arrays_other_than_dsprites_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    np.savez(tmp_path / "a.npz", **(arrays() | change))
    with pytest.raises(InputError, match=message):
        load_dsprites(tmp_path / "a.npz")


def test_missing_and_damaged_dsprites_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.npz; dSprites is published as"):
        load_dsprites(tmp_path / "none.npz")
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "c.npz").write_text("no archive")
    for name in ("a.npz", "b.npy", "c.npz"):
        with pytest.raises(InputError, match=r"it must be a \.npz with arrays imgs and latents_cl"):
            load_dsprites(tmp_path / name)
    with pytest.raises(InputError, match="dsprites needs a folder: give --data-root DIR"):
        read_dsprites(None, False)
