"""Files of arrays that are damaged, or hold what no data are."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from .harness import Case
from .mutations import mutated_bytes

__all__ = ["array_files"]

_TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int64", "uint64", "float16", "float32", "float64",
    ">f4", ">i8", "longdouble", "complex64", "U3", "S3", "datetime64[s]", "timedelta64[s]",
)  # fmt: skip

_MODELS = ((), ("--model", "conditional"), ("--likelihood", "Bernoulli"), ("--network", "conv"))


def _shapes() -> st.SearchStrategy[tuple[int, ...]]:
    size = st.sampled_from([0, 1, 2, 3, 4, 8])
    first = st.sampled_from([0, 1, 2, 5, 20, 30])
    return st.builds(lambda n, rest: (n, *rest)[:8], first, st.lists(size, max_size=6))


def _array(shape: tuple[int, ...], kind: str, fill: str, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    values: NDArray[Any] = rng.normal(0, 3, shape)
    if fill == "zeros":
        values = np.zeros(shape)
    elif fill == "grey":
        values = rng.integers(0, 256, shape).astype(float)
    elif fill in _SPECIAL and values.size:
        values.flat[int(rng.integers(values.size))] = _SPECIAL[fill]
    with np.errstate(all="ignore"):
        return values.astype(kind)


_SPECIAL = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e300": 1e300, "1e30": 1e30}
_FILLS = ("normal", "zeros", "grey", *_SPECIAL)


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _zip(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _header(text: str, data: bytes = b"") -> bytes:
    header = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


_GOOD = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")


def _oddities() -> dict[str, bytes]:
    objects = np.array([{"a": 1}, None], dtype=object)
    fields = np.zeros(20, dtype=[("a", "f4"), ("b", "i4")])
    form = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}\n"
    bomb = _header(form.format((4_000_000_000,)), bytes(2**20))
    zeros = _header(form.format((20_000, 5_000)), bytes(20_000 * 5_000 * 4))
    return {
        "empty": b"",
        "magic alone": b"\x93NUMPY",
        "zip alone": b"PK\x03\x04",
        "empty zip": _zip({}),
        "objects": _npy(objects),
        "objects.npz": _npz({"x": objects}),
        "fields": _npy(fields),
        "a pickle": pickle.dumps({"x": [1, 2]}),
        "a pickle in a zip": _zip({"x.npy": pickle.dumps([1])}),
        "text in a zip": _zip({"x": b"hello", "y": b"world"}),
        "text for labels": _zip({"x.npy": _npy(_GOOD), "y": b"world"}),
        "a zip in a zip": _zip({"x.npy": _zip({"x.npy": _npy(_GOOD)})}),
        "two of a name": _zip({"x": _npy(_GOOD), "x.npy": _npy(_GOOD[:2])}),
        "lzma": _zip({"x.npy": _npy(_GOOD)}, zipfile.ZIP_LZMA),
        "bzip2": _zip({"x.npy": _npy(_GOOD)}, zipfile.ZIP_BZIP2),
        "locked": _zip({"x.npy": _npy(_GOOD)}).replace(b"\0\0\x08\0", b"\x01\0\x08\0"),
        "unknown packing": _zip({"x.npy": _npy(_GOOD)}).replace(b"\0\0\x08\0", b"\0\0\x63\0"),
        "a shape too large": _header(form.format((10**12, 4))),
        "a shape beyond all": _header(form.format((10**30, 4))),
        "a negative shape": _header(form.format((-1, 4)), bytes(160)),
        "a shape of words": _header(form.format("('a', 4)")),
        "truth values for a shape": _header(form.format("(True, 4)"), bytes(16)),
        "a nested header": _header("(" * 5000 + ")" * 5000),
        "a header of code": _header("__import__('os').system('touch ../outside/harm')"),
        "no shape": _header("{'descr': '<f4'}"),
        "unknown type": _header(form.format((2, 2)).replace("<f4", "<q9")),
        "type of a pickle": _header(form.format((2, 2)).replace("<f4", "|O"), pickle.dumps([1])),
        "type of bytes": _header(form.format((2, 2)).replace("<f4", "|V9"), bytes(99)),
        "version 9": b"\x93NUMPY\x09\x00" + bytes(200),
        "a bomb": _zip({"x.npy": bomb}),
        "zeros": _zip({"x.npy": zeros[: 2**20] + bytes(300 * 2**20)}),
        "a table": b"a,b\n1,2\n",
        "other names": _npz({"a": _GOOD, "b": _GOOD}),
        "a training set alone": _npz({"x_train": _GOOD}),
        "no test labels": _npz({"x_train": _GOOD, "x_test": _GOOD, "y_train": np.arange(30)}),
        "other test data": _npz({"x_train": _GOOD, "x_test": _GOOD[:, :2]}),
        "empty test data": _npz({"x_train": _GOOD, "x_test": _GOOD[:0]}),
        "labels of others": _npz({"x": _GOOD, "y": np.arange(7)}),
        "labels of no type": _npz({"x": _GOOD, "y": np.linspace(0, 1, 30)}),
        "labels missing": _npz({"x": _GOOD, "y": np.full(30, -1)}),
        "labels of huge numbers": _npz({"x": _GOOD, "y": np.arange(30, dtype="uint64") + 2**63}),
        "labels in columns": _npz({"x": _GOOD, "y": np.zeros((30, 1), int)}),
        "labels of words": _npz({"x": _GOOD, "y": np.array(["a"] * 30)}),
        "labels of test data alone": _npz(
            {"x_train": _GOOD, "x_test": _GOOD, "y_test": np.arange(30)}
        ),
        "brackets": _npz({"[/x]": _GOOD, "[y]": _GOOD}),
    }  # fmt: skip


def array_files() -> st.SearchStrategy[Case]:
    """Files of any shapes and types, damaged ones, and some of the harmful ones there are."""
    good = st.builds(
        _array, _shapes(), st.sampled_from(_TYPES), st.sampled_from(_FILLS), st.integers(0, 9)
    )
    whole = st.one_of(
        good.map(lambda x: (".npy", _npy(x))),
        good.map(lambda x: (".npz", _npz({"x": x}))),
        st.builds(lambda x, y: (".npz", _npz({"x": x, "y": y})), good, good),
        st.builds(lambda x, y: (".npz", _npz({"x_train": x, "x_test": y})), good, good),
    )
    valid = st.sampled_from([(".npy", _npy(_GOOD)), (".npz", _npz({"x": _GOOD}))])
    oddities = sorted(_oddities().items())
    files = st.one_of(
        whole,
        st.one_of(whole, valid).flatmap(
            lambda file: mutated_bytes(file[1]).map(lambda data: (file[0], data))
        ),
        st.tuples(st.sampled_from([".npy", ".npz"]), st.sampled_from(oddities).map(lambda o: o[1])),
    )

    def made(file: tuple[str, bytes], model: tuple[str, ...]) -> Case:
        suffix, data = file
        options = ("--epochs", "1", "--hidden", "4", "--latent-dim", "2", *model)
        words = ("train", f"x{suffix}", "--output", "run", "--device", "cpu", *options)
        return Case(words, {f"x{suffix}": data}, "arrays")

    return st.builds(made, files, st.sampled_from([*_MODELS[:1] * 5, *_MODELS]))
