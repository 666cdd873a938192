"""What several commands share: options, how they are read, help in sections, and the workload that is named.

Needs click alone, so that help is shown at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.spec import ClassWorkload, FileWorkload

PROGRAM = "autotune"

PRECISIONS = ["fp32", "bf16", "fp16"]

_NAME_COLUMNS = 28  # of the help, the same in every section

EXIT_CODES = """\b
Exit codes:
  0    done
  1    the model's own code raised
  2    an option or an argument is wrong
  3    no batch size fits, or a predicted peak is over --fail-over
  4    the device is not there
  5    a result or a journal cannot be read or written
  6    no trial finished
  7    no forecast: the step cannot be followed without data
  8    a comparison found more change for the worse than is allowed
  130  interrupted; the best so far is shown, if there is one"""


def read_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that reads an option's text, and names the option where it can't."""

    def callback(_: click.Context, option: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except UsageError as error:
            raise UsageError(f"{option.opts[0]}: {error.message}", remedy=error.remedy) from error

    return callback


CLASS_OPTIONS = [
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
MODE = click.Option(
    ["--mode"],
    type=click.Choice(["train", "inference"]),
    default="train",
    show_default=True,
    help="Forward, backward and optimizer, or forward alone.",
)
SEED = click.Option(["--seed"], type=int, metavar="N", default=0, show_default=True, help="Seed of all random numbers.")
VERBOSE = click.Option(["--verbose"], is_flag=True, help="Show what the model's own code prints.")


class SectionedCommand(click.Command):
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


def workload_of(
    target: str, inputs: tuple[str, ...], answer: str | None, arguments: tuple[str, ...]
) -> FileWorkload | ClassWorkload:
    """The workload that TARGET names: a file or module, or a class with its data described.

    Raises:
        UsageError: what is described and what is named do not belong together.
    """
    from autotune.spec import ClassWorkload, FileWorkload

    _refuse_class_in_file(target)
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


def _refuse_class_in_file(target: str) -> None:
    """A class is named by its module, which is looked for from the current folder on.

    Raises:
        UsageError: the target is model.py:Net.
    """
    path, colon, name = target.rpartition(":")
    if not colon or not path.endswith(".py"):
        return
    file = PurePath(path)
    place = "" if file.parent == PurePath() else f", in the folder {file.parent}"
    raise UsageError(f"{target} is neither a file nor a class.", remedy=f"Write {file.stem}:{name}{place}.")
