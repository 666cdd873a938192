"""Folders for what nobody wants to keep: copies for other processes, and the logs that a framework writes. No torch.

Promises that they go when the process that asked for one ends by itself, and, in a worker, also when a trial is killed:
a trial's folders lie in one of the parent's, which outlives all trials and is removed with the worker.
"""

from __future__ import annotations

import atexit
import os
import shutil
from tempfile import TemporaryDirectory, mkdtemp

from autotune.errors import UsageError

PREFIX = "autotune-"
VARIABLE = "AUTOTUNE_SCRATCH"
"""The environment variable that tells a worker its parent's folder."""


def temporary_folder() -> TemporaryDirectory[str]:
    """A new folder, for as long as it is held; in a worker's process, one in its parent's.

    Raises:
        UsageError: there is nowhere to make one.
    """
    try:
        return TemporaryDirectory(prefix=PREFIX, dir=os.environ.get(VARIABLE), ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError(
            f"There is no folder for temporary files that can be written to: {error.strerror}",
            remedy="Set TMPDIR to one that can.",
        ) from error


def scratch_folder() -> str:
    """A new folder, for as long as this process lives."""
    folder = mkdtemp(prefix=PREFIX, dir=os.environ.get(VARIABLE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
