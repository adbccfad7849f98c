"""Commands on a disk that becomes full at a random point."""

from hypothesis import strategies as st

from .harness import Case
from .options import small_table

__all__ = ["full_disks"]

_LARGEST = 400_000
"""Bytes. All files that these commands write are smaller."""


def full_disks() -> st.SearchStrategy[Case]:
    """Run ``train`` and ``impute`` without room for all of their output."""

    def make_case(command: str, size_limit: int) -> Case:
        tree = {"t.csv": small_table(), "holes.csv": small_table().replace(b"-2.1,", b",")}
        arguments = ("train", "t.csv", "--output", "run", "--epochs", "2", "--hidden", "4",
                     "--latent-dim", "2", "--device", "cpu")  # fmt: skip
        if command == "impute":
            arguments = ("impute", "holes.csv", "--output", "filled.csv", "--steps", "2")
            size_limit = size_limit % 2_000
        return Case(arguments, tree, "full disks", size_limit)

    commands = st.sampled_from(["train", "train", "train", "impute"])
    sizes = st.one_of(st.integers(0, 5_000), st.integers(0, 60_000), st.integers(0, _LARGEST))
    return st.builds(make_case, commands, sizes)
