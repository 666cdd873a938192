"""`autotune compare`: two results become a comparison, and an exit code for continuous integration.

Needs click at once, and the rest of the package only where the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotune.cli.options import EXIT_CODES, read_by
from autotune.cli.screen import print_report, print_text
from autotune.units import parse_share

if TYPE_CHECKING:
    from autotune.reports.comparison import Shown

_EXAMPLES = """\b
Examples:
  autotune compare old.json new.json
  autotune compare main.json branch.json --fail-if-slower 5% --fail-if-memory 10%
  autotune compare main.json branch.json --format markdown >> "$GITHUB_STEP_SUMMARY"
"""


@click.command(epilog=f"{_EXAMPLES}\n{EXIT_CODES}")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--fail-if-slower",
    "slower",
    metavar="SHARE",
    callback=read_by(parse_share),
    help="End with code 8 where the new result is really slower, and by more than this, such as 5%.",
)
@click.option(
    "--fail-if-memory",
    "memory",
    metavar="SHARE",
    callback=read_by(parse_share),
    help="End with code 8 where peak memory is really higher, and by more than this, such as 10%.",
)
@click.option(
    "--format",
    "written_as",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="A table, Markdown for a pull request, or JSON for a program.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--quiet", is_flag=True, help="Print no report: the exit code tells, and an error says why it is not 0.")
def compare(
    *,
    old: Path,
    new: Path,
    slower: float | None,
    memory: float | None,
    written_as: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Tell whether NEW is slower than OLD, or takes more memory, or differs by noise alone.

    Both are results that `probe` saved with --output. A change is called real where it is more than the recorded
    steps leave open and more than equal runs differ by.
    """
    from autotune.comparison import Quantity
    from autotune.comparison import compare as compared
    from autotune.reports.comparison import Shown
    from autotune.result import load_result

    limits = {Quantity.SPEED: slower, Quantity.MEMORY: memory}
    allowed = {quantity: share for quantity, share in limits.items() if share is not None}
    comparison = compared(load_result(old), load_result(new))
    if not quiet:
        _print(
            Shown(comparison=comparison, names=(str(old), str(new)), allowed=allowed), "json" if as_json else written_as
        )
    comparison.check(allowed)


def _print(shown: Shown, written_as: str) -> None:
    from autotune.reports.comparison import as_json, as_markdown, report

    if written_as == "text":
        print_report(lambda width: report(shown, width))
    else:
        print_text(as_json(shown) if written_as == "json" else as_markdown(shown))
