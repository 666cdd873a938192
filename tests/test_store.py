from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from example_results import fitting
from filelock import FileLock
from msgspec.structs import replace

from autotune.errors import ResultFileError
from autotune.spec import FileWorkload, ProbeSpec
from autotune.store import FileJournal, Place, TrialBegan, TrialEnded, TrialInterrupted
from autotune.trial import Evidence, Outcome, Trial
from autotune.verdict import has_diverged

SPEC = ProbeSpec(workload=FileWorkload(target="model.py"))


def began(number: int) -> TrialBegan:
    return TrialBegan(number=number, batch_size=2**number, purpose="grow")


def ended(number: int, outcome: Outcome = Outcome.FITS) -> TrialEnded:
    evidence = None if outcome is Outcome.FITS else Evidence(source="exception", text="why")
    return TrialEnded(
        trial=Trial(
            number=number,
            batch_size=2**number,
            purpose="grow",
            why="",
            outcome=outcome,
            seconds=1.0,
            evidence=evidence,
        )
    )


def write(path: Path, *lines: object) -> None:
    with FileJournal(path, SPEC, resume=False) as journal:
        for line in lines:
            journal.write(line)  # type: ignore[arg-type]


def resumed(path: Path, spec: ProbeSpec = SPEC) -> tuple[Trial, ...]:
    with FileJournal(path, spec, resume=True) as journal:
        return journal.earlier.trials


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, began(0), ended(0), began(1), ended(1, Outcome.OUT_OF_MEMORY))
    assert resumed(path) == (ended(0).trial, ended(1, Outcome.OUT_OF_MEMORY).trial)


def test_the_last_place_of_a_journal_is_where_it_goes_on(tmp_path: Path) -> None:
    facts = {"workload": "x", "parameters": 1, "batch_description": "", "dataset_size": None, "device_name": "cpu"}
    path = tmp_path / "journal"
    write(path, *(Place(**facts, budget_bytes=size) for size in (5, 7)))
    with FileJournal(path, SPEC, resume=True) as journal:
        assert journal.earlier.place == Place(**facts, budget_bytes=7)


def test_a_trial_that_never_ended_counts_as_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, began(0), ended(0), began(1))
    killed = resumed(path)[-1]
    assert (killed.batch_size, killed.outcome) == (2, Outcome.CRASHED)


def test_an_interrupted_trial_and_the_users_own_error_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, began(0), ended(0), began(1), TrialInterrupted(number=1), began(2), ended(2, Outcome.FAILED))
    assert resumed(path) == (ended(0).trial,)


def test_a_journal_cut_short_at_any_byte_keeps_its_whole_lines_and_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, began(0), ended(0), began(1), ended(1))
    whole = path.read_bytes()
    header_end = whole.index(b"\n") + 1
    for cut in range(header_end, len(whole)):
        path.write_bytes(whole[:cut])
        with FileJournal(path, SPEC, resume=True) as journal:
            journal.write(began(7))
        assert resumed(path)[-1].batch_size == 2**7


def test_more_time_may_be_given_but_nothing_else_changed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, began(0), ended(0))
    assert resumed(path, msgspec.structs.replace(SPEC, max_seconds=60.0))
    with pytest.raises(ResultFileError, match="other options \\(seed\\)"):
        resumed(path, msgspec.structs.replace(SPEC, seed=1))


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"type":"header"}\n', b'{"type":"began","number":1}\n'])
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(ResultFileError, match="not a"):
        resumed(path)
    assert path.read_bytes() == content


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="no journal"):
        resumed(tmp_path / "journal")


def test_a_journal_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    write(path, began(0), ended(0))
    whole = path.read_bytes()

    opened = Path.open

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    def open_to_read(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        return opened(self, mode, *more, **options) if mode == "rb" else refuse()

    monkeypatch.setattr(os, "truncate", refuse)  # to root, nothing is denied
    monkeypatch.setattr(Path, "open", open_to_read)
    with pytest.raises(ResultFileError, match="cannot be written: Permission denied"):
        resumed(path)
    monkeypatch.undo()
    assert path.read_bytes() == whole
    assert resumed(path)


def test_a_loss_that_was_no_number_is_still_known_when_a_probe_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for loss in (math.nan, math.inf):
        trial = fitting(1, 8, (0.1,), 100)
        assert trial.measurement is not None
        diverged = replace(trial, measurement=replace(trial.measurement, last_loss=loss))
        write(path, TrialEnded(trial=diverged))
        assert resumed(path) == (diverged,)
        assert has_diverged(resumed(path)[0])


def test_a_journal_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"x":' + b"[" * 200_000 + b"\n")
    with pytest.raises(ResultFileError, match="not an autotune journal: it is nested too deeply"):
        resumed(path)


def test_two_probes_cannot_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with FileJournal(path, SPEC, resume=False), pytest.raises(ResultFileError, match="in use"):
        FileJournal(path, SPEC, resume=False)


HOLDER = """
import sys
from pathlib import Path
from test_store import SPEC
from autotune.store import FileJournal

with FileJournal(Path(sys.argv[1]), SPEC, resume=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_journal_given_free_is_not_taken_from_who_holds_it_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the journal in the very moment when it is given free."""
    path = tmp_path / "journal"
    release, holders = FileLock.release, []

    def release_to_another(lock: FileLock) -> None:
        release(lock)
        command = [sys.executable, "-c", HOLDER, str(path)]
        folders = os.pathsep.join(map(str, (Path(__file__).parent, *filter(None, sys.path))))
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": folders}
        )
        holders.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"

    monkeypatch.setattr(FileLock, "release", release_to_another)
    FileJournal(path, SPEC, resume=False).close()
    monkeypatch.undo()
    try:
        with pytest.raises(ResultFileError, match="in use"):
            FileJournal(path, SPEC, resume=False)
    finally:
        holders[0].communicate(b"")
    write(path, began(0))
    assert [file.name for file in tmp_path.iterdir()] == ["journal"]


def test_a_journal_that_is_done_with_is_deleted_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with FileJournal(path, SPEC, resume=False) as journal:
        journal.delete()
        with pytest.raises(ResultFileError, match="in use"):
            FileJournal(path, SPEC, resume=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="no folder"):
        FileJournal(tmp_path / "missing" / "journal", SPEC, resume=False)


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.symlink_to("/dev/full")
    with pytest.raises(ResultFileError, match="No space left"):
        FileJournal(path, SPEC, resume=False)
