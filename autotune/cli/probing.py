"""`autotune probe` and `autotune show`: options become a `ProbeSpec`, a `Result` becomes text.

Needs click at once, and the rest of the package only where the command runs.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from autotune.cli.options import (
    CLASS_OPTIONS,
    EXIT_CODES,
    MODE,
    PRECISIONS,
    PROGRAM,
    SEED,
    VERBOSE,
    SectionedCommand,
    read_by,
    workload_of,
)
from autotune.cli.screen import listener_for, print_result
from autotune.errors import EXIT_INTERRUPTED, ResultFileError, UnsavedResultError, UsageError
from autotune.units import parse_budget, parse_duration, parse_noise, parse_share

if TYPE_CHECKING:
    from autotune.result import Result
    from autotune.spec import ProbeSpec

_EXAMPLES = """\b
Examples:
  autotune probe model.py
  autotune probe model.py --device cuda --precision bf16 --memory-budget 20GiB
  autotune probe model.py --target 4096 --output result.json
  autotune probe model.py --mode inference --objective latency --max-latency 50ms
  autotune probe torchvision.models:resnet18 --input 3x224x224 --target class:1000
  BATCH_SIZE=$(autotune probe model.py --quiet)"""

_TARGET_HELP = (
    "A whole number asks whether this machine can process so many samples at once, and how to get there if it "
    "cannot. Anything else describes what a class learns: class:1000, or float:5. May be given once for each."
)

_SECTIONS: dict[str, list[click.Option]] = {
    "Question": [
        click.Option(
            ["--objective"],
            type=click.Choice(["throughput", "memory", "latency", "time-to-quality"]),
            default="throughput",
            help="What to recommend: the smallest batch size about as fast as the fastest, the largest that fits, "
            "the fastest within --max-latency, or the one that trains fastest to a given quality.  "
            "[default: throughput]",
        ),
        click.Option(
            ["--max-latency", "latency_seconds"],
            metavar="DURATION",
            callback=read_by(parse_duration),
            help="With --objective latency: what 95% of the steps must keep to, such as 50ms.",
        ),
        click.Option(
            ["--tolerance"],
            metavar="SHARE",
            default="5%",
            show_default=True,
            callback=read_by(parse_share),
            help="How much speed may be given up for a smaller batch.",
        ),
        click.Option(["--target", "targets"], metavar="N|KIND", multiple=True, help=_TARGET_HELP),
    ],
    "Time to quality": [
        click.Option(
            ["--noise"],
            metavar="auto|off|N",
            default="auto",
            show_default=True,
            callback=read_by(parse_noise),
            help="The gradient noise scale in samples; auto trains a copy for a while to measure it.",
        ),
        click.Option(
            ["--base-batch-size"],
            type=int,
            metavar="N",
            help="Where it is measured, and what the learning rate suits now.  [default: your DataLoader's, or 32]",
        ),
        click.Option(
            ["--base-lr", "base_learning_rate"],
            type=float,
            metavar="RATE",
            help="The learning rate there.  [default: the optimizer's]",
        ),
        click.Option(
            ["--warmup-steps"],
            type=int,
            metavar="N",
            default=160,
            show_default=True,
            help="How long the copy is trained; the second half is measured.",
        ),
        click.Option(["--epochs"], type=int, metavar="N", help="Epochs planned, to count the optimizer's steps."),
        click.Option(
            ["--dataset-size"], type=int, metavar="N", help="Samples in an epoch, where the data does not tell."
        ),
    ],
    "Model given as a class": CLASS_OPTIONS,
    "Step": [
        MODE,
        click.Option(
            ["--precision"],
            type=click.Choice(PRECISIONS),
            default="fp32",
            show_default=True,
            help="Number format of the forward pass.",
        ),
        click.Option(["--compile"], is_flag=True, help="Run the model through torch.compile."),
        click.Option(["--device"], default="auto", show_default=True, help="cpu, cuda, cuda:1, mps or auto."),
        click.Option(["--threads"], type=int, metavar="N", help="Processor threads.  [default: torch's own choice]"),
        SEED,
    ],
    "Limits": [
        click.Option(
            ["--memory-budget", "budget"],
            metavar="SIZE|SHARE",
            default="90%",
            show_default=True,
            callback=read_by(parse_budget),
            help="The memory that the whole process may use, such as 8GiB, or a share of what is free now.",
        ),
        click.Option(["--start"], type=int, metavar="N", help="The first batch size to try."),
        click.Option(["--max-batch-size"], type=int, metavar="N", help="Try nothing above it."),
        click.Option(
            ["--multiple-of"], type=int, metavar="N", default=1, show_default=True, help="Try only multiples of it."
        ),
        click.Option(
            ["--max-seconds"],
            metavar="DURATION",
            callback=read_by(parse_duration),
            help="End after so long, such as 90, 20m or 1h, with the best so far. Whatever runs then is ended, but for "
            "the first trial, which has all of --trial-timeout; a process that starts is waited for.",
        ),
        click.Option(
            ["--max-trials"],
            type=int,
            metavar="N",
            help="End after so many trials, those that confirm the answer or are about --target included, with the "
            "best so far.",
        ),
        click.Option(
            ["--trial-timeout", "trial_timeout_seconds"],
            metavar="DURATION",
            default="5m",
            show_default=True,
            callback=read_by(parse_duration),
            help="Give up a batch size that takes longer than this.",
        ),
    ],
    "Search": [
        click.Option(
            ["--forecast/--no-forecast"],
            default=True,
            help="Let a forecast of memory, made without running, guide the search.  [default: forecast]",
        ),
    ],
    "Data": [
        click.Option(
            ["--tune-workers"],
            is_flag=True,
            help="Time the DataLoader with 0, 1, 2, 4, ... workers, too, and say how many feed the model best.",
        ),
    ],
    "Output": [
        click.Option(
            ["--output"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Save the result as JSON. While the probe runs, its journal lies beside it, as FILE.journal.jsonl.",
        ),
        click.Option(["--resume"], is_flag=True, help="Go on from the journal of --output."),
        click.Option(
            ["--report", "report_path"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write a report, too: .html, .md, .csv, .png or .svg, by the ending of its name.",
        ),
        click.Option(["--quiet"], is_flag=True, help="Print the recommended batch size and nothing else."),
        VERBOSE,
    ],
}


@click.command(
    cls=SectionedCommand,
    sections=_SECTIONS,
    epilog=f"{_EXAMPLES}\n\n{EXIT_CODES}",
)
def probe(
    *,
    target: str,
    output: Path | None,
    report_path: Path | None,
    resume: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Try batch sizes of a model and recommend one.

    TARGET is a Python file or the dotted name of a module that holds the model by plain names (model, loss,
    dataset and so on), or a class as package.module:Class with --input and --target for its data.
    """
    spec = _spec(target, **options)
    _check_report(report_path, output)
    listener = listener_for(quiet=quiet, verbose=verbose)
    from autotune.api import run

    try:
        result = run(
            spec,
            listener=listener,
            output=output,
            resume=resume,
            command_line=shlex.join([PROGRAM, *sys.argv[1:]]),
            verbose=verbose,
        )
        _write_report(result, report_path)
    except UnsavedResultError as error:
        print_result(cast("Result", error.result), quiet=quiet)
        raise
    finally:
        listener.ended(None)  # an error may have left the spinner on
    return _conclude(result, [path for path in (output, report_path) if path], quiet=quiet)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="Print the recommended batch size and nothing else.")
