"""Equal tensors and metadata give equal bytes, in every process."""

import subprocess
import sys
from pathlib import Path

import safetensors
import torch

from pyrovae.storage.tensors import save_tensors

SCRIPT = """
import sys, torch
from pyrovae.storage.tensors import save_tensors
metadata = {str(i): "é" * i for i in range(20)}
sys.stdout.buffer.write(save_tensors({"b": torch.ones(3), "a": torch.zeros(2, 2)}, metadata))
"""


def test_processes_write_the_same_bytes() -> None:
    files = {
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout
        for _ in range(3)
    }
    assert len(files) == 1


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(3, 2), "n": torch.arange(5), "empty": torch.zeros(0)}
    metadata = {"b": "é\n", "a": '{"x": 1}'}
    path = tmp_path / "file.safetensors"
    path.write_bytes(save_tensors(tensors, metadata))
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == metadata
        for name, tensor in tensors.items():
            torch.testing.assert_close(file.get_tensor(name), tensor, rtol=0, atol=0)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert size % 8 == 0
