"""`autotune estimate`: options become a `Question`, an `Estimate` becomes tables or JSON.

Needs click at once, and the rest of the package only where the command runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from autotune.cli.options import (
    CLASS_OPTIONS,
    EXIT_CODES,
    MODE,
    PRECISIONS,
    SEED,
    VERBOSE,
    SectionedCommand,
    read_by,
    workload_of,
)
from autotune.cli.screen import print_report, print_text, saying
from autotune.errors import UsageError
from autotune.units import parse_bytes

if TYPE_CHECKING:
    from autotune.estimate import Estimate, Place, Question
    from autotune.spec import ProbeSpec

_USUAL_GPUS = ("T4", "RTX 4090", "A100 40GB", "H100")  # 16 to 80 GB: what clouds rent out, and one at home

_ESTIMATE_EXAMPLES = """\b
Examples:
  autotune estimate model.py --gpu "A100 40GB" --gpu "RTX 4090"
  autotune estimate model.py --device-memory 24GiB --checkpointing
  autotune estimate model.py --batch-size 64 --precision bf16 --fail-over 20GiB
  autotune estimate model.py --device cpu --json
  BATCH_SIZE=$(autotune estimate model.py --gpu H100 --precision bf16 --quiet)"""

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
            callback=read_by(parse_bytes),
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
        MODE,
        click.Option(
            ["--precision", "precisions"],
            type=click.Choice(PRECISIONS),
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
        SEED,
    ],
    "Model given as a class": [
        *CLASS_OPTIONS,
        click.Option(["--target", "answer"], metavar="KIND", help="What the class learns: class:1000, or float:5."),
    ],
    "Output": [
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, whose keys the README lists."),
        click.Option(
            ["--fail-over", "limit_bytes"],
            metavar="SIZE",
            callback=read_by(parse_bytes),
            help="With --batch-size: end with code 3 where a predicted peak and its margin exceed this size.",
        ),
        click.Option(["--quiet"], is_flag=True, help="Print the largest batch size alone, one line for each device."),
        VERBOSE,
    ],
}


@click.command(
    cls=SectionedCommand,
    sections=_ESTIMATE_SECTIONS,
    epilog=f"{_ESTIMATE_EXAMPLES}\n\n{EXIT_CODES}",
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

    with saying(quiet=quiet or verbose) as told:
        found = run_estimate(spec, question, told=told, verbose=verbose)
    _print_estimate(found, as_json=as_json, quiet=quiet)
    if limit_bytes is not None:
        found.check_within(limit_bytes)


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

    names = precisions or (PRECISIONS[:1] if one_precision else PRECISIONS)
    question = Question(
        places=_places(gpus, all_gpus, memory_bytes, device),
        precisions=tuple(Precision(name) for name in dict.fromkeys(names)),
        mode=Mode(mode),
        rules=Rules(device),
        **options,
    )
    workload = workload_of(target, inputs, answer, arguments)
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


def _print_estimate(found: Estimate, *, as_json: bool, quiet: bool) -> None:
    from autotune.reports.estimate import as_json as written
    from autotune.reports.estimate import report

    if as_json:
        print_text(written(found))
    elif quiet:
        print_text("\n".join(map(str, found.largest_batch_sizes())))
    else:
        print_report(lambda width: report(found, width))
