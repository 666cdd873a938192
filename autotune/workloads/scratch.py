"""A folder for the logs and checkpoints that a framework writes, which nobody wants from a trial. No torch.

Promises that it goes when this process ends by itself, and, in a worker, also when a trial is killed: it then lies in
a folder of the parent's, which outlives all trials and is removed with the worker.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

VARIABLE = "AUTOTUNE_SCRATCH"
"""The environment variable that tells a worker its parent's folder."""


def scratch_folder() -> str:
    """A new folder of this process's own."""
    folder = tempfile.mkdtemp(prefix="autotune-", dir=os.environ.get(VARIABLE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
