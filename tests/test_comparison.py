"""Two results held against each other: what is called a change, how often wrongly, and what else is said."""

from __future__ import annotations

import math

import msgspec
import pytest
from example_results import ENVIRONMENT, FACTS, MIB, example_result, fitting, refused
from example_runs import SIZES, drawn_result
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.comparison import Comparison, Figure, Quantity, Verdict, compare
from autotune.errors import RegressionError, UsageError
from autotune.reports.rows import rows
from autotune.result import Edge, Result
from autotune.spec import FileWorkload, Mode, Precision, ProbeSpec
from autotune.stats import Ratio
from autotune.trial import Outcome, Training

SEEDS = st.integers(0, 10**6)
PAIRS = 150


def equal_pairs(between_processes: float) -> list[Comparison]:
    """Comparisons in which nothing differs but the noise."""
    return [
        compare(
            drawn_result(2 * seed, between_processes=between_processes),
            drawn_result(2 * seed + 1, between_processes=between_processes),
        )
        for seed in range(PAIRS)
    ]


def changes(comparison: Comparison) -> list[Figure]:
    """The figures that are called changed."""
    return [figure for figure in comparison.figures() if figure.verdict is not Verdict.NOT_TOLD_APART]


# ---------------------------------------------------------------------- what is promised of the statistics


@pytest.mark.parametrize("between_processes", [0.005, 0.03, 0.1])
def test_equal_probes_are_rarely_called_different(between_processes: float) -> None:
    comparisons = equal_pairs(between_processes)
    overall = [c for c in comparisons if {f.subject for f in changes(c)} & {c.speed.subject}]
    assert len(overall) <= 0.05 * 2 * PAIRS  # two figures over all sizes, each at 95%
    by_size = [c for c in comparisons if any(not s.speed.ratio.is_tie or not s.memory.ratio.is_tie for s in c.sizes)]
    assert len(by_size) <= 0.05 * PAIRS


@pytest.mark.parametrize("between_processes", [0.005, 0.03])
def test_a_fifth_slower_is_found_and_its_size_told(between_processes: float) -> None:
    comparisons = [
        compare(
            drawn_result(2 * seed, between_processes=between_processes),
            drawn_result(2 * seed + 1, between_processes=between_processes, slower=1.25),
        )
        for seed in range(PAIRS)
    ]
    assert all(c.speed.verdict is Verdict.SLOWER for c in comparisons)
    assert all(c.speed.worsening == pytest.approx(0.2, abs=0.07) for c in comparisons)
    assert all(c.speed.ratio.low < 0.8 < c.speed.ratio.high for c in comparisons)


def test_a_few_per_cent_more_memory_in_all_sizes_are_found() -> None:
    comparison = compare(drawn_result(1), drawn_result(2, more_memory=1.04))
    assert comparison.memory.verdict is Verdict.MORE_MEMORY
    assert comparison.memory.worsening == pytest.approx(0.04, abs=0.01)


@given(SEEDS, SEEDS, st.sampled_from([1, 3, 6, 12]))
@settings(max_examples=40, deadline=None)
def test_the_other_way_round_every_ratio_is_the_inverse(one: int, other: int, sizes: int) -> None:
    a = drawn_result(one, sizes=SIZES[:sizes], in_turns=min(sizes, 5), waited=0.1)
    b = drawn_result(other, sizes=SIZES[:sizes], in_turns=min(sizes, 4), slower=1.3, waited=0.02)
    for there, back in zip(compare(a, b).figures(), compare(b, a).figures(), strict=True):
        assert there.ratio.median == pytest.approx(1 / back.ratio.median)
        assert there.ratio.low == pytest.approx(1 / back.ratio.high)
        assert there.ratio.high == pytest.approx(1 / back.ratio.low)
        assert (there.old, there.new) == (back.new, back.old)


@given(SEEDS, SEEDS, st.floats(1.0, 4.0))
@settings(max_examples=40, deadline=None)
def test_a_slower_new_result_never_looks_better(one: int, other: int, factor: float) -> None:
    old, new = drawn_result(one), drawn_result(other)
    pairs = zip(compare(old, new).figures(), compare(old, slowed(new, factor)).figures(), strict=True)
    for before, after in pairs:
        expected = before.ratio.median / (factor if before.quantity is Quantity.SPEED else 1)
        assert after.ratio.median == pytest.approx(expected)
        if before.verdict is Verdict.SLOWER:
            assert after.verdict is Verdict.SLOWER


