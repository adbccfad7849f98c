"""Run directories that a disk, a stranger or a mistake has changed."""

import functools
import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import yaml
from hypothesis import strategies as st

from pyrovae.storage.checksum import checksum

from .file_trees import PIPE, FileTree, Folder, Link, read_tree, write_tree
from .harness import Case, run_command
from .mutations import mutated_bytes
from .options import small_table
from .values import arbitrary_values, as_yaml, extreme_numbers, malformed_yaml, unusual_text

__all__ = ["corrupted_runs", "finished_run"]

_SHORT = ("--hidden", "4", "--latent-dim", "2", "--device", "cpu", "--epochs", "2")

_COMMANDS = (
    ("evaluate", "run"),
    ("evaluate", "run", "--num-samples", "20"),
    ("sample", "run", "--num", "3"),
    ("reconstruct", "run", "--num", "3"),
    ("restore", "run", "--task", "inpaint", "--num", "2", "--num-samples", "21",
     "--method", "amortised"),
    ("train", "--resume", "run"),
    ("train", "--resume", "run"),
)  # fmt: skip

_WEIGHTS, _CONFIG = "run/model.safetensors", "run/config.yaml"
_LAST = "run/checkpoint/last.safetensors"


@functools.cache
def finished_run(kind: str = "images") -> FileTree:
    """A run of 40 ``"images"`` or the 40 rows of a ``"table"``, and its data, as a tree.

    It has states from which it can go on for an epoch more.
    """
    images = io.BytesIO()
    np.save(images, np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype("float32"))
    name, data = ("x.npy", images.getvalue()) if kind == "images" else ("t.csv", small_table())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tree({name: data}, folder)
        code, said, trace = run_command(folder, ("train", name, "--output", "run", *_SHORT))
        if code != 0:
            raise RuntimeError(f"a good run ended with {code}: {said} {trace}")
        tree = read_tree(folder)
    text = tree[_CONFIG]
    assert isinstance(text, bytes)
    config = yaml.safe_load(text) | {"data": name, "epochs": 3}
    tree[_CONFIG] = yaml.safe_dump(config).encode()
    tree["run/checkpoint/previous.safetensors"] = tree[_LAST]
    return {path: what for path, what in tree.items() if not path.endswith(".png")}


def _file(tree: FileTree, name: str) -> bytes:
    found = tree[name]
    assert isinstance(found, bytes)
    return found


_FILES = (
    _WEIGHTS,
    _WEIGHTS,
    _CONFIG,
    _LAST,
    _LAST,
    "run/checkpoint/best.safetensors",
    "run/checkpoint/previous.safetensors",
    "run/evaluation.json",
    "run/metrics.csv",
)

_OTHERS = (
    None,
    b"",
    b"{}",
    b"[]",
    b"\0" * 64,
    struct.pack("<Q", 2**63) + b"{}",
    struct.pack("<Q", 2) + b"{}",
    struct.pack("<Q", 90_000_000) + b" " * 100,
    b"PK\x03\x04",
    Folder(),
    PIPE,
    Link("../outside/kept.txt"),
    Link("../../outside/kept.txt"),
    Link("../../../outside/kept.txt"),
    Link("/dev/zero"),
    Link("/dev/full"),
    Link("nowhere"),
    Link("config.yaml"),
)


