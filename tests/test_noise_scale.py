"""The gradient noise scale: against a problem whose answer is known, and where there is none."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset

from autotune.bench import Bench
from autotune.devices import open_device
from autotune.executors import GradientsRequest
from autotune.gradient_noise import has_diverged, measure_gradients, split
from autotune.noise_scale import noise_scale
from autotune.trial import Gradients
from autotune.workloads import BuildOptions
from autotune.workloads.live import LiveParts, from_live

DIMENSIONS = 20


def gradients(square_norms: list[float], mean_square_norms: list[float], **changes: Any) -> Gradients:
    given_: dict[str, Any] = {"micro_batch_size": 8, "micro_batches": 4, "losses": (), "optimizer": "SGD"}
    return Gradients(square_norms=tuple(square_norms), mean_square_norms=tuple(mean_square_norms), **given_ | changes)


def simulated(seed: int, steps: int = 160, noise: float = 1.0) -> tuple[Gradients, float]:
    """Gradients of a linear regression at a fixed weight, and its true noise scale.

    With x standard normal in d dimensions, y = x·w* + e, and d the distance to w*: a sample's gradient is x(x·d - e),
    so G = d, and tr(Σ) = E|g|² - |G|² = (dim + 2)|d|² + dim·var(e) - |d|².
    """
    chance = torch.Generator().manual_seed(seed)
    distance = 0.3 * torch.randn(DIMENSIONS, generator=chance)
    x = torch.randn(steps, 4, 8, DIMENSIONS, generator=chance)
    residual = x @ distance - noise * torch.randn(steps, 4, 8, generator=chance)
    found = (x * residual[..., None]).mean(2)
    squares, means = found.square().sum(2).mean(1), found.mean(1).square().sum(1)
    signal = float(distance.square().sum())
    return gradients(squares.tolist(), means.tolist()), ((DIMENSIONS + 1) * signal + DIMENSIONS * noise**2) / signal


def test_the_interval_holds_the_truth_as_often_as_it_promises() -> None:
    seeds = 200
    held = errors = 0.0
    for seed in range(seeds):
        measured, truth = simulated(seed)
        found = noise_scale(measured)
        assert found.value is not None and found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
        errors += math.log(found.value / truth)
    allowed = 3 * math.sqrt(0.95 * 0.05 * seeds)  # standard errors of a count
    assert held >= 0.95 * seeds - allowed
    assert abs(errors / seeds) < 0.05  # no bias to speak of


class Line(Dataset):
    """The same regression as samples of a dataset, large enough that its own moments are those of the law."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(0)
        self.x = torch.randn(20_000, DIMENSIONS, generator=chance)
        self.y = self.x.sum(1, keepdim=True) * 0.3 + torch.randn(20_000, 1, generator=chance)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


def bench_of(model: nn.Module, data: Any = None, **parts: Any) -> Bench:
    options = BuildOptions(device="cpu", mode="train")
    given_ = {"loss": nn.MSELoss(), "optimizer": torch.optim.SGD(model.parameters(), lr=1e-9)} | parts
    workload = from_live(LiveParts(model=model, data=Line() if data is None else data, **given_), options)
    return Bench(workload=workload, device=open_device("cpu"), mode="train")


