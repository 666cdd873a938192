"""One stand-in for all steps of a recurrent layer, against following each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forecast_child import forecast, in_child, model_file, truth
from torch import nn

from autotune.forecast.recurrence import CELLS, _kept
from autotune.forecast.tracker import NODES
from autotune.spec import Mode, Precision

LAYERS = """
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.{layers}
        def forward(self, x):
            return self.layers(x)[0]
    model = Recurrent()
    loss = lambda output, target: output.square().mean()
    def make_batch(n):
        return torch.randn({shape}), torch.randn(n)
"""
NEAR = 0.02
"""What the temporaries of a single step, and what autocast converts, leave."""


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ("GRU(32, 64, num_layers=2, batch_first=True)", "n, 60, 32"),
        ("GRU(32, 64, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)", "n, 60, 32"),
        ("GRU(64, 64, bias=False, batch_first=True)", "n, 200, 64"),
        ("RNN(32, 64, num_layers=2, bidirectional=True, batch_first=True)", "n, 60, 32"),
        ("RNN(32, 64, nonlinearity='relu', batch_first=True)", "n, 60, 32"),
    ],
)
def test_a_layer_holds_what_all_its_steps_hold(tmp_path: Path, layers: str, shape: str) -> None:
    file = model_file(tmp_path, LAYERS.format(layers=layers, shape=shape))
    ran, (said,) = truth(file, 200), forecast(file, 200).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=NEAR)
    assert said.operators < ran.operators / 5


def test_a_sequence_that_comes_first_in_the_shape_is_followed_too(tmp_path: Path) -> None:
    text = LAYERS.format(layers="GRU(32, 64)", shape="n, 60, 32").replace(
        "self.layers(x)", "self.layers(x.transpose(0, 1))"
    )
    file = model_file(tmp_path, text)
    ran, (said,) = truth(file, 200), forecast(file, 200).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=NEAR)


@pytest.mark.parametrize(("mode", "precision"), [(Mode.INFERENCE, Precision.FP32), (Mode.TRAIN, Precision.BF16)])
def test_inference_and_autocast_are_followed(tmp_path: Path, mode: Mode, precision: Precision) -> None:
    file = model_file(tmp_path, LAYERS.format(layers="GRU(32, 64, num_layers=2, batch_first=True)", shape="n, 60, 32"))
    ran = truth(file, 200, mode=mode, precision=precision)
    (said,) = forecast(file, 200, mode=mode, precision=precision).footprints
    assert said.peak_bytes == pytest.approx(ran.peak_bytes, rel=NEAR)


def _shapes() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    import torch
    from torch import nn

    from autotune.forecast.records import Rules
    from autotune.forecast.world import fake_world

    def run() -> list[tuple[int, ...]]:
        both = nn.GRU(3, 5, num_layers=2, bidirectional=True)
        output, state = both(torch.zeros(20, 4, 3))
        single, last = both(torch.zeros(20, 3))
        return [tuple(t.shape) for t in (output, state, single, last)]

    with fake_world(Rules.CPU):
        followed = run()
    return followed, run()


def test_shapes_are_those_of_the_layer_also_without_a_batch() -> None:
    followed, ran = in_child(_shapes)
    assert followed == ran


def _nodes_of(result: Any) -> int:
    """All nodes of autograd that a result came from."""
    seen, ahead = set[Any](), [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize(("kind", "name"), [(nn.GRU, "gru"), (nn.RNN, "rnn_tanh")])
def test_a_step_has_the_nodes_that_one_more_step_of_the_layer_makes(kind: type[nn.RNNBase], name: str) -> None:
    layer = kind(3, 5, batch_first=True)
    shorter, longer = (_nodes_of(layer(torch.zeros(2, steps, 3))[0]) for steps in (20, 21))
    kept = _kept(CELLS[name], torch.zeros(2, 3), torch.zeros(2, 5), layer._flat_weights)
    assert abs(kept.nodes - (longer - shorter)) <= 1
    told = [getattr(tensor.untyped_storage(), NODES) for tensor in kept.tensors(torch.device("cpu"))]
    assert sum(told) == kept.nodes
    assert max(told) - min(told) <= 1
