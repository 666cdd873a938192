from __future__ import annotations

import msgspec
import pytest

from autotune.spec import FileWorkload as File
from autotune.spec import Objective, ProbeSpec
from autotune.trial import Conditions, Evidence, Measurement, Memory, Outcome, Trial
from autotune.verdict import has_diverged, judged

SPEC = ProbeSpec(workload=File(target="model.py"))


def trial(peak: int, *, size=8, purpose="grow", seconds=(0.01,), loss=1.0) -> Trial:
    memory = Memory(peak_bytes=peak, base_bytes=10, method="a test")
    measurement = Measurement(
        batch_size=size,
        step_seconds=tuple(seconds),
        cpu_seconds=tuple(seconds),
        warmup_steps=1,
        memory=memory,
        conditions=Conditions(),
        last_loss=loss,
    )
    return Trial(
        number=1,
        batch_size=size,
        purpose=purpose,
        why="",
        outcome=Outcome.FITS,
        seconds=1.0,
        measurement=measurement,
    )


@pytest.mark.parametrize(("peak", "outcome"), [(100, Outcome.FITS), (101, Outcome.OUT_OF_MEMORY)])
def test_a_peak_may_reach_the_budget_and_not_pass_it(peak: int, outcome: Outcome) -> None:
    verdict = judged(trial(peak), SPEC, 100, [])
    assert verdict.outcome is outcome
    assert verdict.accepted is (outcome is Outcome.FITS)


def test_a_confirmation_must_leave_room_for_what_its_neighbours_deviate() -> None:
    neighbours = [trial(peak, size=size) for size, peak in [(95, 950), (96, 960), (97, 985), (99, 990)]]
    alone = judged(trial(980, size=98, purpose="confirm"), SPEC, 990, [])
    assert alone.accepted
    among_them = judged(trial(980, size=98, purpose="confirm"), SPEC, 990, neighbours)
    assert not among_them.accepted
    assert among_them.evidence is not None and among_them.evidence.source == "spread"
    assert judged(trial(980, size=98, purpose="confirm"), SPEC, 1010, neighbours).accepted


def test_where_peaks_lie_on_a_line_the_budget_is_used_to_the_last_byte() -> None:
    neighbours = [trial(10 * size, size=size) for size in (90, 95, 97, 99)]
    assert judged(trial(980, size=98, purpose="confirm"), SPEC, 980, neighbours).accepted


def test_few_runs_that_agree_by_chance_leave_room_all_the_same() -> None:
    mib, agree = 2**20, [(96, 96.0), (97, 97.02), (98, 98.0), (98, 98.01)]
    neighbours = [trial(round(peak * mib), size=size) for size, peak in agree]
    again = trial(98 * mib, size=98, purpose="confirm")
    assert not judged(again, SPEC, 99 * mib, neighbours).accepted
    assert judged(again, SPEC, 101 * mib, neighbours).accepted
    exact = [trial(size * mib, size=size) for size in (95, 96, 97, 98)]
    assert judged(again, SPEC, 98 * mib, exact).accepted


def test_sizes_far_away_say_nothing() -> None:
    far = [trial(5000, size=size) for size in (10, 20, 40, 80)]
    assert judged(trial(980, size=98, purpose="confirm"), SPEC, 990, far).accepted


def test_repeats_of_one_size_count_by_the_largest() -> None:
    first = judged(trial(990, size=98, purpose="confirm"), SPEC, 1000, [])
    assert first.accepted
    assert judged(trial(970, size=98, purpose="confirm"), SPEC, 980, [first]).accepted is False


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


def test_a_refusal_for_spread_says_up_to_where_it_would_be_safe() -> None:
    neighbours = [trial(10 * size + off, size=size) for size, off in [(90, 0), (92, 40), (95, 0), (97, 0), (99, 0)]]
    verdict = judged(trial(980, size=98, purpose="confirm"), SPEC, 985, neighbours)
    assert not verdict.accepted and verdict.evidence is not None
    safe = verdict.largest_safe
    assert safe is not None and 90 <= safe < 98
    again = judged(trial(10 * safe, size=safe, purpose="confirm"), SPEC, 985, [*neighbours, verdict])
    assert again.accepted


