"""What counts as a run, and what equal ones differ by."""

from __future__ import annotations

import msgspec
import pytest
from example_results import CONTEST, example_result

from autotune.comparison import Verdict, compare
from autotune.repeats import series_of
from autotune.result import Result
from autotune.trial import Trial


def accumulating(result: Result) -> Result:
    """The same as measured where a step of the optimizer takes two batches."""

    def doubled(trial: Trial) -> Trial:
        if trial.measurement is None:
            return trial
        times = tuple(2 * seconds for seconds in trial.measurement.step_seconds)
        measurement = msgspec.structs.replace(trial.measurement, accumulation_steps=2, step_seconds=times)
        return msgspec.structs.replace(trial, measurement=measurement)

    return msgspec.structs.replace(result, trials=tuple(map(doubled, result.trials)))


def test_a_step_that_accumulates_counts_as_so_many_batches() -> None:
    plain = example_result(contest=CONTEST)
    one, several = series_of(plain), series_of(accumulating(plain))
    assert one.runs.keys() == several.runs.keys()
    assert all(several.alone(size) == pytest.approx(one.alone(size)) for size in one.runs)
    assert compare(plain, accumulating(plain)).speed.verdict is Verdict.NOT_TOLD_APART
    assert compare(plain, accumulating(plain)).speed.ratio.median == pytest.approx(1.0)
