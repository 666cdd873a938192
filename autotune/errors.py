"""Every error that `autotune` raises on purpose, with its exit code and its remedy.

Needs nothing, so that any module may raise. The tree:

    AutotuneError                what went wrong, what to do, and an exit code
      UsageError            (2)  an option, a file or an argument is wrong
      WorkloadError         (1)  the user's own code raised; carries their traceback whole
      NothingFitsError      (3)  no batch size fits the memory budget
      DeviceError           (4)  the device asked for is not there
      ResultFileError       (5)  a result or a journal cannot be read or written
        UnsavedResultError  (5)  ... and the result is there, carried by the error
      NoTrialFinishedError  (6)  every trial timed out, crashed or reached a kernel limit
      NoForecastError       (7)  a step cannot be followed without data
      RegressionError       (8)  a comparison found more change for the worse than is allowed

One handler in `cli.main` prints them, as one line and a remedy, without a traceback of ours.
"""

from __future__ import annotations

EXIT_INTERRUPTED = 130  # what shells report for a process ended by SIGINT (128 + 2)


class AutotuneError(Exception):
    """Base of all our errors.

    `message` says what is wrong in one line; `remedy` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        """Keep the two texts apart, so that a report can set them apart."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """The message, and the remedy on a line of its own."""
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class UsageError(AutotuneError):
    """An option, a file or an argument is wrong."""

    exit_code = 2


class WorkloadError(AutotuneError):
    """The user's own code raised; `user_traceback` is their traceback, whole, without our frames."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "", user_traceback: str = "") -> None:
        """Keep the traceback as text: the exception itself lived in another process."""
        super().__init__(message, remedy=remedy)
        self.user_traceback = user_traceback


class NothingFitsError(AutotuneError):
    """No batch size fits the memory budget."""

    exit_code = 3


class DeviceError(AutotuneError):
    """The device asked for is not there, or cannot be used."""

    exit_code = 4


class ResultFileError(AutotuneError):
    """A result or a journal cannot be read or written."""

    exit_code = 5


class UnsavedResultError(ResultFileError):
    """A probe found its answer and could not save it: `result` carries it, so that nothing is lost."""

    def __init__(self, message: str, *, remedy: str = "", result: object = None) -> None:
        """Keep the result."""
        super().__init__(message, remedy=remedy)
        self.result = result


class NoTrialFinishedError(AutotuneError):
    """Every trial timed out, crashed or reached a kernel limit, so there is no answer to give."""

    exit_code = 6


class NoForecastError(AutotuneError):
    """A step cannot be followed without data, so its memory cannot be forecast; the message says why."""

    exit_code = 7


class RegressionError(AutotuneError):
    """A comparison found that something got worse by more than is allowed; the message names it."""

    exit_code = 8
