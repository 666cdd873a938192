"""Which of the user's lines asked for something, or raised, as "model.py:42".

Needs torch, to know where its files lie. A line of a library that the user calls counts as the user's.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

NOBODYS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<frozen")
"""Where the files lie whose lines say nothing to a user: torch's, ours, and those that start a program."""

NONE = "backward pass or optimizer"
"""What is told where no line of the user's is running."""


def running() -> str:
    """The innermost line of the user's that is running now."""
    frame = _users_frame()
    return _told(frame.f_code.co_filename, frame.f_lineno) if frame.f_back is not None else NONE


def function() -> str:
    """The name of the function that it stands in."""
    return _users_frame().f_code.co_name


def _users_frame() -> FrameType:
    """The innermost frame of the user's; the outermost of all where there is none."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(NOBODYS):
        frame = frame.f_back
    return frame


def that_raised(error: BaseException) -> str:
    """The innermost line of the user's that an error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(NOBODYS):
            return _told(frame.filename, frame.lineno)
    return NONE


def _told(file: str, line: int | None) -> str:
    return f"{Path(file).name}:{line}"
