"""How to do a probe again: the command that was given, or one built from its spec, or a snippet of Python.

Needs the records. Promises a command that a POSIX shell reads as the same arguments, or Python that parses, with
only what differs from the defaults.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from autotune.reports.plain_text import printable
from autotune.result import Result
from autotune.spec import ClassWorkload, FileWorkload, MemoryBudget, ProbeSpec

Value = str | int | float | bool

_NAMES = {
    "budget": "memory-budget",
    "latency_seconds": "max-latency",
    "trial_timeout_seconds": "trial-timeout",
    "base_learning_rate": "base-lr",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Text to copy, and what reads it."""

    language: Literal["shell", "python"]
    text: str


def recipe(result: Result) -> Recipe:
    """How to do this probe again."""
    spec = result.spec
    if result.environment.command_line:
        return Recipe(language="shell", text=printable(result.environment.command_line))
    if isinstance(spec.workload, FileWorkload | ClassWorkload):
        return Recipe(language="shell", text=printable(shlex.join(_command(spec, spec.workload))))
    return Recipe(language="python", text=_snippet(spec))


def _command(spec: ProbeSpec, workload: FileWorkload | ClassWorkload) -> Iterator[str]:
    yield from ("autotune", "probe", workload.target)
    if isinstance(workload, ClassWorkload):
        for shape in workload.inputs:
            yield from ("--input", shape)
        if workload.answer is not None:
            yield from ("--target", workload.answer)
        for argument in workload.arguments:
            yield from ("--arg", argument)
    for name, value in _choices(spec):
        if isinstance(value, bool):
            yield f"--{'' if value else 'no-'}{name}"
        else:
            yield from (f"--{name}", str(value))


def _snippet(spec: ProbeSpec) -> str:
    """A call of `find_batch_size`: the objects themselves are the caller's, so their names stand for them."""
    lines = ["model, data, loss=loss, optimizer=optimizer,"]
    lines += [f"{name.replace('-', '_')}={value!r}," for name, value in _choices(spec)]
    return "\n".join(
        ["from autotune import find_batch_size", "", "find_batch_size(", *(f"    {x}" for x in lines), ")"]
    )


def _choices(spec: ProbeSpec) -> Iterator[tuple[str, Value]]:
    """The options that differ from their defaults, named as on the command line."""
    for field in msgspec.structs.fields(ProbeSpec):
        value = getattr(spec, field.name)
        if field.name != "workload" and value is not None and value != field.default:
            yield _NAMES.get(field.name, field.name).replace("_", "-"), _plain(field.name, value)


def _plain(name: str, value: object) -> Value:
    """A field's value as an option takes it."""
    if isinstance(value, MemoryBudget):
        return str(value.bytes_) if value.bytes_ is not None else _share(value.fraction or 0.0)
    if isinstance(value, float) and name in ("noise", "base_learning_rate"):
        return value
    if isinstance(value, float):
        return _share(value) if name == "tolerance" else f"{_decimal(value)}s"
    return value if isinstance(value, bool | int) else str(value)


def _share(fraction: float) -> str:
    return f"{_decimal(100 * fraction)}%"


def _decimal(value: float) -> str:
    """Without an exponent, which options do not read, and with the nine decimals that they do."""
    return f"{value:.9f}".rstrip("0").rstrip(".")
