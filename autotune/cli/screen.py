"""What commands write to: the standard output for the answer, the error stream for all else.

Needs rich where something is written. Whatever comes from foreign code is made printable first.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from autotune.listener import Listener
    from autotune.result import Result


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
        click.echo(str(result.batch_size))
        return
    from autotune.reports.terminal import report

    print_report(lambda width: report(result, width))


def print_verification(result: Result, *, quiet: bool) -> None:
    """Print what a verification found, or the batch size to use alone."""
    if quiet:
        click.echo(str(result.batch_size))
        return
    from autotune.reports.terminal import verification

    print_report(lambda width: verification(result, width))


def print_report(made: Callable[[int], RenderableType]) -> None:
    """Print what is made for the width of the standard output."""
    from autotune.reports.terminal import WIDEST_TEXT

    out = console()
    width = min(out.width, WIDEST_TEXT)
    out.print(made(width), width=width)


def complain(*texts: str, head: str = "") -> None:
    """Write to the error stream, each text on lines of its own."""
    from rich.text import Text

    from autotune.reports.plain_text import printable_lines

    lines = "\n".join(printable_lines(text) for text in texts if text)
    if lines:
        console(stderr=True).print(Text.assemble((head, "bold red"), lines), soft_wrap=True)
