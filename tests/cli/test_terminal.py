"""Commands end well whatever becomes of their output, and terminals get no control characters."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz.options import small_table
from pyrovae.errors import InputError
from pyrovae.runs.directory import RunDirectory
from pyrovae.runs.plots.images import escape_name

TINY = "--epochs 1 --hidden 4 --latent-dim 2 --device cpu"
TRAIN = f"train t.csv --output run --likelihood infer {TINY}"


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script, in which ``$pyrovae`` is the program."""
    return subprocess.run(
        ["bash", "-c", f"pyrovae='{sys.executable} -m pyrovae'; {script}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("$pyrovae parts >&-; echo $? >&2", {0}),
        ("$pyrovae likelihoods | head -1 >&2; echo ${PIPESTATUS[0]} >&2", {0, 141}),
        ("$pyrovae parts | true; echo ${PIPESTATUS[0]} >&2", {0, 141}),
        (f"$pyrovae {TRAIN} >&-; echo $? >&2", {0}),
        (f"$pyrovae {TRAIN} | true; echo ${{PIPESTATUS[0]}} >&2", {0, 141}),
    ],
)
def test_closed_output_ends_well(tmp_path: Path, command: str, codes: set[int]) -> None:
    (tmp_path / "t.csv").write_bytes(small_table())
    done = shell(command, tmp_path)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert int(done.stderr.splitlines()[-1]) in codes


@pytest.mark.slow
def test_names_of_columns_do_not_reach_the_terminal_as_control_characters(tmp_path: Path) -> None:
    table = small_table().replace(b"a,b,c", b"a\x1b[2J,b\xc2\x9b,c\xe2\x80\xae")
    (tmp_path / "t.csv").write_bytes(table)
    commands = (
        TRAIN,
        "evaluate run",
        "impute t.csv --output f.csv",
        "train t.csv --label nothing --output other",
    )
    for command in commands:
        done = shell(f"$pyrovae {command}", tmp_path)
        for text in (done.stdout, done.stderr):
            bad = [letter for letter in text if not (letter.isprintable() or letter == "\n")]
            assert not bad, (command, text)


def test_names_in_pictures_are_printable() -> None:
    assert escape_name("a\x1b[2J\nb$") == r"a\x1b[2J\nb\$"


@pytest.mark.slow
def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(small_table())
    script = f"trap '' INT; exec {sys.executable} -m pyrovae {TRAIN}"
    process = subprocess.Popen(
        ["bash", "-c", script.replace("--epochs 1", "--epochs 4000")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    last = tmp_path / "run/checkpoint/last.safetensors"
    try:
        for _ in range(600):
            if (tmp_path / "run/metrics.csv").exists() or process.poll() is not None:
                break
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGTERM)  # which is not ignored
        process.wait(60)
        assert last.exists()
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_runs_that_start_in_one_second_get_their_own_directories(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(small_table())
    command = f"$pyrovae train t.csv {TINY} >/dev/null"
    done = shell(f"{command} & {command} & {command} & wait", tmp_path)
    assert not done.stderr
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 3
    assert all((run / "evaluation.json").exists() for run in runs)


def test_directories_named_by_time_do_not_clash(tmp_path: Path) -> None:
    names = [RunDirectory.create_free(tmp_path / "new" / "run").path.name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        RunDirectory.create_free(tmp_path / "file" / "run")


@pytest.mark.slow
def test_equal_runs_write_equal_files(tmp_path: Path) -> None:
    """Only times, and the states of training, which hold them, differ."""
    (tmp_path / "t.csv").write_bytes(small_table())
    for name in ("first", "second"):
        shell(f"$pyrovae {TRAIN.replace('--output run', f'--output {name}')}", tmp_path)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert "model.safetensors" in files
    differ = {
        name
        for name in files
        if (tmp_path / "first" / name).is_file()
        and (tmp_path / "first" / name).read_bytes() != (tmp_path / "second" / name).read_bytes()
    }
    assert differ <= {"times.csv"}


def test_the_error_of_a_run_whose_directory_vanished_is_told(
    pyrovae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from pyrovae.runs import train

    def vanish(*_: Any, **__: Any) -> None:
        shutil.rmtree(tmp_path / "run")
        raise InputError("the true reason")

    monkeypatch.setattr(train, "fit", vanish)
    (tmp_path / "t.csv").write_bytes(small_table())
    outcome = pyrovae(*TRAIN.split())
    assert (outcome.code, outcome.err.strip()) == (2, "pyrovae: the true reason")
