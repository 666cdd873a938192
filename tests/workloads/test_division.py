"""Data in two parts: nothing is in both, nothing is lost, and every process divides alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from autotune.errors import UsageError
from autotune.workloads.division import by_index
from autotune.workloads.sources import Source, from_sample, source_of


class Stream(IterableDataset[Any]):
    """The numbers from 0 to 99, in this order, each time that it is iterated over."""

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.arange(100.0))


def kinds() -> dict[str, Source]:
    numbers = torch.arange(100.0)
    return {"tensor": source_of(numbers), "list": source_of(list(numbers)), "stream": source_of(Stream())}


@given(
    size=st.integers(2, 60), held_out=st.integers(1, 30), batch_size=st.integers(1, 20), seed=st.integers(0, 2**31 - 1)
)
def test_an_epoch_is_every_sample_that_is_not_held_out_once(
    size: int, held_out: int, batch_size: int, seed: int
) -> None:
    held_out = min(held_out, size - 1)
    division = by_index(lambda indices: indices.tolist(), size)(held_out, seed)
    held = [index for batch in division.held_out(1) for index in batch]
    trained = [index for _ in range(2 * (size - held_out)) for index in division.train_batch(batch_size)]
    epochs = [trained[i : i + size - held_out] for i in range(0, 2 * (size - held_out), size - held_out)]
    for epoch in epochs:
        assert sorted([*held, *epoch]) == list(range(size))


def test_parts_held_out_are_whole_and_the_same_for_each_batch_size() -> None:
    for name, source in kinds().items():
        assert source.divide is not None
        first, second = source.divide(30, 5), source.divide(30, 5)
        first.train_batch(64)
        assert [len(part) for part in first.held_out(8)] == [8, 8, 8], name
        assert torch.equal(torch.stack(first.held_out(8)), torch.stack(second.held_out(8))), name


def test_nothing_held_out_is_trained_on_in_any_epoch() -> None:
    for name, source in kinds().items():
        assert source.divide is not None
        division = source.divide(30, 5)
        held = set(torch.cat(division.held_out(1)).tolist())
        trained = set(torch.cat([division.train_batch(7) for _ in range(40)]).tolist())
        assert len(held) == 30 and len(trained) == 70 and held.isdisjoint(trained), name


def test_a_stream_that_ends_with_what_is_held_out_says_so() -> None:
    divide = source_of(Stream()).divide
    assert divide is not None
    with pytest.raises(UsageError, match="ends within the 100 samples"):
        divide(100, 0).train_batch(1)


def test_the_seed_chooses_what_is_held_out() -> None:
    divide = source_of(torch.arange(100.0)).divide
    assert divide is not None
    assert not torch.equal(divide(30, 1).held_out(30)[0], divide(30, 2).held_out(30)[0])


def test_a_function_makes_what_is_held_out_and_one_sample_cannot_be_divided() -> None:
    divide = source_of(lambda batch_size: torch.randn(batch_size, 2)).divide
    assert divide is not None
    assert [tuple(part.shape) for part in divide(20, 0).held_out(8)] == [(8, 2), (8, 2)]
    assert from_sample(torch.zeros(3)).divide is None
    assert source_of(iter([torch.zeros(3)] * 9)).divide is None
