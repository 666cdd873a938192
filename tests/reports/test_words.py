"""What the paragraph says in each case: exact or not, target or not, and what each choice costs."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from example_results import CONTEST, MIB, example_result, fitting, refused
from hypothesis import given
from hypothesis import strategies as st

from autotune.forecast.records import Forecast, Rules
from autotune.reports.plain_text import printable, printable_lines
from autotune.reports.words import answer, cautions, forecast_quality, outcome, paragraph
from autotune.result import AccumulationPlan, Edge, Recommendation, StopReason, TargetAnswer
from autotune.spec import Objective
from autotune.trial import Contest, Evidence, Outcome, Trial


def recommending(batch_size: int, fastest: int, why: str) -> Recommendation:
    """A recommendation with round speeds."""
    return Recommendation(
        batch_size=batch_size,
        samples_per_second=12000.0,
        fastest_batch_size=fastest,
        fastest_samples_per_second=12000.0,
        why=why,
    )


def test_an_exact_edge_names_the_size_that_was_refused() -> None:
    assert answer(example_result()).endswith(
        "The largest that fits is 1,000, with 3.5% fewer samples/s and 3.09 times the memory compared with 256: "
        "already 1,001 ran out of memory."
    )


@pytest.mark.parametrize(
    ("edge", "stop", "sentence"),
    [
        (
            Edge(largest_fits=1000, smallest_refused=1024),
            StopReason.SECONDS,
            "The largest that fitted is 1,000, with 3.5% fewer samples/s and 3.09 times the memory compared with "
            "256: 1,024 ran out of memory, and the sizes between were not tried, since the time allowed was used up.",
        ),
        (
            Edge(largest_fits=1000, smallest_refused=1024, confirmations=3),
            StopReason.EDGE,
            "The largest known to fit is 1,000, with 3.5% fewer samples/s and 3.09 times the memory compared with "
            "256: 1,024 ran out of memory, and the sizes between were not tried.",
        ),
        (
            Edge(largest_fits=1000, smallest_refused=1024, no_room_from=1001, confirmations=3),
            StopReason.EDGE,
            "The largest known to fit is 1,000, with 3.5% fewer samples/s and 3.09 times the memory compared with "
            "256: from 1,001 on peaks may pass the budget, as they differ from process to process, and 1,024 ran out "
            "of memory.",
        ),
        (
            Edge(largest_fits=1000),
            StopReason.PLATEAU,
            "The largest tried is 1,000, with 3.5% fewer samples/s and 3.09 times the memory compared with 256: "
            "nothing larger was tried, since throughput stopped rising.",
        ),
        (
            Edge(largest_fits=512, smallest_refused=513, refused_by="out of memory"),
            StopReason.EDGE,
            "The fastest, 512, is also the largest that fitted, with 3.7% more samples/s and 66% more memory compared "
            "with 256: already 513 was refused: out of memory.",
        ),
        (
            Edge(largest_fits=256),
            StopReason.DATASET,
            "Nothing larger was tried, since the whole dataset fits in one batch.",
        ),
    ],
)
def test_the_edge_says_how_well_it_is_known(edge: Edge, stop: StopReason, sentence: str) -> None:
    assert sentence in answer(example_result(edge=edge, stop=stop))


@pytest.mark.parametrize(
    ("size", "objective", "sentence"),
    [
        (512, Objective.THROUGHPUT, " 512 ran once and was not confirmed; --objective memory confirms the largest."),
        (512, Objective.MEMORY, " 512 ran once and was not confirmed."),
        (1000, Objective.TIME_TO_QUALITY, " 1,000 was not confirmed; --objective memory confirms the largest."),
    ],
)
def test_a_largest_size_that_was_never_run_again_to_confirm_it_is_called_that(
    size: int, objective: Objective, sentence: str
) -> None:
    spec = msgspec.structs.replace(example_result().spec, objective=objective)
    edge = Edge(largest_fits=size, smallest_refused=size + 1)
    assert answer(example_result(spec=spec, edge=edge)).endswith(sentence)
    confirmed = msgspec.structs.replace(edge, confirmations=3)
    assert "confirm" not in answer(example_result(spec=spec, edge=confirmed))


def test_a_largest_size_of_the_final_round_did_not_run_once_alone() -> None:
    result = example_result(edge=Edge(largest_fits=512, smallest_refused=513), contest=CONTEST)
    assert " 512 was not confirmed" in answer(result)


def test_a_larger_target_was_tried_though_not_searched_for() -> None:
    target = TargetAnswer(batch_size=5000, fits=False, refused_by="out of memory")
    text = answer(example_result(edge=Edge(largest_fits=1000), stop=StopReason.PLATEAU, target=target))
    assert "the search went no further, since throughput stopped rising" in text
    assert "nothing larger" not in text


def test_a_difference_that_noise_may_have_made_is_called_that() -> None:
    """1,000 ran at 10,400 to 12,500 samples/s by itself; of 256 and 512 each was ahead in one round."""
    largest = fitting(6, 1000, (0.0850, 0.0800, 0.0960), 2000, purpose="bisect")
    first, *_ = example_result().trials
    contest = Contest(batch_sizes=(256, 512), rounds=((0.0200, 0.0405), (0.0220, 0.0430)))
    result = example_result(contest=contest, trials=(first, *example_result().trials[1:5], largest))
    text = answer(result)
    assert "The fastest is 512, with 0.5% more samples/s (perhaps by noise alone) and 69% more memory compared" in text
    assert re.search(r"The largest that fits is 1,000, with \S+ fewer samples/s \(perhaps by noise alone\) and", text)


def test_a_difference_in_every_round_is_stated_as_one() -> None:
    contest = Contest(batch_sizes=(256, 512), rounds=((0.0200, 0.0390), (0.0300, 0.0590)))
    assert "The fastest is 512, with 2.1% more samples/s and " in answer(example_result(contest=contest))


def test_the_largest_as_the_recommendation_is_not_compared_with_itself() -> None:
    text = answer(example_result(recommendation=recommending(1000, 512, "the largest that fits")))
    assert text.startswith("Use batch size 1,000: the largest that fits. It processes 12,000 samples/s and peaks at")
    assert text.endswith(
        "The fastest is 512, with 7.5% more samples/s and 46% less memory compared with 1,000. "
        "Already 1,001 ran out of memory."
    )


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (refused(9, 1001, outcome=Outcome.CRASHED), "1,001 crashed"),
        (refused(9, 1001, "budget"), "1,001 peaked over the memory budget"),
        (refused(9, 1001, "spread"), "1,001 may pass the memory budget, as peaks differ from run to run"),
        (refused(9, 1001, outcome=Outcome.TIMED_OUT), "1,001 took too long"),
        (refused(9, 1001, outcome=Outcome.KERNEL_LIMIT), "1,001 reached a limit of a kernel"),
        (refused(9, 1001, "latency", outcome=Outcome.FITS), "1,001 took longer than the latency limit"),
    ],
)
def test_each_way_to_be_refused_has_its_words(refusal: Any, words: str) -> None:
    trials = (*[trial for trial in example_result().trials if trial.batch_size != 1001], refusal)
    assert f"already {words}." in answer(example_result(trials=trials))


@pytest.mark.parametrize(
    ("refusals", "why"),
    [
        ([refused(10, 512, "spread"), refused(11, 256)], ": memory near the limit differs between runs"),
        ([refused(10, 512), refused(11, 256, "latency", outcome=Outcome.FITS)], ""),
        ([refused(10, 512, "clock", outcome=Outcome.TIMED_OUT)], ""),
        ([refused(10, 512, "exit", outcome=Outcome.CRASHED), refused(11, 512)], ""),
    ],
)
def test_memory_explains_what_passed_once_only_where_memory_refused_it(refusals: list[Trial], why: str) -> None:
    edge = Edge(largest_fits=128, smallest_refused=256, band=(256, 512))
    result = example_result(trials=(*example_result().trials, *refusals), edge=edge)
    assert cautions(result) == (f"Batch size 256, 512 passed once and failed another time{why}.",)


def test_a_target_that_fits_is_a_yes_with_its_peak() -> None:
    target = TargetAnswer(batch_size=900, fits=True, peak_bytes=1536 * MIB)
    assert answer(example_result(target=target)).endswith(
        "Yes, a batch of 900 fits at once, with a peak of 1.50 GiB, 75% of the memory budget of 2.00 GiB."
    )


def test_a_target_of_more_samples_than_there_are_says_so() -> None:
    target = TargetAnswer(batch_size=60_000, fits=True)
    assert answer(example_result(target=target)).endswith(
        "Yes, a batch of 60,000 fits at once, though the dataset has but 50,000 samples."
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("measured", "falls short by 1.00 GiB, as measured"),
        ("estimated", "falls short by an estimated 1.00 GiB"),
    ],
)
def test_a_shortfall_says_how_it_is_known(kind: Any, words: str) -> None:
    target = TargetAnswer(batch_size=4096, fits=False, shortfall_bytes=1024 * MIB, shortfall_is=kind)
    assert answer(example_result(target=target)).endswith(
        f"No, a batch of 4,096 cannot be processed at once: the memory budget {words}."
    )


def test_a_target_refused_for_another_reason_says_which() -> None:
    target = TargetAnswer(batch_size=4096, fits=False, refused_by="kernel limit")
    assert answer(example_result(target=target)).endswith("cannot be processed at once: kernel limit.")


def test_a_plan_says_whether_accumulation_was_measured() -> None:
    plan = AccumulationPlan(micro_batch_size=512, accumulation_steps=8, samples_per_second=11000.0)
    target = TargetAnswer(batch_size=4096, fits=False, plan=plan)
    way = "Instead, accumulate gradients over 8 micro-batches of 512"
    assert answer(example_result(target=target)).endswith(f"{way}, which was measured at 11,000 samples/s.")
    own_loop = msgspec.structs.replace(target, plan=msgspec.structs.replace(plan, includes_accumulation=False))
    assert answer(example_result(target=own_loop)).endswith(
        f"{way}; a plain step of 512 was measured at 11,000 samples/s, the accumulation itself was not."
    )


def test_where_there_is_no_plan_the_reason_follows() -> None:
    target = TargetAnswer(batch_size=4096, fits=False, refused_by="out of memory", no_plan="it ended before that")
    assert answer(example_result(target=target)).endswith("at once: out of memory. It ended before that.")


def test_cautions_follow_the_answer_on_lines_of_their_own() -> None:
    lines = paragraph(example_result(warnings=("The machine was busy.", "The loss became NaN."))).splitlines()
    assert lines[1:] == ["Caution: The machine was busy.", "Caution: The loss became NaN."]


def test_a_recommendation_that_was_never_timed_alone_is_still_told() -> None:
    result = example_result(trials=(fitting(1, 128, (0.1,), 100),), edge=Edge(largest_fits=256))
    assert answer(result).startswith("Use batch size 256: the smallest within 5% of the fastest, 512. It processes")


def test_an_outcome_names_who_noticed() -> None:
    assert outcome(fitting(1, 8, (0.1,), 100)) == "fits"
    assert outcome(refused(1, 8, "latency", outcome=Outcome.FITS)) == "fits (over latency limit)"
    sources = msgspec.inspect.type_info(Evidence).fields[0].type.values  # type: ignore[attr-defined]
    assert len({outcome(refused(1, 8, source)) for source in sources}) == len(sources)


@given(st.text())
def test_whatever_a_model_is_called_no_control_character_comes_through(text: str) -> None:
    assert printable(text).isprintable()
    assert all(line.isprintable() for line in printable_lines(text).split("\n"))


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_lone_surrogates_are_written_out() -> None:
    assert printable("\ud800") == r"\ud800"


def test_a_forecast_is_told_with_its_error() -> None:
    forecast = Forecast(rules=Rules.CPU, footprints=())
    trials = (
        fitting(1, 8, (0.1, 0.1), 100),
        fitting(2, 16, (0.1, 0.1), 200, forecast_bytes=202 * MIB),
        fitting(3, 32, (0.1, 0.1), 400, forecast_bytes=388 * MIB),
        refused(4, 64, forecast_bytes=900 * MIB),
    )
    quality = forecast_quality(example_result(trials=trials, forecast=forecast))
    assert quality == "the forecast of peak memory was off by 2.0% in the median of 2 trials, 3.0% at most"
    quality = forecast_quality(example_result(trials=trials[:2], forecast=forecast))
    assert quality == "the forecast of peak memory was off by 1.0%"


def test_why_there_is_no_forecast_is_told_without_control_characters() -> None:
    assert forecast_quality(example_result(no_forecast="it asks \x1b[2J for data")) == (
        "no forecast: it asks \\x1b[2J for data"
    )
    assert forecast_quality(example_result()) == ""
