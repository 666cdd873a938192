"""The command line: one module a command, one handler of errors.

Needs click at once, and the rest of the package only where a command runs, so that `--help` answers quickly;
never torch. Promises that the answer alone goes to the standard output and everything else to the error
stream, and that each way to end has its own exit code. `main` holds the only handler of errors: what passes
it is a bug of ours, and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from autotune import __version__
from autotune.cli.comparing import compare
from autotune.cli.estimating import estimate
from autotune.cli.options import EXIT_CODES, PROGRAM
from autotune.cli.probing import probe, show
from autotune.cli.reporting import report
from autotune.cli.screen import complain, prepare_streams
from autotune.cli.verifying import verify
from autotune.errors import EXIT_INTERRUPTED, AutotuneError, UsageError, WorkloadError


@click.group(
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Find the batch size for a PyTorch model on this machine, by running the model.

    Each batch size is tried in a process of its own, so one that runs out of memory harms nothing.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(UsageError.exit_code)


for _command in (probe, verify, estimate, show, report, compare):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    prepare_streams()
    try:
        return cli.main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except AutotuneError as error:
        if isinstance(error, WorkloadError):
            complain(error.user_traceback)
        complain(error.message, error.remedy, head="error: ")
        return error.exit_code
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
        complain(error.format_message(), f"See '{command} --help'.", head="error: ")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted before any trial had finished")
        return EXIT_INTERRUPTED
