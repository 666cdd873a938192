"""What operators hide, against what they hold when they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forecast_child import _bench, forecast, in_child, model_file, needs_bf16, truth
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autotune.errors import NoForecastError
from autotune.forecast.opaque import (
    OpaqueOperatorError,
    Rehearsal,
    Result,
    is_opaque,
    lesson,
    reduced_losses,
    stop_at_opaque,
)
from autotune.forecast.records import Footprint, Rules
from autotune.forecast.tracker import ByteTracker
from autotune.spec import Precision


class Losses(TorchDispatchMode):  # type: ignore[misc]
    """Compares what is said of each operator with the storage of what it returned."""

    said: list[tuple[int, int]]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.said += [(size, tensor.untyped_storage().nbytes()) for tensor, size in reduced_losses(func, args, {}, out)]
        return out


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [F.mse_loss, F.smooth_l1_loss, F.soft_margin_loss, F.binary_cross_entropy])
def test_a_reduced_loss_holds_the_memory_of_all_its_elements(loss: Callable[..., Any], reduction: str) -> None:
    mode = Losses()
    mode.said = []
    with mode:
        loss(torch.rand(50, 7), torch.ones(50, 7), reduction=reduction)
        loss(torch.rand(50, 7), torch.ones(50, 7), reduction="none")
    assert mode.said == [(1400, 1400)]


PAGES = 5e-3  # what oneDNN's rounding up to pages leaves

RECURRENT = """
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.{kind}(32, 64, num_layers=2, batch_first=True)
        def forward(self, x):
            return self.layers(x)[0]
    model = Recurrent()
    loss = nn.functional.mse_loss
    def make_batch(n):
        return torch.randn(n, 50, 32), torch.randn(n, 50, 64)
"""


@pytest.mark.parametrize(
    ("kind", "precision"), [("LSTM", "fp32"), pytest.param("LSTM", "bf16", marks=needs_bf16), ("GRU", "fp32")]
)
def test_a_recurrent_layer_s_reserve_is_learnt_by_running_it_alone(tmp_path: Path, kind: str, precision: str) -> None:
    file = model_file(tmp_path, RECURRENT.format(kind=kind))
    said = forecast(file, 100, 3, 100, precision=Precision(precision)).footprints
    ran = truth(file, 100, precision=Precision(precision))
    assert said[0].peak_bytes == pytest.approx(ran.peak_bytes, rel=PAGES)
    assert said[2].peak_bytes == said[0].peak_bytes


NORMED = """
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layers = nn.BatchNorm1d(32), nn.LSTM(32, 64, batch_first=True)
        def forward(self, x):
            return self.layers(self.norm(x)[:, None].expand(-1, 50, -1))[0]
    model = Recurrent()
    loss = nn.functional.mse_loss
    def make_batch(n):
        return torch.randn(n, 32), torch.randn(n, 50, 64)
"""


def _after_a_size_that_raises(target: str, size: int) -> Footprint:
    from autotune.forecast.run import Forecaster

    forecaster = Forecaster(_bench(target, {}), Rules.CPU)
    with pytest.raises(NoForecastError, match="more than 1 value per channel"):
        forecaster.footprint(1)
    return forecaster.footprint(size)


def test_a_reserve_is_learnt_though_the_first_size_raised(tmp_path: Path) -> None:
    file = model_file(tmp_path, NORMED)
    said: Footprint = in_child(_after_a_size_that_raises, file, 100)
    assert said.peak_bytes == pytest.approx(truth(file, 100).peak_bytes, rel=PAGES)


def test_a_run_that_watches_ends_at_a_reserve_and_at_nothing_else() -> None:
    with ByteTracker(known_sizes=(stop_at_opaque,)):
        nn.Linear(3, 3)(torch.zeros(2, 3)).sum().backward()
        with pytest.raises(OpaqueOperatorError):
            nn.LSTM(3, 3)(torch.zeros(2, 1, 3))


def test_an_extension_s_operator_is_opaque() -> None:
    library = torch.library.Library("autotune_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    assert is_opaque(torch.ops.autotune_test.twice.default)
    assert not is_opaque(torch.ops.aten.mm.default)


def test_a_lesson_goes_on_along_a_straight_line() -> None:
    seen, unseen = Result("reserve", 0, 3), Result("reserve", 0, 0)
    small = Rehearsal({seen: 0, unseen: 40}, {seen: 400, unseen: 40})
    large = Rehearsal({seen: 0, unseen: 80}, {seen: 800, unseen: 80})
    assert lesson(small, large).corrector(100).sizes_bytes == {seen: 5000}
