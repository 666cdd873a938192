from __future__ import annotations

import pytest

from autotune.spec import FileWorkload as File
from autotune.spec import Objective, ProbeSpec
from autotune.trial import Conditions, Measurement, Memory, Outcome, Trial
from autotune.verdict import has_diverged, judged

SPEC = ProbeSpec(workload=File(target="model.py"))


def trial(peak: int, *, purpose="grow", number=1, fresh=False, seconds=(0.01,), loss=1.0) -> Trial:
    memory = Memory(peak_bytes=peak, base_bytes=10, method="a test")
    measurement = Measurement(
        batch_size=8,
        step_seconds=tuple(seconds),
        cpu_seconds=tuple(seconds),
        warmup_steps=1,
        memory=memory,
        conditions=Conditions(),
        last_loss=loss,
    )
    return Trial(
        number=number,
        batch_size=8,
        purpose=purpose,
        why="",
        outcome=Outcome.FITS,
        seconds=1.0,
        measurement=measurement,
        fresh_process=fresh,
    )


@pytest.mark.parametrize(("peak", "outcome"), [(100, Outcome.FITS), (101, Outcome.OUT_OF_MEMORY)])
def test_a_peak_may_reach_the_budget_and_not_pass_it(peak: int, outcome: Outcome) -> None:
    verdict = judged(trial(peak), SPEC, 100, [])
    assert verdict.outcome is outcome
    assert verdict.accepted is (outcome is Outcome.FITS)


def test_a_confirmation_must_leave_room_for_the_difference_between_runs() -> None:
    first = judged(trial(90, purpose="confirm"), SPEC, 100, [])
    assert first.accepted
    second = judged(trial(96, purpose="confirm"), SPEC, 100, [first])
    assert not second.accepted
    assert second.evidence is not None and second.evidence.source == "spread"
    assert judged(trial(94, purpose="confirm"), SPEC, 100, [first]).accepted


def test_the_difference_between_runs_is_that_of_equal_runs() -> None:
    earlier = [trial(50), trial(60, purpose="confirm", fresh=True), trial(97, purpose="confirm")]
    assert judged(trial(99, purpose="confirm", fresh=True), SPEC, 100, earlier).accepted


def test_the_limit_on_latency_refuses_but_does_not_call_it_memory() -> None:
    spec = ProbeSpec(workload=File(target="m.py"), objective=Objective.LATENCY, latency_seconds=0.05)
    slow = judged(trial(10, seconds=[0.01] * 18 + [0.06, 0.07]), spec, 100, [])
    assert slow.outcome is Outcome.FITS and slow.fits
    assert not slow.accepted
    assert slow.evidence is not None and slow.evidence.source == "latency"
    assert judged(trial(10, seconds=[0.01] * 19 + [0.07]), spec, 100, []).accepted


def test_a_loss_that_is_no_number_is_noticed_and_not_refused() -> None:
    broken = judged(trial(10, loss=float("nan")), SPEC, 100, [])
    assert broken.accepted
    assert has_diverged(broken)
    assert not has_diverged(trial(10))
