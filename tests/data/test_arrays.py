"""Arrays are batched like tensors, and memory-mapped files without reading them whole."""

from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyrovae import Batches, InputError
from pyrovae.data.arrays import Source
from pyrovae.data.batches import as_batches
from pyrovae.data.readahead import are_larger_than_memory, read_ahead


def mapped(folder: Path, array: np.ndarray, name: str = "x") -> Any:
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def as_view(folder: Path, array: np.ndarray) -> Any:
    return np.asarray(mapped(folder, array))[:]


def from_buffer(folder: Path, array: np.ndarray) -> Any:
    (folder / "x.bin").write_bytes(array.tobytes())
    with (folder / "x.bin").open("rb") as file:
        map_ = mmap(file.fileno(), 0, access=ACCESS_READ)
    return np.frombuffer(map_, array.dtype).reshape(array.shape)


def in_memory(folder: Path, array: np.ndarray) -> Any:
    return array


def read_only(folder: Path, array: np.ndarray) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


ARRAYS = {each.__name__: each for each in (mapped, as_view, from_buffer, in_memory, read_only)}

X = np.random.default_rng(0).normal(size=(23, 2, 3))
TYPES = {"<f8": torch.float32, "<f4": torch.float32, "<f2": torch.float32}
TYPES |= {"|u1": torch.uint8, "<i8": torch.int64, "|b1": torch.bool}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in order"])
def test_batches_equal_those_of_a_tensor(
    kind: str, dtype: str, shuffle: bool, tmp_path: Path
) -> None:
    array = (100 * X).astype(dtype)
    tensor = torch.tensor(array).to(TYPES[dtype])

    def batches(data: Any) -> list[Tensor]:
        torch.manual_seed(3)
        return [x for _ in range(2) for (x,) in Batches(data, 5, shuffle=shuffle)]

    expected, actual = batches(tensor), batches(ARRAYS[kind](tmp_path, array))
    assert [x.dtype for x in actual] == [TYPES[dtype]] * 10
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("make", [mapped, as_view, from_buffer], ids=lambda make: make.__name__)
def test_maps_are_recognised_and_their_batches_are_writable_copies(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    array = X.astype(np.float32)
    data = make(tmp_path, array)
    source = Source.from_array(data)
    assert source.map is not None
    assert source.tensor.data_ptr() == data.ctypes.data
    for shuffle in (True, False):
        for (x,) in Batches(data, 5, shuffle=shuffle):
            x.zero_()
    np.testing.assert_array_equal(data, array)
    assert Source.from_array(array).map is None


def test_maps_and_tensors_can_be_combined(tmp_path: Path) -> None:
    labels = torch.arange(23)
    for x, y in Batches((mapped(tmp_path, X), labels), 5):
        torch.testing.assert_close(x, torch.tensor(X).float()[y], rtol=0, atol=0)


def test_real_numbers_get_the_default_type(float64: None, tmp_path: Path) -> None:
    (x,) = next(iter(Batches(mapped(tmp_path, X), 23, shuffle=False)))
    assert torch.equal(x, torch.tensor(X))


def test_mapped_data_are_moved_batch_by_batch(tmp_path: Path) -> None:
    """The host draws the order and gathers rows; a step receives the moved batch."""
    labels = torch.arange(23)
    batches = Batches((mapped(tmp_path, X), labels), 5, device="meta", transform=lambda x, y: x[1:])
    for index in batches.indices():
        fetched = batches.fetch(index)
        assert index.device.type == "cpu"
        assert [part.device.type for part in fetched] == ["meta", "meta"]
        (x,) = batches.finish(*fetched)
        assert x.shape == (len(index) - 1, 2, 3)
    assert [x.device.type for (x,) in batches.in_order()] == ["meta"] * 5
    on_host = Batches((mapped(tmp_path, X), labels), 5)
    (index,) = on_host.fetch(torch.tensor([4, 2]))
    assert [x.tolist() for x in on_host.finish(index)[1:]] == [[4, 2]]


def test_digest_depends_on_all_values_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = X.astype(np.float32)
    tensor = torch.tensor(array)
    digest = Batches(tensor).digest()
    digests = {Batches(make(tmp_path, array)).digest() for make in ARRAYS.values()}
    digests.add(Batches(X).digest())  # of the values after the cast to single precision
    digests.add(Batches(mapped(tmp_path, X)).digest())
    for chunk_size in (1, 100):
        monkeypatch.setattr("pyrovae.data.batches._DIGEST_CHUNK", chunk_size)
        digests.add(Batches(mapped(tmp_path, X)).digest())
    assert digests == {digest}
    for row in range(23):
        changed = tensor.clone()
        changed[row, 1, 2] += 1e-6
        assert Batches(changed).digest() != digest
    assert Batches(tensor.reshape(23, 6)).digest() != digest
    assert Batches(tensor.view(torch.int32)).digest() != digest


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a", "b"]), "data holds <U1; it must hold real numbers"),
        (np.array([None]), "data holds object"),
        (np.ones(2, dtype=complex), "data holds complex128"),
        (np.ma.masked_array(np.ones(2), mask=[True, False]), "data is a masked array"),
        (np.array(3.0), "1 or more"),
        (np.ones((0, 2)), "1 or more"),
    ],
    ids=["words", "objects", "complex", "masked", "scalar", "empty"],
)
def test_unsupported_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_batches(array, 5, shuffle=True, transform=None, device=None)


