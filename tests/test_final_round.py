"""Who is timed with whom, how often, and what a failure leaves."""

from __future__ import annotations

import msgspec
import pytest

from autotune.executors import Attempt, ContestRequest, Request
from autotune.executors.fake import FakeExecutor
from autotune.final_round import MOST, Form, form_of
from autotune.trial import Contest, Evidence, Outcome

SIZES = (16, 32, 64)


def form(executor: FakeExecutor, device: str = "cpu") -> Form:
    opened = executor.open()
    return form_of(
        msgspec.structs.replace(opened, environment=msgspec.structs.replace(opened.environment, device=device))
    )


def held(
    executor: FakeExecutor, device: str = "cpu", *, trials: tuple[float, ...] = (), seconds_allowed: int = 1000
) -> tuple[list[Contest], list[ContestRequest], list[str]]:
    """The contests after each round, what was asked for, and what was warned of; each request takes a second."""
    warned: list[str] = []
    begun = Contest(batch_sizes=SIZES, rounds=(), trials=trials)

    def seconds_left() -> float:
        return max(seconds_allowed - len(executor.requests), 0)

    contests = list(form(executor, device).rounds(executor, begun, 0.05, seconds_left, warned.append))
    return contests, [it for it in executor.requests if isinstance(it, ContestRequest)], warned


def fails_at(number: int) -> FakeExecutor:
    """A machine whose so many-th contest fails."""
    seen = iter(range(1, 1000))

    def event(_: Request) -> Attempt | None:
        if next(seen) == number:
            return Attempt(outcome=Outcome.CRASHED, evidence=Evidence(source="exit", text="it was ended by SIGKILL"))
        return None

    return FakeExecutor(forks=True, events=event)


ALIKE = (0.016, 0.032, 0.064)  # seconds, at one speed
UNLIKE = (0.0175, 0.032, 0.064)  # the smallest 9% slower, and so on the other side of the mark than in an even round
OUT_OF_TIME = "The final round did not finish (the time allowed was used up); what was timed before it decides."
UNEVEN = (0.0213, 0.0388, 0.074)  # all nearer to each other than on the machine that `FakeExecutor` stands for


def test_where_processes_are_cheap_the_trials_are_the_first_round_and_each_size_has_a_process_in_each_other() -> None:
    executor = FakeExecutor(forks=True, alpha_seconds=0.0)
    contests, asked, _ = held(executor, trials=ALIKE)
    assert [request.batch_sizes for request in asked] == [(16,), (32,), (64,), (64,), (32,), (16,)]
    assert not any(request.fresh_process for request in asked)
    assert [len(contest.rounds) for contest in contests] == [1, 2]
    assert contests[-1].batch_sizes == SIZES
    assert all(seconds == pytest.approx(ALIKE) for seconds in contests[-1].counted)


def test_every_other_round_goes_backwards() -> None:
    _, asked, _ = held(FakeExecutor(forks=True, alpha_seconds=0.0), trials=UNLIKE)
    assert [request.batch_sizes for request in asked] == [(16,), (32,), (64,), (64,), (32,), (16,)]


def test_a_size_that_is_far_behind_leaves() -> None:
    """At 64 the machine is 1.14 times as fast as at 32, and 1.41 times as fast as at 16."""
    executor = FakeExecutor(forks=True)
    contests, asked, _ = held(executor, trials=UNEVEN)
    assert [request.batch_sizes for request in asked] == [(16,), (32,), (64,), (64,), (32,), (32,), (64,)]
    final = contests[-1]
    assert final.batch_sizes == SIZES
    assert final.rounds[1][0] is None
    assert final.remaining == (32, 64)
    assert final.step_seconds(16) == pytest.approx((0.0213, 0.026))
    assert final.step_seconds(64) == pytest.approx((0.074, 0.074, 0.074, 0.074))


def test_a_size_that_was_far_behind_in_its_trial_is_not_timed_again() -> None:
    _, asked, _ = held(FakeExecutor(forks=True), trials=(0.026, 0.042, 0.074))
    assert {request.batch_sizes for request in asked} == {(32,), (64,)}


def test_where_the_trials_leave_one_there_is_nothing_to_hold() -> None:
    assert held(FakeExecutor(forks=True), trials=(0.026, 0.052, 0.064)) == ([], [], [])


def test_else_sizes_share_a_process_and_on_a_processor_several_have_a_say() -> None:
    contests, asked, _ = held(FakeExecutor(alpha_seconds=0.0))
    assert [(request.batch_sizes, request.fresh_process) for request in asked] == [(SIZES, False), (SIZES, True)]
    assert len(contests) == 2


def test_on_a_gpu_one_process_is_enough() -> None:
    contests, asked, _ = held(FakeExecutor(forks=False), "cuda")
    assert [(request.batch_sizes, request.fresh_process) for request in asked] == [(SIZES, False)]
    assert len(contests) == 1


def test_in_noise_there_are_more_rounds_but_not_for_ever() -> None:
    contests, _, _ = held(FakeExecutor(forks=True, noise=0.4, alpha_seconds=0.0, seed=4), trials=ALIKE)
    assert len(contests) == MOST


def test_a_round_that_fails_leaves_the_rounds_before_it_and_says_so() -> None:
    contests, asked, warned = held(fails_at(5), trials=UNEVEN)
    assert len(asked) == 5
    assert [len(contest.rounds) for contest in contests] == [1]
    assert warned == ["The final round did not finish (it was ended by SIGKILL); what was timed before it decides."]


def test_no_round_begins_once_the_time_is_over() -> None:
    contests, asked, warned = held(FakeExecutor(forks=True), seconds_allowed=3)
    assert (len(contests), len(asked), warned) == (1, 3, [])
    assert held(FakeExecutor(forks=True), seconds_allowed=0)[0] == []


@pytest.mark.parametrize(("forks", "device"), [(True, "cpu"), (False, "cpu"), (False, "cuda")])
def test_nothing_of_a_round_may_run_longer_than_there_is_time(forks: bool, device: str) -> None:
    _, asked, _ = held(FakeExecutor(forks=forks, alpha_seconds=0.0), device, trials=ALIKE * forks, seconds_allowed=50)
    assert [request.timeout_seconds for request in asked] == [50 - number for number in range(len(asked))]


def test_a_round_that_the_time_ends_midway_leaves_the_rounds_before_it_and_says_so() -> None:
    contests, asked, warned = held(FakeExecutor(forks=True), trials=UNEVEN, seconds_allowed=4)
    assert len(asked) == 4
    assert [len(contest.rounds) for contest in contests] == [1]
    assert warned == [OUT_OF_TIME]


def test_a_part_of_a_round_that_the_time_ends_is_not_said_to_have_taken_too_long() -> None:
    def too_long(request: Request) -> Attempt | None:
        if len(executor.requests) == 4:
            return Attempt(outcome=Outcome.TIMED_OUT, evidence=Evidence(source="clock", text="still running after 1 s"))
        return None

    executor = FakeExecutor(forks=True, events=too_long)
    _, asked, warned = held(executor, trials=UNEVEN, seconds_allowed=4)
    assert asked[-1].timeout_seconds == 1
    assert warned == [OUT_OF_TIME]


def test_sizes_that_never_meet_need_no_room_for_each_other() -> None:
    assert form(FakeExecutor(forks=True)).room_bytes == float("inf")
    assert form(FakeExecutor()).room_bytes == 0.8 * FakeExecutor().open().free_bytes
