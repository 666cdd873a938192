"""Where batches come from: a function, a dataset, tensors that are the whole dataset, or one example.

Needs torch. Promises a `Source` that makes a batch of any number of samples without reading the dataset
again: a few hundred samples are read once and kept, since a trial shall time the step, not the disk.

Where samples differ in shape, memory depends on which of them meet in a batch. The largest one seen is then
used for every place, so that what fits in a trial also fits in the worst batch of an epoch.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from autotune.errors import UsageError
from autotune.workloads.batches import describe, is_sequence, parts, shape_of
from autotune.workloads.division import Divide, by_index, by_making, by_order
from autotune.workloads.loaders import Loading, loader_of, unwrapped
from autotune.workloads.tracebacks import blame, one_line

SCAN_SAMPLES = 256
"""Samples looked at: one in a hundred has a 92% chance of being among so many (1 - 0.99**256)."""

SCAN_SECONDS = 2.0
"""Slow datasets are not looked at for longer: each process that builds the workload pays this again."""

POOL_BYTES = 256 * 2**20
"""Samples beyond this are looked at, but not kept."""

MOST_COLUMNS = 8
"""A longer list of tensors is a list of samples, not of the inputs of one model."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Makes batches. `dataset_size` is in samples, None where unknown; `assumptions` are told to the user.

    `draw(batch_size)` makes a batch of samples that are drawn at random, or that follow each other where the data is a
    stream; `divide(held_out_samples, seed)` holds some of them out. Both are None where there is nothing to draw from.
    `make_loader(batch_size, num_workers)` makes a DataLoader that reads as the caller's does, as `loading` has it; None
    where the data is not read by one.
    """

    make_batch: Callable[[int], Any]
    dataset_size: int | None = None
    assumptions: tuple[str, ...] = ()
    draw: Callable[[int], Any] | None = None
    divide: Divide | None = None
    make_loader: Callable[[int, int], DataLoader[Any]] | None = None
    loading: Loading = field(default_factory=Loading)


def source_of(
    data: Any, collate_fn: Callable[[list[Any]], Any] | None = None, loading: Loading | None = None
) -> Source:
    """The source that any kind of data is.

    Args:
        data: a Dataset or DataLoader; a tensor, or a tuple, list or mapping of tensors or arrays with equal
            first sizes (the whole dataset); a sequence or iterable of samples; or a function of the batch size.
        collate_fn: makes a batch of a list of samples, as for a DataLoader; torch's own where None.
        loading: how a DataLoader reads it, where the data was taken out of one.

    Raises:
        UsageError: it is none of these, is empty, or its samples cannot be stacked.
        WorkloadError: reading a sample raised.
    """
    data, collate_fn, found = unwrapped(data, collate_fn)
    loading = found or loading or Loading()
    source = _source_by_kind(data, collate_fn, loading)
    return replace(source, dataset_size=loading.samples or source.dataset_size)


def _source_by_kind(data: Any, collate_fn: Callable[[list[Any]], Any] | None, loading: Loading) -> Source:
    if _is_columns(data):
        return _from_columns(data)
    if isinstance(data, Mapping):
        raise _unknown(data)
    if not isinstance(data, IterableDataset) and hasattr(data, "__getitem__"):
        return _read_by_loader(_from_map(data, collate_fn), data, collate_fn, loading)
    if isinstance(data, IterableDataset):
        return _read_by_loader(_from_iterable(data, collate_fn), data, collate_fn, loading)
    if isinstance(data, Iterable):
        return _from_iterable(data, collate_fn)
    if callable(data):
        return from_function(data)
    raise _unknown(data)


def from_function(make_batch: Callable[[int], Any]) -> Source:
    """A source that asks a function for each batch."""
    return Source(make_batch=make_batch, draw=make_batch, divide=by_making(make_batch))


def from_sample(sample: Any, collate_fn: Callable[[list[Any]], Any] | None = None) -> Source:
    """A source that repeats one example."""
    collate = _checked_collate(collate_fn, sample)
    return Source(
        make_batch=lambda batch_size: collate([sample] * batch_size),
        assumptions=("every sample is the one example given",),
    )


def _read_by_loader(
    source: Source, dataset: Any, collate_fn: Callable[[list[Any]], Any] | None, loading: Loading
) -> Source:
    return replace(source, make_loader=loader_of(dataset, collate_fn, loading), loading=loading)


def _unknown(data: Any) -> UsageError:
    if data is None:
        return UsageError(
            "There is no data to make batches of.",
            remedy="Give a Dataset, a DataLoader, tensors with equal first sizes, or make_batch(batch_size).",
        )
    kinds = sorted({type(value).__name__ for value in data.values()}) if isinstance(data, Mapping) else []
    contents = f" of {', '.join(kinds)}" if kinds else ""
    return UsageError(
        f"The data is a {type(data).__name__}{contents}, from which no batch can be made.",
        remedy="Give a Dataset, a DataLoader, tensors with equal first sizes, or make_batch(batch_size).",
    )


# Tensors that are the whole dataset


def _is_columns(data: Any) -> bool:
    if _is_array(data):
        return True
    if not isinstance(data, Mapping) and not (is_sequence(data) and len(data) <= MOST_COLUMNS):
        return False
    sizes = {(shape_of(column) or (None,))[0] for column in _columns(data)}
    return len(sizes) == 1 and None not in sizes


def _is_array(data: Any) -> bool:
    return isinstance(data, torch.Tensor) or (type(data).__module__ == "numpy" and shape_of(data) is not None)


def _columns(data: Any) -> list[Any]:
    """The tensors of a whole dataset. A mapping or a list within a tuple or a mapping is an input of several parts."""
    if _is_array(data):
        return [data]
    parts = list(data.values() if isinstance(data, Mapping) else data)
    nested = isinstance(data, Mapping | tuple)
    return [
        leaf for part in parts for leaf in (_columns(part) if nested and isinstance(part, Mapping | list) else [part])
    ]


def _from_columns(data: Any) -> Source:
    size = (shape_of(_columns(data)[0]) or (0,))[0]
    if size == 0:
        raise _empty()

    take = partial(_taken, data)
    return Source(
        make_batch=lambda batch_size: take(torch.arange(batch_size) % size),
        dataset_size=size,
        draw=lambda batch_size: take(torch.randint(size, (batch_size,))),
        divide=by_index(take, size),
    )


def _taken(data: Any, rows: torch.Tensor) -> Any:
    """Some rows of each tensor, in the same nesting."""
    if _is_array(data):
        return _rows(data, rows)
    if isinstance(data, Mapping):
        return {key: _taken(column, rows) for key, column in data.items()}
    return tuple(_taken(column, rows) for column in data)


def _rows(column: Any, rows: torch.Tensor) -> torch.Tensor:
    """A copy of some rows, as a DataLoader would make one, not a view of the dataset."""
    if isinstance(column, torch.Tensor):
        return column[rows.to(column.device)]
    return torch.as_tensor(column[rows.numpy()])


# Datasets


def _from_map(dataset: Dataset[Any] | Any, collate_fn: Callable[[list[Any]], Any] | None) -> Source:
    size = dataset_length(dataset)
    if size is None:
        raise UsageError(
            "The dataset has __getitem__ but no __len__, so its samples cannot be chosen.",
            remedy="Add def __len__(self), or make it an IterableDataset.",
        )
    if size == 0:
        raise _empty()
    scan = _scan(dataset[index] for index in _spread(size))
    source = _from_scan(scan, size, collate_fn)

    def take(indices: torch.Tensor) -> Any:
        return (collate_fn or default_collate)([dataset[index] for index in indices.tolist()])

    return replace(
        source,
        draw=lambda batch_size: take(torch.randint(size, (batch_size,))),
        divide=by_index(take, size),
    )


def dataset_length(dataset: Any) -> int | None:
    """How many samples a dataset says that it has; None where it doesn't say."""
    if not hasattr(dataset, "__len__"):
        return None
    with blame("The dataset's __len__"):
        return len(dataset)


