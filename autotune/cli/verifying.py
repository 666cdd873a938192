"""`autotune verify`: batch sizes of a saved result are trained for a while, to see whether its prediction holds.

Needs click at once, and the rest of the package only where the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from autotune.cli.options import EXIT_CODES, VERBOSE, read_by
from autotune.cli.screen import listener_for, print_verification
from autotune.errors import EXIT_INTERRUPTED
from autotune.units import parse_duration

_EXAMPLES = """\b
Examples:
  autotune probe model.py --objective time-to-quality --epochs 10 --output result.json
  autotune verify result.json
  autotune verify result.json --candidates 4 --budget 2h --output verified.json"""


@click.command(epilog=f"{_EXAMPLES}\n\n{EXIT_CODES}", params=[VERBOSE])
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--candidates", type=int, metavar="N", default=3, show_default=True, help="How many batch sizes, the answer first."
)
@click.option(
    "--budget",
    metavar="DURATION",
    default="20m",
    show_default=True,
    callback=read_by(parse_duration),
    help="For training all of them; starting up and looking at the loss add to it.",
)
@click.option(
    "--epochs",
    type=int,
    metavar="N",
    help="Epochs planned: on less than half of that training no prediction is overruled.  [default: the probe's]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="RESULT.json",
    help="Where the verified result goes.  [default: FILE itself]",
)
@click.option("--quiet", is_flag=True, help="Print the batch size to use and nothing else.")
def verify(file: Path, *, output: Path | None, quiet: bool, **options: Any) -> int:
    """Train some batch sizes of a result for equal wall time, and see whether its prediction holds.

    Each starts from the same weights, with the learning rate advised for it, on a part of the data; the loss on the
    rest decides. FILE is what a probe saved with --output.
    """
    from autotune.api import verify_result
    from autotune.reports.written import check_writable
    from autotune.result import load_result

    path = output or file
    result = load_result(file)
    check_writable(path)
    listener = listener_for(quiet=quiet, verbose=options["verbose"])
    verified = verify_result(result, listener=listener, **options)
    try:
        print_verification(verified, quiet=quiet)
    finally:  # also where the standard output fails
        verified.save(path)
    if not quiet:
        click.echo(f"saved to {path}", err=True)
    interrupted = verified.verification is not None and verified.verification.is_interrupted
    return EXIT_INTERRUPTED if interrupted else 0