def test_real_steps_of_a_real_model_measure_it_too() -> None:
    """The weight stays where it is, at 0, so that the truth is known; the factor 2 of a squared loss cancels."""
    torch.manual_seed(0)
    model = nn.Linear(DIMENSIONS, 1, bias=False)
    nn.init.zeros_(model.weight)
    measured = measure_gradients(bench_of(model), GradientsRequest(batch_size=32, steps=400))
    assert (measured.micro_batch_size, measured.micro_batches) == (8, 4)
    assert (measured.optimizer, measured.learning_rate) == ("SGD", 1e-9)
    found = noise_scale(measured)
    signal = DIMENSIONS * 0.3**2
    truth = ((DIMENSIONS + 1) * signal + DIMENSIONS) / signal
    assert found.value == pytest.approx(truth, rel=0.15)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_the_norms_are_those_of_each_micro_batch_and_of_their_mean(micro_batches: int) -> None:
    model = nn.Sequential(nn.Linear(DIMENSIONS, 4), nn.Tanh(), nn.Linear(4, 1))
    batch = Line()[:8]
    bench = bench_of(model, data=lambda _size: batch)  # each micro-batch is the same
    loss = nn.functional.mse_loss(model(batch[0]), batch[1])
    loss.backward()
    square = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
    measured = measure_gradients(bench, GradientsRequest(batch_size=8 * micro_batches, steps=1))
    assert measured.losses[0] == pytest.approx(loss.item())
    assert measured.square_norms[0] == pytest.approx(square, rel=1e-4)
    assert measured.mean_square_norms[0] == pytest.approx(square, rel=1e-4)


def test_the_optimizer_really_steps_and_hooks_do_not_stay() -> None:
    model = nn.Linear(DIMENSIONS, 1)
    bench = bench_of(model, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3))
    measured = measure_gradients(bench, GradientsRequest(batch_size=32, steps=60, learning_rate=0.05))
    assert measured.losses[-1] < measured.losses[0]
    assert measured.learning_rate == 0.05
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_training_that_diverges_says_so() -> None:
    model = nn.Linear(DIMENSIONS, 1)
    bench = bench_of(model, optimizer=torch.optim.SGD(model.parameters(), lr=10.0))
    measured = measure_gradients(bench, GradientsRequest(batch_size=32, steps=100))
    assert measured.has_diverged and len(measured.losses) < 100
    assert noise_scale(measured).why_not == "training diverged"
    assert msgspec.json.decode(msgspec.json.encode(measured), type=Gradients) == measured  # no figure that JSON lacks


def test_batch_norm_gets_micro_batches_of_eight_at_least_and_it_is_said() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    size, count, notes = split(8, model)
    assert (size, count) == (8, 2)
    assert "BatchNorm" in notes[0] and "2 micro-batches of 8 stand for 8 samples" in notes[1]
    assert split(8, model[0]) == (4, 2, ())
    assert split(128, model[0]) == (16, 8, ())


# where there is no answer


@pytest.mark.parametrize(
    ("squares", "means", "why"),
    [
        ([1.0] * 80, [0.25] * 80, "lost in its noise"),  # the mean shrinks as that of pure noise does: |G|² = 0
        ([1.0] * 80, [0.2] * 80, "lost in its noise"),  # |G|² < 0
        ([1.0] * 80, [1.0] * 80, "do not differ"),
        ([math.nan] * 80, [1.0] * 80, "not finite"),
        ([1.0] * 20, [0.5] * 20, "only 10 steps"),
        ([5.0, 0.1] * 40, [1.2, 0.1] * 40, ""),
    ],
)
def test_what_cannot_be_determined_is_not_made_up(squares: list[float], means: list[float], why: str) -> None:
    found = noise_scale(gradients(squares, means))
    assert why in found.why_not
    if why:
        assert (found.value, found.high) == (None, None)


def test_an_upper_end_without_bound_leaves_a_lower_one() -> None:
    found = noise_scale(simulated(0, steps=50, noise=30.0)[0])
    assert found.value is None and found.high is None
    assert found.low is not None and found.low > 0


@given(st.floats(0.01, 100), st.floats(1e-6, 1e6))
def test_the_scale_of_the_loss_does_not_matter(noise: float, scale: float) -> None:
    squares, means = [1 + noise / 8] * 80, [1 + noise / 32] * 80
    found = noise_scale(gradients([scale * q for q in squares], [scale * p for p in means]))
    assert found.value == pytest.approx(noise, rel=1e-3)


def test_losses_that_end_far_above_where_they_began_have_diverged() -> None:
    assert has_diverged([1.0, math.inf])
    assert has_diverged([1.0] * 20 + [3.0] * 20)
    assert not has_diverged([3.0] * 20 + [1.0] * 20)
