"""What the user's code raised, told as the user knows it: without our frames.

Needs nothing of a framework. Promises that a traceback keeps every frame of the user's and of the libraries
they call, also in the exceptions that led to it, and that an error of ours passes through as it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.errors import AutotuneError, WorkloadError

_PACKAGE = Path(__file__).parent.parent
_EXAMPLES = _PACKAGE / "examples"
"""The bundled workloads stand where a user's file would, and are told like one."""


def user_traceback(error: BaseException) -> str:
    """The whole traceback, with its causes, less the leading frames of ours and of the import machinery."""
    told = traceback.TracebackException.from_exception(error)
    _strip(told)
    return "".join(told.format())


def _strip(told: traceback.TracebackException) -> None:
    leading = next((place for place, frame in enumerate(told.stack) if not _is_ours(frame)), len(told.stack))
    told.stack = traceback.StackSummary.from_list(told.stack[leading:])
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _strip(other)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename)
    ours = path.is_relative_to(_PACKAGE) and not path.is_relative_to(_EXAMPLES)
    return ours or is_import_machinery(frame)


def is_import_machinery(frame: traceback.FrameSummary) -> bool:
    """True for a frame of Python's own import system."""
    return frame.filename.startswith("<frozen importlib") or Path(frame.filename).parts[-2:] == (
        "importlib",
        "__init__.py",
    )


def one_line(error: BaseException) -> str:
    """The type and the first line of the text, such as "ValueError: math domain error".

    The text of an error in a DataLoader's worker is a whole traceback there; its last line says what was raised.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "in DataLoader worker process" in lines[0]:
        return lines[-1]
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


@contextmanager
def blame(what: str, *, remedy: str = "") -> Iterator[None]:
    """Around a call of the user's code: what it raises becomes a `WorkloadError` that names `what`.

    Raises:
        WorkloadError: the user's code raised; carries their traceback.
    """
    try:
        yield
    except AutotuneError:
        raise
    except Exception as error:
        raise WorkloadError(
            f"{what} raised {one_line(error)}", remedy=remedy, user_traceback=user_traceback(error)
        ) from error
