"""Run directories that are corrupted, tampered with or misconfigured."""

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

_TINY = ("--hidden", "4", "--latent-dim", "2", "--device", "cpu", "--epochs", "2")

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
    """Train on 40 ``"images"`` or on a ``"table"`` of 40 rows, and return the run and its data.

    The run has checkpoints, and can be resumed for one more epoch.
    """
    images = io.BytesIO()
    np.save(images, np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype("float32"))
    name, data = ("x.npy", images.getvalue()) if kind == "images" else ("t.csv", small_table())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tree({name: data}, folder)
        code, stderr, trace = run_command(folder, ("train", name, "--output", "run", *_TINY))
        if code != 0:
            raise RuntimeError(f"a valid run ended with exit code {code}: {stderr} {trace}")
        tree = read_tree(folder)
    text = tree[_CONFIG]
    assert isinstance(text, bytes)
    config = yaml.safe_load(text) | {"data": name, "epochs": 3}
    tree[_CONFIG] = yaml.safe_dump(config).encode()
    tree["run/checkpoint/previous.safetensors"] = tree[_LAST]
    return {path: entry for path, entry in tree.items() if not path.endswith(".png")}


def _file(tree: FileTree, name: str) -> bytes:
    entry = tree[name]
    assert isinstance(entry, bytes)
    return entry


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

