"""Short names that tell several results apart: only what differs between them is said.

Needs the records. Promises one printable label a result, all of them different, in the order of the results.
"""

from __future__ import annotations

from collections.abc import Sequence

from autotune.reports.plain_text import printable
from autotune.result import Result
from autotune.units import format_bytes


def labels(results: Sequence[Result]) -> list[str]:
    """A short name for each result, such as "resnet.py, bf16" beside "resnet.py, fp32" and "gpt.py, fp32".

    A single result is called by its model. Those that differ in nothing that is compared here are numbered.
    """
    names = _by_what_differs([_traits(result) for result in results])
    if len(set(names)) < len(names):
        budgets = [format_bytes(result.budget_bytes) for result in results]
        names = [f"{name} in {budget}" for name, budget in zip(names, budgets, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{number}: {result.workload.name}" for number, result in enumerate(results, start=1)]
    return [printable(name) for name in names]


def in_common(results: Sequence[Result]) -> str:
    """What the labels leave out, since it is the same for all: "resnet.py, train, 2 threads"; may be empty."""
    traits = [_traits(result) for result in results]
    telling = _telling(traits)
    return printable(", ".join(text for place, text in enumerate(traits[0]) if place not in telling))


def _by_what_differs(traits: Sequence[tuple[str, ...]]) -> list[str]:
    telling = _telling(traits)
    return [", ".join(one[place] for place in telling or [0]) for one in traits]


def _telling(traits: Sequence[tuple[str, ...]]) -> list[int]:
    return [place for place, values in enumerate(zip(*traits, strict=True)) if len(set(values)) > 1]


def _traits(result: Result) -> tuple[str, ...]:
    """What may tell one result from another, the most telling first.

    The budget is not among them: as a share of what is free it differs a little each time.
    """
    spec, environment = result.spec, result.environment
    return (
        result.workload.name,
        environment.device_name,
        spec.mode.value,
        spec.precision.value,
        "compiled" if spec.compile else "not compiled",
        f"{environment.threads} thread{'' if environment.threads == 1 else 's'}",
        f"torch {environment.torch_version}",
    )
