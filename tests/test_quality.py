"""The batch size that trains fastest to a quality: what is predicted, advised and said."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from example_results import example_result
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

import autotune
from autotune.errors import UsageError
from autotune.executors.fake import FakeExecutor
from autotune.listener import Silence
from autotune.noise_scale import NoiseScale
from autotune.probe import Probe
from autotune.quality import learning_rate_gain, quality, quality_of, recommendation_of, training_now
from autotune.reports.figures import figures
from autotune.reports.html import page
from autotune.reports.markdown import markdown
from autotune.reports.terminal import render
from autotune.result import Result
from autotune.spec import FileWorkload, Mode, Objective, ProbeSpec
from autotune.store import NoJournal
from autotune.trial import Gradients, Training

ALPHA_SECONDS, BETA_SECONDS = 0.01, 0.001  # so h = 10
SPEED = {2**k: 2**k / (ALPHA_SECONDS + BETA_SECONDS * 2**k) for k in range(11)}


def spec(**changes: Any) -> ProbeSpec:
    settings = {"workload": FileWorkload(target="model.py"), "objective": Objective.TIME_TO_QUALITY} | changes
    return ProbeSpec(**settings)


def known(value: float) -> NoiseScale:
    return NoiseScale(value=value, low=value, high=value)


def probed(executor: FakeExecutor, **changes: Any) -> Result:
    return Probe(spec(**changes), executor, NoJournal(), Silence()).run()


@given(st.floats(1.0, 150.0))
def test_the_best_lies_at_the_root_of_noise_scale_times_h(noise: float) -> None:
    found = quality(SPEED, known(noise), spec(), None)
    least = min(found.outlooks, key=lambda o: o.relative_time.value if o.relative_time else math.inf).batch_size
    assert 0.5 <= least / math.sqrt(noise * 10) <= 2  # sizes are doublings
    assert least in found.near_best
    assert found.batch_size == min(found.near_best)


def test_a_wide_interval_leaves_what_is_near_the_best_at_both_ends() -> None:
    narrow = quality(SPEED, known(100.0), spec(), None)
    wide = quality(SPEED, NoiseScale(value=100.0, low=60.0, high=150.0), spec(), None)
    assert set(wide.near_best) <= set(narrow.near_best)
    assert wide.outlooks[5].efficiency is not None
    low, high = wide.outlooks[5].efficiency.low, wide.outlooks[5].efficiency.high
    assert (low, high) == (pytest.approx(60 / 92), pytest.approx(150 / 182))


def test_far_out_estimates_count_as_sixteen_times_h() -> None:
    found = quality(SPEED, known(1e6), spec(), None)
    assert found.counted_noise == pytest.approx(160, rel=1e-6)
    assert found.noise.value == 1e6


def test_without_a_noise_scale_it_is_h() -> None:
    found = quality(SPEED, NoiseScale(why_not="training diverged"), spec(), None)
    assert found.batch_size == 8
    assert found.near_best == (8,)
    assert all(outlook.relative_time is None for outlook in found.outlooks)


@pytest.mark.parametrize(
    ("least", "best"),
    [(2.0, 10.0), (9.0, 10.0), (40.0, 20.0), (1000.0, 40.0)],  # the last counts as sixteen times h
)
def test_what_is_undetermined_but_at_least_something_is_as_much(least: float, best: float) -> None:
    found = quality(SPEED, NoiseScale(low=least, why_not="too noisy"), spec(), None)
    assert 1 / math.sqrt(2) <= found.batch_size / best <= math.sqrt(2)
    assert ("least it can be" in recommendation_of(found, SPEED).why) == (best > 10.0)


@pytest.mark.parametrize(
    ("optimizer", "ratio", "noise", "expected"),
    [
        ("SGD", 4.0, math.inf, 4.0),  # all noise: in proportion
        ("SGD", 4.0, 0.0, 1.0),  # no noise: larger batches learn nothing more
        ("SGD", 4.0, 32.0, 4 * 64 / 160),
        ("AdamW", 4.0, 32.0, math.sqrt(4 * 64 / 160)),
        ("AdamW", 4.0, None, 2.0),
        ("SGD", 4.0, None, 4.0),
        ("SGD", 8.0, None, None),  # further than it is known to hold
        ("Lion", 2.0, 32.0, None),
    ],
)
def test_the_learning_rate_follows_the_noise(
    optimizer: str, ratio: float, noise: float | None, expected: float | None
) -> None:
    gain = learning_rate_gain(optimizer, ratio, 32, 1e12 if noise == math.inf else noise)
    assert gain is None if expected is None else gain == pytest.approx(expected, rel=1e-6)


# in a probe


def test_a_probe_measures_the_noise_and_confirms_its_answer_in_a_fresh_process() -> None:
    result = probed(FakeExecutor(budget_bytes=10_000, noise_scale=100.0), epochs=3, dataset_size=600)
    found = quality_of(result)
    assert found.noise.value == pytest.approx(100, rel=0.1)
    assert result.batch_size == found.batch_size
    assert any(trial.fresh_process and trial.batch_size == result.batch_size for trial in result.trials)
    assert result.contest is None
    assert result.workload.dataset_size == 600
    assert "gradient noise scale is" in result.summary()


def test_noise_may_be_given_or_left_out() -> None:
    given_ = probed(FakeExecutor(), noise=100.0)
    assert given_.gradients is None and "was given as 100 samples" in given_.summary()
    off = probed(FakeExecutor(), noise="off")
    assert "undetermined" in off.summary() and quality_of(off).batch_size == off.batch_size


def test_what_cannot_be_measured_costs_the_noise_not_the_answer() -> None:
    result = probed(FakeExecutor())
    assert result.no_gradients == "the model is only modelled"
    assert "undetermined: the model is only modelled" in result.summary()


def test_few_steps_of_the_optimizer_are_warned_of() -> None:
    result = probed(FakeExecutor(noise_scale=100.0), epochs=3, dataset_size=600)
    assert "steps of the optimizer in 3 epochs" in result.summary()
    many = probed(FakeExecutor(noise_scale=100.0), epochs=3000, dataset_size=600)
    assert "steps of the optimizer" not in many.summary()


@pytest.mark.parametrize(
    "wrong",
    [{"mode": Mode.INFERENCE}, {"warmup_steps": 5}, {"noise": -1.0}, {"epochs": 0}, {"base_learning_rate": 0.0}],
)
def test_what_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        spec(**wrong)


# with real training


def test_a_real_model_is_left_as_it_is_and_gets_an_answer() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    result = autotune.find_batch_size(
        model,
        TensorDataset(x, (x.sum(1) > 0).long()),
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        objective="time-to-quality",
        epochs=5,
        max_batch_size=128,
        device="cpu",
        quiet=True,
    )
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert result.gradients is not None
    assert len(result.gradients.losses) == 160
    assert result.gradients.losses[-1] < result.gradients.losses[0]
    assert (result.gradients.optimizer, result.gradients.learning_rate) == ("SGD", 0.1)


STEP = """
import torch
model = torch.nn.Linear(4, 2)
def training_step(batch):
    model(batch).sum().backward()
