"""Paths that cannot be read or written, or where something exists already."""

from hypothesis import strategies as st

from .file_trees import PIPE, FileTree, Folder, Link
from .harness import Case
from .options import small_table
from .run_directories import finished_run

__all__ = ["unusual_paths"]

_EXISTING: FileTree = {
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

_PATHS = (
    *_EXISTING,
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
    """Give an unusual path to every option and command that reads or writes one."""

    run = finished_run()

    def make_case(use: str, path: str) -> Case:
        tree = _EXISTING
        # The arguments of a process contain no NUL. Bytes that are not UTF-8 arrive as surrogates
        # from U+DC80 to U+DCFF.
        path = "\udcff" if path == "\ud800" else path.replace("\0", "")
        path = path.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        impute = ("impute", "holes.csv", f"--output={path}", "--steps", "2")
        match use:
            case "train":
                arguments = ("train", "t.csv", f"--output={path}", *_TINY)
            case "impute":
                arguments = impute
            case "impute, overwrite":
                arguments = (*impute, "--overwrite")
            case "imputations":
                arguments = (*impute, "--imputations=2")
            case "config":
                arguments = ("train", "t.csv", f"--config={path}", "--output", "run", *_TINY)
            case "data":
                arguments = ("train", f"{path}.csv", "--output", "run", *_TINY)
            case "data root":
                arguments = ("train", "mnist", f"--data-root={path}", "--output", "run", *_TINY)
            case "mixture":
                arguments = ("compare-em-vi", "t.csv", f"--output={path}", "--steps", "1",
                             "--draws", "0", "--components=-1")  # fmt: skip
            case _:
                tree = {**run, **_EXISTING}
                arguments = (use, path) if use != "resume" else ("train", f"--resume={path}")
        return Case(arguments, tree, "places")

    writes = ("train", "train", "impute", "impute, overwrite", "imputations", "mixture")
    reads = ("config", "data", "data root", "evaluate", "sample", "resume")
    random = st.text(st.characters(exclude_characters="/.", exclude_categories=("Cs",)), max_size=9)
    paths = st.one_of(st.sampled_from(_PATHS), st.sampled_from(_PATHS), random)
    return st.builds(make_case, st.sampled_from((*writes, *reads)), paths)
