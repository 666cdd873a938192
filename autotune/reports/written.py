"""Reports as files: which format, where to, and what is written there.

Needs the records at once, and each format's own libraries only where it is asked for. Promises a whole file or none,
and that what can be known before a probe (a folder that is not there, a suffix that says nothing) is found out then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from autotune.errors import ResultFileError, UsageError
from autotune.result import Result, write_whole


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "markdown"
    CSV = "csv"
    PNG = "png"
    SVG = "svg"


SUFFIXES = {
    Format.HTML: (".html", ".htm"),
    Format.MARKDOWN: (".md", ".markdown"),
    Format.CSV: (".csv",),
    Format.PNG: (".png",),
    Format.SVG: (".svg",),
}
"""Endings of file names by format, the one that we give first."""


def format_of(path: Path, option: str = "--output") -> Format:
    """The format that a file's ending asks for.

    Raises:
        UsageError: its ending is none of ours.
    """
    for kind, suffixes in SUFFIXES.items():
        if path.suffix.lower() in suffixes:
            return kind
    known = ", ".join(suffixes[0] for suffixes in SUFFIXES.values())
    raise UsageError(f"{option} {path}: its ending names no format.", remedy=f"End the name with one of {known}.")


def check_writable(path: Path, option: str = "--output") -> None:
    """Find out before the work, not after it, that a file cannot be written.

    Raises:
        ResultFileError: it is a folder, its folder is missing, its name is too long, or there is no permission.
    """
    try:
        _check_place(path, option)
    except OSError as error:
        raise ResultFileError(
            f"{path} cannot be written: {error.strerror}.", remedy=f"Give another {option}."
        ) from error


def _check_place(path: Path, option: str) -> None:
    if path.is_dir():
        raise ResultFileError(f"{path} is a directory.", remedy=f"Give {option} a file name.")
    if not path.parent.is_dir():
        raise ResultFileError(f"There is no folder {path.parent}.", remedy=f"Make it, or give another {option}.")
    if not all(os.access(touched, os.W_OK) for touched in _touched(path)):
        raise ResultFileError(f"{path} cannot be written: permission denied.", remedy=f"Give another {option}.")


def _touched(path: Path) -> list[Path]:
    """What writing a whole file writes to: its folder, where another takes its place, and what is there."""
    there = [path] if path.exists() else []
    return there if there and not path.is_file() else [*there, Path(os.path.realpath(path)).parent]


def write_report(results: Sequence[Result], path: Path, kind: Format | None = None) -> None:
    """Write one report of one or several results, in the format of the file's ending unless another is given.

    Raises:
        UsageError: no format is given, and the ending names none.
        ResultFileError: the file cannot be written.
    """
    write_whole(path, rendered(results, kind or format_of(path)))


def rendered(results: Sequence[Result], kind: Format) -> bytes:
    """The report's content; text is UTF-8."""
    match kind:
        case Format.HTML:
            from autotune.reports.html import page

            return page(results).encode()
        case Format.MARKDOWN:
            from autotune.reports.markdown import markdown

            return markdown(results).encode()
        case Format.CSV:
            from autotune.reports.table_file import csv_text

            return csv_text(results).encode()
        case Format.PNG:
            from autotune.reports.figures import as_png, overview

            return as_png(overview(results))
        case Format.SVG:
            from autotune.reports.figures import overview
            from autotune.reports.svg import standalone

            return standalone(overview(results)).encode()
