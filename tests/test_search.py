"""The search against models of a machine: an edge, a band, noise, caps. All invariants by property."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.result import StopReason
from autotune.search import Ask, Limits, Phase, Search, Stop, Told, bounds, next_move


def run_search(limits: Limits, accepts, speed=float) -> tuple[list[Ask], Stop]:
    """Drive a search to its end; fail if it never ends."""
    search, asked = Search(limits), []
    while isinstance(move := search.ask(), Ask):
        asked.append(move)
        assert len(asked) < 500, "the search does not end"
        value = speed(move.batch_size)
        search.tell(Told(move.batch_size, accepts(move.batch_size), value, value, move.phase))
    return asked, move


limits_strategy = st.builds(
    Limits,
    start=st.integers(1, 300),
    smallest=st.integers(1, 4),
    largest=st.none() | st.integers(1, 100_000),
    multiple_of=st.integers(1, 16),
    confirmations=st.integers(0, 3),
)


@given(edge=st.integers(0, 1_000_000), limits=limits_strategy)
def test_the_answer_is_the_exact_edge_and_every_question_is_sensible(edge: int, limits: Limits) -> None:
    asked, stop = run_search(limits, lambda size: size <= edge)
    step = limits.multiple_of
    cap = math.inf if limits.largest is None else limits.largest // step * step
    smallest = -(-limits.smallest // step) * step
    truth = min(edge // step * step, cap)

    refused: set[int] = set()
    accepted: set[int] = set()
    for ask in asked:
        assert ask.batch_size % step == 0
        assert smallest <= ask.batch_size <= cap
        assert not refused or ask.batch_size < min(refused)
        assert ask.batch_size not in accepted or ask.phase is Phase.CONFIRM
        (accepted if ask.batch_size <= edge else refused).add(ask.batch_size)

    if truth < smallest:
        assert stop.reason is None
        assert not accepted
        return
    assert max(accepted) == truth
    assert stop.reason is (StopReason.CAP if truth == cap else StopReason.EDGE)
    if truth < cap:
        assert min(refused) == truth + step
    assert sum(ask.phase is Phase.CONFIRM for ask in asked) == limits.confirmations


@given(edge=st.integers(1, 10_000_000), start=st.integers(1, 64))
def test_the_number_of_questions_is_logarithmic(edge: int, start: int) -> None:
    asked, _ = run_search(Limits(start=start), lambda size: size <= edge)
    assert len(asked) <= 2 * math.log2(max(edge, start)) + 4


@given(edge=st.integers(1, 5000), seed=st.integers(0, 10_000), width=st.floats(0, 0.2))
def test_with_an_edge_that_is_a_band_the_answer_held_every_time_it_was_confirmed(
    edge: int, seed: int, width: float
) -> None:
    chance = random.Random(seed)
    heard: list[tuple[int, bool]] = []

    def accepts(size: int) -> bool:
        heard.append((size, size <= edge * (1 - width * chance.random())))
        return heard[-1][1]

    asked, stop = run_search(Limits(confirmations=3), accepts)
    if stop.reason is None:
        return
    low, high = bounds([Told(size, ok) for size, ok in heard])
    assert low is not None
    assert all(ok for size, ok in heard if size == low)
    assert sum(ask.batch_size == low and ask.phase is Phase.CONFIRM for ask in asked) == 3
    assert high == low + 1


@given(answers=st.lists(st.booleans(), max_size=60), limits=limits_strategy)
def test_whatever_the_answers_the_search_ends_and_replays_to_the_same_questions(
    answers: list[bool], limits: Limits
) -> None:
    capped = limits if limits.largest else Limits(**{**vars(limits), "largest": 1_000_000})
    replies = iter(answers + [False] * 500)
    asked, _ = run_search(capped, lambda _: next(replies))
    history: list[Told] = []
    replies = iter(answers + [False] * 500)
    for ask in asked:
        assert next_move(history, capped) == ask
        history.append(Told(ask.batch_size, next(replies), float(ask.batch_size), float(ask.batch_size), ask.phase))


@given(edge=st.integers(1, 1_000_000), resolution=st.floats(0.01, 0.5))
def test_a_resolution_ends_the_bisection_near_the_edge(edge: int, resolution: float) -> None:
    asked, _ = run_search(Limits(resolution=resolution), lambda size: size <= edge)
    largest = max(ask.batch_size for ask in asked if ask.batch_size <= edge)
    assert largest <= edge <= largest * (1 + resolution)
    assert len(asked) <= math.log2(edge) + math.log2(1 / resolution) + 4


def test_growth_stops_after_three_flat_doublings_and_looks_around_the_fastest() -> None:
    limits = Limits(plateau_tolerance=0.05)
    asked, stop = run_search(limits, lambda _: True, speed=lambda size: min(size, 16))
    assert [ask.batch_size for ask in asked if ask.phase is Phase.GROW] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [ask.batch_size for ask in asked if ask.phase is Phase.REFINE] == [12, 24]
    assert stop.reason is StopReason.PLATEAU


@given(multiple=st.integers(1, 50), knee=st.integers(1, 5000))
def test_on_a_plateau_every_size_is_a_multiple_and_asked_once(multiple: int, knee: int) -> None:
    limits = Limits(plateau_tolerance=0.05, multiple_of=multiple)
    asked, stop = run_search(limits, lambda _: True, speed=lambda size: float(min(size, knee)))
    sizes = [ask.batch_size for ask in asked]
    assert stop.reason is StopReason.PLATEAU
    assert len(set(sizes)) == len(sizes)
    assert all(size % multiple == 0 for size in sizes)


def test_one_slow_trial_does_not_stop_growth() -> None:
    limits = Limits(plateau_tolerance=0.05)
    asked, _ = run_search(limits, lambda size: size <= 100, speed=lambda size: 1.0 if size == 8 else float(size))
    assert max(ask.batch_size for ask in asked) > 64


def test_an_uncertain_throughput_is_not_taken_for_a_plateau() -> None:
    history = [Told(1, True, 100, 101), Told(2, True, 98, 130), Told(4, True, 99, 131), Told(8, True, 99, 131)]
    move = next_move(history, Limits(plateau_tolerance=0.05))
    assert isinstance(move, Ask) and move.phase is Phase.GROW


@pytest.mark.parametrize(("largest", "reason"), [(1797, StopReason.DATASET), (64, StopReason.CAP)])
def test_the_cap_is_tried_itself_and_says_what_it_means(largest: int, reason: StopReason) -> None:
    asked, stop = run_search(Limits(largest=largest, cap_reason=reason), lambda _: True)
    assert asked[-1].batch_size == largest
    assert stop.reason is reason


def test_a_start_that_does_not_fit_is_halved() -> None:
    asked, stop = run_search(Limits(start=64), lambda size: size <= 5)
    assert [ask.batch_size for ask in asked if ask.phase is Phase.SHRINK] == [32, 16, 8, 4]
    assert stop.reason is StopReason.EDGE


def test_a_refused_confirmation_steps_back() -> None:
    history = [
        Told(1, True),
        Told(2, True),
        Told(4, False),
        Told(3, True, phase=Phase.BISECT),
        Told(3, False, phase=Phase.CONFIRM),
    ]
    move = next_move(history, Limits(confirmations=1))
    assert move == Ask(2, Phase.CONFIRM, "does it hold again? (1 of 1)")


def test_no_multiple_within_reach_ends_at_once() -> None:
    assert next_move([], Limits(largest=5, multiple_of=8)) == Stop(None)


def test_a_refused_confirmation_is_followed_by_one_of_the_size_that_the_peaks_leave_room_for() -> None:
    """No bisection in between: forked children would say little of what differs between processes."""
    told = [
        Told(64, True),
        Told(101, False, phase=Phase.BISECT),
        Told(100, True, phase=Phase.BISECT),
        Told(100, False, phase=Phase.CONFIRM, largest_safe=90),
    ]
    limits = Limits(confirmations=2)
    move = next_move(told, limits)
    assert isinstance(move, Ask) and (move.batch_size, move.phase) == (90, Phase.CONFIRM)
    told.append(Told(90, True, phase=Phase.CONFIRM))
    assert next_move(told, limits) == Ask(90, Phase.CONFIRM, "does it hold again? (2 of 2)")
    told[-1] = Told(90, False, phase=Phase.CONFIRM)
    assert next_move(told, limits) == Ask(77, Phase.BISECT, "between 64, which passed, and 90, which was refused")


def test_a_confirmation_that_sees_far_more_room_raises_the_edge_again_but_not_for_ever() -> None:
    """Up to what was refused itself, and twice at most."""
    told = [
        Told(60, True),
        Told(100, False, phase=Phase.BISECT, largest_safe=69),
        Told(69, True, phase=Phase.CONFIRM, largest_safe=75),
    ]
    assert bounds(told) == (69, 70)  # not a tenth more
    told[-1] = Told(69, True, phase=Phase.CONFIRM, largest_safe=82)
    assert bounds(told) == (69, 83)
    move = next_move(told, Limits(confirmations=2))
    assert isinstance(move, Ask) and (move.batch_size, move.phase) == (82, Phase.CONFIRM)
    assert bounds([*told, Told(82, True, phase=Phase.CONFIRM, largest_safe=120)]) == (82, 100)
    lowered = [*told, Told(82, False, phase=Phase.CONFIRM, largest_safe=70)]
    assert bounds(lowered) == (69, 71)
    raised = [*lowered, Told(70, True, phase=Phase.CONFIRM, largest_safe=80)]
    assert bounds(raised) == (70, 81)
    assert bounds([*raised, Told(80, False, phase=Phase.CONFIRM, largest_safe=70)]) == (70, 71)
    twice = [*raised, Told(75, False, largest_safe=71), Told(71, True, phase=Phase.CONFIRM, largest_safe=99)]
    assert bounds(twice) == (71, 72)


def test_room_that_nothing_was_refused_for_is_no_edge() -> None:
    assert bounds([Told(64, True, phase=Phase.CONFIRM, largest_safe=70)]) == (64, None)


@given(
    edge=st.integers(1, 5000),
    seed=st.integers(0, 10_000),
    multiple_of=st.integers(1, 16),
    largest=st.none() | st.integers(16, 5000),
)
def test_whatever_is_said_of_room_the_search_ends_below_all_that_was_refused(
    edge: int, seed: int, multiple_of: int, largest: int | None
) -> None:
    chance = random.Random(seed)
    search = Search(Limits(confirmations=3, multiple_of=multiple_of, largest=largest))
    refused: set[int] = set()
    for _ in range(500):
        move = search.ask()
        if isinstance(move, Stop):
            break
        size = move.batch_size
        assert size % multiple_of == 0 and size <= (largest or math.inf) and size < min(refused, default=math.inf)
        accepted = size <= edge * chance.uniform(0.8, 1)
        says = chance.choice([None, round(size * chance.uniform(0.8, 1.2))])
        if accepted and says is not None:
            says = max(says, size)
        refused |= set() if accepted else {size}
        search.tell(Told(size, accepted, 1.0, 1.0, move.phase, says))
    else:
        raise AssertionError("the search does not end")
