from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from autotune.workloads.batches import describe, leading_sizes, move

Pair = namedtuple("Pair", ["x", "y"])


class Encoding(UserDict):
    """A mapping that moves itself, as a tokenizer's output does."""

    def to(self, device):
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ((torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)), "float32[8, 1, 8, 8], int64[8]"),
        ({"ids": torch.zeros(2, 3, dtype=torch.int32), "label": 4}, "ids: int32[2, 3], label: int"),
        ([[torch.zeros(2), torch.zeros(3)], np.zeros((2, 2))], "(float32[2], float32[3]), float64[2, 2]"),
        (["a"] * 9, "list of 9"),
        ("abc", "str of 3"),
        (torch.zeros(()), "float32[]"),
        (object(), "object"),
    ],
)
def test_a_batch_in_words(batch, text):
    assert describe(batch) == text


def test_a_move_keeps_the_kinds_of_containers():
    tensor = torch.ones(2)
    batch = {
        "pair": Pair(tensor, [tensor]),
        "ordered": OrderedDict(a=tensor),
        "frozen": MappingProxyType({"a": tensor}),
        "encoding": Encoding(a=tensor),
        "packed": pack_sequence([tensor, tensor]),
        "text": "kept",
    }
    moved = move(batch, "meta")
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].y[0].is_meta
    assert isinstance(moved["ordered"], OrderedDict)
    assert moved["ordered"]["a"].is_meta
    assert moved["frozen"]["a"].is_meta
    assert isinstance(moved["encoding"], Encoding)
    assert moved["encoding"]["a"].is_meta
    assert isinstance(moved["packed"], PackedSequence)
    assert moved["packed"].data.is_meta
    assert moved["text"] == "kept"
    assert not batch["pair"].x.is_meta
    assert not batch["ordered"]["a"].is_meta


tensors = st.lists(st.integers(0, 3), max_size=3).map(torch.zeros)
nestings = st.recursive(
    tensors, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)


@given(nestings)
def test_any_nesting_is_moved_whole_and_described_the_same(batch):
    moved = move(batch, "meta")
    assert describe(moved) == describe(batch)
    assert leading_sizes(moved) == leading_sizes(batch)


def test_leading_sizes_of_packed_and_nested_tensors():
    packed = pack_sequence([torch.zeros(5, 2), torch.zeros(3, 2), torch.zeros(1, 2)])
    assert leading_sizes(packed) == [(3,)]
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    assert leading_sizes(nested) == [(2,)]
