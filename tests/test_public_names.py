from __future__ import annotations

import subprocess
import sys

import pytest

import autotune

FRAMEWORKS = ("torch", "tensorflow", "jax", "keras", "lightning", "transformers")


@pytest.mark.parametrize("name", autotune.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(autotune, name)
    assert name == "__version__" or value.__doc__


def test_dir_shows_the_public_names_and_others_are_refused() -> None:
    assert dir(autotune) == sorted(autotune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        autotune.nothing  # noqa: B018 - the access is the test


@pytest.mark.parametrize("statement", ["import autotune", "import autotune.cli", "import autotune.api"])
def test_the_parent_imports_no_framework(statement: str) -> None:
    code = f"{statement}; import sys; print([name for name in {FRAMEWORKS} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_whole_probe_imports_no_framework_here() -> None:
    code = (
        "import sys; from autotune.cli import main; "
        "main(['probe', 'torch.nn:Linear', '--arg', 'in_features=4', '--arg', 'out_features=2', '--input', '4', "
        "'--target', 'float:2', '--max-trials', '1', '--quiet', '--device', 'cpu']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
