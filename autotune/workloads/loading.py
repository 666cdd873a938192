"""Runs the user's file or module, once, as Python itself would run it.

Needs nothing of a framework. Promises that what goes wrong in it becomes one of our errors: what is wrong with
the file or its imports is one line, what its code raises is its own traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from autotune.errors import UsageError
from autotune.workloads.tracebacks import blame, is_import_machinery, one_line

DISTRIBUTIONS = {
    "PIL": "pillow",
    "accelerate": "'batch-autotune[accelerate]'",
    "cv2": "opencv-python",
    "keras": "'batch-autotune[keras]'",
    "lightning": "'batch-autotune[lightning]'",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "transformers": "'batch-autotune[transformers]'",
    "yaml": "pyyaml",
}
"""Well-known modules that are installed under another name, or with what we need besides."""


def load(target: str) -> ModuleType:
    """The module that a path or a dotted name stands for.

    Raises:
        UsageError: it is not there, is not Python, or cannot be imported.
        WorkloadError: its code raised.
    """
    path = Path(target)
    looks_like_path = path.suffix == ".py" or len(path.parts) > 1 or path.exists()
    return load_file(path) if looks_like_path else load_module(target)


def load_file(path: Path) -> ModuleType:
    """Run a Python file as a module named by its stem, with its folder first on `sys.path`.

    Not as "__main__", so that what stands under that guard does not run.

    Raises:
        UsageError: it is not there, is not Python, or an import in it fails.
        WorkloadError: its code raised.
    """
    _require_python_file(path)
    path = path.resolve()
    module = _new_module(path)
    put_first_on_path(str(path.parent))
    with translated(path.name), _arguments(str(path)):
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def load_module(name: str) -> ModuleType:
    """Import a module by its dotted name; the current folder counts, as for `python -m`.

    Raises:
        UsageError: it, or something that it imports, is not there.
        WorkloadError: its code raised.
    """
    put_first_on_path(str(Path.cwd()))
    with translated(name), _arguments(name):
        return importlib.import_module(name)


def put_first_on_path(folder: str) -> None:
    """Let modules in this folder be found before all others, as beside a script."""
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _require_python_file(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a directory, not a Python file.", remedy=f"Name the file: {path / 'model.py'}")
    if not path.exists():
        raise UsageError(f"{path} does not exist.", remedy="Check the path; it starts at the current directory.")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file.", remedy="Give a file that ends in .py.")


def _new_module(path: Path) -> ModuleType:
    """An empty module for this file, registered so that pickle, dataclasses and inspect find it."""
    taken = sys.modules.get(path.stem)
    is_free = taken is None or getattr(taken, "__file__", None) == str(path)
    name = path.stem if is_free else f"workload_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    return module


@contextmanager
def _arguments(program: str) -> Iterator[None]:
    """While it is loaded, the user's code sees a command line of its own, not ours."""
    before = sys.argv
    sys.argv = [program]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Around the loading of the user's code: its failures become our errors.

    Raises:
        UsageError: it is no valid Python, an import fails, or it ends the interpreter.
        WorkloadError: it raised anything else; carries the traceback.
    """
    try:
        with blame(f"Loading {what}"):
            try:
                yield
            except SyntaxError as error:
                raise _syntax(error, what) from error
            except ModuleNotFoundError as error:
                raise _missing_module(error, what) from error
            except ImportError as error:
                raise _failed_import(error, what) from error
    except SystemExit as error:
        raise UsageError(
            f"{what} ends the interpreter while it is loaded (exit code {error.code!r}).",
            remedy='Put what belongs to running it as a script under: if __name__ == "__main__":',
        ) from error


def _syntax(error: SyntaxError, what: str) -> UsageError:
    if error.filename is None:  # it is no text: UTF-16, say, or a binary
        return UsageError(f"{_place(error, what)}: {error.msg}.", remedy="Save the file as text in UTF-8.")
    line = f": {error.text.strip()}" if error.text else ""
    return UsageError(f"{error.filename}:{error.lineno}: {error.msg}{line}", remedy="Correct that line.")


def _missing_module(error: ModuleNotFoundError, what: str) -> UsageError:
    name = error.name or str(error)
    top = name.partition(".")[0]
    if what == name or what.startswith(f"{name}."):
        message = f"There is no module {name}."
    else:
        message = f"{_place(error, what)} imports {name}, which is not installed."
    if any("keras" in Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)):
        return UsageError(
            f"Keras is set to a backend that is not installed: {top}.",
            remedy=f"Install {top}, or choose one that is there: export KERAS_BACKEND=torch",
        )
    if top != name and _is_installed(top):
        return UsageError(message, remedy=f"{top} is installed, without this part: check its version.")
    return UsageError(
        message, remedy=f"Check the spelling, or install it: python -m pip install {DISTRIBUTIONS.get(top, top)}"
    )


def _is_installed(top: str) -> bool:
    return top in sys.modules or importlib.util.find_spec(top) is not None


def _failed_import(error: ImportError, what: str) -> UsageError:
    owner = f" of {error.name}" if error.name else ""
    remedy = f"Check the spelling, and the version{owner}."
    if "no known parent package" in str(error):
        module = what.removesuffix(".py")
        remedy = f"Name it as a part of its package, from the folder that holds that: autotune probe PACKAGE.{module}"
    return UsageError(f"{_place(error, what)} cannot import: {one_line(error)}", remedy=remedy)


def _place(error: BaseException, what: str) -> str:
    """File and line of the import that failed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_import_machinery(frame)]
    last = frames[-1]
    ours = Path(last.filename).parent == Path(__file__).parent
    return what if ours else f"{Path(last.filename).name}:{last.lineno}"
