"""The tracker over tensors with data, against what their storages say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autotune.forecast.records import Event, Rules
from autotune.forecast.tracker import ByteTracker, Owner, Workspace, tell_nodes


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=40), st.sampled_from(Rules))
def test_live_bytes_are_those_of_the_storages_that_live(deeds: list[tuple[bool, int]], rules: Rules) -> None:
    unit = {Rules.CPU: 64, Rules.CUDA: 512}[rules]
    held: list[torch.Tensor] = []
    most = 0
    with ByteTracker(rules) as tracker:
        for takes, number in deeds:
            if takes:
                held.append(torch.empty(number, dtype=torch.uint8))
            elif held:
                held.pop(number % len(held))
            expected = sum(-(-t.numel() // unit) * unit for t in held)
            assert tracker.live_bytes == expected
            most = max(most, expected)
    assert tracker.peak.total_bytes == most
    assert sum(event.size_bytes for event in tracker.events) == sum(t.numel() for t in held)


def test_views_share_a_storage_and_it_dies_with_the_last() -> None:
    with ByteTracker() as tracker:
        whole = torch.zeros(100)
        part = whole[10:20].t()
        del whole
        assert tracker.live_bytes == 448  # 400, rounded up to 64
        del part
    assert tracker.events == [Event(0, 400), Event(0, -400)]


def test_a_storage_that_is_resized_takes_new_memory_before_it_frees_the_old() -> None:
    with ByteTracker() as tracker:
        tensor = torch.zeros(16)
        tensor.resize_(64)
        assert tracker.live_bytes == 256
        assert tracker.peak.total_bytes == 64 + 256
        del tensor
    assert tracker.events == [Event(0, 64), Event(1, 256), Event(0, -64), Event(1, -256)]
    assert tracker.composition().temporary_bytes == tracker.peak.total_bytes


def test_what_is_resized_belongs_to_whom_it_did() -> None:
    batch = torch.zeros(16)
    with ByteTracker() as tracker:
        tracker.give([batch], Owner.BATCH)
        batch.untyped_storage().resize_(4 * 1000)  # which no operator shows
        doubled = batch * 2
        made = torch.zeros(16)
        made.resize_(2000)
    assert doubled.shape == batch.shape
    parts = tracker.composition()
    assert (parts.batch_bytes, parts.parameters_bytes) == (4032, 0)


def test_what_a_kernel_takes_inside_itself_counts_at_the_peak_only() -> None:
    with ByteTracker(Rules.CUDA, transients={torch.ops.aten.mm.default: lambda *_: Workspace(after=[1000])}) as tracker:
        product = torch.zeros(16, 16) @ torch.zeros(16, 16)
    assert product.shape == (16, 16)
    assert tracker.live_bytes == 1024
    assert tracker.peak.total_bytes == 3 * 1024 + 1024
    assert tracker.peak.operator == "aten.mm.default"
    assert tracker.composition().temporary_bytes == 4 * 1024


def test_a_workspace_is_born_and_dies_around_the_result() -> None:
    workspace = Workspace(throughout=[10], before=[200, 300], across=[4000], after=[50])
    tensor = torch.zeros(16)
    with ByteTracker(transients={torch.ops.aten.neg.default: lambda *_: workspace}) as tracker:
        result = tensor.neg()
    sizes = {number: size for number, size in tracker.events if size > 0}
    order = [size if size > 0 else -sizes[number] for number, size in tracker.events]
    assert order == [64, 10, 200, 300, 4000, -200, -300, result.nbytes, -4000, 50, -50, -10]
    assert tracker.live_bytes == tensor.nbytes + result.nbytes
    assert tracker.peak.total_bytes == 64 + 64 + 256 + 320 + 4032  # rounded up to 64; the result is not there yet


class Sends(torch.autograd.Function):
    """Its gradient is a tensor that is made by the function given, and noted."""

    @staticmethod
    def forward(ctx: Any, data: torch.Tensor, make: Callable[[], torch.Tensor], sent: list[int]) -> torch.Tensor:
        ctx.make, ctx.sent = make, sent
        return data * 2

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = ctx.make()
        ctx.sent.append(gradient.data_ptr())
        return gradient, None, None


class Receives(torch.autograd.Function):
    """Notes where the gradient lies that it is given."""

    @staticmethod
    def forward(ctx: Any, data: torch.Tensor, received: list[int]) -> torch.Tensor:
        ctx.received = received
        return data * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.received.append(gradient.data_ptr())
        return gradient, None


def _sums_in_place(make: Callable[[], torch.Tensor], *, create_graph: bool = False) -> bool:
    """Whether the sum of two gradients lies where one of them lay."""
    sent, received = list[int](), list[int]()
    data = Receives.apply(torch.ones(8, 8, requires_grad=True), received)
    loss = (Sends.apply(data, make, sent) + Sends.apply(data, make, sent)).sum()
    loss.backward(create_graph=create_graph)
    return received[0] in sent


HELD = torch.ones(8, 8)


@pytest.mark.parametrize(
    ("make", "in_place"),
    [
        (lambda: torch.ones(8, 8), True),
        (lambda: torch.ones(8, 8).t(), False),
        (lambda: HELD, False),
        (lambda: HELD[:], False),
        (lambda: torch.ones(8, 16)[:, ::2], False),
        (lambda: torch.ones(8, 1).expand(8, 8), False),
    ],
    ids=["fresh", "transposed", "held", "view", "with gaps", "overlapping"],
)
def test_gradients_are_summed_in_place_where_torch_does_so_unwatched(
    make: Callable[[], torch.Tensor], in_place: bool
) -> None:
    assert _sums_in_place(make) == in_place
    with ByteTracker():
        assert _sums_in_place(make) == in_place


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph")
def test_a_sum_that_is_differentiated_in_turn_is_not_in_place() -> None:
    def make() -> torch.Tensor:
        return torch.ones(8, 8)

    assert not _sums_in_place(make, create_graph=True)
    with ByteTracker():
        assert not _sums_in_place(make, create_graph=True)


def test_storages_inside_kernels_are_bare_and_activations_have_nodes_beside_them() -> None:
    neg = torch.ops.aten.neg.default
    data = torch.ones(8, requires_grad=True)
    with ByteTracker(transients={neg: lambda *_: Workspace(before=[100])}) as tracker:
        kept = data.neg().exp()
        tell_nodes(kept, 3)
        loss = kept.sum()
        loss.backward()
        tracker.end_step()
    sizes = {number: size for number, size in tracker.events if size > 0}
    beside = tracker.surroundings()
    assert [sizes[number] for number in beside.bare] == [100, 100]  # forward and backward
    assert sorted(set(beside.activations.values())) == [1, 3]  # what exp keeps has three
    assert [*beside.activations.values()].count(3) == 1
    assert beside.step_ends == (len(tracker.events),)


def test_other_results_come_when_the_first_ones_workspace_is_gone() -> None:
    norm = torch.ops.aten.native_layer_norm.default
    workspace = Workspace(throughout=[10], before=[200], across=[4000], after=[3000], across_others=[50])
    tensor = torch.zeros(8, 64)
    with ByteTracker(transients={norm: lambda *_: workspace}) as tracker:
        result, mean, deviation = norm(tensor, [64], None, None, 1e-5)
    sizes = {number: size for number, size in tracker.events if size > 0}
    order = [size if size > 0 else -sizes[number] for number, size in tracker.events]
    first = [tensor.nbytes, 10, 200, 4000, -200, result.nbytes, -4000]
    assert order == [*first, 3000, 50, -3000, mean.nbytes, deviation.nbytes, -50, -10]
    assert tracker.peak.total_bytes == 64 + 2 * 2048 + 4032  # rounded up to 64


def test_an_operator_has_one_node_however_much_it_returns() -> None:
    data = torch.ones(8, 64, requires_grad=True)
    with ByteTracker() as tracker:
        torch.nn.functional.layer_norm(data, [64]).sum().backward()
        tracker.end_step()
    sizes = {number: size for number, size in tracker.events if size > 0}
    nodes = tracker.surroundings().activations
    assert sorted(nodes[number] for number in nodes if sizes[number] == 8 * 4) == [0, 0]  # mean and deviation


def test_nothing_is_counted_while_paused_nor_on_other_devices() -> None:
    with ByteTracker(device_type="cuda") as tracker:
        elsewhere = torch.zeros(100)
    with ByteTracker() as paused, paused.paused():
        unseen = torch.zeros(100)
    assert elsewhere.shape == unseen.shape
    assert tracker.events == paused.events == []


def test_a_constant_that_nobody_gave_is_seen_where_it_is_used() -> None:
    constant = torch.ones(1000)
    with ByteTracker() as tracker:
        scaled = constant * 2
    assert scaled.shape == constant.shape
    assert tracker.live_bytes == 2 * 4032
    assert tracker.composition().parameters_bytes == 4032


def test_each_phase_has_a_peak_and_each_byte_an_owner() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256))
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    weights_bytes = sum(p.nbytes for p in model.parameters())
    batch = torch.zeros(32, 256)
    tracker = ByteTracker()
    tracker.give(model.parameters(), Owner.PARAMETERS)
    tracker.give([batch], Owner.BATCH)
    with tracker:
        for _ in range(2):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            tracker.end_step()
    assert set(tracker.phase_peak_bytes) == {"forward", "backward", "optimizer"}
    assert max(tracker.phase_peak_bytes.values()) == tracker.peak.total_bytes
    parts = tracker.composition()
    assert tracker.peak.phase == "optimizer"
    assert parts.parameters_bytes == parts.gradients_bytes == weights_bytes
    assert parts.optimizer_bytes == pytest.approx(2 * weights_bytes, rel=0.01)  # two moments, and the step counts
    assert parts.batch_bytes == 32 * 256 * 4
    assert sum(getattr(parts, name) for name in parts.__struct_fields__) == tracker.peak.total_bytes


def test_activations_are_what_the_forward_pass_leaves() -> None:
    weight = torch.ones(64, 64, requires_grad=True)
    tracker = ByteTracker()
    tracker.give([weight], Owner.PARAMETERS)
    with tracker:
        hidden = torch.zeros(1000, 64)
        (hidden @ weight).exp().sum().backward()
        tracker.end_step()
    assert tracker.peak.phase == "backward"
    assert tracker.composition().activations_bytes >= 2 * hidden.nbytes  # the input and the exponential
