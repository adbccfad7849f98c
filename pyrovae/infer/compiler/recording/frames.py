"""Where a program is: the frame of a caller outside some packages, in words."""

from pathlib import Path
from sysconfig import get_path
from types import FrameType, TracebackType

import jaxtyping
import pyro
import torch

__all__ = [
    "BETWEEN",
    "LIBRARIES",
    "OURS",
    "PYRO",
    "TORCH",
    "describe",
    "describe_users",
    "is_library_frame",
    "outside",
    "place_of",
]

TORCH = str(Path(torch.__file__).parent)
PYRO = str(Path(pyro.__file__).parent)
OURS = str(Path(__file__).parents[3])
BETWEEN = (
    str(Path(__file__).parent),
    torch.overrides.__file__,
    str(Path(torch.fx.__file__).parent),
    str(Path(jaxtyping.__file__).parent),
    "<@beartype",
)
"""Frames between a method of a tensor and its caller: this folder, make_fx, type checkers."""

_RECORDER = str(Path(__file__).with_name("record.py"))

LIBRARIES = (
    PYRO,
    OURS,
    "<string>",
    "<frozen",
    *BETWEEN,
    *(get_path(kind) for kind in ("stdlib", "purelib", "platlib")),
)
"""Files of code that is not the user's begin with one of these."""


def describe(frame: FrameType) -> str:
    """The file, line and function of a frame."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} (in {frame.f_code.co_name})"


def describe_users(frame: FrameType) -> str:
    """The innermost frame of the user's program; that of a library where none of them called it."""
    library = outside(frame, TORCH, *BETWEEN)
    user: FrameType | None = frame
    while user is not None and is_library_frame(user) and not _is_recorder(user):
        user = user.f_back
    if user is None or _is_recorder(user):
        return describe(library)
    if user is library:
        return describe(user)
    return f"{describe(library)}, called at {describe(user)},"


def place_of(traceback: TracebackType | None) -> str | None:
    """The innermost place of the user's program in a traceback; None if there is none."""
    place = None
    while traceback is not None:
        if _is_recorder(traceback.tb_frame):
            place = None  # what called the recorder is not the program
        elif not is_library_frame(traceback.tb_frame):
            code = traceback.tb_frame.f_code
            place = f"{code.co_filename}:{traceback.tb_lineno} (in {code.co_name})"
        traceback = traceback.tb_next
    return place


def _is_recorder(frame: FrameType) -> bool:
    """Whether a frame is the one in which the recorded program is called."""
    code = frame.f_code
    return code.co_name == "run_program" and code.co_filename == _RECORDER


def is_library_frame(frame: FrameType) -> bool:
    """Whether the code of a frame is not the user's."""
    return frame.f_code.co_filename.startswith(LIBRARIES)


def outside(frame: FrameType, *packages: str) -> FrameType:
    """The innermost frame outside these packages; the frame itself where there is none."""
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_filename.startswith(packages):
        outer = outer.f_back
    return frame if outer is None else outer
