"""Disks that are full, at whatever moment."""

from hypothesis import strategies as st

from .harness import Case
from .options import small_table

__all__ = ["full_disks"]

_LARGEST = 400_000
"""Bytes; all files of these runs are smaller."""


def full_disks() -> st.SearchStrategy[Case]:
    """For ``train`` and ``impute``: some of what they write has no room."""

    def made(command: str, room: int) -> Case:
        tree = {"t.csv": small_table(), "holes.csv": small_table().replace(b"-2.1,", b",")}
        words = ("train", "t.csv", "--output", "run", "--epochs", "2", "--hidden", "4",
                 "--latent-dim", "2", "--device", "cpu")  # fmt: skip
        if command == "impute":
            words = ("impute", "holes.csv", "--output", "filled.csv", "--steps", "2")
            room = room % 2_000
        return Case(words, tree, "full disks", room)

    commands = st.sampled_from(["train", "train", "train", "impute"])
    room = st.one_of(st.integers(0, 5_000), st.integers(0, 60_000), st.integers(0, _LARGEST))
    return st.builds(made, commands, room)