def make_batch(n):
    return torch.randn(n, 4)
"""


def test_a_loop_of_ones_own_is_told_that_its_gradients_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(STEP)
    command = [sys.executable, "-m", "autotune", "probe", "model.py", "--device", "cpu", "--max-batch-size", "4"]
    command += ["--objective", "time-to-quality"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the steps are the caller's own" in " ".join(done.stdout.split())
    done = subprocess.run([*command, "--noise", "much"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "'much' is no noise scale" in done.stderr and "Traceback" not in done.stderr


# in reports


def about_quality() -> Result:
    gradients = Gradients(
        micro_batch_size=8,
        micro_batches=4,
        square_norms=tuple(1 + (40 + k % 3) / 8 for k in range(160)),
        mean_square_norms=tuple(1 + (40 + k % 3) / 32 for k in range(160)),
        losses=(1.0,) * 160,
        optimizer="SGD",
        learning_rate=0.1,
        notes=("the model has BatchNorm, which works on micro-batches of 8 there",),
    )
    return example_result(spec=spec(epochs=2), gradients=gradients)


def test_every_report_shows_the_models_side() -> None:
    result = about_quality()
    text = " ".join(render(result).split())
    for shown in (page([result]), markdown([result]), markdown([result, result])):
        assert "sample efficiency" in shown
    for shown in (text, page([result]), markdown([result])):
        assert "gradient noise scale is 41.0 samples" in shown
    assert "The model has BatchNorm" in text and "Look for the learning rate around" in text
    assert "steps in 2 epochs" in page([result])
    assert "time to quality" in figures([result]) and "time to quality" in figures([result, result])
    assert "time to quality" not in figures([example_result()])


def test_the_callers_learning_rate_belongs_to_their_batch_though_the_warm_up_took_a_smaller_one() -> None:
    result = about_quality()
    assert result.gradients is not None
    workload = msgspec.structs.replace(result.workload, training=Training("SGD", 0.1, 256))
    found = training_now(result.gradients, workload)
    assert found is not None and found.batch_size == 256
    assert result.gradients.micro_batch_size * result.gradients.micro_batches != 256


def test_training_now_is_that_of_the_warm_up() -> None:
    found = quality_of(about_quality())
    assert found.outlooks[0].learning_rate_gain is not None
    at_base = quality(SPEED, known(50.0), spec(), Training("SGD", 0.1, 32)).outlooks[5]
    assert (at_base.batch_size, at_base.learning_rate) == (32, pytest.approx(0.1))
