"""Predictions put to the test: what is trained, how it is judged, and what is said of it."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from example_results import CONTEST, example_result
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autotune import UsageError, find_batch_size, load_result
from autotune.errors import AutotuneError, WorkloadError
from autotune.executors import Attempt, Opened, Request, TrainRequest
from autotune.executors.fake import FakeExecutor
from autotune.listener import Silence
from autotune.probe import Probe
from autotune.reports.figures import figures
from autotune.reports.html import fragment, page
from autotune.reports.markdown import markdown
from autotune.reports.rows import row_of
from autotune.reports.terminal import render
from autotune.reports.training_words import verification_words as words
from autotune.result import Result, Verification
from autotune.spec import FileWorkload, Mode, Objective, ProbeSpec
from autotune.store import NoJournal
from autotune.trial import Curve, Evidence, Outcome
from autotune.verify import APART, candidates, judgement, plan, verified, verify

PREDICTED, OTHER = 256, 512


def curve(batch_size: int, losses: tuple[float, ...], spread: float = 0.01, **changes: Any) -> Curve:
    """A training of ten seconds a look; the parts held out differ by a little."""
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "steps": 1000,
        "learning_rate": 0.1,
        "seconds": tuple(10.0 * look for look in range(len(losses))),
        "losses": losses,
        "reached_losses": tuple(min(losses) + spread * part / 16 for part in range(16)),
    }
    return Curve(**settings | changes)


SLOW = curve(PREDICTED, (2.0, 1.5, 1.0, 0.8, 0.7))
FAST = curve(OTHER, (2.0, 1.0, 0.7, 0.6, 0.5))
LATE = curve(OTHER, (2.0, 1.9, 1.5, 0.9, 0.6))
SAME = curve(OTHER, (2.0, 1.4, 0.9, 0.75, 0.7), reached_losses=tuple(0.709 - 0.01 * part / 16 for part in range(16)))


def verification(*curves: Curve, **changes: Any) -> Verification:
    settings: dict[str, Any] = {"seconds_each": 40.0, "held_out_samples": 160, "planned_seconds": 60.0}
    return Verification(curves=curves, **settings | changes)


def test_what_trains_better_and_sooner_for_long_enough_overrules() -> None:
    found = judgement(verification(SLOW, FAST))
    assert found.overrules and (found.predicted, found.best) == (PREDICTED, OTHER)
    assert found.time_share == pytest.approx(20 / 40)
    result = verified(example_result(), verification(SLOW, FAST))
    assert result.batch_size == OTHER
    assert "lower loss than 256" in result.recommendation.why
    assert "50% of the time" in words(result) and "So use 512." in words(result)


def test_the_speed_of_what_is_used_instead_is_the_one_that_is_shown() -> None:
    result = verified(example_result(contest=CONTEST), verification(SLOW, FAST))
    shown = row_of(result, OTHER).speed
    assert shown is not None and shown.samples_per_second == result.recommendation.samples_per_second


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        (verification(FAST, SLOW), "The prediction holds: 512 reached the lowest loss"),
        (verification(SLOW, SAME), "by more than chance"),
        (verification(SLOW, LATE), "not that of 256 any sooner"),
        (verification(SLOW, FAST, planned_seconds=81.0), "only 49% of the training planned, too little to overrule it"),
        (verification(SLOW, FAST, planned_seconds=None), "is not known, so this overrules nothing: give --epochs"),
        (verification(SLOW, FAST, planned_seconds=None, is_interrupted=True), "interrupted before all were trained"),
    ],
)
def test_less_than_that_overrules_nothing_and_says_why(trained: Verification, said: str) -> None:
    before = example_result()
    result = verified(before, trained)
    assert result.recommendation == before.recommendation
    assert result.verification == trained
    assert said in words(result)


def test_the_budget_that_would_do_is_enough() -> None:
    trained = verification(SLOW, FAST, planned_seconds=900.0)
    assert "take --budget 15m" in words(verified(example_result(), trained))
    assert judgement(msgspec.structs.replace(trained, seconds_each=15 * 60 / 2)).is_enough


def test_a_training_that_diverged_at_once_loses() -> None:
    diverged = curve(PREDICTED, (2.0,), has_diverged=True)
    assert judgement(verification(diverged, FAST)).overrules
    assert not judgement(verification(FAST, curve(OTHER, (2.0,), has_diverged=True))).overrules


@given(st.lists(st.floats(-5, 5, allow_nan=False), min_size=16, max_size=16), st.booleans())
def test_nothing_overrules_by_being_worse(shift: list[float], is_first: bool) -> None:
    """Whatever the parts say, the recommendation moves only to a size with a lower loss."""
    other = curve(OTHER, (9.0, 1.0), reached_losses=tuple(2.0 + move for move in shift))
    mine = curve(PREDICTED, (9.0, 1.0), reached_losses=(2.0,) * 16)
    found = judgement(verification(*((mine, other) if is_first else (other, mine))))
    if found.overrules:
        reached = {c.batch_size: c.reached_loss for c in (mine, other)}
        assert reached[found.best] < reached[found.predicted]


# ------------------------------------------------------------------ what is trained


def probed(executor: FakeExecutor, **changes: Any) -> Result:
    settings = {"workload": FileWorkload(target="model.py"), "objective": Objective.TIME_TO_QUALITY, "epochs": 3}
    return Probe(ProbeSpec(**settings | changes), executor, NoJournal(), Silence()).run()


def executor(**changes: Any) -> FakeExecutor:
    settings = {"alpha_seconds": 0.01, "beta_seconds": 0.001, "noise_scale": 50.0, "dataset_size": 5000, "noise": 0.0}
    return FakeExecutor(**settings | changes)


def opened(of: FakeExecutor) -> Opened:
    return of.open()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_candidates_begin_with_the_answer_and_lie_apart(count: int) -> None:
    result = probed(executor())
    chosen = candidates(result, count)
    assert len(chosen) == count and chosen[0] == result.batch_size
    ordered = sorted(chosen)
    assert all(b >= APART * a for a, b in pairwise(ordered))
    assert set(chosen) <= {trial.batch_size for trial in result.trials if trial.accepted}


def test_a_plan_keeps_to_the_budget_and_looks_cost_little() -> None:
    result = probed(executor())
    made = plan(result, opened(executor()), 3, 600.0, None)
    assert made.seconds == pytest.approx(600.0)
    assert 16 <= made.held_out_samples <= 1000  # a fifth of the data at most
    assert made.held_out_samples // made.part_size >= 16
    assert made.planned_seconds == pytest.approx(3 * 5000 / result.recommendation.samples_per_second)
    assert made.learning_rates[0] == pytest.approx(0.1 * _gain(result), rel=0.01)
    longer = plan(result, opened(executor()), 3, 600.0, 30)
    assert longer.planned_seconds == pytest.approx(10 * (made.planned_seconds or 0))


def _gain(result: Result) -> float:
    ratio = result.batch_size / 32
    return ratio * (32 + 50) / (ratio * 32 + 50)


@pytest.mark.parametrize(
    ("changes", "count", "seconds", "said"),
    [
        ({}, 1, 60.0, "at least two candidates"),
        ({}, 3, 0.0, "some time"),
        ({"mode": Mode.INFERENCE, "objective": Objective.THROUGHPUT}, 3, 60.0, "about inference"),
        ({"max_batch_size": 1}, 3, 60.0, "Only batch size 1 was measured"),
    ],
)
def test_what_cannot_be_verified_is_refused_before_anything_is_trained(
    changes: dict[str, Any], count: int, seconds: float, said: str
) -> None:
    runs = executor()
    result = probed(runs, **changes)
    with pytest.raises(UsageError, match=said) as raised:
        verify(result, opened(runs), runs, Silence(), count=count, budget_seconds=seconds)
    assert raised.value.remedy
    assert not any(isinstance(request, TrainRequest) for request in runs.requests)


def test_another_model_and_too_little_data_are_refused() -> None:
    result = probed(executor())
    small = executor(dataset_size=70)
    with pytest.raises(UsageError, match="70 samples is too small"):
        plan(result, opened(small), 3, 60.0, None)
    changed = opened(executor())
    other = msgspec.structs.replace(changed, workload=msgspec.structs.replace(changed.workload, parameters=11))
    with pytest.raises(UsageError, match="11 parameters now, but had 10"):
        plan(result, other, 3, 60.0, None)


def failing(size: int, attempt: Attempt) -> Any:
    def events(request: Request) -> Attempt | None:
        return attempt if isinstance(request, TrainRequest) and request.batch_size == size else None

    return events


def died(text: str, trace: str = "", outcome: Outcome = Outcome.FAILED) -> Attempt:
    return Attempt(outcome=outcome, evidence=Evidence(source="exception", text=text, user_traceback=trace))


def test_what_fails_is_told_apart() -> None:
    result = probed(executor())
    first, second, _ = candidates(result, 3)
    killed = died("killed by SIGKILL", outcome=Outcome.CRASHED)

    runs = executor(events=failing(second, killed))
    found = verify(result, opened(runs), runs, Silence(), budget_seconds=60.0)
    assert found.verification and len(found.verification.curves) == 2
    assert f"Batch size {second} could not be trained: killed by SIGKILL." in words(found)

    runs = executor(events=failing(first, killed))
    with pytest.raises(AutotuneError, match=f"Batch size {first} could not be trained"):
        verify(result, opened(runs), runs, Silence(), budget_seconds=60.0)
    runs = executor(events=failing(second, died("the loss is not seen")))
    with pytest.raises(UsageError, match=r"cannot be verified: the loss is not seen\."):
        verify(result, opened(runs), runs, Silence(), budget_seconds=60.0)
    runs = executor(events=failing(second, died("KeyError: 3", trace="Traceback of theirs")))
    with pytest.raises(WorkloadError) as raised:
        verify(result, opened(runs), runs, Silence(), budget_seconds=60.0)
    assert raised.value.user_traceback == "Traceback of theirs"


def test_an_interruption_leaves_what_was_trained() -> None:
    result = probed(executor())
    last = candidates(result, 3)[-1]

    def interrupted_at(size: int) -> Any:
        def events(request: Request) -> Attempt | None:
            if isinstance(request, TrainRequest) and request.batch_size == size:
                raise KeyboardInterrupt
            return None

        return events

    runs = executor(events=interrupted_at(last))
    found = verify(result, opened(runs), runs, Silence(), budget_seconds=60.0)
    assert found.verification and found.verification.is_interrupted and len(found.verification.curves) == 2
    runs = executor(events=interrupted_at(result.batch_size))
    with pytest.raises(KeyboardInterrupt):
        verify(result, opened(runs), runs, Silence(), budget_seconds=60.0)


# ------------------------------------------------------------------ what is shown


def test_every_report_shows_it() -> None:
    result = verified(example_result(), verification(SLOW, FAST, failures=("Batch size 64 could not be trained: x.",)))
    text = " ".join(render(result).split())
    for shown in (text, page([result]), markdown([result]), fragment(result), result.summary()):
        assert "trained better than 256, which was predicted" in shown
        assert "could not be trained" in shown
    assert "loss at 50%" in page([result]) and "loss at 50%" in markdown([result, result])
    assert "held-out loss" in figures([result]) and "held-out loss" in figures([result, result])
    assert "held-out loss" not in figures([example_result()])
    assert "loss at" not in page([example_result()])


def test_it_is_saved_with_the_result(tmp_path: Path) -> None:
    result = verified(example_result(), verification(SLOW, FAST))
    assert load_result(result.save(tmp_path / "result.json")) == result


def test_losses_below_zero_and_equal_ones_can_be_drawn() -> None:
    for losses in ((-1.0, -2.0, -3.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)):
        trained = verification(curve(PREDICTED, losses), curve(OTHER, losses))
        assert "held-out loss" in figures([verified(example_result(), trained)])


# ------------------------------------------------------------------ the real thing


def moons(samples: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, 2, generator=random)
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))


def test_a_real_model_is_trained_on_copies_and_left_as_it_is() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    result = find_batch_size(
        model,
        moons(),
        loss=nn.functional.cross_entropy,
        optimizer=optimizer,
        objective="time-to-quality",
        max_batch_size=64,
        warmup_steps=40,
        threads=1,
        quiet=True,
    )
    found = result.verify(candidates=2, budget=3.0, epochs=1, quiet=True)
    trained = found.verification
    assert trained is not None and result.verification is None
    for curve_ in trained.curves:
        assert curve_.steps > 0 and curve_.seconds[-1] >= 1.5
        assert curve_.losses[0] == pytest.approx(trained.curves[0].losses[0], abs=1e-6)  # the same start, and parts
        assert curve_.reached_loss < curve_.losses[0]
        assert curve_.learning_rate is not None
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 0.05
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), -3, 0, None, [1], "x"])
def test_a_budget_that_is_no_time_is_refused_before_anything_is_trained(budget: Any) -> None:
    with pytest.raises(UsageError, match=r"no time to train for|not a duration"):
        example_result().verify(budget=budget)


MODEL = """
import torch
from torch import nn
from tests.test_verify import moons, net
dataset = torch.utils.data.TensorDataset(*moons())
model = net()
loss = nn.functional.cross_entropy
def build_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.05)
"""


def command(tmp_path: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    run = [sys.executable, "-m", "autotune", *arguments]
    return subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.py and a result of it."""
    made = tmp_path_factory.mktemp("verify")
    (made / "model.py").write_text(MODEL)
    done = command(made, "probe", "model.py", "--max-batch-size", "64", "--threads", "1", "--output", "result.json")
    assert done.returncode == 0, done.stderr
    return made


