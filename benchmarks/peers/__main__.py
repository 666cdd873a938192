"""`python -m benchmarks.peers [NAME ...]`: every tool on each workload, in turns.

Needs Linux. Imports no torch: every search is a process of its own, and so is every step that is judged by. Raw runs
and the table are written after each run; a run that fails is a run like all others.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path

from autotune.breakdown import breakdown
from autotune.result import load_result
from autotune.units import format_seconds
from benchmarks.oracle import RunFailedError
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.arena import DEFAULT_CACHE, Arena, Ran, child, fresh, open_arena
from benchmarks.peers.counting import COUNTED_FILE, steps_by_size
from benchmarks.peers.page import write_page
from benchmarks.peers.rows import EXPLANATION, TITLE, Row, Run, cells, summary
from benchmarks.recording import RESULTS, Recording, latest_rows, machine, remaining
from benchmarks.suite import Entry, chosen
from benchmarks.throughput import sweep, sweep_sizes

WORKLOADS = ("mlp", "resnet", "transformer_encoder", "gpt", "lstm", "unet")
"""Those that a model, a loss, an optimizer and samples describe. The others have a step or a collate function of their
own, a model that returns its loss, or no training; Lightning alone could express all of them."""

RUN_SECONDS = 30.0
TRUTH_SECONDS = 240.0
SURVEY_SECONDS = 300.0
"""What a run, a search for the truth and a survey took on two cores, for the estimate that is printed first."""


@dataclass(frozen=True)
class Turn:
    """One search to be made."""

    repetition: int
    arena: Arena
    peer: Peer


def turns(arenas: Sequence[Arena], peers: Sequence[Peer], repetitions: int) -> Iterator[Turn]:
    """Every tool on every workload, then again, each time in another order, so that none is always first."""
    for repetition in range(repetitions):
        for arena in arenas:
            shift = repetition * len(peers) // repetitions
            for peer in (*peers[shift:], *peers[:shift]):
                yield Turn(repetition, arena, peer)


class Judge:
    """Runs that are shared by all tools of a repetition: the certificate, and ten steps at an answer."""

    def __init__(self) -> None:
        """Nothing has run yet."""
        self.steps = cache(self._steps)

    def _steps(self, arena: Arena, batch_size: int, _repetition: int) -> Ran:
        return arena.steps(batch_size)

    def certificate_seconds(self, arena: Arena, repetition: int) -> float:
        """One run at the true maximum and one that fails at its successor, or at the next that is tried, cold."""
        refused = next(size for size in beyond(arena.maximum) if not self.fits(arena, size, repetition))
        return sum(self.steps(arena, size, repetition).seconds for size in (arena.maximum, refused))

    def fits(self, arena: Arena, batch_size: int, repetition: int) -> bool:
        """Whether ten steps at an answer come to their end."""
        return self.steps(arena, batch_size, repetition).report is not None


def beyond(maximum: int) -> Iterator[int]:
    """The successor, and, since sizes just above the edge may pass now and then, sizes further and further above."""
    yield maximum + 1
    yield from (maximum + math.ceil(maximum * tenths / 10) for tenths in count(1))


def run(turn: Turn, judge: Judge) -> Run:
    """One search, judged."""
    arena, repetition = turn.arena, turn.repetition
    certificate_seconds = judge.certificate_seconds(arena, repetition)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "steps.log"
        searched = (
            _command(arena, turn.peer, Path(folder), log) if turn.peer.objective else _call(arena, turn.peer, log)
        )
        steps = steps_by_size(log)
    found = searched.report or {}
    answer = found.get("answer")
    return Run(
        answer=answer,
        fits=judge.fits(arena, answer, repetition) if answer else None,
        steps=sum(steps.values()),
        sizes=len(steps),
        seconds=searched.seconds,
        certificate_seconds=certificate_seconds,
        exit_code=searched.exit_code,
        kept=found.get("kept"),
        error=searched.error,
        spent=found.get("spent", {}),
    )


def _call(arena: Arena, peer: Peer, log: Path) -> Ran:
    """A tool called in Python, in a fresh process."""
    limits = {"room_bytes": arena.room_bytes, "budget_bytes": arena.budget_bytes}
    return child("search", arena.entry, arena.device, peer=peer.name, log=log, **limits)


def _command(arena: Arena, peer: Peer, folder: Path, log: Path) -> Ran:
    """Our own command. Its processes inherit the limit, which is that of a plain process as a whole."""
    workload, output = folder / arena.entry.path.name, folder / "result.json"
    workload.write_text(COUNTED_FILE.format(path=str(arena.entry.path), log=str(log)))
    command = [sys.executable, "-m", "autotune", "probe", str(workload), "--quiet", "--output", str(output)]
    command += ["--device", arena.device, "--objective", peer.objective, "--memory-budget", str(arena.budget_bytes)]
    ran = fresh(command, output, limit_bytes=arena.limit_bytes)
    if ran.report is None:
        return ran
    result = load_result(output)
    return replace(ran, report={"answer": result.batch_size, "spent": breakdown(result)})


# Speed


def with_speeds(rows: Sequence[Row], entry: Entry, device: str) -> list[Row]:
    """The rows of a workload with the speed at each answer that fits, as a share of that at the best size."""
    maximum = rows[0].maximum
    answers = sorted({answer for row in rows for answer in row.fitting if answer})
    try:
        swept = sweep(entry, device, sweep_sizes(maximum, maximum), answers)
    except RunFailedError as error:
        _tell(str(error))
        return list(rows)
    shares = {answer: swept.ratios(answer) for answer in answers}
    return [
        replace(row, best=swept.best, speeds=tuple(shares.get(answer or 0, ()) for answer in row.fitting))
        for row in rows
    ]


# All of it


def compare(entries: Sequence[Entry], peers: Sequence[Peer], options: argparse.Namespace) -> None:
    """Run all turns, and write after each."""
    recording = _recording(peers, options)
    arenas = [open_arena(entry, options.device, options.cache, _tell) for entry in entries]
    if hopeless := [arena.entry.name for arena in arenas if not arena.maximum]:
        raise SystemExit(f"Not even one sample of {hopeless[0]} fits in its budget.")
    rows = {(arena.entry.name, peer.name): _empty_row(arena, peer) for arena in arenas for peer in peers}
    ahead = list(turns(arenas, [peer for peer in peers if not peer.unable(options.device)], options.repetitions))
    judge, began = Judge(), time.monotonic()
    for done, turn in enumerate(ahead, start=1):
        key = (turn.arena.entry.name, turn.peer.name)
        rows[key] = rows[key].with_run(run(turn, judge))
        recording.write(list(rows.values()))
        _tell(f"{_line(rows[key])}; {remaining(done, len(ahead), time.monotonic() - began)}")
    for timed in timings(list(rows.values()), options.device):
        recording.write(timed)
    _write_page(recording)


def timings(rows: Sequence[Row], device: str) -> Iterator[list[Row]]:
    """The rows with the speeds at the answers, after each workload."""
    done = list(rows)
    for entry in chosen(list(dict.fromkeys(row.workload for row in rows))):
        _tell(f"{entry.name}: timing the answers")
        of_entry = iter(with_speeds([row for row in done if row.workload == entry.name], entry, device))
        done = [next(of_entry) if row.workload == entry.name else row for row in done]
        yield done


def _write_page(recording: Recording) -> None:
    _tell(f"written: {write_page(recording.folder / f'{recording.name}.json')}")


def _empty_row(arena: Arena, peer: Peer) -> Row:
    return Row(
        workload=arena.entry.name,
        budget_bytes=arena.budget_bytes,
        maximum=arena.maximum,
        tool=peer.name,
        unable=peer.unable(arena.device),
    )


def _recording(peers: Sequence[Peer], options: argparse.Namespace) -> Recording:
    versions = ", ".join(sorted({peer.version for peer in peers} - {""}))
    return Recording(
        name=f"peers-{options.device.partition(':')[0]}",
        title=TITLE,
        explanation=EXPLANATION,
        cells=cells,
        summary=summary,
        machine={**machine(options.device), "peers": versions, "repetitions": str(options.repetitions)},
        folder=options.results,
    )


def _line(row: Row) -> str:
    """What the last run of a row showed, for whoever watches."""
    last = row.runs[-1]
    found = f"{last.answer} of {row.maximum}" if last.answer else last.error
    return f"{row.workload}, {row.tool}: {found} in {last.seconds:.0f} s"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def estimated_seconds(workloads: int, peers: int, repetitions: int) -> float:
    """How long all of it takes at most, if no truth is known yet."""
    return workloads * (TRUTH_SECONDS + SURVEY_SECONDS + RUN_SECONDS * peers * repetitions)


def main() -> None:
    """Compare the tools on each workload named, or on all of them, which makes the table that is published.

    All of them take about an hour on two cores, and up to two where no true maximum is known yet.
    """
    options = _parser().parse_args()
    if unknown := sorted({*options.names} - {*WORKLOADS}):
        raise SystemExit(f"{unknown[0]} is none of the workloads that every tool can express: {', '.join(WORKLOADS)}.")
    peers = [peer for peer in PEERS if not options.tool or peer.name in options.tool]
    if unknown := sorted({*options.tool} - {peer.name for peer in PEERS}):
        raise SystemExit(f"No tool is called {unknown[0]!r}. There are: {', '.join(peer.name for peer in PEERS)}.")
    entries = chosen(options.names or WORKLOADS)
    if files := options.merge or options.retime:
        recording = _recording(peers, options)
        rows = latest_rows(Row.recorded, files, WORKLOADS)
        for joined in timings(rows, options.device) if options.retime else (rows,):
            recording.join(files, joined)
        _write_page(recording)
        return
    able = sum(not peer.unable(options.device) for peer in peers)
    expected = format_seconds(estimated_seconds(len(entries), able, options.repetitions))
    _tell(f"{able} tools on {len(entries)} workloads, {options.repetitions} times: at most about {expected}")
    compare(entries, peers, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=main.__doc__)
    parser.add_argument("names", nargs="*", help=f"out of {', '.join(WORKLOADS)}; all where none is named")
    parser.add_argument("--tool", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="the true maxima that are known")
    parser.add_argument("--merge", nargs="+", type=Path, help="run nothing: make the tables anew from these JSON files")
    parser.add_argument("--retime", nargs="+", type=Path, help="the same, but time the answers again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    return parser


if __name__ == "__main__":
    main()
