"""A row for each workload and tool, with all runs of it, and the cells that are made of them. Pure.

Raw runs are kept; medians, ranges and shares are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import geometric_mean, median
from typing import Any

from benchmarks.peers import PEERS, START, STEPS
from benchmarks.peers.arena import REPEATS
from benchmarks.recording import Cells, cell
from benchmarks.recording import Row as Fields
from benchmarks.throughput import DUEL_PROCESSES

TITLE = "Side by side with other tools"

EXPLANATION = f"""\
Each tool searched each workload in fresh processes under the same memory limit, in turns with the others. The budget is
that of the suite (resident memory), made real by a data limit (RLIMIT_DATA; on CUDA by
`set_per_process_memory_fraction`), counted from when everything is imported and the model built. Figures are medians,
with the range in brackets. Tools that only shrink (Accelerate, Transformers, toma, timm) start at {START:,}, above
every maximum; where a tool wraps the training itself, that is {STEPS} steps long.

True maximum: the largest batch size whose {STEPS} steps came to their end under the limit in each of {REPEATS} fresh
processes, by exhaustive bisection. A tool that happens on a range of larger sizes that fits again, as there is in the
MLP, is over 100%.

Fits again: {STEPS} steps at the answer came to their end in a fresh process under the same limit.

Steps and sizes: training steps that were begun, and batch sizes at which, counted by a hook on the model.

Seconds: wall time from a cold start, imports included. Certificates: that of the runs that gave an answer, in multiples
of one run at the true maximum and one that fails at its successor, likewise from a cold start: the least that any
measuring tool must pay (the median of one of these in each repetition).

Speed: throughput at each answer that fits again, as a share of that at the best size of an exhaustive sweep. Each size
is timed alone in a process; the answers and the best one are timed again, in {DUEL_PROCESSES} rounds of processes that
had no say in which is the best, since whichever looks fastest among many was in part lucky. The geometric mean of the
rounds counts; an answer that is the best size has 100%.

Released versions stand below. timm and batchtune require torchvision, whose build on PyPI is for CUDA, so they are
installed without it (`pip install --no-deps`) and are no part of the extra `peers`: what is used of them does without.

State kept: whether weights, optimizer and random state are, bit for bit, when training would start what they were
before the search. Survived: the caller's program ran on after it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search. `answer` is None where there was none; `kept` where the caller's state was out of its reach.

    A part of `kept` is None where the tool's documentation has it made anew inside the search. `spent` says where the
    wall time went, in seconds, for our own command.
    """

    answer: int | None = None
    fits: bool | None = None
    steps: int
    sizes: int
    seconds: float
    certificate_seconds: float
    exit_code: int
    kept: dict[str, bool | None] | None = None
    error: str = ""
    spent: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tool on one workload.

    `speeds` holds for each run the throughput at its answer as a share of that at the `best` size, round by round;
    nothing where that answer does not fit.
    """

    workload: str
    budget_bytes: int
    maximum: int
    tool: str
    unable: str = ""
    runs: tuple[Run, ...] = ()
    best: int = 0
    speeds: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def recorded(cls, *, runs: Sequence[Fields], **fields: Any) -> Row:
        """The row of a JSON file."""
        return cls(runs=tuple(Run(**run) for run in runs), **fields)

    def with_run(self, run: Run) -> Row:
        """The row with one more run."""
        return replace(self, runs=(*self.runs, run))

    @property
    def fitting(self) -> tuple[int | None, ...]:
        """The answer of each run, None where it does not fit."""
        return tuple(run.answer if run.fits else None for run in self.runs)


# Cells


def cells(row: Fields) -> Cells:
    """The cells of a row, by heading."""
    known = {"workload": row["workload"], "true maximum": str(row["maximum"]), "tool": row["tool"]}
    runs = row["runs"]
    answered = [run for run in runs if run["answer"] is not None]
    judged = [run["fits"] for run in answered if run["fits"] is not None]
    return {
        **known,
        "answer": spread([run["answer"] for run in answered], "{:,.0f}"),
        "of the maximum": spread([run["answer"] / row["maximum"] for run in answered], "{:.0%}"),
        "fits again": count(judged),
        "steps": spread([run["steps"] for run in runs], "{:.0f}"),
        "sizes": spread([run["sizes"] for run in runs], "{:.0f}"),
        "seconds": spread([run["seconds"] for run in runs], "{:.0f}"),
        "certificates": spread(costs(row), "{:.1f}"),
        "speed": spread(reached(row), "{:.0%}"),
        "state kept": state(answered[-1]["kept"]) if answered else "",
        "survived": count([run["exit_code"] == 0 for run in runs]),
        "why not": why_not(row),
    }


