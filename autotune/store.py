"""The journal of a probe: appended and flushed after each event, so that a crash loses nothing.

Needs the records. One JSON object a line: first the spec, then what was built of it and where, then for each trial
that it began, and that it ended or was interrupted. A last line that a crash cut short is ignored. Reading gives back
the trials; one that began and never ended counts as a crash, since it may have taken the machine down with it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from filelock import FileLock, Timeout

from autotune.errors import ResultFileError
from autotune.forecast.records import Forecast
from autotune.spec import ProbeSpec
from autotune.trial import SCHEMA_VERSION, Evidence, Outcome, Purpose, Record, Trial, decoded


class Header(Record, frozen=True, tag="header"):
    """The first line: what was asked for."""

    spec: ProbeSpec
    schema_version: int = SCHEMA_VERSION


class Place(Record, frozen=True, tag="place"):
    """What the trials that follow are about, beyond what was asked for: the workload as built, and where it runs."""

    workload: str
    parameters: int | None
    batch_description: str
    dataset_size: int | None
    device_name: str
    budget_bytes: int


class TrialBegan(Record, frozen=True, tag="began"):
    """A trial is about to run."""

    number: int
    batch_size: int
    purpose: Purpose


class TrialEnded(Record, frozen=True, tag="ended"):
    """A trial has ended."""

    trial: Trial


class TrialInterrupted(Record, frozen=True, tag="interrupted"):
    """The user ended the probe during a trial, which says nothing about its batch size."""

    number: int


class Forecasted(Record, frozen=True, tag="forecasted"):
    """The forecast was made, or could not be: then `why_not` says why."""

    forecast: Forecast | None = None
    why_not: str = ""


class Earlier(Record, frozen=True):
    """What an earlier run of a probe left behind."""

    trials: tuple[Trial, ...] = ()
    place: Place | None = None
    forecasted: Forecasted | None = None


Line = Header | Place | Forecasted | TrialBegan | TrialEnded | TrialInterrupted
_decoder = msgspec.json.Decoder(Line)


class Journal(Protocol):
    """Where a probe writes down what it does."""

    def write(self, line: Line) -> None:
        """Write one line, flushed to the disk."""
        ...


class NoJournal:
    """For a probe that leaves no file."""

    def write(self, line: Line) -> None:
        """Write nothing."""


class FileJournal:
    """A journal in a file, held by one probe at a time.

    Use as a context manager: leaving it gives the file free, and does not delete it.
    """

    def __init__(self, path: Path, spec: ProbeSpec, *, resume: bool) -> None:
        """Open the file; start it anew unless it is resumed.

        Raises:
            ResultFileError: it cannot be written, another probe holds it, or it belongs to another spec.
        """
        self.path = path
        self.earlier = Earlier()
        if not path.parent.is_dir():
            raise ResultFileError(f"There is no folder {path.parent}.", remedy="Make it, or give another --output.")
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ResultFileError(
                f"{path} is in use by another probe.", remedy="Wait for it, or give another --output."
            ) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            self._open(spec, resume=resume)
        except BaseException:
            self.close()
            raise

    def _open(self, spec: ProbeSpec, *, resume: bool) -> None:
        if not resume:
            self._file = self._file_opened("wb")
            self.write(Header(spec=spec))
            return
        if not self.path.exists():
            raise ResultFileError(f"There is no journal {self.path} to go on from.", remedy="Leave out --resume.")
        self.earlier, whole_bytes = read_journal(self.path, spec)
        self._file = self._file_opened("ab")
        self._file.truncate(whole_bytes)  # a line that was cut short must not run into the next

    def _file_opened(self, mode: Literal["ab", "wb"]) -> BufferedWriter:
        try:
            return self.path.open(mode)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def __enter__(self) -> FileJournal:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def write(self, line: Line) -> None:
        """Write one line, flushed to the disk.

        Raises:
            ResultFileError: the disk is full, or the file's folder is gone.
        """
        try:
            self._file.write(msgspec.json.encode(line) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def delete(self) -> None:
        """Close the file and delete it: there is nothing to go on with."""
        self._close_file()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the file free. May be called twice.

        The lock's file is deleted while it is held: once it is released, it may be another probe's already.
        """
        self._close_file()
        if self._lock.is_locked:
            with suppress(OSError):  # Windows deletes no file that is open, and the lock does so itself there
                Path(self._lock.lock_file).unlink()
            self._lock.release()

    def _close_file(self) -> None:
        if hasattr(self, "_file"):
            with suppress(OSError):  # a full disk was reported by the write that met it
                self._file.close()


def read_journal(path: Path, spec: ProbeSpec) -> tuple[Earlier, int]:
    """What a journal holds, and the bytes of its whole lines.

    Raises:
        ResultFileError: it cannot be read, is no journal, or belongs to another spec.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ResultFileError(f"{path} cannot be read: {error.strerror}.", remedy="Check the path.") from error
    whole = raw[: raw.rfind(b"\n") + 1]
    try:
        lines = [decoded(line, _decoder) for line in whole.splitlines()]
    except msgspec.DecodeError as error:
        raise ResultFileError(f"{path} is not an autotune journal: {error}.", remedy="Leave out --resume.") from error
    _check_header(path, lines[:1], spec)
    forecasted = next((line for line in lines if isinstance(line, Forecasted)), None)
    place = next((line for line in reversed(lines) if isinstance(line, Place)), None)
    return Earlier(trials=_trials(lines), place=place, forecasted=forecasted), len(whole)


def _check_header(path: Path, lines: list[Line], spec: ProbeSpec) -> None:
    header = lines[0] if lines else None
    if not isinstance(header, Header) or header.schema_version != SCHEMA_VERSION:
        raise ResultFileError(f"{path} is not a journal of this version.", remedy="Leave out --resume.")
    if different := _differences(header.spec, spec):
        raise ResultFileError(
            f"{path} was made with other options ({', '.join(different)}).",
            remedy="Give the same options to resume, or leave out --resume to start anew.",
        )


def _differences(a: ProbeSpec, b: ProbeSpec) -> list[str]:
    allowances = ("max_seconds", "max_trials")  # a resumed probe may be given more
    return [name for name in a.__struct_fields__ if name not in allowances and getattr(a, name) != getattr(b, name)]


def _trials(lines: list[Line]) -> tuple[Trial, ...]:
    trials: dict[int, Trial] = {}
    for line in lines:
        match line:
            case TrialBegan():
                trials[line.number] = _killed(line)
            case TrialEnded() if line.trial.outcome is not Outcome.FAILED:
                trials[line.trial.number] = line.trial
            case TrialEnded():  # the user's own error: resumed once it is mended, so it says nothing
                trials.pop(line.trial.number, None)
            case TrialInterrupted():
                trials.pop(line.number, None)
    return tuple(trials.values())


def _killed(began: TrialBegan) -> Trial:
    return Trial(
        number=began.number,
        batch_size=began.batch_size,
        purpose=began.purpose,
        why="begun before the probe was resumed",
        outcome=Outcome.CRASHED,
        seconds=0.0,
        evidence=Evidence(source="exit", text="the probe itself ended while this trial ran"),
    )


def _unwritable(path: Path, error: OSError) -> ResultFileError:
    return ResultFileError(
        f"{path} cannot be written: {error.strerror}.", remedy="Give another --output, or free some space."
    )
