"""What commands write to: the standard output for the answer, the error stream for all else.

Needs rich where something is written. Whatever comes from foreign code is made printable first.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.errors import ResultFileError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from autotune.listener import Listener
    from autotune.result import Result


def prepare_streams() -> None:
    """See that both streams take any text: an odd sign, or a stream that was closed, must not end a probe."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - it stays open to the end
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(errors="replace")


def console(*, stderr: bool = False) -> Console:
    """A console; where it is no terminal, nothing has to fit a window."""
    from rich.console import Console

    from autotune.reports.terminal import WIDEST_TEXT

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDEST_TEXT
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def listener_for(*, quiet: bool, verbose: bool) -> Listener:
    """Who hears of a probe's events: the terminal's live lines, or nobody."""
    from autotune.listener import Silence

    if quiet:
        return Silence()
    from autotune.reports.live import Live

    return Live(console(stderr=True), spinner=not verbose)  # the model's output would break its line


@contextlib.contextmanager
def saying(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Say on a terminal what is being done, on one line that goes away."""
    from autotune.reports.plain_text import printable

    errors = console(stderr=True)
    if quiet or not errors.is_terminal:
        yield lambda _: None
        return
    with errors.status("") as status:
        yield lambda text: status.update(printable(text))


def print_result(result: Result, *, quiet: bool) -> None:
    """Print a result as a table and a paragraph, or its batch size alone."""
    if quiet:
        print_text(str(result.batch_size), answer=_answer(result))
        return
    from autotune.reports.terminal import report

    print_report(lambda width: report(result, width), answer=_answer(result))


def print_verification(result: Result, *, quiet: bool) -> None:
    """Print what a verification found, or the batch size to use alone."""
    if quiet:
        print_text(str(result.batch_size), answer=_answer(result))
        return
    from autotune.reports.terminal import verification

    print_report(lambda width: verification(result, width), answer=_answer(result))


def _answer(result: Result) -> str:
    return f"The batch size to use is {result.batch_size}."


def print_report(made: Callable[[int], RenderableType], *, answer: str = "") -> None:
    """Print what is made for the width of the standard output. See `_to_standard_output`."""
    from autotune.reports.terminal import WIDEST_TEXT

    out = console()
    width = min(out.width, WIDEST_TEXT)
    shown = made(width)
    with _to_standard_output(answer):
        out.print(shown, width=width)


def print_text(text: str | bytes, *, answer: str = "", newline: bool = True) -> None:
    """Print text as it is. See `_to_standard_output`."""
    with _to_standard_output(answer):
        click.echo(text, nl=newline)


@contextlib.contextmanager
def _to_standard_output(answer: str) -> Iterator[None]:
    """Around what writes to the standard output: a full disk there must not cost the answer, which the error tells.

    Raises:
        ResultFileError: it cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # what is left of it would fail once more when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ResultFileError(
            f"The standard output cannot be written: {error.strerror}.",
            remedy=f"{answer} Free some space, or send it elsewhere.".lstrip(),
        ) from error


def complain(*texts: str, head: str = "") -> None:
    """Write to the error stream, each text on lines of its own."""
    from rich.text import Text

    from autotune.reports.plain_text import printable_lines

    lines = "\n".join(printable_lines(text) for text in texts if text)
    if not lines:
        return
    with contextlib.suppress(OSError):  # where that is full, too, the exit code still tells
        console(stderr=True).print(Text.assemble((head, "bold red"), lines), soft_wrap=True)