def costs(row: Fields) -> list[float]:
    """What each answer cost, in certificates."""
    certificate = median(run["certificate_seconds"] for run in row["runs"]) if row["runs"] else math.nan
    return [run["seconds"] / certificate for run in row["runs"] if run["answer"] is not None]


def reached(row: Fields) -> list[float]:
    """The speed at each answer that fits, as a share of that at the best size."""
    return [geometric_mean(ratios) for ratios in row["speeds"] if ratios]


def why_not(row: Fields) -> str:
    """Why a tool did not run, or the error of its last failed run, on one line."""
    errors = [run["error"] for run in row["runs"] if run["error"]]
    return cell(row["unable"] or (errors[-1] if errors else ""))


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the range where it is one: "12 (10 to 14)"."""
    if not values:
        return ""
    low, middle, high = (form.format(value) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def count(judged: Sequence[bool]) -> str:
    """How many of how many."""
    return f"{sum(judged)} of {len(judged)}" if judged else ""


def state(kept: dict[str, bool | None] | None) -> str:
    """What was left as it was, in words."""
    if kept is None:
        return "yes: out of its reach"
    changed = [part for part, same in kept.items() if same is False]
    anew = [part for part, same in kept.items() if same is None]
    words = [f"{' and '.join(anew)} made anew"] if anew else []
    words += [f"{', '.join(changed)} changed"] if changed else []
    return "; ".join(words) or "yes"


# Over all workloads

OVER_WORKLOADS = """\
Over the workloads, medians of the medians, with the range. Workloads: those on which a tool gave an answer, of all that
it was run on. On the others it crashed or found nothing, in every run: these count under 'survived' alone, so that its
other figures are of fewer workloads. Speed is that of answers that fit again."""
UNABLE = "Tools that could not run here"
SPENDING = "Where our wall time went, as a share of it over all runs"


def summary(rows: Sequence[Fields]) -> str:
    """All of it, as Markdown."""
    lines = over_workloads(rows)
    if not lines:
        return "Nothing has run yet."
    table = [list(lines[0]), ["---"] * len(lines[0]), *([*line.values()] for line in lines)]
    written = "\n".join(f"| {' | '.join(line)} |" for line in table)
    lists = [_list(UNABLE, unable(rows)), _list(SPENDING, spending(rows))]
    return "\n\n".join([OVER_WORKLOADS, written, *filter(None, lists)])


def _list(title: str, lines: Sequence[str]) -> str:
    """A list under its title, as Markdown; empty where it has no lines."""
    return "\n".join([f"{title}:\n", *(f"- {line}" for line in lines)]) if lines else ""


def unable(rows: Sequence[Fields]) -> list[str]:
    """A line for each tool that could not run on the device, with the reason."""
    return list(dict.fromkeys(f"{row['tool']}: {why_not(row)}" for row in rows if row["unable"]))


def over_workloads(rows: Sequence[Fields]) -> list[Cells]:
    """The cells of each tool that ran, over all workloads."""
    of = {peer.name: [row for row in rows if row["tool"] == peer.name and row["runs"]] for peer in PEERS}
    return [_of_tool(tool, ran) for tool, ran in of.items() if ran]


def _of_tool(tool: str, rows: Sequence[Fields]) -> Cells:
    shares = [[run["answer"] / row["maximum"] for run in row["runs"] if run["answer"]] for row in rows]
    return {
        "tool": tool,
        "workloads": count([bool(answered) for answered in shares]),
        "of the maximum": spread([median(answered) for answered in shares if answered], "{:.0%}"),
        "fits again": count([run["fits"] for row in rows for run in row["runs"] if run["fits"] is not None]),
        "certificates": spread([median(spent) for row in rows if (spent := costs(row))], "{:.1f}"),
        "speed": spread([median(speeds) for row in rows if (speeds := reached(row))], "{:.0%}"),
        "state kept": count(
            [all((run["kept"] or {}).values()) for row in rows for run in row["runs"] if run["answer"]]
        ),
        "survived": count([run["exit_code"] == 0 for row in rows for run in row["runs"]]),
    }


def spending(rows: Sequence[Fields]) -> list[str]:
    """Where the wall time of our command went, over all its runs: a line for each of its objectives."""
    lines = []
    for tool in (peer.name for peer in PEERS if peer.objective):
        spent = [run["spent"] for row in rows if row["tool"] == tool for run in row["runs"] if run["spent"]]
        lines += [f"{tool}: {', '.join(_shares(spent))}"] if spent else []
    return lines


def _shares(spent: Sequence[dict[str, float]]) -> list[str]:
    whole = sum(sum(parts.values()) for parts in spent)
    totals = {name: sum(parts.get(name, 0.0) for parts in spent) for name in spent[0]}
    return [f"{name} {seconds / whole:.0%}" for name, seconds in totals.items() if seconds / whole >= 0.005]
