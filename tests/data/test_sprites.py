"""Sprites against outlines drawn pixel by pixel, and the file of dSprites, safely read."""

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


def some_factors(num: int) -> Tensor:
    return torch.stack([torch.randint(size, (num,)) for size in SIZES], 1)


def drawn_by_hand(shape: int, scale: int, orientation: int, x: int, y: int) -> Tensor:
    """Each pixel of the frame by the definition of the shapes."""
    size, angle = 0.5 + 0.1 * scale, 2 * pi * orientation / 40
    image = torch.zeros(64, 64, dtype=torch.uint8)
    for row in range(64):
        for column in range(64):
            right, up = (column - 16 - x) / size, (16 + y - row) / size
            # Turning the sprite one way is turning the frame the other.
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


def test_sprites_are_their_outlines_on_the_whole_frame() -> None:
    last = torch.tensor([size - 1 for size in SIZES])
    corners = torch.cartesian_prod(
        torch.arange(3), last[1:2], torch.tensor([0, 5, 33]), *[torch.tensor([0, 31])] * 2
    )
    factors = torch.cat([corners, some_factors(20)])
    images = sprites(factors)
    assert images.dtype == torch.uint8
    assert images.shape == (len(factors), 1, 64, 64)
    for row, image in zip(factors.tolist(), images[:, 0], strict=True):
        assert torch.equal(image, drawn_by_hand(*row)), row


def test_no_pixel_is_so_near_an_outline_that_round_off_decides() -> None:
    assert _outlines().abs().min() > 1e-9


def test_same_factors_same_image() -> None:
    factors = some_factors(50)
    assert torch.equal(sprites(factors), sprites(factors.flip(0)).flip(0))
    assert torch.equal(sprites(factors), sprites(factors.int()))
    assert sprites(factors[:0]).shape == (0, 1, 64, 64)


def test_a_square_is_symmetric_under_a_quarter_turn() -> None:
    factors = torch.tensor([[0, scale, turn, 0, 0] for scale in range(6) for turn in range(40)])
    window = sprites(factors)[:, 0, :33, :33]  # its centre is pixel 16
    assert torch.equal(window, window.rot90(1, (1, 2)))


def test_images_differ_but_for_the_symmetries_of_shapes() -> None:
    factors = torch.cartesian_prod(*(torch.arange(size) for size in SIZES[:3]))
    factors = torch.cat([factors, torch.full((len(factors), 2), 7)], 1)
    images = sprites(factors).flatten(1)
    alike = factors.clone()
    alike[:, 2] %= torch.tensor([10, 20, 40])[factors[:, 0]]
    different, which = images.unique(dim=0, return_inverse=True)
    assert len(different) == 6 * (10 + 20 + 40)
    together, of_factors = alike.unique(dim=0, return_inverse=True)
    pairs = torch.stack([which, of_factors], 1).unique(dim=0)
    assert len(pairs) == len(different) == len(together)


def test_positions_move_an_image_and_cut_nothing() -> None:
    factors = some_factors(300)
    factors[:, 3:] %= 31
    images, one = sprites(factors), torch.tensor([0, 0, 0, 1, 0])
    assert torch.equal(sprites(factors + one), images.roll(1, 3))
    assert torch.equal(sprites(factors + one.roll(1)), images.roll(1, 2))
    assert not images[..., -1].any()  # so that nothing came round
    assert not images[..., -1, :].any()


def test_all_factors_are_row_major() -> None:
    factors = all_factors()
    assert len(factors) == 737_280
    strides = torch.tensor([6 * 40 * 32 * 32, 40 * 32 * 32, 32 * 32, 32, 1])
    assert torch.equal((factors * strides).sum(1), torch.arange(737_280))


def test_random_sprites_are_all_different_and_those_of_the_seed() -> None:
    state = torch.get_rng_state()
    data = load_sprites(2000, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(data.factors.unique(dim=0)) == 2000
    assert torch.equal(data.images, sprites(data.factors))
    assert data.names == ("shape", "scale", "orientation", "x", "y")
    assert torch.equal(data.factors, load_sprites(2000, seed=3).factors)
    assert not torch.equal(data.factors, load_sprites(2000, seed=4).factors)
    # The mean of uniform values 0, ..., n - 1 drawn without replacement; variance (n^2 - 1) / 12.
    sizes = torch.tensor(SIZES)
    error = ((sizes**2 - 1) / 12 / 2000).sqrt()
    assert ((data.factors.float().mean(0) - (sizes - 1) / 2).abs() < 4.5 * error).all()


def test_sprites_by_name() -> None:
    read = read_sprites(None, False)
    assert read.train.x.shape == (50_000, 1, 64, 64)
    assert (read.levels, read.classes) == (None, SHAPES)
    assert read.train.y is not None
    assert read.train.y.unique().tolist() == [0, 1, 2]


def test_a_vae_of_sprites_is_bernoulli_on_the_pixels_as_they_are() -> None:
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


def test_values_that_factors_do_not_have() -> None:
    with pytest.raises(InputError, match="values of factor 'orientation' must be from 0 to 39"):
        sprites(torch.tensor([[0, 0, 40, 0, 0]]))
    with pytest.raises(InputError, match="values of factor 'shape' must be from 0 to 2"):
        sprites(torch.tensor([[-1, 0, 0, 0, 0]]))
    for num in (0, 737_281):
        with pytest.raises(InputError, match="ask for 1 to 737,280 sprites"):
            load_sprites(num)


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def arrays(num: int = 12) -> dict[str, Any]:
    factors = some_factors(num)
    classes = torch.cat([torch.zeros(num, 1, dtype=torch.int64), factors], 1)
    return {"imgs": sprites(factors)[:, 0].numpy(), "latents_classes": classes.numpy()}


def test_dsprites_is_read_and_its_pickle_is_not(tmp_path: Path) -> None:
    path, sprung = tmp_path / DSPRITES_FILE, tmp_path / "sprung"
    held = arrays()
    np.savez(path, allow_pickle=True, metadata=np.array(Trap(sprung), dtype=object), **held)
    data = load_dsprites(path)
    assert not sprung.exists()
    assert torch.equal(data.images, sprites(data.factors))
    assert np.array_equal(data.factors.numpy(), held["latents_classes"][:, 1:])
    read = read_dsprites(tmp_path, False)
    assert torch.equal(read.train.x, data.images)
    assert read.train.y is not None
    assert torch.equal(read.train.y, data.factors[:, 0])
    assert [len(part) for part in load("dsprites", root=tmp_path).splits.values()] == [9, 1, 2]
    with np.load(path, allow_pickle=True) as file:
        assert file["metadata"] is not None
    assert sprung.exists()  # the trap works


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
def test_files_that_are_not_dsprites(tmp_path: Path, change: Any, message: str) -> None:
    np.savez(tmp_path / "a.npz", **(arrays() | change))
    with pytest.raises(InputError, match=message):
        load_dsprites(tmp_path / "a.npz")


def test_files_that_are_no_archive(tmp_path: Path) -> None:
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
