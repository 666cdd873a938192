"""What the tests of workloads share: a user's file, written and loaded as the worker would."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from autotune.workloads import BuildOptions

WriteFile = Callable[..., str]


@pytest.fixture
def write_file(tmp_path: Path) -> Iterator[WriteFile]:
    """Writes a user's file and gives its path; modules and paths that loading it adds are forgotten again."""
    modules, path = set(sys.modules), list(sys.path)

    def write(text: str, name: str = "model.py") -> str:
        file = tmp_path / name
        file.write_text(dedent(text))
        return str(file)

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def train() -> BuildOptions:
    return BuildOptions(device="cpu", mode="train")


@pytest.fixture
def inference() -> BuildOptions:
    return BuildOptions(device="cpu", mode="inference")
