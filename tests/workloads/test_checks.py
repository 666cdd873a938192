from __future__ import annotations

import pytest
import torch
from torch import nn

from autotune.errors import WorkloadError
from autotune.workloads.checks import check_batch, watch_inputs


class Keywords(nn.Module):
    """Takes its input by keyword."""

    def forward(self, *, x):
        return x


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(8, 3),
        torch.zeros(5, 8, 3),
        (torch.zeros(()), {"x": torch.zeros(8)}),
        [torch.zeros(3, 5)] * 8,
        (["text"] * 8, "meta"),
        object(),
    ],
)
def test_a_batch_in_which_the_size_shows_passes(batch):
    check_batch(batch, 8)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (torch.zeros(4, 8, 8)[:, :3], "float32[4, 3, 8]"),
        ((torch.zeros(1, 7), torch.zeros(1)), "float32[1, 7], float32[1]"),
        (["text"] * 7, "list of 7"),
        (None, "NoneType"),
        ({}, "nothing"),
    ],
)
def test_a_make_batch_that_ignores_its_argument_is_caught(batch, text):
    with pytest.raises(WorkloadError) as caught:
        check_batch(batch, 8)
    assert caught.value.message == f"make_batch(8) returned {text}, no dimension of which is 8."


def test_a_model_that_sees_a_part_is_caught():
    model = nn.Linear(3, 3)
    with pytest.raises(WorkloadError, match=r"saw only 1 of the 8 samples"), watch_inputs(model, 8):
        model(torch.zeros(8, 3)[:1])
    assert not model._forward_pre_hooks


def test_a_step_that_runs_no_model_is_caught():
    with pytest.raises(WorkloadError, match="never called the model"), watch_inputs(nn.Linear(3, 3), 8):
        pass


@pytest.mark.parametrize(
    "calls",
    [
        [torch.zeros(8, 3)],
        [torch.zeros(2, 3)] * 4,  # in parts
        [torch.zeros(8, 3)] * 2,  # two views of each sample
        [torch.zeros(40, 3)],  # five tokens a sample
        [torch.zeros(5, 8, 3)],  # time first
    ],
)
def test_a_model_that_sees_all_passes(calls):
    model = nn.Linear(3, 3)
    with watch_inputs(model, 8):
        for call in calls:
            model(call)


def test_inputs_by_keyword_are_seen():
    model = Keywords()
    with watch_inputs(model, 8):
        model(x=torch.zeros(8))
    with pytest.raises(WorkloadError, match="saw only 2 of the 8"), watch_inputs(model, 8):
        model(x=torch.zeros(2))


def test_a_loop_that_calls_the_parts_of_a_model_passes():
    model = nn.ModuleDict({"generator": nn.Linear(3, 3), "critic": nn.Linear(3, 1)})
    with watch_inputs(model, 8):
        model["critic"](model["generator"](torch.zeros(8, 3)))
    with pytest.raises(WorkloadError, match="saw only 3 of the 8"), watch_inputs(model, 8):
        model["critic"](torch.zeros(3, 3))


def test_an_input_that_cannot_be_looked_into_passes():
    class Graph(nn.Module):
        def forward(self, graph):
            return graph

    model = Graph()
    with watch_inputs(model, 8):
        model(object())


def test_the_hooks_go_also_when_the_step_raises_and_its_error_stays():
    model = nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watch_inputs(model, 8):
        model(torch.zeros(8, 5))
    assert not model._forward_pre_hooks


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Guards may run slower")
def test_compiled_modules_are_watched_from_outside_and_not_compiled_again():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    model = torch.compile(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), backend=counter)
    for _ in range(2):
        with watch_inputs(model, 8):
            model(torch.zeros(8, 3))
        model(torch.zeros(8, 3))
    assert counter.frame_count == 1
    with pytest.raises(WorkloadError, match="saw only 8 of the 9"), watch_inputs(model, 9):
        model(torch.zeros(8, 3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_module_passes_and_is_watched_within_another():
    scripted = torch.jit.script(nn.Linear(3, 3))
    with watch_inputs(scripted, 8):
        scripted(torch.zeros(8, 3))
    outer = nn.Sequential(scripted)
    with pytest.raises(WorkloadError, match="saw only 2 of the 8"), watch_inputs(outer, 8):
        outer(torch.zeros(2, 3))


def test_without_a_model_there_is_nothing_to_watch():
    with watch_inputs(None, 8):
        pass


def called_whole(model):
    model(torch.zeros(8, 3, 8))


def called_in_parts(model):
    model(torch.zeros(4, 3, 8))
    model(torch.zeros(4, 3, 8))


def called_layer_by_layer(model):
    called_whole(model.layers[0])
    called_whole(model.layers[1])


@pytest.mark.parametrize("step", [called_whole, called_in_parts, called_layer_by_layer])
def test_the_fused_encoder_of_inference_runs_as_without_being_watched(step, monkeypatch):
    """Torch's encoder layer takes it only where no part of the layer has a hook."""
    fused, run_fused = [], torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *args: fused.append(args) or run_fused(*args))
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    with torch.no_grad():
        step(model)
        expected = len(fused)
        with watch_inputs(model, 8):
            step(model)
    assert expected > 0 and len(fused) == 2 * expected
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_a_lone_encoder_layer_is_watched_without_a_hook_while_it_runs(monkeypatch):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    fused, run_fused = [], torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *args: fused.append(args) or run_fused(*args))
    with torch.no_grad(), watch_inputs(layer, 8):
        called_whole(layer)
    assert len(fused) == 1


def test_what_was_seen_counts_though_its_hooks_are_gone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(WorkloadError, match="saw only 3 of the 8"), watch_inputs(model, 8):
        model[0](torch.zeros(8, 3))  # all, but then the model itself is called with less
        model(torch.zeros(3, 3))
