"""``.npy`` and ``.npz`` files: corrupted, malicious, or with contents that are no data set."""

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
    num_data = st.sampled_from([0, 1, 2, 5, 20, 30])
    return st.builds(lambda n, rest: (n, *rest)[:8], num_data, st.lists(size, max_size=6))


def _make_array(shape: tuple[int, ...], dtype: str, fill: str, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    values: NDArray[Any] = rng.normal(0, 3, shape)
    if fill == "zeros":
        values = np.zeros(shape)
    elif fill == "grey":
        values = rng.integers(0, 256, shape).astype(float)
    elif fill in _OUTLIERS and values.size:
        values.flat[int(rng.integers(values.size))] = _OUTLIERS[fill]
    with np.errstate(all="ignore"):
        return values.astype(dtype)


_OUTLIERS = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e300": 1e300, "1e30": 1e30}
_FILLS = ("normal", "zeros", "grey", *_OUTLIERS)


def _to_npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _to_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _to_zip(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _npy_with_header(text: str, data: bytes = b"") -> bytes:
    header = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


_VALID = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")


def _handmade_files() -> dict[str, bytes]:
    objects = np.array([{"a": 1}, None], dtype=object)
    fields = np.zeros(20, dtype=[("a", "f4"), ("b", "i4")])
    template = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}\n"
    bomb = _npy_with_header(template.format((4_000_000_000,)), bytes(2**20))
    zeros = _npy_with_header(template.format((20_000, 5_000)), bytes(20_000 * 5_000 * 4))
    return {
        "empty": b"",
        "only the magic bytes": b"\x93NUMPY",
        "only the zip signature": b"PK\x03\x04",
        "empty zip": _to_zip({}),
        "objects": _to_npy(objects),
        "objects.npz": _to_npz({"x": objects}),
        "fields": _to_npy(fields),
        "a pickle": pickle.dumps({"x": [1, 2]}),
        "a pickle in a zip": _to_zip({"x.npy": pickle.dumps([1])}),
        "text in a zip": _to_zip({"x": b"hello", "y": b"world"}),
        "text as labels": _to_zip({"x.npy": _to_npy(_VALID), "y": b"world"}),
        "a zip in a zip": _to_zip({"x.npy": _to_zip({"x.npy": _to_npy(_VALID)})}),
        "duplicate names": _to_zip({"x": _to_npy(_VALID), "x.npy": _to_npy(_VALID[:2])}),
        "lzma": _to_zip({"x.npy": _to_npy(_VALID)}, zipfile.ZIP_LZMA),
        "bzip2": _to_zip({"x.npy": _to_npy(_VALID)}, zipfile.ZIP_BZIP2),
        "encrypted": _to_zip({"x.npy": _to_npy(_VALID)}).replace(b"\0\0\x08\0", b"\x01\0\x08\0"),
        "unknown compression": _to_zip({"x.npy": _to_npy(_VALID)}).replace(
            b"\0\0\x08\0", b"\0\0\x63\0"
        ),
        "a shape too large": _npy_with_header(template.format((10**12, 4))),
        "a shape beyond 64 bits": _npy_with_header(template.format((10**30, 4))),
        "a negative shape": _npy_with_header(template.format((-1, 4)), bytes(160)),
        "a shape with text": _npy_with_header(template.format("('a', 4)")),
        "a shape of booleans": _npy_with_header(template.format("(True, 4)"), bytes(16)),
        "a nested header": _npy_with_header("(" * 5000 + ")" * 5000),
        "code in the header": _npy_with_header("__import__('os').system('touch ../outside/harm')"),
        "no shape": _npy_with_header("{'descr': '<f4'}"),
        "unknown type": _npy_with_header(template.format((2, 2)).replace("<f4", "<q9")),
        "object type with a pickle": _npy_with_header(
            template.format((2, 2)).replace("<f4", "|O"), pickle.dumps([1])
        ),
        "raw bytes type": _npy_with_header(
            template.format((2, 2)).replace("<f4", "|V9"), bytes(99)
        ),
        "version 9": b"\x93NUMPY\x09\x00" + bytes(200),
        "a zip bomb": _to_zip({"x.npy": bomb}),
        "zeros": _to_zip({"x.npy": zeros[: 2**20] + bytes(300 * 2**20)}),
        "a table": b"a,b\n1,2\n",
        "other names": _to_npz({"a": _VALID, "b": _VALID}),
        "only a training set": _to_npz({"x_train": _VALID}),
        "no test labels": _to_npz({"x_train": _VALID, "x_test": _VALID, "y_train": np.arange(30)}),
        "test data of another shape": _to_npz({"x_train": _VALID, "x_test": _VALID[:, :2]}),
        "empty test data": _to_npz({"x_train": _VALID, "x_test": _VALID[:0]}),
        "wrong number of labels": _to_npz({"x": _VALID, "y": np.arange(7)}),
        "fractional labels": _to_npz({"x": _VALID, "y": np.linspace(0, 1, 30)}),
        "labels missing": _to_npz({"x": _VALID, "y": np.full(30, -1)}),
        "huge labels": _to_npz({"x": _VALID, "y": np.arange(30, dtype="uint64") + 2**63}),
        "labels as a column": _to_npz({"x": _VALID, "y": np.zeros((30, 1), int)}),
        "text labels": _to_npz({"x": _VALID, "y": np.array(["a"] * 30)}),
        "only test labels": _to_npz({"x_train": _VALID, "x_test": _VALID, "y_test": np.arange(30)}),
        "names like markup": _to_npz({"[/x]": _VALID, "[y]": _VALID}),
    }


def array_files() -> st.SearchStrategy[Case]:
    """Train on arrays of any shape and type, and on mutated, malformed or malicious files."""
    arrays = st.builds(
        _make_array, _shapes(), st.sampled_from(_TYPES), st.sampled_from(_FILLS), st.integers(0, 9)
    )
    intact = st.one_of(
        arrays.map(lambda x: (".npy", _to_npy(x))),
        arrays.map(lambda x: (".npz", _to_npz({"x": x}))),
        st.builds(lambda x, y: (".npz", _to_npz({"x": x, "y": y})), arrays, arrays),
        st.builds(lambda x, y: (".npz", _to_npz({"x_train": x, "x_test": y})), arrays, arrays),
    )
    valid = st.sampled_from([(".npy", _to_npy(_VALID)), (".npz", _to_npz({"x": _VALID}))])
    handmade = [data for _, data in sorted(_handmade_files().items())]
    files = st.one_of(
        intact,
        st.one_of(intact, valid).flatmap(
            lambda file: mutated_bytes(file[1]).map(lambda data: (file[0], data))
        ),
        st.tuples(st.sampled_from([".npy", ".npz"]), st.sampled_from(handmade)),
    )

    def make_case(file: tuple[str, bytes], model: tuple[str, ...]) -> Case:
        suffix, data = file
        options = ("--epochs", "1", "--hidden", "4", "--latent-dim", "2", *model)
        arguments = ("train", f"x{suffix}", "--output", "run", "--device", "cpu", *options)
        return Case(arguments, {f"x{suffix}": data}, "arrays")

    return st.builds(make_case, files, st.sampled_from([*_MODELS[:1] * 5, *_MODELS]))
