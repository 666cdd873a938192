"""The lines that a probe writes while it runs, to a log and to a terminal."""

from __future__ import annotations

from io import StringIO

import msgspec
from example_results import ENVIRONMENT, FACTS, MIB, example_result, fitting, measurement, refused
from rich.console import Console

from autotune.executors import Opened
from autotune.forecast.records import Forecast, Rules
from autotune.progress import Ahead
from autotune.reports.live import Live, trial_line
from autotune.result import Result
from autotune.trial import Outcome

OPENED = Opened(workload=FACTS, environment=ENVIRONMENT, budget_bytes=2048 * MIB, free_bytes=2276 * MIB, isolated=True)

LOG = """\
probing digits (61,706 parameters) on cpu, Example CPU 9000, within 2.00 GiB
      128  fits      9,846 samples/s ±1.6%    420 MiB, 21% of budget  because
      256  fits     12,190 samples/s ±1.0%    640 MiB, 31% of budget  because
      512  fits     12,642 samples/s ±1.3%   1.05 GiB, 53% of budget  because
    1,024  out of memory (watchdog)  it grew over it
    1,001  out of memory (exception)  DefaultCPUAllocator: can't allocate memory
    1,000  fits     11,765 samples/s ±1.2%   1.95 GiB, 98% of budget  because
    1,000  fits     11,765 samples/s ±1.2%   1.96 GiB, 98% of budget  because
    1,000  fits     11,765 samples/s ±1.2%   1.94 GiB, 97% of budget  because
      256  fits     12,190 samples/s ±1.0%    650 MiB, 32% of budget  because
warning: The machine was busy.
"""


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def play(live: Live, result: Result) -> None:
    """Tell a listener the events of a result, in their order."""
    live.opening(result.spec)
    live.opened(OPENED)
    for trial in result.trials:
        live.trial_started(trial.number, trial.batch_size, trial.purpose, trial.why, Ahead())
        live.trial_ended(trial)
    live.contest_started((256, 512))
    live.warned("The machine was busy.")
    live.ended(result)


def test_a_log_gets_one_plain_line_an_event_however_narrow_it_is() -> None:
    stream = StringIO()
    play(Live(Console(file=stream, width=30)), example_result())
    assert stream.getvalue() == LOG


def test_colours_that_are_forced_on_start_no_spinner_in_a_log() -> None:
    stream = StringIO()
    play(Live(Console(file=stream, force_terminal=True, color_system=None)), example_result())
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_sees_what_is_tried_and_why_and_its_cursor_again_afterwards() -> None:
    stream = Terminal()
    live = Live(Console(file=stream, width=80, color_system=None, force_terminal=True, legacy_windows=False))
    live.trial_started(1, 1024, "grow", "twice 512", Ahead(trials=7, seconds=11.2, is_bound=True))
    live.contest_started((256, 1024))
    live.ended(None)
    live.ended(None)
    text = stream.getvalue()
    assert "trying 1,024: twice 512 · at most 7 trials to go, about 12 s · 0 s so far" in " ".join(text.split())
    assert "timing 256, 1,024 against each other" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_without_a_spinner_a_terminal_is_a_log() -> None:
    stream = Terminal()
    console = Console(file=stream, width=200, color_system=None, force_terminal=True, legacy_windows=False)
    play(Live(console, spinner=False), example_result())
    assert stream.getvalue() == LOG


def test_hostile_names_and_messages_stay_text() -> None:
    stream = StringIO()
    live = Live(Console(file=stream, width=200))
    live.opened(msgspec.structs.replace(OPENED, workload=msgspec.structs.replace(FACTS, name="[red]\x1b[2Jnet\nwork")))
    live.trial_ended(refused(1, 8, "exception", "\x1b]0;[bold]boom\nsecond line"))
    first, second = stream.getvalue().splitlines()
    assert first.startswith(r"probing [red]\x1b[2Jnet\nwork (61,706 parameters)")
    assert second == r"        8  out of memory (exception)  \x1b]0;[bold]boom"


def test_every_line_of_a_trial_that_fits_is_as_wide() -> None:
    lines = [trial_line(fitting(1, size, (0.5, 0.6), 90 * size), 4096 * MIB) for size in (1, 8, 40)]
    assert len({line.index(" samples/s") for line in lines}) == 1
    assert len({line.index(", ") for line in lines}) == 1


def test_a_plan_shows_its_accumulation_steps() -> None:
    trial = fitting(1, 64, (0.5,), 700, purpose="plan")
    trial = msgspec.structs.replace(trial, measurement=measurement(64, (0.5,), 700, accumulation_steps=8))
    assert trial_line(trial, None) == "   64 x 8  fits      1,024 samples/s          700 MiB"


def test_a_trial_that_timed_out_says_so() -> None:
    trial = refused(1, 64, "clock", "it took longer than 5 min", outcome=Outcome.TIMED_OUT)
    assert trial_line(trial, None) == "       64  timed out (time limit)  it took longer than 5 min"


def told_of(forecast: Forecast | None, edge: int | None, why_not: str) -> str:
    stream = StringIO()
    live = Live(Console(file=stream, width=30))
    live.forecast_started()
    live.forecast_ended(forecast, edge, why_not)
    return stream.getvalue()


def test_a_forecast_is_called_predicted() -> None:
    forecast = Forecast(rules=Rules.CPU, footprints=())
    assert told_of(forecast, 1234, "") == "forecast: up to about 1,234 will fit (predicted, not yet run)\n"


def test_why_there_is_no_forecast_is_told_on_one_line() -> None:
    assert told_of(None, None, "model.py:3 reads\na number") == "no forecast: model.py:3 reads\\na number\n"


def test_a_trial_shows_by_how_much_its_forecast_was_off() -> None:
    trial = fitting(1, 8, (0.1, 0.1), 200, forecast_bytes=194 * MIB)
    assert "forecast -3.0%" in trial_line(trial, 400 * MIB)