def slowed(result: Result, factor: float) -> Result:
    """The same result with every time multiplied."""
    assert result.contest is not None
    rounds = tuple(tuple(seconds * factor for seconds in times) for times in result.contest.rounds)
    trials = []
    for trial in result.trials:
        assert trial.measurement is not None
        times = tuple(seconds * factor for seconds in trial.measurement.step_seconds)
        trials.append(
            msgspec.structs.replace(
                trial, measurement=msgspec.structs.replace(trial.measurement, step_seconds=times, cpu_seconds=times)
            )
        )
    return msgspec.structs.replace(
        result, trials=tuple(trials), contest=msgspec.structs.replace(result.contest, rounds=rounds)
    )


@given(SEEDS, SEEDS)
@settings(max_examples=40, deadline=None)
def test_an_interval_encloses_its_ratio(one: int, other: int) -> None:
    for figure in compare(drawn_result(one), drawn_result(other, between_processes=0.3)).figures():
        assert figure.ratio.low <= figure.ratio.median <= figure.ratio.high


def test_a_result_against_itself_shows_no_change() -> None:
    result = drawn_result(1)
    assert all(figure.ratio.median == 1 for figure in compare(result, result).figures())
    assert not changes(compare(result, result))


# ---------------------------------------------------------------------- what widens an interval


def test_processes_that_differ_much_hide_a_change_at_one_size() -> None:
    """The same slower size, among equal runs that differ by little and by much."""

    def one_size_slower(between_processes: float) -> Verdict:
        old = drawn_result(1, between_processes=between_processes)
        new = drawn_result(2, between_processes=between_processes)
        assert new.trials[3].measurement is not None
        times = tuple(2 * seconds for seconds in new.trials[3].measurement.step_seconds)
        slow = msgspec.structs.replace(
            new.trials[3], measurement=msgspec.structs.replace(new.trials[3].measurement, step_seconds=times)
        )
        new = msgspec.structs.replace(new, trials=(*new.trials[:3], slow, *new.trials[4:]))
        return compare(old, new).sizes[3].speed.verdict

    assert one_size_slower(0.02) is Verdict.SLOWER
    assert one_size_slower(0.5) is Verdict.NOT_TOLD_APART


def test_a_machine_that_was_busy_during_one_probe_explains_that_it_was_slow() -> None:
    old = drawn_result(1)
    assert compare(old, drawn_result(2, slower=1.5, waited=0.02)).speed.verdict is Verdict.SLOWER
    assert compare(old, drawn_result(2, slower=1.5, waited=0.5)).speed.verdict is Verdict.NOT_TOLD_APART
    assert compare(drawn_result(2, waited=0.5), drawn_result(1, slower=1.5)).speed.verdict is Verdict.SLOWER


def test_waiting_all_the_time_leaves_no_upper_end() -> None:
    ratio = compare(drawn_result(1), drawn_result(2, slower=50, waited=1.00002)).speed.ratio
    assert ratio.high == math.inf
    assert compare(drawn_result(1, waited=1.0), drawn_result(2)).speed.ratio.low == 0


def test_a_gpu_does_not_wait_for_a_processor() -> None:
    gpu = msgspec.structs.replace(ENVIRONMENT, device="cuda:0")
    old, new = drawn_result(1, environment=gpu), drawn_result(2, slower=1.5, waited=0.9, environment=gpu)
    assert compare(old, new).speed.verdict is Verdict.SLOWER


def test_a_single_size_without_repeats_tells_large_changes_only() -> None:
    old = example_result(trials=(fitting(1, 256, (0.020,) * 20, 600),))
    third, double = ((fitting(1, 256, (0.020 * factor,) * 20, 600),) for factor in (1.33, 2.0))
    assert compare(old, example_result(trials=third)).speed.verdict is Verdict.NOT_TOLD_APART
    assert compare(old, example_result(trials=double)).speed.verdict is Verdict.SLOWER


