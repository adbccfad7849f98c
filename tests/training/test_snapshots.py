"""Saved states: damaged files are refused, no pickles, and the last good state always survives."""

import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors
import safetensors.torch
import torch

from pyrovae import InputError
from pyrovae.infer.svi.state import State
from pyrovae.storage.checksum import checksum
from pyrovae.training import snapshots
from pyrovae.training.snapshots import LAST, Snapshots


def state(number: float) -> State:
    new = State()
    new.add("parameter", [torch.full((3, 4), number), torch.tensor(number, dtype=torch.float64)])
    new.record["epochs"] = [{"loss": number}]
    return new


def loss_of(found: State) -> float:
    return float(found.record["epochs"][0]["loss"])


@pytest.fixture
def saved(tmp_path: Path) -> Snapshots:
    """Snapshots of two states, 1 and then 2."""
    new = Snapshots.create(tmp_path / "states")
    new.write(LAST, state(1.0))
    new.write(LAST, state(2.0))
    return new


def rewrite_record(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replace the record of a file, with the checksum to match."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record = json.dumps(change(json.loads(metadata["record"])))
    metadata = {"record": record, "sha256": checksum(tensors, record)}
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def refusal(path: Path) -> str:
    """The error of reading a last state without a previous one; it must be a single line."""
    alone = Snapshots(path.parent)
    (path.parent / "previous.safetensors").unlink(missing_ok=True)
    with pytest.raises(InputError) as found:
        alone.read(LAST)
    message = str(found.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_states_are_read_as_written(saved: Snapshots) -> None:
    found = saved.read(LAST)
    assert loss_of(found) == 2.0
    for one, other in zip(
        found.tensors_of("parameter"), state(2.0).tensors_of("parameter"), strict=True
    ):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert loss_of(Snapshots.open(saved.folder).read(LAST)) == 2.0


def test_truncated_files_are_refused(saved: Snapshots) -> None:
    path = saved.folder / "last.safetensors"
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 7), *range(12), *range(len(whole) - 12, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.warns(RuntimeWarning, match="damaged or not a checkpoint.*; resuming from"):
            assert loss_of(saved.read(LAST)) == 1.0
    path.write_bytes(whole + b"\0")
    assert "damaged or not a checkpoint" in refusal(path)


@pytest.mark.slow
def test_each_flipped_bit_is_detected(saved: Snapshots) -> None:
    path = saved.folder / "last.safetensors"
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        for bit in {position % 8, (position * 5 + 3) % 8}:
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            path.write_bytes(bytes(changed))
            with pytest.warns(RuntimeWarning, match="resuming from"):
                assert loss_of(saved.read(LAST)) == 1.0


class _Evil:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_not_executed(saved: Snapshots, tmp_path: Path) -> None:
    path, left = saved.folder / "last.safetensors", tmp_path / "left"
    path.write_bytes(pickle.dumps(_Evil(left)))
    assert "damaged or not a checkpoint" in refusal(path)
    torch.save({"state": _Evil(left)}, path)
    assert "damaged or not a checkpoint" in refusal(path)
    assert not left.exists()
    pickle.loads(pickle.dumps(_Evil(left)))
    assert left.exists()


def test_all_files_are_safetensors(saved: Snapshots) -> None:
    for path in saved.folder.iterdir():
        safetensors.torch.load_file(path)


def test_other_files_are_refused(saved: Snapshots) -> None:
    path = saved.folder / "last.safetensors"
    generator = torch.Generator().manual_seed(0)
    for length in (0, 8, 9, 1000):
        path.write_bytes(bytes(torch.randint(256, (length,), generator=generator).tolist()))
        assert "damaged or not a checkpoint" in refusal(path)
    path.write_bytes(safetensors.torch.save({"weight": torch.ones(2)}))
    assert "damaged or not a checkpoint" in refusal(path)
    path.unlink()
    assert "there is no checkpoint" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [],
        lambda record: 3,
        lambda record: None,
        lambda record: {},
        lambda record: record | {"versions": 3},
        lambda record: record | {"versions": [[]]},
        lambda record: record | {"state": None},
        lambda record: record | {"state": [1, 2]},
        lambda record: {key: value for key, value in record.items() if key != "state"},
    ],
)
def test_records_of_wrong_types_are_refused(change: Callable[[Any], Any], saved: Snapshots) -> None:
    path = saved.folder / "last.safetensors"
    rewrite_record(path, change)
    assert "is not a checkpoint" in refusal(path)