def show(file: Path, quiet: bool) -> None:
    """Show the result that a probe saved with --output."""
    from autotune.result import load_result

    print_result(load_result(file), quiet=quiet)


def _spec(target: str, *, targets: tuple[str, ...], **options: Any) -> ProbeSpec:
    from autotune.spec import Mode, Objective, Precision, ProbeSpec

    number, answer = _split_targets(targets)
    workload = workload_of(target, options.pop("inputs"), answer, options.pop("arguments"))
    for name, kind in (("mode", Mode), ("objective", Objective), ("precision", Precision)):
        options[name] = kind(options[name])
    return ProbeSpec(workload=workload, target=number, **options)


def _split_targets(targets: tuple[str, ...]) -> tuple[int | None, str | None]:
    """The batch size that is asked about, and the description of what a class learns."""
    numbers = [text for text in targets if re.fullmatch(r"[+-]?[0-9]{1,18}", text)]
    answers = [text for text in targets if text not in numbers]
    if len(numbers) > 1 or len(answers) > 1:
        raise UsageError(
            "--target is given twice for the same thing.",
            remedy="Give one whole number, one description of what a class learns, or one of each.",
        )
    return (int(numbers[0]) if numbers else None), (answers[0] if answers else None)


def _check_report(path: Path | None, output: Path | None) -> None:
    """Find out before the probe that its report could not be written."""
    if path is None:
        return
    from autotune.reports.written import check_writable, format_of

    format_of(path, "--report")
    check_writable(path, "--report")
    if output is not None and path.resolve() == output.resolve():
        raise UsageError(f"--output and --report are both {path}.", remedy="Give them different names.")


def _write_report(result: Result, path: Path | None) -> None:
    """Write the report; a disk that has become full meanwhile must not cost the answer."""
    if path is None:
        return
    from autotune.reports.written import write_report

    try:
        write_report([result], path)
    except ResultFileError as error:
        raise UnsavedResultError(error.message, remedy="Free some space.", result=result) from error


def _conclude(result: Result, written: Sequence[Path], *, quiet: bool) -> int:
    """Show what was found, and where it was written to; returns the exit code."""
    from autotune.result import StopReason

    interrupted = StopReason.INTERRUPTED in (result.stop, result.cut_short)
    if not quiet:
        if interrupted:
            click.echo("interrupted: what follows is the best so far", err=True)
        for path in written:
            click.echo(f"saved to {path}", err=True)
        if sys.stdout.isatty():
            click.echo()  # sets the answer apart from the lines above it
    print_result(result, quiet=quiet)
    return EXIT_INTERRUPTED if interrupted else 0