# ---------------------------------------------------------------------- what is compared


def test_only_runs_of_single_batches_that_fitted_count() -> None:
    plan = fitting(3, 256, (9.0,) * 3, 600, purpose="plan")
    over = refused(4, 512, "budget", measurement=fitting(4, 512, (9.0,) * 3, 600).measurement)
    old = example_result(trials=(fitting(1, 256, (0.02,) * 9, 600), plan, over, refused(5, 1024)))
    new = example_result(
        trials=(fitting(1, 256, (0.02,) * 9, 600), fitting(2, 512, (0.04,) * 9, 900), fitting(3, 1024, (1.0,), 999))
    )
    comparison = compare(old, new)
    assert [size.batch_size for size in comparison.sizes] == [256]
    assert comparison.sizes[0].speed.old == pytest.approx(12800)


@pytest.mark.parametrize("other", [drawn_result(1), drawn_result(2, in_turns=3), drawn_result(3, in_turns=0)])
def test_a_size_has_the_speed_of_its_report_whatever_it_is_compared_with(other: Result) -> None:
    """Also one that left the final round early, and one that was timed twice for as long."""
    result = timed_again(left_early(drawn_result(1)))
    in_report = {row.batch_size: row.speed.samples_per_second for row in rows(result) if row.speed}
    comparison = compare(result, other)
    assert {size.batch_size: size.speed.old for size in comparison.sizes} == pytest.approx(in_report)
    assert comparison.recommended is not None
    assert comparison.recommended.old == pytest.approx(in_report[result.batch_size])
    for size in comparison.sizes:
        assert size.speed.ratio.median == pytest.approx((size.speed.new or 0) / (size.speed.old or 1))


def left_early(result: Result) -> Result:
    """The same result, the first contender only in the first of its rounds."""
    assert result.contest is not None
    first, *others = result.contest.rounds
    rounds = (first, *((None, *times[1:]) for times in others))
    return msgspec.structs.replace(result, contest=msgspec.structs.replace(result.contest, rounds=rounds))


def timed_again(result: Result) -> Result:
    """The same result, its first trial made again in other times."""
    again = fitting(99, result.trials[0].batch_size, (0.5,) * 20, 300)
    return msgspec.structs.replace(result, trials=(*result.trials, again))


def test_what_pools_trials_beside_a_final_round_is_told() -> None:
    assert compare(drawn_result(1), drawn_result(2, in_turns=0)).pools_trials
    assert not compare(drawn_result(1, in_turns=0), drawn_result(2, in_turns=0)).pools_trials
    few = drawn_result(1, sizes=SIZES[:3], in_turns=2)
    assert not compare(few, few).pools_trials


def test_a_size_has_the_median_peak_of_its_runs() -> None:
    trials = tuple(fitting(number, 256, (0.02,) * 3, mib) for number, mib in enumerate((600, 610, 680)))
    comparison = compare(example_result(trials=trials), example_result(trials=trials))
    assert comparison.sizes[0].memory.old == 610 * MIB


def test_other_recommendations_are_compared_at_their_own_sizes() -> None:
    old, new = drawn_result(1, in_turns=0), drawn_result(1, in_turns=0)
    recommendation = msgspec.structs.replace(new.recommendation, batch_size=512)
    figure = compare(old, msgspec.structs.replace(new, recommendation=recommendation)).recommended
    assert figure is not None
    assert figure.old is not None
    assert figure.old < figure.new  # 512 is faster than 64


def test_a_recommended_size_without_a_run_has_no_figure() -> None:
    trials = (fitting(1, 128, (0.0130, 0.0128, 0.0132), 420),)
    assert compare(example_result(), example_result(trials=trials)).recommended is None


def test_no_size_in_common_is_said_in_one_line() -> None:
    with pytest.raises(UsageError, match="No batch size fitted in both results"):
        compare(example_result(trials=(fitting(1, 2, (0.1,), 9),)), example_result(trials=(fitting(1, 3, (0.1,), 9),)))


