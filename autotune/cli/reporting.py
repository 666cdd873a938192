"""`autotune report`: results that were saved become one file to read and to share.

Needs click at once, and the rest of the package only where the command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.screen import print_text
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.reports.written import Format
    from autotune.result import Result

_STANDARD_OUTPUT = Path("-")

_EPILOG = """\b
Examples:
  autotune report result.json                            # writes result.html
  autotune report fp32.json bf16.json --output both.html # overlaid
  autotune report result.json --format markdown --output - | gh pr comment --body-file -"""


@click.command(epilog=_EPILOG)
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["html", "markdown", "csv", "png", "svg"]),
    help="A page, a comment for a pull request, the trials as a table, or a picture.  "
    "[default: what the name of --output ends with, else html]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where it goes, - for the standard output.  "
    "[default: beside the result, with the format's ending; report.html, say, for several]",
)
def report(files: tuple[Path, ...], format_name: str | None, output: Path | None) -> None:
    """Write a report of one or several results that a probe saved with --output.

    Several results share one report, their curves laid over each other.
    """
    from autotune.reports.written import check_writable, write_report
    from autotune.result import load_result

    kind = _format(format_name, output)
    path = output or _beside(files, kind)
    if path.resolve() in [file.resolve() for file in files]:
        raise UsageError(f"{path} is the result itself.", remedy="Give another --output.")
    if path != _STANDARD_OUTPUT:
        check_writable(path)
    results = [load_result(file) for file in files]
    if path == _STANDARD_OUTPUT:
        _print(results, kind)
        return
    write_report(results, path, kind)
    click.echo(f"wrote {path}", err=True)


def _format(name: str | None, output: Path | None) -> Format:
    from autotune.reports.written import Format, format_of

    if name is None:
        return Format.HTML if output in (None, _STANDARD_OUTPUT) else format_of(output)
    kind = Format(name)
    if output is not None:
        _check_ending(output, kind)
    return kind


def _check_ending(output: Path, kind: Format) -> None:
    """See that a file's ending does not promise another format; one that is none of ours promises nothing.

    Raises:
        UsageError: it does.
    """
    from autotune.reports.written import SUFFIXES

    suffix = output.suffix.lower()
    if any(suffix in suffixes for other, suffixes in SUFFIXES.items() if other is not kind):
        raise UsageError(
            f"--format {kind.value} and --output {output} ask for different formats.",
            remedy=f"Leave one of them out, or end the name with {SUFFIXES[kind][0]}.",
        )


def _beside(files: Sequence[Path], kind: Format) -> Path:
    from autotune.reports.written import SUFFIXES

    first, suffix = files[0], SUFFIXES[kind][0]
    return first.with_suffix(suffix) if len(files) == 1 else first.with_name(f"report{suffix}")


def _print(results: Sequence[Result], kind: Format) -> None:
    from autotune.reports.written import Format, rendered

    if kind is Format.PNG and sys.stdout.isatty():
        raise UsageError("A PNG picture is not for a terminal.", remedy="Give --output a file, or pipe it on.")
    print_text(rendered(results, kind), newline=False)
