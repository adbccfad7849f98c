"""What tests of the command line share."""

from pathlib import Path

from PIL import Image

SMALL = ["--epochs", "2", "--hidden", "16"]


def find_pictures(run: Path) -> set[str]:
    """The names of the pictures of a run, each of which must not be blank."""
    for path in run.glob("*.png"):
        with Image.open(path) as image:
            low, high = image.convert("L").getextrema()
            assert high - low > 100, f"{path.name} is blank"
            assert image.width > 500
    return {path.stem for path in run.glob("*.png")}