def test_newer_formats_are_refused(saved: Snapshots) -> None:
    path = saved.folder / "last.safetensors"
    rewrite_record(path, lambda record: {"format": 3, "versions": {"pyrovae": "9.0"}})
    assert "has format 3, of pyrovae 9.0; this is pyrovae" in refusal(path)


def test_other_versions_are_warned_about(saved: Snapshots) -> None:
    other = {"pyrovae": "0.0.1", "torch": "2.0", "pyro-ppl": "1.9.1"}
    rewrite_record(saved.folder / "last.safetensors", lambda record: record | {"versions": other})
    with pytest.warns(RuntimeWarning, match=r"under pyrovae 0.0.1, torch 2.0, pyro-ppl 1.9.1"):
        assert loss_of(saved.read(LAST)) == 2.0


def test_damaged_last_state_never_replaces_the_previous_one(saved: Snapshots) -> None:
    (saved.folder / "last.safetensors").write_bytes(b"damaged")
    again = Snapshots.open(saved.folder)
    with pytest.warns(RuntimeWarning, match="resuming from"):
        again.read(LAST)
    again.write(LAST, state(3.0))
    assert loss_of(snapshots._read(saved.folder / "previous.safetensors")) == 1.0
    again.write(LAST, state(4.0))
    assert loss_of(snapshots._read(saved.folder / "previous.safetensors")) == 3.0


def test_both_states_damaged(saved: Snapshots) -> None:
    for name in ("last", "previous"):
        (saved.folder / f"{name}.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged or not a checkpoint") as found:
        Snapshots.open(saved.folder).read(LAST)
    assert "\n" not in str(found.value)


def test_killed_between_renaming_and_writing(saved: Snapshots) -> None:
    """For a moment there is no last state; the previous one is then read without a warning."""
    (saved.folder / "last.safetensors").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loss_of(Snapshots.open(saved.folder).read(LAST)) == 1.0


_FULL = """
import resource, signal, sys
from pathlib import Path
from tests.training.test_snapshots import state
from pyrovae import InputError
from pyrovae.training.snapshots import BEST, LAST, Snapshots
import torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
snapshots = Snapshots.open(Path(sys.argv[1]))
large = state(3.0)
large.add("more", [torch.zeros(100_000)])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for name in (LAST, LAST, BEST):
    try:
        snapshots.write(name, large)
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_full_disk(saved: Snapshots) -> None:
    """Several writes in a row fail in the middle."""
    command = [sys.executable, "-c", _FULL, str(saved.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert all(
        "cannot write" in line and "the state saved before is intact" in line for line in lines
    )
    assert loss_of(Snapshots.open(saved.folder).read(LAST)) == 2.0
    assert {path.suffix for path in saved.folder.iterdir()} == {".safetensors"}


def test_partial_files_are_removed(saved: Snapshots) -> None:
    before = {path.name for path in saved.folder.iterdir()}
    (saved.folder / ".last.safetensors.abcd1234.partial").write_bytes(b"half")
    (saved.folder / "mine.txt").write_text("stays")
    Snapshots.open(saved.folder)
    assert {path.name for path in saved.folder.iterdir()} == before | {"mine.txt"}


def test_states_without_plain_values_are_refused(tmp_path: Path) -> None:
    class Owner:
        def state_dict(self) -> dict[str, Any]:
            return {"groups": [{"function": len}]}

    with pytest.raises(InputError, match=r"optimiser.groups.0.function is a builtin_function"):
        State().add_state_dict("optimiser", Owner())


def test_plain_values_survive_a_round_trip() -> None:
    class Owner:
        tree: ClassVar[Any] = {
            "a": [1, 2.5, None, True, "word", float("inf"), 0.1 + 0.2],
            3: {"b": torch.arange(3)},
        }

        def state_dict(self) -> Any:
            return self.tree

        def load_state_dict(self, tree: Any) -> None:
            self.loaded = tree

    owner = Owner()
    saved = State()
    saved.add_state_dict("owner", owner)
    again = State(saved.tensors, json.loads(json.dumps(saved.record)))
    again.load_state_dict("owner", owner)
    assert owner.loaded["a"] == owner.tree["a"]
    assert torch.equal(owner.loaded[3]["b"], torch.arange(3))
    assert list(owner.loaded) == ["a", 3]
