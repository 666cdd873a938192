"""The command line: options become a `ProbeSpec`, a `Result` becomes text, an error becomes a line and a code.

Needs click at once, and the rest of the package only where a command runs, so that `--help` answers quickly;
never torch. Promises that the answer alone goes to the standard output and everything else to the error
stream, and that each way to end has its own exit code. `main` holds the only handler of errors: what passes
it is a bug of ours, and shows its traceback.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from autotune import __version__
from autotune.errors import EXIT_INTERRUPTED, AutotuneError, UnsavedResultError, UsageError, WorkloadError
from autotune.units import parse_budget, parse_bytes, parse_duration, parse_share

if TYPE_CHECKING:
    from rich.console import Console

    from autotune.estimate import Estimate, Place, Question
    from autotune.listener import Listener
    from autotune.result import Result
    from autotune.spec import ClassWorkload, FileWorkload, ProbeSpec

PROGRAM = "autotune"

_PRECISIONS = ["fp32", "bf16", "fp16"]
_USUAL_GPUS = ("T4", "RTX 4090", "A100 40GB", "H100")  # 16 to 80 GB: what clouds rent out, and one at home

_NAME_COLUMNS = 28  # of the help, the same in every section

_EXIT_CODES = """\b
Exit codes:
  0    done
  1    the model's own code raised
  2    an option or an argument is wrong
  3    no batch size fits, or a predicted peak is over --fail-over
  4    the device is not there
  5    a result or a journal cannot be read or written
  6    no trial finished
  7    no forecast: the step cannot be followed without data
  130  interrupted; the best so far is shown, if there is one"""

_ESTIMATE_EXAMPLES = """\b
Examples:
  autotune estimate model.py --gpu "A100 40GB" --gpu "RTX 4090"
  autotune estimate model.py --device-memory 24GiB --checkpointing
  autotune estimate model.py --batch-size 64 --precision bf16 --fail-over 20GiB
  autotune estimate model.py --device cpu --json
  BATCH_SIZE=$(autotune estimate model.py --gpu H100 --precision bf16 --quiet)"""

_EXAMPLES = """\b
Examples:
  autotune probe model.py
  autotune probe model.py --device cuda --precision bf16 --memory-budget 20GiB
  autotune probe model.py --target 4096 --output result.json
  autotune probe model.py --mode inference --objective latency --max-latency 50ms
  autotune probe torchvision.models:resnet18 --input 3x224x224 --target class:1000
  BATCH_SIZE=$(autotune probe model.py --quiet)"""


def _read_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that reads an option's text, and names the option where it can't."""

    def callback(_: click.Context, option: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except UsageError as error:
            raise UsageError(f"{option.opts[0]}: {error.message}", remedy=error.remedy) from error

    return callback


_TARGET_HELP = (
    "A whole number asks whether this machine can process so many samples at once, and how to get there if it "
    "cannot. Anything else describes what a class learns: class:1000, or float:5. May be given once for each."
)

_CLASS_OPTIONS = [
    click.Option(
        ["--input", "inputs"],
        metavar="SHAPE",
        multiple=True,
        help="One sample's shape, such as 3x224x224, or int:30000:128 for 128 numbers below 30000. Repeat it for "
        "a model of several inputs.",
    ),
    click.Option(
        ["--arg", "arguments"],
        metavar="NAME=VALUE",
        multiple=True,
        help="An argument of the constructor, such as num_classes=10. May be repeated.",
    ),
]
_MODE = click.Option(
    ["--mode"],
    type=click.Choice(["train", "inference"]),
    default="train",
    show_default=True,
    help="Forward, backward and optimizer, or forward alone.",
)
_SEED = click.Option(
    ["--seed"], type=int, metavar="N", default=0, show_default=True, help="Seed of all random numbers."
)
_VERBOSE = click.Option(["--verbose"], is_flag=True, help="Show what the model's own code prints.")

_SECTIONS: dict[str, list[click.Option]] = {
    "Question": [
        click.Option(
            ["--objective"],
            type=click.Choice(["throughput", "memory", "latency"]),
            default="throughput",
            help="What to recommend: the smallest batch size about as fast as the fastest, the largest that fits, "
            "or the fastest within --max-latency.  [default: throughput]",
        ),
        click.Option(
            ["--max-latency", "latency_seconds"],
            metavar="DURATION",
            callback=_read_by(parse_duration),
            help="With --objective latency: what 95% of the steps must keep to, such as 50ms.",
        ),
        click.Option(
            ["--tolerance"],
            metavar="SHARE",
            default="5%",
            show_default=True,
            callback=_read_by(parse_share),
            help="How much speed may be given up for a smaller batch.",
        ),
        click.Option(["--target", "targets"], metavar="N|KIND", multiple=True, help=_TARGET_HELP),
    ],
    "Model given as a class": _CLASS_OPTIONS,
    "Step": [
        _MODE,
        click.Option(
            ["--precision"],
            type=click.Choice(_PRECISIONS),
            default="fp32",
            show_default=True,
            help="Number format of the forward pass.",
        ),
        click.Option(["--compile"], is_flag=True, help="Run the model through torch.compile."),
        click.Option(["--device"], default="auto", show_default=True, help="cpu, cuda, cuda:1, mps or auto."),
        click.Option(["--threads"], type=int, metavar="N", help="Processor threads.  [default: torch's own choice]"),
        _SEED,
    ],
    "Limits": [
        click.Option(
            ["--memory-budget", "budget"],
            metavar="SIZE|SHARE",
            default="90%",
            show_default=True,
            callback=_read_by(parse_budget),
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
            callback=_read_by(parse_duration),
            help="End after so long, such as 90, 20m or 1h, with the best so far.",
        ),
        click.Option(["--max-trials"], type=int, metavar="N", help="End after so many trials, with the best so far."),
        click.Option(
            ["--trial-timeout", "trial_timeout_seconds"],
            metavar="DURATION",
            default="5m",
            show_default=True,
            callback=_read_by(parse_duration),
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
    "Output": [
        click.Option(
            ["--output"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Save the result as JSON. While the probe runs, its journal lies beside it, as FILE.journal.jsonl.",
        ),
        click.Option(["--resume"], is_flag=True, help="Go on from the journal of --output."),
        click.Option(["--quiet"], is_flag=True, help="Print the recommended batch size and nothing else."),
        _VERBOSE,
    ],
}

_ESTIMATE_SECTIONS: dict[str, list[click.Option]] = {
    "Hardware": [
        click.Option(
            ["--gpu", "gpus"],
            metavar="NAME",
            multiple=True,
            help="A GPU that need not be here, such as 'A100 40GB'. May be repeated.  [default: a few usual ones]",
        ),
        click.Option(["--gpus", "all_gpus"], type=click.Choice(["all"]), help="Every GPU that is known here."),
        click.Option(
            ["--device-memory", "memory_bytes"],
            metavar="SIZE",
            callback=_read_by(parse_bytes),
            help="The memory of some other device, such as 24GiB, CUDA's own context included.",
        ),
        click.Option(
            ["--device"],
            type=click.Choice(["cuda", "cpu"]),
            default="cuda",
            show_default=True,
            help="A GPU, or this machine's processor.",
        ),
    ],
    "Step": [
        click.Option(
            ["--batch-size", "batch_sizes"],
            type=click.IntRange(min=1),
            metavar="N",
            multiple=True,
            help="May be repeated.  [default: powers of two up to the largest that fits]",
        ),
        _MODE,
        click.Option(
            ["--precision", "precisions"],
            type=click.Choice(_PRECISIONS),
            multiple=True,
            help="Number format of the forward pass. May be repeated.  [default: all; fp32 for --quiet, --fail-over]",
        ),
        click.Option(
            ["--checkpointing"], is_flag=True, help="Also with the model's own switch for activation checkpointing."
        ),
        click.Option(
            ["--accumulate", "accumulation_steps"],
            type=click.IntRange(min=1),
            metavar="N",
            default=1,
            show_default=True,
            help="Micro-batches in a step; batch sizes are then theirs.",
        ),
        _SEED,
    ],
    "Model given as a class": [
        *_CLASS_OPTIONS,
        click.Option(["--target", "answer"], metavar="KIND", help="What the class learns: class:1000, or float:5."),
    ],
    "Output": [
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, whose keys the README lists."),
        click.Option(
            ["--fail-over", "limit_bytes"],
            metavar="SIZE",
            callback=_read_by(parse_bytes),
            help="With --batch-size: end with code 3 where a predicted peak and its margin exceed this size.",
        ),
        click.Option(["--quiet"], is_flag=True, help="Print the largest batch size alone, one line for each device."),
        _VERBOSE,
    ],
}


class _SectionedCommand(click.Command):
    """A command whose help lists its options under headings."""

    def __init__(
        self, *, sections: dict[str, list[click.Option]], params: list[click.Parameter], **settings: Any
    ) -> None:
        """Take a target, and the options of all sections."""
        options = itertools.chain(*sections.values())
        super().__init__(params=[click.Argument(["target"]), *options, *params], **settings)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, and the help option in the last."""
        help_option = self.get_help_option(ctx)
        for title, options in self._sections.items():
            shown = [*options, help_option] if title == "Output" and help_option else options
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(_NAME_COLUMNS), text) for name, text in _help_records(shown, ctx)],
                    col_max=_NAME_COLUMNS,
                )


def _help_records(options: Sequence[click.Option], ctx: click.Context) -> list[tuple[str, str]]:
    return [record for option in options if (record := option.get_help_record(ctx))]


@click.group(
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
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


@cli.command(
    cls=_SectionedCommand,
    sections=_SECTIONS,
    epilog=f"{_EXAMPLES}\n\n{_EXIT_CODES}",
)
def probe(*, target: str, output: Path | None, resume: bool, quiet: bool, verbose: bool, **options: Any) -> int:
    """Try batch sizes of a model and recommend one.

    TARGET is a Python file or the dotted name of a module that holds the model by plain names (model, loss,
    dataset and so on), or a class as package.module:Class with --input and --target for its data.
    """
    spec = _spec(target, **options)
    listener = _listener(quiet=quiet, verbose=verbose)
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
    finally:
        listener.ended(None)  # an error may have left the spinner on
    return _conclude(result, output, quiet=quiet)


@cli.command(
    cls=_SectionedCommand,
    sections=_ESTIMATE_SECTIONS,
    epilog=f"{_ESTIMATE_EXAMPLES}\n\n{_EXIT_CODES}",
)
def estimate(
    *, target: str, as_json: bool, limit_bytes: int | None, quiet: bool, verbose: bool, **options: Any
) -> None:
    """Predict a step's memory without running it, for hardware that need not be here.

    TARGET is what `probe` takes. The step is followed with tensors that have shapes but no data, so this takes
    seconds and needs no GPU. What it prints is predicted; `probe` measures.
    """
    if limit_bytes is not None and not options["batch_sizes"]:
        raise UsageError("--fail-over needs --batch-size.", remedy="Name the batch size that shall fit.")
    if not (options["gpus"] or options["all_gpus"] or options["memory_bytes"]):
        options["memory_bytes"] = limit_bytes  # a device of that size is what is asked about
    spec, question = _question(target, one_precision=quiet or limit_bytes is not None, **options)
    from autotune.api import run_estimate

    with _saying(quiet=quiet or verbose) as told:
        found = run_estimate(spec, question, told=told, verbose=verbose)
    _print_estimate(found, as_json=as_json, quiet=quiet)
    if limit_bytes is not None:
        found.check_within(limit_bytes)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--quiet", is_flag=True, help="Print the recommended batch size and nothing else.")
def show(file: Path, quiet: bool) -> None:
    """Show the result that a probe saved with --output."""
    from autotune.result import load_result

    _print_result(load_result(file), quiet=quiet)


def _spec(target: str, *, targets: tuple[str, ...], **options: Any) -> ProbeSpec:
    from autotune.spec import Mode, Objective, Precision, ProbeSpec

    number, answer = _split_targets(targets)
    workload = _workload(target, options.pop("inputs"), answer, options.pop("arguments"))
    for name, kind in (("mode", Mode), ("objective", Objective), ("precision", Precision)):
        options[name] = kind(options[name])
    return ProbeSpec(workload=workload, target=number, **options)


def _question(
    target: str,
    *,
    gpus: tuple[str, ...],
    all_gpus: str | None,
    memory_bytes: int | None,
    device: str,
    precisions: tuple[str, ...],
    one_precision: bool,
    mode: str,
    seed: int,
    inputs: tuple[str, ...],
    arguments: tuple[str, ...],
    answer: str | None,
    **options: Any,
) -> tuple[ProbeSpec, Question]:
    """The workload, built on the processor, and what is asked of it."""
    from autotune.estimate import Question
    from autotune.forecast.records import Rules
    from autotune.spec import Mode, Precision, ProbeSpec

    names = precisions or (_PRECISIONS[:1] if one_precision else _PRECISIONS)
    question = Question(
        places=_places(gpus, all_gpus, memory_bytes, device),
        precisions=tuple(Precision(name) for name in dict.fromkeys(names)),
        mode=Mode(mode),
        rules=Rules(device),
        **options,
    )
    workload = _workload(target, inputs, answer, arguments)
    spec = ProbeSpec(workload=workload, device="cpu", mode=question.mode, precision=question.precisions[0], seed=seed)
    return spec, question


def _places(gpus: tuple[str, ...], all_gpus: str | None, memory_bytes: int | None, device: str) -> tuple[Place, ...]:
    """Where the step might run: what was named, or else what is usual."""
    from autotune.estimate import card_place, free_here, place_of
    from autotune.forecast.cards import CARDS, find_card
    from autotune.forecast.records import Rules

    if device == "cpu" and (gpus or all_gpus):
        raise UsageError("--device cpu and a GPU are named together.", remedy="Leave one of them out.")
    other = () if memory_bytes is None else (place_of(memory_bytes, Rules(device)),)
    if device == "cpu":
        return other or (free_here(),)
    cards = CARDS if all_gpus else [find_card(name) for name in gpus or (() if other else _USUAL_GPUS)]
    return (*other, *map(card_place, cards))


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


def _workload(
    target: str, inputs: tuple[str, ...], answer: str | None, arguments: tuple[str, ...]
) -> FileWorkload | ClassWorkload:
    from autotune.spec import ClassWorkload, FileWorkload

    if ":" in target and not target.endswith(".py"):  # a colon may also stand in a path of Windows
        if not inputs:
            raise UsageError(
                f"{target} is a class, and it is not said what its input looks like.",
                remedy="Add --input with one sample's shape, such as --input 3x224x224.",
            )
        return ClassWorkload(target=target, inputs=inputs, answer=answer, arguments=arguments)
    if answer is not None:
        raise UsageError(
            f"--target {answer} is not a whole number, and {target} is not a class that could learn it.",
            remedy="Give the batch size in question, or write TARGET as package.module:Class.",
        )
    if inputs or arguments:
        raise UsageError(
            f"{'--input' if inputs else '--arg'} describes a class, and {target} is not one.",
            remedy="Leave it out, or write TARGET as package.module:Class.",
        )
    return FileWorkload(target=target)


def _listener(*, quiet: bool, verbose: bool) -> Listener:
    from autotune.listener import Silence

    if quiet:
        return Silence()
    from autotune.reports.live import Live

    return Live(_console(stderr=True), spinner=not verbose)  # the model's output would break its line


def _conclude(result: Result, output: Path | None, *, quiet: bool) -> int:
    """Show what was found; returns the exit code."""
    from autotune.result import StopReason

    interrupted = result.stop is StopReason.INTERRUPTED
    if not quiet:
        if interrupted:
            click.echo("interrupted: what follows is the best so far", err=True)
        if output is not None:
            click.echo(f"saved to {output}", err=True)
        if sys.stdout.isatty():
            click.echo()  # sets the answer apart from the lines above it
    _print_result(result, quiet=quiet)
    return EXIT_INTERRUPTED if interrupted else 0


def _print_estimate(found: Estimate, *, as_json: bool, quiet: bool) -> None:
    from autotune.reports.estimate import as_json as written
    from autotune.reports.estimate import report
    from autotune.reports.terminal import WIDEST_TEXT

    if as_json:
        click.echo(written(found))
    elif quiet:
        click.echo("\n".join(map(str, found.largest_batch_sizes())))
    else:
        console = _console()
        width = min(console.width, WIDEST_TEXT)
        console.print(report(found, width), width=width)


@contextlib.contextmanager
def _saying(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Say on a terminal what is being done, on one line that goes away."""
    from autotune.reports.words import printable

    console = _console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield lambda text: status.update(printable(text))


def _print_result(result: Result, *, quiet: bool) -> None:
    if quiet:
        click.echo(str(result.batch_size))
        return
    from autotune.reports.terminal import WIDEST_TEXT, report

    console = _console()
    width = min(console.width, WIDEST_TEXT)
    console.print(report(result, width), width=width)


def _console(*, stderr: bool = False) -> Console:
    """A console; where it is no terminal, nothing has to fit a window."""
    from rich.console import Console

    from autotune.reports.terminal import WIDEST_TEXT

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDEST_TEXT
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # an odd sign must not end a probe
    try:
        return cli.main(arguments, prog_name=PROGRAM, standalone_mode=False) or 0
    except AutotuneError as error:
        if isinstance(error, UnsavedResultError):
            _print_result(cast("Result", error.result), quiet=False)
        if isinstance(error, WorkloadError):
            _complain(error.user_traceback)
        _complain(error.message, error.remedy, head="error: ")
        return error.exit_code
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
        _complain(error.format_message(), f"See '{command} --help'.", head="error: ")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted before any trial had finished")
        return EXIT_INTERRUPTED


def _complain(*texts: str, head: str = "") -> None:
    """Write to the error stream, each text on lines of its own."""
    from rich.text import Text

    from autotune.reports.words import printable_lines

    lines = "\n".join(printable_lines(text) for text in texts if text)
    if lines:
        _console(stderr=True).print(Text.assemble((head, "bold red"), lines), soft_wrap=True)