def test_what_differs_besides_is_named() -> None:
    facts = msgspec.structs.replace(FACTS, name="other", parameters=None)
    environment = msgspec.structs.replace(ENVIRONMENT, torch_version="2.14.0", threads=1)
    spec = ProbeSpec(
        workload=FileWorkload(target="digits.py"), mode=Mode.INFERENCE, precision=Precision.BF16, compile=True
    )
    new = example_result(workload=facts, environment=environment, spec=spec, isolated=False)
    found = compare(example_result(), new).differences
    assert {d.name for d in found if d.matters} == {
        "model",
        "number of parameters",
        "mode",
        "precision",
        "torch.compile",
        "number of threads",
        "isolation",
    }
    assert [(d.name, d.old, d.new) for d in found if not d.matters] == [("torch", "2.13.0", "2.14.0")]


def test_what_else_moves_figures_is_named() -> None:
    environment = msgspec.structs.replace(
        ENVIRONMENT, allocator_settings="MALLOC_TRIM_THRESHOLD_=0", container_processors=1.5
    )
    training = Training(optimizer="AdamW", accumulation_steps=4)
    new = example_result(environment=environment, workload=msgspec.structs.replace(FACTS, training=training))
    found = compare(example_result(), new).differences
    assert all(d.matters for d in found)
    assert {d.name: (d.old, d.new) for d in found} == {
        "number of accumulated batches": ("1", "4"),
        "container's limit of processor time": ("none", "1.5 processors"),
        "setting of the allocator": ("none", "MALLOC_TRIM_THRESHOLD_=0"),
    }
    plain = msgspec.structs.replace(FACTS, training=msgspec.structs.replace(training, accumulation_steps=1))
    assert not compare(example_result(), example_result(workload=plain)).differences


def test_the_index_of_a_device_is_no_difference() -> None:
    gpus = [msgspec.structs.replace(ENVIRONMENT, device=name) for name in ("cuda:0", "cuda:1", "cpu")]
    results = [example_result(environment=gpu) for gpu in gpus]
    assert not compare(results[0], results[1]).differences
    assert [d.name for d in compare(results[0], results[2]).differences] == ["device"]


# ---------------------------------------------------------------------- what is too much


def figure(low: float, middle: float, high: float, quantity: Quantity = Quantity.SPEED) -> Figure:
    return Figure(quantity=quantity, subject="", ratio=Ratio(middle, low, high))


@pytest.mark.parametrize(
    ("found", "verdict", "is_regression"),
    [
        (figure(0.88, 0.92, 0.97), Verdict.SLOWER, True),
        (figure(0.94, 0.96, 0.98), Verdict.SLOWER, False),  # real, and within what is allowed
        (figure(0.50, 0.80, 1.01), Verdict.NOT_TOLD_APART, False),  # beyond it, and not real
        (figure(1.05, 1.20, 1.40), Verdict.FASTER, False),
        (figure(1.02, 1.08, 1.10, Quantity.MEMORY), Verdict.MORE_MEMORY, True),
        (figure(1.01, 1.04, 1.10, Quantity.MEMORY), Verdict.MORE_MEMORY, False),
        (figure(0.80, 0.90, 0.95, Quantity.MEMORY), Verdict.LESS_MEMORY, False),
    ],
)
def test_a_regression_is_real_and_beyond_what_is_allowed(found: Figure, verdict: Verdict, is_regression: bool) -> None:
    assert found.verdict is verdict
    assert found.is_regression(0.05) is is_regression


def test_only_what_has_a_limit_is_judged() -> None:
    comparison = compare(drawn_result(1), drawn_result(2, slower=2.0, more_memory=2.0))
    comparison.check({})
    comparison.check({Quantity.SPEED: 0.6, Quantity.MEMORY: 1.2})
    assert {f.quantity for f in comparison.regressions({Quantity.MEMORY: 0.1})} == {Quantity.MEMORY}
    with pytest.raises(RegressionError, match=r"slower over 12 batch sizes, where 5% is allowed\. \d+ more figures"):
        comparison.check({Quantity.SPEED: 0.05})


def test_a_size_that_crashed_in_both_is_not_compared() -> None:
    trials = (fitting(1, 1, (0.1, 0.1), 9), refused(2, 2, "exit", outcome=Outcome.CRASHED))
    result = example_result(trials=trials, edge=Edge(largest_fits=1))
    assert [size.batch_size for size in compare(result, result).sizes] == [1]
