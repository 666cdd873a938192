from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from autotune.errors import UsageError, WorkloadError
from autotune.workloads import BuildOptions
from autotune.workloads.checks import watch_inputs
from autotune.workloads.plain import Parts, assemble
from autotune.workloads.sources import Source

TRAIN = BuildOptions(device="cpu", mode="train")


def make_batch(batch_size):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch_size, 4, generator=generator), torch.randint(3, (batch_size,), generator=generator)


def parts(**changes):
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    return Parts(**{"name": "net", "source": Source(make_batch=make_batch), "model": model, **changes})


class Recorder(nn.Module):
    """A linear model that notes the number format of what it computes, and whether gradients are on."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.seen = []

    def forward(self, x):
        output = self.inner(x)
        self.seen.append((output.dtype, torch.is_inference_mode_enabled(), self.training))
        return output


def test_a_step_equals_the_loop_written_by_hand():
    torch.manual_seed(0)
    workload = assemble(parts(loss=cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)), TRAIN)
    by_hand = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    by_hand.load_state_dict(workload.model.state_dict())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(3):
        x, y = make_batch(8)
        optimizer.zero_grad()
        expected = cross_entropy(by_hand(x), y)
        expected.backward()
        optimizer.step()
        assert torch.equal(workload.training_step((x, y)), expected)
    for ours, theirs in zip(workload.model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_accumulation_has_the_gradient_of_the_big_batch():
    x, y = make_batch(32)
    built = parts(loss=cross_entropy, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    workload = assemble(built, TRAIN)
    workload.training_step((x, y))
    whole = [parameter.grad.clone() for parameter in workload.model.parameters()]
    workload.accumulated_step(list(zip(x.split(8), y.split(8), strict=True)))
    for parameter, expected in zip(workload.model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_the_forward_pass_and_weights_stay_fp32(precision, dtype):
    model = Recorder()
    workload = assemble(parts(model=model, loss=cross_entropy), replace(TRAIN, precision=precision))
    before = model.inner.weight.detach().clone()
    workload.training_step(make_batch(8))
    workload.accumulated_step([make_batch(8), make_batch(8)])
    assert {seen[0] for seen in model.seen} == {dtype}
    assert model.inner.weight.dtype == torch.float32
    assert not torch.equal(before, model.inner.weight)


def test_fp16_scales_the_loss_so_that_small_gradients_survive():
    model = nn.Linear(4, 1, bias=False)
    factor = 1e-9  # below what fp16 can hold

    def loss(output, target):
        return (output.float() * factor).sum()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    workload = assemble(parts(model=model, loss=loss, optimizer=optimizer), replace(TRAIN, precision="fp16"))
    workload.training_step(make_batch(8))
    assert model.weight.grad.abs().max() > 0


def test_inference_runs_without_gradients_and_in_evaluation_mode():
    model = Recorder()
    options = BuildOptions(device="cpu", mode="inference", precision="bf16")
    workload = assemble(parts(model=model, loss=cross_entropy), options)
    assert workload.inference_step(make_batch(8)).shape == (8, 3)
    assert model.seen == [(torch.bfloat16, True, False)]


@pytest.mark.parametrize(
    ("loss", "message", "remedy"),
    [
        (lambda o, t: cross_entropy(o, t, reduction="none"), "The loss has shape [8]", "return loss.mean()"),
        (lambda o, t: o.sum().item(), "The loss is a float, not a tensor.", "without .item()"),
        (lambda o, t: o.argmax(), "The loss is int64[], not floating-point.", "loss.float()"),
        (lambda o, t: o.sum().detach(), "does not depend on any parameter", ".detach()"),
    ],
)
def test_a_loss_from_which_training_cannot_start_is_refused_with_the_line_to_add(loss, message, remedy):
    workload = assemble(parts(loss=loss), TRAIN)
    with pytest.raises(WorkloadError) as caught:
        workload.training_step(make_batch(8))
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_model_without_loss_is_told_what_it_returned():
    workload = assemble(parts(source=Source(make_batch=lambda n: torch.zeros(n, 4))), TRAIN)
    with pytest.raises(WorkloadError) as caught:
        workload.training_step(torch.zeros(8, 4))
    assert "the model returned float32[8, 3], which is not one" in caught.value.message
    assert "Add a loss" in caught.value.remedy


def test_the_models_own_error_comes_out_as_it_is():
    workload = assemble(parts(loss=cross_entropy), TRAIN)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        workload.training_step((torch.zeros(8, 5), torch.zeros(8, dtype=torch.long)))


def test_a_lazy_model_learns_its_shapes_before_its_optimizer_is_made():
    model = nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    workload = assemble(parts(model=model, loss=cross_entropy), TRAIN)
    assert model[0].weight.shape == (16, 4)
    assert model.training
    before = model[0].weight.detach().clone()
    workload.training_step(make_batch(8))
    assert not torch.equal(before, model[0].weight)


def test_frozen_parameters_are_not_given_to_the_optimizer():
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 3))
    model[0].requires_grad_(False)
    given = []
    assemble(parts(model=model, optimizer=lambda p: given.extend(p) or torch.optim.SGD(p, lr=0.1)), TRAIN)
    assert [id(p) for p in given] == [id(p) for p in model[1].parameters()]


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids)).transpose(1, 2)

    ids = torch.randint(20, (4, 6))
    workload = assemble(parts(model=Tied(), loss=cross_entropy), TRAIN)
    workload.training_step((ids, ids))
    assert workload.model.head.weight is workload.model.table.weight


def test_a_step_for_the_other_mode_alone_is_refused_with_both_ways_out():
    own = parts(model=None, training_step=lambda batch: None)
    with pytest.raises(UsageError) as caught:
        assemble(own, BuildOptions(device="cpu", mode="inference"))
    assert caught.value.message == "net has training_step and no inference_step, but the mode is inference."
    assert "def inference_step(batch):" in caught.value.remedy
    assert "--mode train" in caught.value.remedy


def test_a_step_that_is_no_function_is_refused():
    with pytest.raises(UsageError, match="The step of net is a int, not a function"):
        assemble(parts(training_step=3), TRAIN)


def test_neither_model_nor_step_is_refused():
    with pytest.raises(UsageError, match=r"net has no model and no training_step, but the mode is train"):
        assemble(parts(model=None), TRAIN)


@pytest.mark.filterwarnings("ignore")
def test_compile_runs_the_compiled_model_under_watch():
    workload = assemble(parts(loss=cross_entropy), replace(TRAIN, compile=True))
    assert hasattr(workload.model, "_orig_mod")
    before = workload.model._orig_mod[0].weight.detach().clone()
    with watch_inputs(workload.model, 8):
        workload.training_step(make_batch(8))
    assert not torch.equal(before, workload.model._orig_mod[0].weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_trained_optimizer_follows_its_model_to_the_gpu(precision):
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    cross_entropy(model(make_batch(8)[0]), make_batch(8)[1]).backward()
    optimizer.step()
    options = BuildOptions(device="cuda:0", mode="train", precision=precision)
    workload = assemble(parts(model=model, optimizer=optimizer, loss=cross_entropy), options)
    assert optimizer.state[model.weight]["exp_avg"].is_cuda
    x, y = make_batch(8)
    assert workload.training_step((x.cuda(), y.cuda())).is_cuda


def test_a_look_at_the_loss_is_in_evaluation_mode_and_puts_each_part_back():
    model = nn.Sequential(Recorder(), nn.Dropout(0.5))
    workload = assemble(parts(model=model, loss=cross_entropy), TRAIN)
    model[1].eval()
    assert isinstance(workload.evaluate(make_batch(8)), float)
    assert model[0].seen == [(torch.float32, False, False)]
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