_REPLACEMENTS = (
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


def _replaced_files(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """Mutate one file, delete it, or replace it by something else."""

    def replace(name: str) -> st.SearchStrategy[FileTree]:
        data = _file(tree, name)
        other_files = [tree[each] for each in dict.fromkeys(_FILES)]
        entries: st.SearchStrategy[Any] = st.one_of(
            mutated_bytes(data),
            mutated_bytes(data),
            st.sampled_from(_REPLACEMENTS),
            st.sampled_from(other_files),
        )
        return entries.map(lambda entry: _with(tree, name, entry))

    return st.sampled_from(_FILES).flatmap(replace)


def _with(tree: FileTree, name: str, entry: Any) -> FileTree:
    """Copy the tree with another entry at one path; None removes the path."""
    rest = {path: each for path, each in tree.items() if path != name}
    return rest if entry is None else {**rest, name: entry}


def _replaced_folders(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """Replace folders by links or files, put folders where files belong, add partial files."""
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
            {"run": b"not a folder"},
            {"run": Link("run")},
            {"run": Folder()},
            {},
        ]
    )


def _changed_options(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """Change one option of ``config.yaml``: an invalid value, another path, another model."""
    config = yaml.safe_load(_file(tree, _CONFIG))
    name = st.sampled_from(sorted(set(config) - {"download", "epochs", "device", "compile"}))
    value = st.one_of(extreme_numbers, arbitrary_values)
    invalid = st.builds(lambda key, each: as_yaml(config | {key: each}), name, value)
    chosen = st.sampled_from(
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
    text = st.one_of(invalid, invalid, chosen, malformed_yaml, unusual_text)
    encoded = text.map(lambda each: each.encode("utf-8", "surrogatepass"))
    return encoded.map(lambda data: _with(tree, _CONFIG, data))


def _load_tensors(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        with safetensors.safe_open(file.name, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, opened.metadata() or {}


_TENSOR_CHANGES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
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


def _change_tensors(
    tensors: dict[str, torch.Tensor], names: list[str], change: int
) -> dict[str, torch.Tensor]:
    """Apply one of ``_TENSOR_CHANGES`` to some of the tensors."""
    changed = {n: _TENSOR_CHANGES[change](t) if n in names else t for n, t in tensors.items()}
    return {name: tensor.contiguous() for name, tensor in changed.items()}


def _changed_weights(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """Change values, types, names or metadata of the weights, in a valid safetensors file."""
    tensors, metadata = _load_tensors(_file(tree, _WEIGHTS))
    metadata.pop("sha256", None)
    names = sorted(tensors)

    def change_values(some: list[str], change: int) -> FileTree:
        changed = _change_tensors(tensors, some, change)
        return _with(tree, _WEIGHTS, safetensors.torch.save(changed, metadata))

    def rename(old: str, new: str) -> FileTree:
        changed = {new if n == old else n: t for n, t in tensors.items()}
        return _with(tree, _WEIGHTS, safetensors.torch.save(changed, metadata))

    def change_metadata(name: str, text: str) -> FileTree:
        return _with(tree, _WEIGHTS, safetensors.torch.save(tensors, metadata | {name: text}))

    some = st.one_of(st.just(names), st.lists(st.sampled_from(names), min_size=1, max_size=2))
    change = st.integers(0, len(_TENSOR_CHANGES) - 1)
    new_name = st.one_of(st.sampled_from(["weight", "", "model.x", "__metadata__x"]), _utf8_text)
    text = st.one_of(
        arbitrary_values.map(lambda value: json.dumps(value)),
        st.sampled_from(["", "[" * 5000, "1e999", "NaN", "[1, 4, 4", "9" * 5000, "[-1, 4, 4]"]),
    )
    return st.one_of(
        st.builds(change_values, some, change),
        st.builds(rename, st.sampled_from(names), new_name),
        st.builds(change_metadata, st.sampled_from(["event_shape", "features"]), text),
    )


_utf8_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


def _changed_checkpoints(tree: FileTree) -> st.SearchStrategy[FileTree]:
    """Change the record or the tensors of the last checkpoint, and update its checksum to match."""
    tensors, metadata = _load_tensors(_file(tree, _LAST))
    record = json.loads(metadata["record"])
    keys = list(_iterate_keys(record))

    def save(tensors: dict[str, torch.Tensor], record: Any) -> FileTree:
        text = json.dumps(record)
        metadata = {"record": text, "sha256": checksum(tensors, text)}
        file = safetensors.torch.save(tensors, metadata)
        without_previous = _with(tree, "run/checkpoint/previous.safetensors", None)
        return _with(without_previous, _LAST, file)

    def change_record(key: tuple[Any, ...], value: Any) -> FileTree:
        return save(tensors, _replace_value(record, key, value))

    def change_values(some: list[str], change: int) -> FileTree:
        return save(_change_tensors(tensors, some, change), record)

    def remove(removed: str) -> FileTree:
        return save({name: tensor for name, tensor in tensors.items() if name != removed}, record)

    names = sorted(tensors)
    some = st.lists(st.sampled_from(names), min_size=1, max_size=2)
    change = st.integers(0, len(_TENSOR_CHANGES) - 1)
    value = st.one_of(arbitrary_values, extreme_numbers)
    return st.one_of(
        st.builds(change_record, st.sampled_from(keys), value),
        st.builds(change_record, st.sampled_from(keys), value),
        st.builds(change_values, some, change),
        st.sampled_from(names).map(remove),
    )


def _iterate_keys(record: Any, above: tuple[Any, ...] = ()) -> Any:
    """Yield the path of keys and indices to every value of nested dictionaries and lists."""
    yield above
    pairs = record.items() if isinstance(record, dict) else ()
    pairs = enumerate(record) if isinstance(record, list) else pairs
    for key, value in pairs:
        yield from _iterate_keys(value, (*above, key))


def _replace_value(record: Any, key: tuple[Any, ...], value: Any) -> Any:
    """Copy nested dictionaries and lists with another value at one path of keys."""
    if not key:
        return value
    copy = dict(record) if isinstance(record, dict) else list(record)
    copy[key[0]] = _replace_value(record[key[0]], key[1:], value)
    return copy


def corrupted_runs() -> st.SearchStrategy[Case]:
    """Run every command that takes a run directory on one that was changed."""

    runs = {kind: finished_run(kind) for kind in ("images", "table")}

    def change_run(kind: str) -> st.SearchStrategy[FileTree]:
        changes = (
            _replaced_files,
            _replaced_files,
            _replaced_folders,
            _changed_options,
            _changed_weights,
            _changed_checkpoints,
        )
        return st.one_of(*(change(runs[kind]) for change in changes))

    def make_case(tree: FileTree, command: tuple[str, ...], is_unfinished: bool) -> Case:
        if is_unfinished and command[0] == "train":
            tree = _with(tree, "run/evaluation.json", None)
        return Case(command, tree, "run directories")

    trees = st.sampled_from(["images", "images", "table"]).flatmap(change_run)
    return st.builds(make_case, trees, st.sampled_from(_COMMANDS), st.booleans())
