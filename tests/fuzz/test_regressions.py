"""Inputs that once did harm, or that random generation would hardly find."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from benchmarks.fuzz.file_trees import FileTree, Link, write_tree
from benchmarks.fuzz.harness import Case, run_case
from benchmarks.fuzz.options import small_table
from benchmarks.fuzz.run_directories import finished_run
from pyrovae import InputError
from pyrovae.runs.directory import RunDirectory
from pyrovae.runs.yaml_text import parse_yaml
from pyrovae.storage.checksum import checksum

_LAST = "run/checkpoint/last.safetensors"


@pytest.fixture(scope="module")
def run() -> FileTree:
    return finished_run("table")


def refusal(arguments: tuple[str, ...], tree: FileTree) -> str:
    """Check that a command refuses its input and loses nothing, and return its error message."""
    outcome = run_case(Case(arguments, tree))
    assert outcome.is_refusal, outcome
    assert not outcome.lost
    return outcome.stderr[0]


def load_tensors(data: Any, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file."""
    path = folder / "copy"
    path.write_bytes(data)
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_optimiser_moments_of_another_shape_are_refused(
    run: FileTree, tmp_path: Path, moment: str
) -> None:
    """A fused step would access memory out of bounds. The checksum is valid, as in an attack."""
    tensors, metadata = load_tensors(run[_LAST], tmp_path)
    name = next(each for each in sorted(tensors) if each.endswith(f".{moment}"))
    tensors[name] = torch.zeros(())
    record = metadata["record"]
    data = safetensors.torch.save(tensors, {"record": record, "sha256": checksum(tensors, record)})
    without_previous = {path: entry for path, entry in run.items() if "previous" not in path}
    line = refusal(("train", "--resume", "run"), {**without_previous, _LAST: data})
    assert f"{moment} of parameter" in line


def test_one_flipped_bit_of_the_weights_is_detected(run: FileTree) -> None:
    weights = run["run/model.safetensors"]
    assert isinstance(weights, bytes)
    header = 8 + int.from_bytes(weights[:8], "little")
    for offset in (header, (header + len(weights)) // 2, len(weights) - 1):
        changed = bytearray(weights)
        changed[offset] ^= 1
        line = refusal(("evaluate", "run"), {**run, "run/model.safetensors": bytes(changed)})
        assert "its checksum does not match" in line


def test_checkpoints_are_not_written_through_a_link(run: FileTree) -> None:
    """Partial files in the folder that the link points to are not deleted either."""
    without = {path: entry for path, entry in run.items() if "/checkpoint/" not in path}
    del without["run/evaluation.json"]
    tree = {**without, "run/checkpoint": Link("../elsewhere"), "elsewhere/.a.partial": b"mine"}
    assert "is a symbolic link" in refusal(("train", "--resume", "run"), tree)


def test_output_in_the_configuration_of_a_run_is_ignored(run: FileTree) -> None:
    config = run["run/config.yaml"]
    assert isinstance(config, bytes)
    other = config.replace(b"output: null", b"output: ../outside/new")
    assert other != config
    for command in (("evaluate", "run"), ("sample", "run", "--num", "2")):
        outcome = run_case(Case(command, {**run, "run/config.yaml": other}))
        assert outcome.code == 0
        assert not outcome.lost  # nothing changed outside the working folder


def test_reading_a_run_never_downloads(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: mnist\ndownload: true\n")
    assert RunDirectory(tmp_path).read_config().download is False


def test_metadata_of_a_wrong_type_is_refused(run: FileTree, tmp_path: Path) -> None:
    """Of runs of versions that wrote no description."""
    tensors, metadata = load_tensors(run["run/model.safetensors"], tmp_path)
    del metadata["sha256"]
    run = {name: data for name, data in run.items() if name != "run/description.json"}
    for name in ("event_shape", "features"):
        for value in (5, None, {"a": 1}, [[]], "x"):
            data = safetensors.torch.save(tensors, metadata | {name: json.dumps(value)})
            refusal(("evaluate", "run"), {**run, "run/model.safetensors": data})


def alias_bomb(levels: int) -> str:
    """YAML aliases that expand to 2^levels words."""
    doubled = (f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels))
    return "{" + ", ".join(["a0: &a0 [x]", *doubled]) + "}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 2001-99-99", None),
        ("{1: {true: 2}}", None),
        ("9" * 5000, "not YAML"),
        ("2" * 400, "more than 1024 bits"),
        ("[" * 3000, "nested too deeply"),
        ("&a [*a]", "nested too deeply"),
        ('"\\UFFFFFFFF"', "not YAML"),
        ("!!set {a}", "holds a set"),
        ("{a: &a [x], b: [*a, *a]}", None),
        (alias_bomb(40), "more than 100,000 values"),
    ],
    ids=[
        "impossible date",
        "keys that are not strings",
        "too many digits",
        "too many bits",
        "deep nesting",
        "recursive alias",
        "invalid character",
        "a set",
        "an alias",
        "alias bomb",
    ],
)
def test_unusual_yaml_is_read_or_refused(text: str, error: str | None) -> None:
    if error is None:
        parse_yaml(text)
        return
    with pytest.raises(InputError, match=error):
        parse_yaml(text)


def test_yaml_keys_and_dates_are_read_as_strings() -> None:
    assert parse_yaml("{1: {true: 2001-02-03}}") == {"1": {"True": "2001-02-03"}}


@pytest.mark.slow
def test_column_names_that_look_like_markup_are_allowed(tmp_path: Path) -> None:
    table = small_table().replace(b"a,b,c", b"[/a],[red]b,:smile:")
    options = ("--output", "run", "--epochs", "1", "--hidden", "4", "--latent-dim", "2")
    arguments = ("train", "t.csv", "--likelihood", "infer", *options)
    outcome = run_case(Case(arguments, {"t.csv": table}))
    assert outcome.code == 0, outcome


def _run_on_small_disk(disk: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with a file system of 200 kB mounted on the folder ``disk``."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare, which mounts a small file system, is not installed")
    mount = f"mount -t tmpfs -o size=200k tmpfs {disk}"
    command = [unshare, "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*command, mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    return subprocess.run(
        [*command, f"{mount} && cd {disk} && {script}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_run_resumes_after_the_disk_was_full(tmp_path: Path) -> None:
    """The weights and checkpoints of the run fit on the disk; its pictures do not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    write_tree({"t.csv": small_table()}, tmp_path)
    program = f"{sys.executable} -m pyrovae"
    train = "train ../t.csv --output run --epochs 2 --hidden 4 --latent-dim 2 --device cpu"
    done = _run_on_small_disk(
        disk,
        f"{program} {train} >&2; echo $?; find . -name '*.partial'; ls run | wc -l;"
        f"mount -o remount,size=64m {disk}; {program} train --resume run; echo $?; ls run",
    )
    code, num_files, *rest = done.stdout.splitlines()
    assert (code, int(num_files) > 2) == ("2", True), done
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("pyrovae:"))
    assert "No space left on device" in line
    assert "Traceback" not in done.stderr
    assert rest[rest.index("0") + 1 :] == [
        "checkpoint",
        "config.yaml",
        "description.json",
        "evaluation.json",
        "held_out.json",
        "latent_space.png",
        "metrics.csv",
        "model.safetensors",
        "reconstructions.png",
        "samples.png",
        "times.csv",
        "training.png",
    ], done
