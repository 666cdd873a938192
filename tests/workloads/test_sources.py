from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
)

from autotune.errors import UsageError, WorkloadError
from autotune.workloads import sources
from autotune.workloads.batches import describe
from autotune.workloads.sources import from_sample, source_of


class Lengths(Dataset):
    """Texts of different lengths; the longest stands at one place."""

    def __init__(self, size=1000, longest_at=500, longest=99):
        self.size, self.longest_at, self.longest = size, longest_at, longest
        self.reads = []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.reads.append(index)
        length = self.longest if index == self.longest_at else 1 + index % 7
        return torch.arange(length)


def pad(samples):
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)


class Stream(IterableDataset):
    """A stream of samples that counts how many were taken."""

    def __init__(self, size):
        self.size = size
        self.taken = 0

    def __iter__(self):
        for _ in range(self.size):
            self.taken += 1
            yield torch.zeros(3)


def test_a_dataset_of_one_shape_is_cycled_and_read_once():
    features = torch.arange(600.0).unsqueeze(1)
    source = source_of(TensorDataset(features, torch.zeros(600)))
    first, _ = source.make_batch(300)
    assert first.shape == (300, 1)
    assert len(first.unique()) == sources.SCAN_SAMPLES
    assert source.dataset_size == 600
    assert source.assumptions == ()


def test_a_scan_is_spread_over_the_whole_dataset():
    dataset = Lengths(size=100_000)
    source_of(dataset, pad)
    assert len(dataset.reads) == sources.SCAN_SAMPLES
    assert min(dataset.reads) < 1000
    assert max(dataset.reads) > 99_000
    reads = len(dataset.reads)
    source_of(dataset, pad).make_batch(64)
    assert len(dataset.reads) == 2 * reads, "making a batch reads nothing more"


def test_where_shapes_differ_the_largest_fills_the_batch_and_is_told():
    source = source_of(Lengths(size=200, longest_at=17), pad)
    assert source.make_batch(5).shape == (5, 99)
    assert source.assumptions == (
        "samples differ in shape: each batch repeats the largest of 200 of 200 samples scanned, int64[99]",
    )


def test_the_largest_fills_the_batch_without_a_collate_fn_too():
    assert source_of(Lengths(size=20, longest_at=3)).make_batch(4).shape == (4, 99)


def test_a_slow_dataset_is_not_scanned_for_long(monkeypatch):
    monkeypatch.setattr(sources, "SCAN_SECONDS", 0.0)
    dataset = Lengths()
    source_of(dataset, pad)
    assert len(dataset.reads) == 1


def test_samples_beyond_the_pool_are_not_kept(monkeypatch):
    monkeypatch.setattr(sources, "POOL_BYTES", 100)
    source = source_of(TensorDataset(torch.arange(50.0).reshape(50, 1)))
    (batch,) = source.make_batch(50)
    assert len(batch.unique()) == 25  # 100 bytes of 4 each


def test_an_iterable_that_ends_has_a_known_size():
    source = source_of(Stream(40))
    assert source.dataset_size == 40
    assert source.make_batch(100).shape == (100, 3)


def test_an_endless_iterable_is_read_no_further_than_needed():
    stream = Stream(10**9)
    source = source_of(stream)
    assert source.dataset_size is None
    assert stream.taken <= sources.SCAN_SAMPLES + 1


def test_an_iterable_that_knows_its_length():
    class Sized(Stream):
        def __len__(self):
            return self.size

    assert source_of(Sized(5000)).dataset_size == 5000


def test_a_loader_gives_its_dataset_and_collate_fn_and_starts_no_workers():
    loader = DataLoader(Lengths(size=30), batch_size=4, collate_fn=pad, num_workers=2)
    source = source_of(loader)
    assert source.dataset_size == 30
    assert source.make_batch(3).dim() == 2


