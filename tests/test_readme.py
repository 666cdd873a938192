"""The README's examples for frameworks, run as they stand, each in an interpreter of its own; and its table of them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
SECTION = README.read_text().split("## Where people train")[1].split("\n## ")[0]
EXAMPLES = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
PINNED = dict(line.split("==") for line in (README.parent / "constraints.txt").read_text().split())
MODULES = ("keras", "lightning", "transformers", "accelerate")


def framework(example: str) -> str:
    """The framework that an example is about: the first of ours that it imports."""
    example = example.replace("import lightning.pytorch as pl", "import lightning")
    return next(name for name in MODULES if re.search(rf"^(import|from) {name}\b", example, re.MULTILINE))


@pytest.mark.parametrize("example", EXAMPLES, ids=framework)
def test_an_example_runs_as_it_stands(example: str, tmp_path: Path) -> None:
    if find_spec(framework(example)) is None:  # importing Keras would take the backend of the day
        pytest.skip(f"{framework(example)} is not installed")
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    if framework(example) == "keras":
        shown = " ".join(done.stdout.split())
        batch_size = int(re.findall(r"Use batch size (\d+)", shown)[0])  # on a busy machine, 8 may be as fast as 10
        assert f"An epoch of 1,000 samples is {math.ceil(1000 / batch_size):,} batches" in shown


ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: row[0])
def test_the_table_names_the_version_that_is_installed_and_a_test_that_there_is(row: list[str]) -> None:
    """So a version cannot be called tested that the tests beside it did not run with."""
    name, tested_with = row[0].partition(",")[0], row[-1]
    distribution = {"DistributedDataParallel": "torch"}.get(name, name.lower())
    try:
        found = version(distribution)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if found.partition("+")[0] != PINNED.get(distribution, found):
        pytest.skip(f"{distribution} {found} was chosen by hand")
    assert tested_with.partition(",")[0] == ".".join(found.split(".")[:2])
    assert (README.parent / re.findall(r"`(tests/.*)`", tested_with)[0]).is_file()