def test_a_trial_that_only_explores_says_nothing_of_safety() -> None:
    neighbours = [trial(10 * size, size=size) for size in (90, 92, 95)]
    verdict = judged(trial(1100, size=98), SPEC, 985, neighbours)
    assert verdict.evidence is not None and verdict.largest_safe is None


MEMORY = ProbeSpec(workload=File(target="model.py"), objective=Objective.MEMORY)


def test_where_the_largest_size_is_the_answer_any_trial_that_has_company_must_leave_room() -> None:
    near = [trial(950, size=95), trial(985, size=97)]
    verdict = judged(trial(980, size=98), MEMORY, 985, near)
    assert not verdict.accepted and verdict.evidence is not None
    assert verdict.evidence.source == "spread"
    assert verdict.largest_safe is not None and verdict.largest_safe < 98
    assert judged(trial(980, size=98), MEMORY, 985, near[1:]).accepted  # two peaks don't tell
    assert judged(trial(980, size=98), SPEC, 985, near).accepted  # nor is it asked there
    assert judged(trial(980, size=98, purpose="target"), MEMORY, 985, near).accepted


def test_peaks_on_a_line_cost_the_largest_size_nothing() -> None:
    near = [trial(10 * size, size=size) for size in (90, 95, 97, 99)]
    assert judged(trial(980, size=98), MEMORY, 980, near).accepted


def ended(size: int, source="watchdog") -> Trial:
    evidence = Evidence(source=source, text="memory reached the limit")
    return msgspec.structs.replace(
        trial(0, size=size), measurement=None, outcome=Outcome.OUT_OF_MEMORY, evidence=evidence
    )


def test_what_was_ended_above_the_line_says_how_far_peaks_differ() -> None:
    """It passed 1,050 bytes at 97, where the line is at 970: 46 bytes of standard deviation, which make 111 of room."""
    near = [trial(10 * size, size=size) for size in (90, 95)]
    verdict = judged(ended(97), MEMORY, 1000, [*near, trial(940, size=94)])
    assert verdict.outcome is Outcome.OUT_OF_MEMORY and verdict.evidence is not None
    assert verdict.largest_safe == 88
    in_the_allocator = judged(ended(97, source="exception"), MEMORY, 1000, [*near, trial(940, size=94)])
    assert in_the_allocator.evidence is not None and in_the_allocator.largest_safe == 95


def test_where_equal_processes_have_equal_peaks_the_budget_is_used_to_the_end() -> None:
    near = [trial(950, size=95), trial(985, size=97)]
    assert judged(trial(980, size=98, purpose="confirm"), MEMORY, 985, near, peaks_vary=False).accepted
    assert not judged(trial(980, size=98, purpose="confirm"), MEMORY, 985, near).accepted


def test_what_was_ended_where_the_line_is_far_below_the_budget_says_nothing_of_spread() -> None:
    near = [trial(10 * size, size=size) for size in (90, 95)]
    verdict = judged(trial(940, size=94, purpose="confirm"), SPEC, 8000, [*near, ended(97)])
    assert verdict.accepted


def test_a_confirmation_says_how_much_room_it_sees() -> None:
    """One of four peaks is 80 above the line of the others; beside four more it says less of how far they differ."""
    near = [trial(10 * size + high, size=size) for size, high in ((80, 0), (84, 0), (90, 80))]
    first, later = [
        judged(trial(760, size=76, purpose="confirm"), MEMORY, 1000, [*near, *([trial(760, size=76)] * more)])
        for more in (0, 4)
    ]
    assert first.accepted and later.accepted
    assert first.largest_safe is not None and later.largest_safe is not None
    assert 76 <= first.largest_safe < later.largest_safe <= 91