def test_the_command_trains_shows_and_saves(folder: Path, tmp_path: Path) -> None:
    verified_file = tmp_path / "verified.json"
    done = command(folder, "verify", "result.json", "--budget", "3s", "--output", str(verified_file))
    assert done.returncode == 0, done.stderr
    assert "in all and a little more to look at" in done.stderr.splitlines()[0]
    assert "held-out loss" in done.stderr and "saved to" in done.stderr
    assert "Verified:" in done.stdout
    saved = load_result(verified_file)
    assert saved.verification is not None and len(saved.verification.curves) == 3
    assert load_result(folder / "result.json").verification is None
    shown = command(folder, "show", str(verified_file))
    assert "Verified:" in shown.stdout


def test_the_command_writes_into_the_result_itself_and_prints_a_number(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_bytes((folder / "result.json").read_bytes())
    done = command(folder, "verify", str(own), "--budget", "2s", "--candidates", "2", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == load_result(own).batch_size
    assert load_result(own).verification is not None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.json"], 5, "nowhere.json cannot be read"),
        (["result.json", "--budget", "soon"], 2, "--budget"),
        (["result.json", "--candidates", "1"], 2, "at least two candidates"),
        (["result.json", "--output", "nowhere/at.json"], 5, "nowhere"),
        (["model.py"], 5, "not a whole autotune result"),
    ],
)
def test_bad_input_gets_one_line(folder: Path, arguments: list[str], code: int, said: str) -> None:
    done = command(folder, "verify", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("def training_step(batch): return loss(model(batch[0]), batch[1]).backward()", 2, "the caller's own"),
        ("model = nn.Sequential(nn.Linear(2, 2))", 2, "6 parameters now, but had"),
        ("def loss(output, target): raise KeyError('theirs')", 1, "KeyError: 'theirs'"),
        ("def loss(output, target): return output.sum() * float('nan')", 2, "not a number even before training"),
    ],
)
def test_a_model_that_has_changed_says_what_is_wrong(
    folder: Path, tmp_path: Path, change: str, code: int, said: str
) -> None:
    (tmp_path / "result.json").write_bytes((folder / "result.json").read_bytes())
    (tmp_path / "model.py").write_text(MODEL + change + "\n")
    done = command(tmp_path, "verify", "result.json", "--budget", "3s")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "autotune/" not in done.stderr


def test_ctrl_c_leaves_what_was_trained(folder: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    output = tmp_path / "verified.json"
    run = [sys.executable, "-m", "autotune", "verify", "result.json", "--candidates", "4", "--budget", "32s"]
    child = subprocess.Popen(
        [*run, "--output", str(output)], cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stderr is not None
    ended = 0
    while ended < 2:
        ended += b"held-out loss" in child.stderr.readline()
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert json.loads(output.read_text())["verification"]["is_interrupted"] is True


def test_a_result_of_objects_that_are_gone_says_so(tmp_path: Path) -> None:
    result = find_batch_size(net(), moons(), loss=nn.functional.cross_entropy, max_trials=2, quiet=True)
    loaded = load_result(result.save(tmp_path / "result.json"))
    with pytest.raises(UsageError, match="objects of a Python process"):
        loaded.verify(quiet=True)
