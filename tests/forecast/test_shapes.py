"""Batches without data against the workload's own."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from autotune.forecast.shapes import emptied, layouts_of, learn, tensors_of

Pair = namedtuple("Pair", ("inputs", "targets"))


def shifted(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.zeros(n, 129, dtype=torch.long)
    return tokens[:, :-1], tokens[:, 1:]


BATCHES: dict[str, Callable[[int], Any]] = {
    "tensor": lambda n: torch.zeros(n, 3, 8),
    "views of one storage": shifted,
    "time first": lambda n: Pair(torch.zeros(7, n, 2), torch.zeros(n, dtype=torch.uint8)),
    "channels last": lambda n: torch.zeros(n, 3, 4, 4).to(memory_format=torch.channels_last),
    "mapping": lambda n: UserDict({"x": torch.zeros(n, 2), "more": [torch.ones(2 * n), None, 3]}),
    "pairs of samples": lambda n: torch.zeros(n, n, dtype=torch.bool),
    "expanded": lambda n: torch.zeros(5).expand(n, 5),
    "not grown": lambda n: OrderedDict(x=torch.zeros(n), positions=torch.zeros(10)),
}


@pytest.mark.parametrize("make_batch", BATCHES.values(), ids=BATCHES)
@settings(max_examples=10, deadline=None)
@given(size=st.integers(1, 40))
def test_a_fake_batch_is_laid_out_as_the_real_one(make_batch: Callable[[int], Any], size: int) -> None:
    shape = learn(make_batch)
    assert shape is not None
    with FakeTensorMode():
        fake = shape.fake_batch(size, "cpu")
        found = [
            (t.dtype, t.shape, t.storage_offset(), t.untyped_storage().nbytes(), t.stride() if size > 1 else ())
            for t in tensors_of(fake)
        ]
        shared = len({t.untyped_storage()._cdata for t in tensors_of(fake)})
    real = tensors_of(make_batch(size))
    assert isinstance(fake, type(make_batch(size)))
    assert all(isinstance(tensor, FakeTensor) for tensor in tensors_of(fake))
    assert shared == len({t.untyped_storage()._cdata for t in real})
    assert found == [
        (t.dtype, t.shape, t.storage_offset(), t.untyped_storage().nbytes(), t.stride() if size > 1 else ())
        for t in real
    ]


@pytest.mark.parametrize(
    "make_batch",
    [
        lambda n: [torch.zeros(3)] * n,
        lambda n: (torch.zeros(n), ["text"] * n),
        lambda n: (torch.zeros(n), float(n)),
        lambda n: (torch.zeros(n), object()),
        lambda n: torch.zeros(n).to_sparse(),
        lambda n: torch.zeros(-(-n // 8) * 8, 3) if n > 4 else torch.zeros(n, 3),
    ],
    ids=["list of samples", "text", "number", "object", "sparse", "padded to eight"],
)
def test_nothing_is_learnt_where_batches_differ_in_more_than_sizes(make_batch: Callable[[int], Any]) -> None:
    assert learn(make_batch) is None


def test_a_real_batch_is_emptied_with_its_structure() -> None:
    batch = [{"x": torch.zeros(n, 4)} for n in (2, 5)]
    with FakeTensorMode():
        fake = emptied(batch, "cpu")
        assert layouts_of(batch[0].values()) is not None
        assert [tuple(item["x"].shape) for item in fake] == [(2, 4), (5, 4)]
    assert all(isinstance(tensor, FakeTensor) for tensor in tensors_of(fake))


def test_a_batch_of_any_size_costs_nothing() -> None:
    shape = learn(lambda n: torch.zeros(n, 1024))
    assert shape is not None
    with FakeTensorMode():
        assert shape.fake_batch(2**40, "cpu").untyped_storage().nbytes() == 2**52