@pytest.mark.parametrize("layout", ["byte order", "reversed", "record field"])
def test_arrays_of_any_memory_layout_are_read(layout: str) -> None:
    values = np.arange(8.0).reshape(4, 2)
    array = {
        "byte order": values.astype(">f4"),
        "reversed": values[::-1].copy()[::-1],
        "record field": np.array([((a, b), 0) for a, b in values], [("x", "f8", 2), ("y", "i4")])[
            "x"
        ],
    }[layout]
    (x,) = next(iter(Batches(array, 5, shuffle=False)))
    assert torch.equal(x, torch.tensor(values, dtype=torch.float32))


def test_reading_ahead_yields_the_same_batches(tmp_path: Path) -> None:
    x = mapped(tmp_path, np.arange(3000 * 700).reshape(3000, 700))
    narrow = mapped(tmp_path, np.arange(3000, dtype=np.uint8), "y")
    every_second = x[::2]
    sources = [Source.from_array(part) for part in (x, narrow, every_second)]
    maps = [source.map for source in sources if source.map is not None]
    order = torch.randperm(1500).split(64)
    for num in (0, 1, 8, 9, 24):
        batches = list(read_ahead(order[:num], [source.tensor for source in sources], maps))
        assert len(batches) == num
        assert all(map(torch.equal, batches, order))
    unfinished = read_ahead(order, [sources[0].tensor], maps)
    next(unfinished)
    unfinished.close()  # type: ignore[attr-defined]


def test_reading_ahead_reads_every_page(tmp_path: Path) -> None:
    """Threads read bytes, so an access outside the file would end the process."""
    from pyrovae.data.readahead import _Pages

    width = 2 * 4096 + 100
    x = torch.zeros(7, width, dtype=torch.uint8)
    columns = _Pages(x)._columns.tolist()
    for start in range(0, 7 * width, width):
        pages = {(start + column) // 4096 for column in columns}
        assert pages == set(range(start // 4096, (start + width - 1) // 4096 + 1))


def test_files_larger_than_memory_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = mapped(tmp_path, X)
    map_ = Source.from_array(x).map
    assert map_ is not None
    assert not are_larger_than_memory([map_])
    torch.manual_seed(1)
    expected = torch.cat(list(Batches(x, 2).indices()))
    sizes = {"SC_PAGE_SIZE": 100, "SC_PHYS_PAGES": len(map_) // 100}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    assert are_larger_than_memory([map_])
    torch.manual_seed(1)
    assert torch.equal(torch.cat(list(Batches(x, 2).indices())), expected)
