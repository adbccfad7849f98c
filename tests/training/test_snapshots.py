"""States on disk: whole or refused, never a pickle, and the last good one always there."""

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
    made = State()
    made.add("parameter", [torch.full((3, 4), number), torch.tensor(number, dtype=torch.float64)])
    made.record["epochs"] = [{"loss": number}]
    return made


def number_of(found: State) -> float:
    return float(found.record["epochs"][0]["loss"])


@pytest.fixture
def kept(tmp_path: Path) -> Snapshots:
    """Two states, 1 and then 2."""
    made = Snapshots.create(tmp_path / "states")
    made.write(LAST, state(1.0))
    made.write(LAST, state(2.0))
    return made


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The file with another record, and the checksum that goes with it."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record = json.dumps(change(json.loads(metadata["record"])))
    metadata = {"record": record, "sha256": checksum(tensors, record)}
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def refusal(path: Path) -> str:
    """What is said of a last state that has no previous one: a sentence, in one line."""
    alone = Snapshots(path.parent)
    (path.parent / "previous.safetensors").unlink(missing_ok=True)
    with pytest.raises(InputError) as found:
        alone.read(LAST)
    said = str(found.value)
    assert "\n" not in said
    assert path.name in said
    return said


def test_what_was_written_is_read(kept: Snapshots) -> None:
    found = kept.read(LAST)
    assert number_of(found) == 2.0
    for one, other in zip(found.of("parameter"), state(2.0).of("parameter"), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert number_of(Snapshots.open(kept.folder).read(LAST)) == 2.0


def test_cut_short_anywhere(kept: Snapshots) -> None:
    path = kept.folder / "last.safetensors"
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 7), *range(12), *range(len(whole) - 12, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.warns(RuntimeWarning, match="damaged, or no checkpoint.*; going on from"):
            assert number_of(kept.read(LAST)) == 1.0
    path.write_bytes(whole + b"\0")
    assert "damaged, or no checkpoint" in refusal(path)


def test_each_bit_counts(kept: Snapshots) -> None:
    path = kept.folder / "last.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        for bit in {place % 8, (place * 5 + 3) % 8}:
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(bytes(changed))
            with pytest.warns(RuntimeWarning, match="going on from"):
                assert number_of(kept.read(LAST)) == 1.0


class _Evil:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_run(kept: Snapshots, tmp_path: Path) -> None:
    path, left = kept.folder / "last.safetensors", tmp_path / "left"
    path.write_bytes(pickle.dumps(_Evil(left)))
    assert "damaged, or no checkpoint" in refusal(path)
    torch.save({"state": _Evil(left)}, path)
    assert "damaged, or no checkpoint" in refusal(path)
    assert not left.exists()
    pickle.loads(pickle.dumps(_Evil(left)))
    assert left.exists()


def test_nothing_on_disk_is_a_pickle(kept: Snapshots) -> None:
    for path in kept.folder.iterdir():
        safetensors.torch.load_file(path)


def test_other_files_in_its_place(kept: Snapshots) -> None:
    path = kept.folder / "last.safetensors"
    generator = torch.Generator().manual_seed(0)
    for length in (0, 8, 9, 1000):
        path.write_bytes(bytes(torch.randint(256, (length,), generator=generator).tolist()))
        assert "damaged, or no checkpoint" in refusal(path)
    path.write_bytes(safetensors.torch.save({"weight": torch.ones(2)}))
    assert "damaged, or no checkpoint" in refusal(path)
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
def test_a_record_of_wrong_types(change: Callable[[Any], Any], kept: Snapshots) -> None:
    path = kept.folder / "last.safetensors"
    rewritten(path, change)
    assert "is no checkpoint" in refusal(path)


def test_a_format_of_the_future(kept: Snapshots) -> None:
    path = kept.folder / "last.safetensors"
    rewritten(path, lambda record: {"format": 3, "versions": {"pyrovae": "9.0"}})
    assert "has format 3, of pyrovae 9.0; this is" in refusal(path)


def test_other_versions_are_told(kept: Snapshots) -> None:
    other = {"pyrovae": "0.0.1", "torch": "2.0", "pyro-ppl": "1.9.1"}
    rewritten(kept.folder / "last.safetensors", lambda record: record | {"versions": other})
    with pytest.warns(RuntimeWarning, match=r"under pyrovae 0.0.1, torch 2.0, pyro-ppl 1.9.1"):
        assert number_of(kept.read(LAST)) == 2.0


def test_a_damaged_last_state_never_replaces_the_one_before(kept: Snapshots) -> None:
    (kept.folder / "last.safetensors").write_bytes(b"damaged")
    again = Snapshots.open(kept.folder)
    with pytest.warns(RuntimeWarning, match="going on from"):
        again.read(LAST)
    again.write(LAST, state(3.0))
    assert number_of(snapshots._read(kept.folder / "previous.safetensors")) == 1.0
    again.write(LAST, state(4.0))
    assert number_of(snapshots._read(kept.folder / "previous.safetensors")) == 3.0


def test_both_damaged(kept: Snapshots) -> None:
    for name in ("last", "previous"):
        (kept.folder / f"{name}.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged, or no checkpoint") as found:
        Snapshots.open(kept.folder).read(LAST)
    assert "\n" not in str(found.value)


def test_a_kill_between_two_names(kept: Snapshots) -> None:
    """There is no last for a moment; the one before it is the last, and nothing is amiss."""
    (kept.folder / "last.safetensors").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert number_of(Snapshots.open(kept.folder).read(LAST)) == 1.0


_FULL = """
import resource, signal, sys
from pathlib import Path
from tests.test_snapshots import state
from pyrovae import InputError, snapshots
from pyrovae.snapshots import BEST, LAST, Snapshots
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


def test_no_room_left(kept: Snapshots) -> None:
    """Writes that end in the middle, again and again."""
    command = [sys.executable, "-c", _FULL, str(kept.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    said = done.stdout.splitlines()
    assert len(said) == 3, done.stderr
    assert all("cannot write" in line and "go on from what was kept" in line for line in said)
    assert number_of(Snapshots.open(kept.folder).read(LAST)) == 2.0
    assert {path.suffix for path in kept.folder.iterdir()} == {".safetensors"}


def test_what_killed_writes_left_is_swept(kept: Snapshots) -> None:
    before = {path.name for path in kept.folder.iterdir()}
    (kept.folder / ".last.safetensors.abcd1234.partial").write_bytes(b"half")
    (kept.folder / "mine.txt").write_text("stays")
    Snapshots.open(kept.folder)
    assert {path.name for path in kept.folder.iterdir()} == before | {"mine.txt"}


def test_what_has_no_plain_values(tmp_path: Path) -> None:
    class Owner:
        def state_dict(self) -> dict[str, Any]:
            return {"groups": [{"function": len}]}

    with pytest.raises(InputError, match=r"optimiser.groups.0.function is a builtin_function"):
        State().add_tree("optimiser", Owner())


def test_values_come_back_as_they_were() -> None:
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
    made = State()
    made.add_tree("owner", owner)
    again = State(made.tensors, json.loads(json.dumps(made.record)))
    again.load_tree("owner", owner)
    assert owner.loaded["a"] == owner.tree["a"]
    assert torch.equal(owner.loaded[3]["b"], torch.arange(3))
    assert list(owner.loaded) == ["a", 3]
