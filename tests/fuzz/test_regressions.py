"""Particular pieces of rubbish that once did harm, or that chance would not find."""

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


def said(arguments: tuple[str, ...], tree: FileTree) -> str:
    """The line in which it is refused, with nothing lost."""
    ending = run_case(Case(arguments, tree))
    assert ending.is_refusal, ending
    assert not ending.lost
    return ending.said[0]


def opened(data: Any, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    path = folder / "opened"
    path.write_bytes(data)
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_moments_of_another_shape_never_meet_a_fused_step(
    run: FileTree, tmp_path: Path, moment: str
) -> None:
    """It would read and write beyond them; the checksum is right, as a stranger's would be."""
    tensors, metadata = opened(run[_LAST], tmp_path)
    name = next(each for each in sorted(tensors) if each.endswith(f".{moment}"))
    tensors[name] = torch.zeros(())
    record = metadata["record"]
    data = safetensors.torch.save(tensors, {"record": record, "sha256": checksum(tensors, record)})
    alone = {path: what for path, what in run.items() if "previous" not in path}
    line = said(("train", "--resume", "run"), {**alone, _LAST: data})
    assert f"{moment} of parameter" in line


def test_a_bit_of_the_weights_counts(run: FileTree) -> None:
    weights = run["run/model.safetensors"]
    assert isinstance(weights, bytes)
    header = 8 + int.from_bytes(weights[:8], "little")
    for place in (header, (header + len(weights)) // 2, len(weights) - 1):
        changed = bytearray(weights)
        changed[place] ^= 1
        line = said(("evaluate", "run"), {**run, "run/model.safetensors": bytes(changed)})
        assert "its checksum is not that of what it holds" in line


def test_states_are_not_written_through_a_link(run: FileTree) -> None:
    """Nor is anything swept away where it leads to."""
    without = {path: what for path, what in run.items() if "/checkpoint/" not in path}
    del without["run/evaluation.json"]
    tree = {**without, "run/checkpoint": Link("../elsewhere"), "elsewhere/.a.partial": b"mine"}
    assert "is a symbolic link" in said(("train", "--resume", "run"), tree)


def test_a_run_says_nothing_of_where_to_write(run: FileTree) -> None:
    config = run["run/config.yaml"]
    assert isinstance(config, bytes)
    other = config.replace(b"output: run", b"output: ../outside/new")
    assert other != config
    for command in (("evaluate", "run"), ("sample", "run", "--num", "2")):
        ending = run_case(Case(command, {**run, "run/config.yaml": other}))
        assert ending.code == 0
        assert not ending.lost  # outside of the folder that it works in


def test_a_run_fetches_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: mnist\ndownload: true\n")
    assert RunDirectory(tmp_path).read_config().download is False


def test_metadata_of_another_kind(run: FileTree, tmp_path: Path) -> None:
    tensors, metadata = opened(run["run/model.safetensors"], tmp_path)
    del metadata["sha256"]
    for name in ("event_shape", "features"):
        for value in (5, None, {"a": 1}, [[]], "x"):
            data = safetensors.torch.save(tensors, metadata | {name: json.dumps(value)})
            said(("evaluate", "run"), {**run, "run/model.safetensors": data})


def bomb(levels: int) -> str:
    """A few lines that would hold 2^levels words, were they written out."""
    doubled = (f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels))
    return "{" + ", ".join(["a0: &a0 [x]", *doubled]) + "}"


@pytest.mark.parametrize(
    ("text", "words"),
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
        (bomb(40), "more than 100,000 values"),
    ],
    ids=[
        "no date",
        "names",
        "digits",
        "bits",
        "deep",
        "endless",
        "no letter",
        "a set",
        "an alias",
        "a bomb",
    ],
)
def test_yaml(text: str, words: str | None) -> None:
    if words is None:
        parse_yaml(text)
        return
    with pytest.raises(InputError, match=words):
        parse_yaml(text)


def test_names_are_words_and_dates_are_as_written() -> None:
    assert parse_yaml("{1: {true: 2001-02-03}}") == {"1": {"True": "2001-02-03"}}


def test_a_name_that_looks_like_markup(tmp_path: Path) -> None:
    table = small_table().replace(b"a,b,c", b"[/a],[red]b,:smile:")
    options = ("--output", "run", "--epochs", "1", "--hidden", "4", "--latent-dim", "2")
    ending = run_case(Case(("train", "t.csv", "--likelihood", "infer", *options), {"t.csv": table}))
    assert ending.code == 0, ending


def _on_a_small_disk(disk: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A shell script, where a file system of a few hundred kB is mounted on a folder."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare, with which a small file system could be mounted")
    mount = f"mount -t tmpfs -o size=200k tmpfs {disk}"
    command = [unshare, "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*command, mount], capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    return subprocess.run(
        [*command, f"{mount} && cd {disk} && {script}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_disk_that_fills_up_and_is_given_room(tmp_path: Path) -> None:
    """The weights and states of a run fit, and its pictures do not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    write_tree({"t.csv": small_table()}, tmp_path)
    program = f"{sys.executable} -m pyrovae"
    train = "train ../t.csv --output run --epochs 2 --hidden 4 --latent-dim 2 --device cpu"
    done = _on_a_small_disk(
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
        "evaluation.json",
        "latent_space.png",
        "metrics.csv",
        "model.safetensors",
        "reconstructions.png",
        "samples.png",
        "training.png",
    ], done
