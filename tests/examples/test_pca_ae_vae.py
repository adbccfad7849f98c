"""The example that compares PCA, the autoencoder and the VAE runs and prints the right order."""

import re
from pathlib import Path

import pytest

from . import load_example


@pytest.mark.slow
def test_pca_ae_vae(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    load_example("pca_ae_vae").main(epochs=20, num=20, output=tmp_path / "picture.png")
    out = capsys.readouterr().out
    rows = {
        name: [float(value) for value in re.findall(r"\d+\.\d\d", line)]
        for line in out.splitlines()
        for name in re.findall(r"│ (PCA|PPCA|autoencoder|VAE) ", line)
    }
    assert list(rows) == ["PCA", "PPCA", "autoencoder", "VAE"]
    assert {len(row) for row in rows.values()} == {6}
    errors = {name: row[0] for name, row in rows.items()}
    # PCA has the smallest error of all planes. The curved surfaces have smaller ones.
    assert max(errors["autoencoder"], errors["VAE"]) < errors["PCA"] <= errors["PPCA"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000