def _spread(size: int) -> list[int]:
    """Indices spread evenly over a dataset, in mixed order, so that a scan cut short still saw all of it."""
    count = min(SCAN_SAMPLES, size)
    return random.Random(0).sample([place * size // count for place in range(count)], count)


def _from_iterable(dataset: Iterable[Any], collate_fn: Callable[[list[Any]], Any] | None) -> Source:
    size = dataset_length(dataset)
    with blame("Iterating over the dataset"):
        iterator = iter(dataset)
    scan = _scan(islice(iterator, SCAN_SAMPLES + 1))
    if scan.ended and scan.seen <= SCAN_SAMPLES:
        size = scan.seen
    source = _from_scan(scan, size, collate_fn)
    if iterator is dataset:  # what was read of it is gone
        return source
    stream, collate = _endless(dataset), collate_fn or default_collate
    draw = lambda batch_size: collate(list(islice(stream, batch_size)))  # noqa: E731
    return replace(source, draw=draw, divide=by_order(dataset, collate))


def _endless(dataset: Iterable[Any]) -> Iterator[Any]:
    """Its samples over and over."""
    while True:
        yield from dataset


@dataclass(frozen=True)
class _Scan:
    """Samples that were kept, the largest of those seen, and whether all had one shape."""

    kept: list[Any]
    largest: Any
    seen: int
    uniform: bool
    ended: bool


def _scan(samples: Iterator[Any]) -> _Scan:
    kept: list[Any] = []
    kept_bytes, seen, most, ended = 0, 0, -1, True
    largest, forms = None, set()
    end = time.monotonic() + SCAN_SECONDS
    with blame("Reading a sample of the dataset"):
        for sample in samples:
            seen += 1
            elements = _elements(sample)
            forms.add((describe(sample), elements))
            if elements > most:
                most, largest = elements, sample
            if kept_bytes < POOL_BYTES:
                kept.append(sample)
                kept_bytes += _bytes(sample)
            if time.monotonic() > end:
                ended = False
                break
    if not seen:
        raise _empty()
    return _Scan(kept, largest, seen, uniform=len(forms) == 1, ended=ended)


def _from_scan(scan: _Scan, size: int | None, collate_fn: Callable[[list[Any]], Any] | None) -> Source:
    collate = _checked_collate(collate_fn, scan.largest)
    pool = scan.kept if scan.uniform else [scan.largest]
    assumptions = () if scan.uniform else (_worst_case(scan, size),)
    return Source(
        make_batch=lambda batch_size: collate(list(islice(cycle(pool), batch_size))),
        dataset_size=size,
        assumptions=assumptions,
    )


def _worst_case(scan: _Scan, size: int | None) -> str:
    of = f" of {size}" if size is not None else ""
    return (
        f"samples differ in shape: each batch repeats the largest of {scan.seen}{of} samples scanned, "
        f"{describe(scan.largest)}"
    )


def _checked_collate(collate_fn: Callable[[list[Any]], Any] | None, sample: Any) -> Callable[[list[Any]], Any]:
    """The collate function, tried on one sample, so that what cannot be stacked is told before any trial."""
    if collate_fn is not None:
        with blame("collate_fn"):
            collate_fn([sample])
        return collate_fn
    try:
        default_collate([sample])
    except (TypeError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"Samples of {describe(sample)} cannot be stacked into a batch: {one_line(error)}",
            remedy="Add collate_fn(samples), which makes a batch of a list of samples.",
        ) from error
    return default_collate


def _empty() -> UsageError:
    return UsageError("The dataset is empty.", remedy="Check the path or the split that it reads.")


def _elements(sample: Any) -> int:
    """A sample's size as a number of elements, to find the largest: of arrays their elements, of text its length."""
    return sum(_leaf_elements(part) for part in parts(sample))


def _leaf_elements(part: Any) -> int:
    if isinstance(part, Mapping) or is_sequence(part):
        return 0
    if isinstance(part, str | bytes):
        return len(part)
    shape = shape_of(part)
    return 1 if shape is None else int(torch.Size(shape).numel())


def _bytes(sample: Any) -> int:
    """Bytes of a sample's tensors and arrays."""
    return sum(int(getattr(part, "nbytes", 0)) for part in parts(sample))
