"""Places that cannot be written to, or hold something already."""

from hypothesis import strategies as st

from .file_trees import PIPE, FileTree, Folder, Link
from .harness import Case
from .options import small_table
from .run_directories import finished_run

__all__ = ["unusual_paths"]

_TAKEN: FileTree = {
    "file": b"mine",
    "used/file": b"mine",
    "empty": Folder(),
    "pipe": PIPE,
    "dangling": Link("nowhere"),
    "loop": Link("loop"),
    "to_file": Link("file"),
    "to_used": Link("used"),
    "t.csv": small_table(),
    "holes.csv": small_table().replace(b"-2.1,", b","),
}

_PLACES = (
    *_TAKEN,
    "",
    ".",
    "..",
    "/",
    "./t.csv/",
    "file/below",
    "pipe/below",
    "loop/below",
    "dangling/below",
    "used/file/below",
    "/dev/null",
    "/dev/full",
    "/dev/null/x",
    "/proc/x",
    "/proc/self/x",
    "/sys/x",
    "n" * 255,
    "n" * 300,
    "n" * 5000,
    "a/" * 3000,
    "two\nlines",
    "\x1b[2J",
    "[/x]",
    "é",
    "x" * 120 + "é" * 80,
    "\ud800",
    "-",
    "~",
    " ",
    "%s",
)

_TINY = ("--epochs", "1", "--hidden", "4", "--latent-dim", "2", "--device", "cpu")


def unusual_paths() -> st.SearchStrategy[Case]:
    """For whatever a command writes, and wherever a command reads."""

    run = finished_run()

    def made(what: str, place: str) -> Case:
        tree = _TAKEN
        # A program gets no NUL, and other bytes than UTF-8 as surrogates of this range.
        place = "\udcff" if place == "\ud800" else place.replace("\0", "")
        place = place.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        match what:
            case "train":
                words = ("train", "t.csv", f"--output={place}", *_TINY)
            case "impute":
                words = ("impute", "holes.csv", f"--output={place}", "--steps", "2")
            case "impute over":
                words = ("impute", "holes.csv", f"--output={place}", "--steps", "2", "--overwrite")
            case "imputations":
                words = ("impute", "holes.csv", f"--output={place}", "--steps", "2",
                         "--imputations=2")  # fmt: skip
            case "config":
                words = ("train", "t.csv", f"--config={place}", "--output", "run", *_TINY)
            case "data":
                words = ("train", f"{place}.csv", "--output", "run", *_TINY)
            case "data root":
                words = ("train", "mnist", f"--data-root={place}", "--output", "run", *_TINY)
            case "mixture":
                words = ("compare-em-vi", "t.csv", f"--output={place}", "--steps", "1",
                         "--draws", "0", "--components=-1")  # fmt: skip
            case _:
                tree = {**run, **_TAKEN}
                words = (what, place) if what != "resume" else ("train", f"--resume={place}")
        return Case(words, tree, "places")

    kinds = ("train", "train", "impute", "impute over", "imputations", "config", "data")
    others = ("data root", "mixture", "evaluate", "sample", "resume")
    near = st.text(st.characters(exclude_characters="/.", exclude_categories=("Cs",)), max_size=9)
    place = st.one_of(st.sampled_from(_PLACES), st.sampled_from(_PLACES), near)
    return st.builds(made, st.sampled_from((*kinds, *others)), place)