def _replaced(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """A file that is damaged, gone, or something else."""

    def of(name: str) -> st.SearchStrategy[FileTree]:
        whole = _file(tree, name)
        others = [tree[each] for each in dict.fromkeys(_FILES)]
        found: st.SearchStrategy[Any] = st.one_of(
            mutated_bytes(whole),
            mutated_bytes(whole),
            st.sampled_from(_OTHERS),
            st.sampled_from(others),
        )
        return found.map(lambda what: _with(tree, name, what))

    return st.sampled_from(_FILES).flatmap(of)


def _with(tree: FileTree, name: str, what: Any) -> FileTree:
    rest = {path: each for path, each in tree.items() if path != name}
    return rest if what is None else {**rest, name: what}


def _folders(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """Folders that are links, or no folders."""
    without = {path: each for path, each in tree.items() if "/checkpoint/" not in path}
    states: dict[str, Any] = {path: each for path, each in tree.items() if "/checkpoint/" in path}
    moved = {path.replace("run/checkpoint", "run/other"): each for path, each in states.items()}
    away = {path.replace("run/", "away/"): each for path, each in tree.items()}
    return st.sampled_from(
        [
            {**without, "run/checkpoint": Link("../../outside")},
            {**without, "run/checkpoint": Link("../../outside/empty")},
            {**without, "run/checkpoint": b""},
            {**without, "run/checkpoint": Folder()},
            {**without, "run/checkpoint": PIPE},
            {**without, **moved, "run/checkpoint": Link("other")},
            {**without, "run/checkpoint/last.safetensors": Folder()},
            {**tree, "run/checkpoint/.0.partial": b"left"},
            {**tree, "run/.0.partial": b"left"},
            {**tree, "run/.1.partial": Folder()},
            {**tree, "run/.1.partial": Link("../../outside/kept.txt")},
            {**tree, "run/samples.npz": Link("../../outside/kept.txt")},
            {**tree, "run/samples.npz": Folder()},
            {**tree, "run/samples.png": Folder()},
            {**tree, "run/reconstructions.npz": Folder()},
            {**tree, "run/evaluation.json": Folder()},
            {**tree, "run/training.png": Folder()},
            {**away, "run": Link("away")},
            {"run": b"no folder"},
            {"run": Link("run")},
            {"run": Folder()},
            {},
        ]
    )


def _options(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """A configuration with an option that is wrong, or that reaches elsewhere."""
    config = yaml.safe_load(_file(tree, _CONFIG))
    name = st.sampled_from(sorted(set(config) - {"download", "epochs", "device", "compile"}))
    value = st.one_of(extreme_numbers, arbitrary_values)
    of_any = st.builds(lambda key, each: as_yaml(config | {key: each}), name, value)
    elsewhere = st.sampled_from(
        [
            {"output": "../outside/new"},
            {"output": "../outside/kept.txt"},
            {"output": "/dev/full"},
            {"data_root": "../outside"},
            {"data": "../outside/kept.txt"},
            {"data": "/dev/zero"},
            {"data": "/dev/zero.npy"},
            {"data": "gone.npy"},
            {"data": "digits"},
            {"data": "iris"},
            {"latent_dim": 3},
            {"hidden": [5]},
            {"hidden": []},
            {"model": "autoencoder"},
            {"model": "ppca"},
            {"model": "conditional"},
            {"prior": "vamp"},
            {"posterior": "full_rank"},
            {"inference": "free"},
            {"likelihood": "Bernoulli"},
            {"likelihood": None},
            {"binarise": "static"},
            {"missing": True},
            {"seed": 1},
            {"batch_size": 1},
            {"schedule": "cosine"},
            {"epochs": 1},
            {"validation_fraction": 0.5},
            {"device": "cuda:7"},
        ]
    ).map(lambda change: as_yaml(config | change))
    text = st.one_of(of_any, of_any, elsewhere, malformed_yaml, unusual_text)
    encoded = text.map(lambda each: each.encode("utf-8", "surrogatepass"))
    return encoded.map(lambda data: _with(tree, _CONFIG, data))


def _tensors(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        with safetensors.safe_open(file.name, framework="pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return found, opened.metadata() or {}


_OTHER_NUMBERS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda x: x * float("nan"),
    lambda x: x + float("inf"),
    lambda x: x * 1e30,
    lambda x: x * 1e6,
    lambda x: x - 1e4,
    lambda x: x.double(),
    lambda x: x.half(),
    lambda x: x.long(),
    lambda x: x.bool(),
    lambda x: x.to(torch.complex64),
    lambda x: x.flatten()[:0],
    lambda x: x.flatten(),
    lambda x: x[None],
    lambda x: x.new_zeros(()),
    lambda x: torch.zeros_like(x),
)


def _weights(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """Weights of other numbers, types and names, in a file that is in order."""
    tensors, metadata = _tensors(_file(tree, _WEIGHTS))
    metadata.pop("sha256", None)
    names = sorted(tensors)

    def changed(some: list[str], how: int) -> FileTree:
        other = {n: _OTHER_NUMBERS[how](t) if n in some else t for n, t in tensors.items()}
        other = {name: tensor.contiguous() for name, tensor in other.items()}
        return _with(tree, _WEIGHTS, safetensors.torch.save(other, metadata))

    def renamed(one: str, name: str) -> FileTree:
        other = {name if n == one else n: t for n, t in tensors.items()}
        return _with(tree, _WEIGHTS, safetensors.torch.save(other, metadata))

    def recorded(name: str, text: str) -> FileTree:
        return _with(tree, _WEIGHTS, safetensors.torch.save(tensors, metadata | {name: text}))

    some = st.one_of(st.just(names), st.lists(st.sampled_from(names), min_size=1, max_size=2))
    number = st.integers(0, len(_OTHER_NUMBERS) - 1)
    other_name = st.one_of(st.sampled_from(["weight", "", "model.x", "__metadata__x"]), _sayable)
    text = st.one_of(
        arbitrary_values.map(lambda value: json.dumps(value)),
        st.sampled_from(["", "[" * 5000, "1e999", "NaN", "[1, 4, 4", "9" * 5000, "[-1, 4, 4]"]),
    )
    return st.one_of(
        st.builds(changed, some, number),
        st.builds(renamed, st.sampled_from(names), other_name),
        st.builds(recorded, st.sampled_from(["event_shape", "features"]), text),
    )


_sayable = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


def _states(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """States whose record or tensors are others, and whose checksum is right."""
    tensors, metadata = _tensors(_file(tree, _LAST))
    record = json.loads(metadata["record"])
    paths = list(_paths(record))

    def saved(other: dict[str, torch.Tensor], kept: Any) -> FileTree:
        text = json.dumps(kept)
        found = {"record": text, "sha256": checksum(other, text)}
        file = safetensors.torch.save(other, found)
        alone = _with(tree, "run/checkpoint/previous.safetensors", None)
        return _with(alone, _LAST, file)

    def recorded(path: tuple[Any, ...], value: Any) -> FileTree:
        return saved(tensors, _put(record, path, value))

    def changed(some: list[str], how: int) -> FileTree:
        other = {n: _OTHER_NUMBERS[how](t) if n in some else t for n, t in tensors.items()}
        return saved({name: tensor.contiguous() for name, tensor in other.items()}, record)

    def left_out(one: str) -> FileTree:
        return saved({name: tensor for name, tensor in tensors.items() if name != one}, record)

    names = sorted(tensors)
    number = st.integers(0, len(_OTHER_NUMBERS) - 1)
    value = st.one_of(arbitrary_values, extreme_numbers)
    return st.one_of(
        st.builds(recorded, st.sampled_from(paths), value),
        st.builds(recorded, st.sampled_from(paths), value),
        st.builds(changed, st.lists(st.sampled_from(names), min_size=1, max_size=2), number),
        st.sampled_from(names).map(left_out),
    )


def _paths(record: Any, above: tuple[Any, ...] = ()) -> Any:
    yield above
    pairs = record.items() if isinstance(record, dict) else ()
    pairs = enumerate(record) if isinstance(record, list) else pairs
    for key, value in pairs:
        yield from _paths(value, (*above, key))


def _put(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(record) if isinstance(record, dict) else list(record)
    copy[path[0]] = _put(record[path[0]], path[1:], value)
    return copy


def corrupted_runs() -> st.SearchStrategy[Case]:
    """For every command that takes a run."""

    runs = {kind: finished_run(kind) for kind in ("images", "table")}

    def of(kind: str) -> st.SearchStrategy[FileTree]:
        tree = runs[kind]
        ways = (_replaced, _replaced, _folders, _options, _weights, _states)
        return st.one_of(*(way(tree) for way in ways))

    def made(tree: FileTree, command: tuple[str, ...], is_unfinished: bool) -> Case:
        if is_unfinished and command[0] == "train":
            tree = _with(tree, "run/evaluation.json", None)
        return Case(command, tree, "run directories")

    trees = st.sampled_from(["images", "images", "table"]).flatmap(of)
    return st.builds(made, trees, st.sampled_from(_COMMANDS), st.booleans())
