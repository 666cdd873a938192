from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from autotune.errors import WorkloadError
from autotune.workloads.calling import forward_signature, inference_call, own_loss_call, split_call, whole_call

X, Y = torch.zeros(2, 4), torch.zeros(2)


class Takes(nn.Module):
    """A module whose `forward` has the signature under test."""

    def __init__(self, forward):
        super().__init__()
        self.forward = forward


@pytest.mark.parametrize("key", ["labels", "label", "target", "targets", "y"])
def test_the_target_of_a_mapping_is_found_by_name(key):
    call = split_call({"x": X, key: Y})
    assert set(call.kwargs) == {"x"}
    assert call.target is Y


def test_the_target_of_a_tuple_is_its_last():
    call = split_call([X, X, Y])
    assert call.args == (X, X)
    assert call.target is Y


@pytest.mark.parametrize("batch", [X, (X,), {"a": X}])
def test_a_loss_without_a_target_is_refused(batch):
    with pytest.raises(WorkloadError, match="the batch holds no target") as caught:
        split_call(batch)
    assert "(inputs, target)" in caught.value.remedy


def test_a_packed_sequence_is_one_input():
    packed = pack_sequence([torch.zeros(3), torch.zeros(2)])
    assert whole_call(packed).args == (packed,)


@pytest.mark.parametrize(
    ("forward", "has_loss", "inputs"),
    [
        (lambda x: x, False, 1),  # cannot take the target
        (lambda x, y: x, False, 2),  # needs two inputs, and no loss says that one is a target
        (lambda x, mask=None: x, True, 1),  # with a loss the last is its target
        (lambda x, mask: x, True, 2),  # unless the model cannot do without
        (lambda *inputs: inputs, False, 2),
    ],
)
def test_inference_gives_a_tuple_without_its_target_where_it_can(forward, has_loss, inputs):
    call = inference_call((X, Y), forward_signature(Takes(forward)), has_loss=has_loss)
    assert len(call.args) == inputs


def test_a_model_whose_signature_is_unknown_gets_all():
    call = inference_call((X, Y), None, has_loss=False)
    assert len(call.args) == 2
    assert own_loss_call((X, Y), None).args == (X, Y)


@pytest.mark.parametrize("batch", [(X, Y), {"x": X, "labels": Y}])
def test_a_forgotten_loss_is_told_where_the_model_cannot_take_the_target(batch):
    signature = forward_signature(Takes(lambda x: x))
    with pytest.raises(WorkloadError, match="There is no loss, and the model does not take the target itself"):
        own_loss_call(batch, signature)


def test_a_mapping_without_a_target_goes_whole():
    assert set(inference_call({"x": X}, forward_signature(Takes(lambda x: x)), has_loss=False).kwargs) == {"x"}


def test_inference_keeps_labels_only_where_the_model_requires_them():
    batch = {"x": X, "labels": Y}
    optional = inference_call(batch, forward_signature(Takes(lambda x, labels=None: x)), has_loss=False)
    required = inference_call(batch, forward_signature(Takes(lambda x, labels: x)), has_loss=False)
    assert set(optional.kwargs) == {"x"}
    assert set(required.kwargs) == {"x", "labels"}