def test_a_loader_of_whole_batches_is_refused():
    with pytest.raises(UsageError, match="batch_size=None"):
        source_of(DataLoader(Stream(3), batch_size=None))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ((torch.zeros(10, 3), np.zeros(10)), "float32[4, 3], float64[4]"),
        ([np.zeros((10, 3), dtype=np.float32), torch.zeros(10)], "float32[4, 3], float32[4]"),
        ({"x": torch.zeros(10, 3), "y": np.zeros(10, dtype=np.int64)}, "x: float32[4, 3], y: int64[4]"),
        (torch.zeros(10, 3), "float32[4, 3]"),
        (np.zeros((10, 3)), "float64[4, 3]"),
        ([torch.zeros(3)] * 10, "float32[4, 3]"),
        ([(torch.zeros(3), 1)] * 10, "float32[4, 3], int64[4]"),
        ([{"x": torch.zeros(3), "y": 1.0}] * 10, "x: float32[4, 3], y: float64[4]"),
    ],
)
def test_whole_datasets_in_memory(data, text):
    source = source_of(data)
    assert source.dataset_size == 10
    assert describe(source.make_batch(4)) == text


def test_rows_are_copied_as_a_loader_would():
    data = torch.zeros(10, 3)
    source_of(data).make_batch(4).add_(1)
    assert data.sum() == 0


def test_a_function_is_taken_as_it_is():
    assert source_of(torch.ones).make_batch(3).shape == (3,)


def test_one_sample_is_repeated():
    assert describe(from_sample({"x": torch.zeros(2), "label": 1}).make_batch(3)) == "x: float32[3, 2], label: int64[3]"


@pytest.mark.parametrize("empty", [[], torch.zeros(0, 3), (torch.zeros(0), torch.zeros(0)), Stream(0), Lengths(0)])
def test_an_empty_dataset_is_refused(empty):
    with pytest.raises(UsageError, match="The dataset is empty"):
        source_of(empty)


@pytest.mark.parametrize("data", [3, {"train": [1], "test": [2]}, {"x": torch.zeros(3), "y": torch.zeros(4)}])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(UsageError, match="from which no batch can be made"):
        source_of(data)


def test_a_dataset_without_length_is_refused():
    class NoLength(Dataset):
        def __getitem__(self, index):
            return 1

    with pytest.raises(UsageError, match="no __len__"):
        source_of(NoLength())


def test_a_dataset_that_raises_is_told_with_its_own_traceback():
    class Damaged(Lengths):
        def __getitem__(self, index):
            raise OSError("image is truncated")

    with pytest.raises(WorkloadError) as caught:
        source_of(Damaged())
    assert caught.value.message == "Reading a sample of the dataset raised OSError: image is truncated"
    assert 'raise OSError("image is truncated")' in caught.value.user_traceback
    assert "/sources.py" not in caught.value.user_traceback


def test_a_collate_fn_that_raises_is_told_before_any_trial():
    def broken(samples):
        raise ValueError("cannot pad")

    with pytest.raises(WorkloadError, match="collate_fn raised ValueError: cannot pad"):
        source_of(Lengths(), broken)


class WithoutLength(Sampler):
    """Chooses all, and does not say how many."""

    def __iter__(self):
        return iter(range(1000))


def test_an_epoch_has_the_samples_that_the_sampler_chooses():
    dataset, chosen = TensorDataset(torch.zeros(1000, 3)), SubsetRandomSampler(range(200))
    by_batches = BatchSampler(chosen, 8, drop_last=False)
    assert source_of(DataLoader(dataset, 8, sampler=chosen)).dataset_size == 200
    assert source_of(DataLoader(dataset, batch_sampler=by_batches)).dataset_size == 200
    assert source_of(DataLoader(dataset.tensors[0], 8, sampler=chosen)).dataset_size == 200
    assert source_of(DataLoader(dataset, 8, sampler=WithoutLength())).dataset_size == 1000
    assert source_of(DataLoader(Stream(5), 2)).dataset_size == 5


def test_a_loader_that_shuffles_in_a_batch_sampler_of_the_callers_is_timed_so():
    dataset = TensorDataset(torch.zeros(10, 3))
    by_batches = BatchSampler(RandomSampler(dataset), 2, drop_last=False)
    assert source_of(DataLoader(dataset, batch_sampler=by_batches)).loading.shuffle
