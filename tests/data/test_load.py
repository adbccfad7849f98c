"""Data sets by name and from files: their splits and errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pyrovae import Dataset, InputError, load


def rows(dataset: Dataset) -> list[set[bytes]]:
    return [{x.numpy().tobytes() for x in part.x} for part in dataset.splits.values()]


def test_digits_equal_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    digits = load("digits")
    assert (digits.levels, digits.event_shape) == (16.0, (1, 8, 8))
    parts = digits.splits.values()
    assert sum(len(part) for part in parts) == 1797
    everything = sorted(x.numpy().tobytes() for part in parts for x in part.x)
    assert everything == sorted(image.astype(np.uint8).tobytes() for image in load_digits().images)
    by_image = {
        image.astype(np.uint8).tobytes(): label
        for image, label in zip(load_digits().images, load_digits().target, strict=True)
    }
    for x, y in zip(digits.test.x, digits.test.y, strict=True):
        assert by_image[x.numpy().tobytes()] == y


def test_splits_do_not_depend_on_the_global_seed() -> None:
    torch.manual_seed(1)
    first = load("digits")
    torch.manual_seed(2)
    second = load("digits")
    assert rows(first) == rows(second)
    # Pinned, so that results of different releases can be compared.
    assert first.test.y is not None
    assert first.test.y[:10].tolist() == FIRST_TEST_LABELS


FIRST_TEST_LABELS = [6, 5, 5, 7, 9, 9, 8, 4, 6, 8]


def test_mnist_splits_and_statistics(data_root: Path) -> None:
    mnist = load("mnist", root=data_root)
    assert [len(part) for part in mnist.splits.values()] == [54_000, 6_000, 10_000]
    assert mnist.train.x.dtype == torch.uint8
    assert (mnist.event_shape, mnist.levels) == ((1, 28, 28), 255.0)
    assert mnist.test.y is not None
    # The published test data in their order.
    assert mnist.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.test.x.double().mean().item() / 255 == pytest.approx(0.1325, abs=1e-4)


def test_mnist_is_found_by_the_environment_variable(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYROVAE_DATA", str(data_root))
    assert len(load("mnist", validation_fraction=0.5).validation) == 30_000


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "omniglot"])
def test_missing_data_are_refused_with_advice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"is not in .*; add --download"):
        load(name, root=tmp_path)
    monkeypatch.delenv("PYROVAE_DATA", raising=False)
    with pytest.raises(InputError, match=r"needs a folder: give --data-root"):
        load(name)


def test_omniglot_is_shrunk_with_white_strokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in Omniglot's format: black strokes on white, 105 x 105, one folder per character."""
    for folder, characters in (("images_background", 20), ("images_evaluation", 3)):
        for character in range(1, characters + 1):
            where = tmp_path / "omniglot-py" / folder / "Greek" / f"character{character:02}"
            where.mkdir(parents=True)
            pixels = np.full((105, 105), 255, dtype=np.uint8)
            pixels[:, : 105 // 4] = 0
            Image.fromarray(pixels).convert("1").save(where / f"{character:04}_01.png")
    # Otherwise torchvision checks the archive of the folders, which this test does not have.
    monkeypatch.setattr(torchvision.datasets.Omniglot, "_check_integrity", lambda self: True)
    omniglot = load("omniglot", root=tmp_path)
    assert [len(part) for part in omniglot.splits.values()] == [18, 2, 3]
    image = omniglot.test.x[0, 0]
    assert image.shape == (28, 28)
    assert (image[:, :6] == 255).all()
    assert (image[:, 8:] == 0).all()
    assert omniglot.test.y is not None
    assert omniglot.test.y.tolist() == [0, 1, 2]


def test_misspelt_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="unknown data set 'fasion-mnist': did you mean 'fashion-"):
        load("fasion-mnist")


X = np.arange(60.0).reshape(20, 3)
Y = np.arange(20) % 3


def save(path: Path, content: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_text(content)
    return path


def test_npy_is_split_into_three(tmp_path: Path) -> None:
    dataset = load(save(tmp_path / "mine.npy", X))
    assert dataset.name == "mine"
    assert [len(part) for part in dataset.splits.values()] == [14, 2, 4]
    everything = torch.cat([part.x for part in dataset.splits.values()])
    assert sorted(everything[:, 0].tolist()) == X[:, 0].tolist()
    assert everything.dtype == torch.float32
    assert dataset.train.y is None


def test_npz_keeps_x_and_y_together(tmp_path: Path) -> None:
    dataset = load(save(tmp_path / "mine.npz", {"x": X, "y": Y}))
    for part in dataset.splits.values():
        assert part.y is not None
        assert part.y.tolist() == [int(x / 3) % 3 for x in part.x[:, 0]]


def test_npz_keeps_its_own_test_data(tmp_path: Path) -> None:
    images = np.zeros((6, 5, 4), dtype=np.uint8)
    arrays = {"x_train": np.repeat(images, 3, 0), "x_test": images + 9}
    dataset = load(save(tmp_path / "mine.npz", arrays))
    assert [len(part) for part in dataset.splits.values()] == [16, 2, 6]
    assert dataset.event_shape == (1, 5, 4)  # images get a channel
    assert dataset.levels == 255
    assert (dataset.test.x == 9).all()


def test_csv_with_and_without_column_names(tmp_path: Path) -> None:
    lines = "\n".join(",".join(str(v) for v in row) for row in X)
    named = load(save(tmp_path / "named.csv", "age,height,weight\n" + lines))
    bare = load(save(tmp_path / "bare.csv", lines))
    assert named.features == ("age", "height", "weight")
    assert bare.features == ("0", "1", "2")
    assert torch.equal(named.train.x, bare.train.x)
    assert len(bare.train) + len(bare.validation) + len(bare.test) == 20


def test_csv_column_names_may_be_numbers(tmp_path: Path) -> None:
    named = load(save(tmp_path / "named.csv", "place,2001\n" + "1,2\n" * 9))
    assert named.features == ("place", "2001")
    lines = "".join(f"{a},{'cat' if a % 2 else 'dog'}\n" for a in range(9))
    bare = load(save(tmp_path / "bare.csv", lines), label="1")
    assert bare.features == ("0",)
    assert bare.classes == ("cat", "dog")
    assert len(bare.train) + len(bare.validation) + len(bare.test) == 9


def test_csv_with_huge_whole_numbers(tmp_path: Path) -> None:
    dataset = load(save(tmp_path / "ids.csv", "id\n" + f"{10**20}\n" * 9))
    assert dataset.train.x[0, 0].item() == pytest.approx(1e20)


def test_channels_of_colour_images_are_moved_first(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
    last = load(save(tmp_path / "last.npy", images))
    first = load(save(tmp_path / "first.npy", images.transpose(0, 3, 1, 2)))
    assert last.event_shape == (3, 6, 5)
    assert torch.equal(last.train.x, first.train.x)
    assert not last.is_grey


def test_csv_with_a_class_column(tmp_path: Path) -> None:
    lines = [f"{a},{'cat' if a % 2 else 'dog'},{2 * a}" for a in range(20)]
    path = save(tmp_path / "pets.csv", "\n".join(["age,kind,weight", *lines]))
    dataset = load(path, label="kind")
    assert dataset.features == ("age", "weight")
    assert dataset.test.y is not None
    assert dataset.test.y.tolist() == [1 - int(age) % 2 for age in dataset.test.x[:, 0]]
    (tmp_path / "gap.csv").write_text("a,kind\n1,x\n2,\n")
    with pytest.raises(InputError, match="the class 'kind' is missing in row 2"):
        load(tmp_path / "gap.csv", label="kind")
    with pytest.raises(InputError, match=r"column 'kind' holds 'dog' in row 1.*--label kind"):
        load(path)
    assert dataset.classes == ("cat", "dog")
    with pytest.raises(InputError, match="no column 'knd': did you mean 'kind'"):
        load(path, label="knd")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.array([{"a": 1}] * 9), "cannot be read as .npy: .* Python objects"),
        ("a.npy", np.arange(5.0), r"shape \(5,\); it needs a first dimension"),
        ("a.npy", np.array([["a"]] * 9), "must hold real numbers"),
        ("a.npy", np.zeros((2, 3)), "cannot split off a fraction of 0.2 of 2 data for testing"),
        ("a.npz", {"a": X, "b": X}, "holds arrays a, b; name the data 'x'"),
        ("a.npz", {"x": X, "y": Y[:4]}, "one whole number for each of the 20 data"),
        ("a.npz", {"x_train": X, "x_test": X[:, :2]}, r"of shape \(3,\) .* x_test of \(2,\)"),
        (
            "a.npz",
            {"x_train": X.astype(np.uint8), "x_test": X},
            r"\(torch.uint8\), x_test of .*float64",
        ),
        ("a.npz", {"x_train": X, "x_test": X[:0]}, r"x_test has shape \(0, 3\)"),
        ("a.csv", "a;b\n1,5;2\n1;2\n", "separates columns by semicolons or tabs"),
        ("a.csv", "a\tb\n1\t2\n1\t2\n", "separates columns by semicolons or tabs"),
        ("a.csv", "a,b\n" + "1,2,3\n" * 9, "Expected 2 fields in line 2, saw 3"),
        ("a.csv", "a,b\n1,2\n1,?\n", r"column 'b' holds '\?' in row 2; columns must be numbers$"),
        ("a.csv", "a,b\n1,2\n1,1e39\n", r"column 'b' holds 1e\+39, too large for single precision"),
        ("a.csv", "", "cannot be read as a table"),
        ("a.csv", "a,b\n", "has no data: 0 rows"),
        ("a.csv", "a,b\n1,2,3\n1\n1,2,3,4\n", "cannot be read as a table"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if name == "a.npy" and content.dtype == object:
        np.save(tmp_path / name, content, allow_pickle=True)
    else:
        save(tmp_path / name, content)
    with pytest.raises(InputError, match=message):
        load(tmp_path / name)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        load(tmp_path / "none.csv")
    np.savez(tmp_path / "cut.npz", x=X)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
        load(tmp_path / "cut.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
        load(tmp_path / "text.npz")


def test_label_columns_are_refused_for_other_data_than_csv() -> None:
    with pytest.raises(InputError, match=r"label must name a column of a CSV .*digits is not one"):
        load("digits", label="x")


@pytest.mark.parametrize(
    ("name", "size", "width", "first"), [("iris", 150, 4, "sepal"), ("wine", 178, 13, "alcohol")]
)
def test_tables_from_scikit_learn(name: str, size: int, width: int, first: str) -> None:
    dataset = load(name)
    assert sum(len(part) for part in dataset.splits.values()) == size
    assert dataset.event_shape == (width,)
    assert dataset.features is not None
    assert dataset.features[0].startswith(first)
    assert dataset.classes is not None
    assert len(dataset.classes) == 3
    assert dataset.train.y is not None
    assert dataset.train.y.unique().tolist() == [0, 1, 2]
    assert dataset.levels is None


def test_labels_with_gaps_are_numbered_from_zero(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = np.array([3, 7, -1, 7] * 10)
    np.savez(tmp_path / "gaps.npz", x_train=x, x_test=x[:4], y_train=y, y_test=y[:4])
    dataset = load(tmp_path / "gaps.npz")
    assert dataset.classes == ("3", "7")
    assert dataset.test.y is not None
    assert dataset.test.y.tolist() == [0, 1, -1, 1]
    np.savez(tmp_path / "whole.npz", x=x, y=np.arange(40) % 3)
    assert load(tmp_path / "whole.npz").classes is None
