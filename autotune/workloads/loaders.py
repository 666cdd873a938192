"""The caller's DataLoader at other batch sizes and with other numbers of workers: how it reads stays as it is.

Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from autotune.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a DataLoader reads, apart from what it reads.

    Attributes:
        batch_size: what the caller has now; None where there is no loader yet.
        num_workers: processes that read; 0 reads in the training process.
        shuffle: in random order. A sampler of the caller's own counts as none.
        pin_memory: as for a DataLoader, and so the rest.
        prefetch_factor: batches that each worker makes ahead.
        worker_init_fn: called in each worker.
        samples: in an epoch, as its sampler has it; None where that cannot tell.
    """

    batch_size: int | None = None
    num_workers: int = 0
    shuffle: bool = True
    pin_memory: bool = False
    prefetch_factor: int | None = None
    worker_init_fn: Callable[[int], None] | None = None
    samples: int | None = None


def unwrapped(
    data: Any, collate_fn: Callable[[list[Any]], Any] | None
) -> tuple[Any, Callable[[list[Any]], Any] | None, Loading | None]:
    """A DataLoader's dataset, its collate_fn, and how it reads; other data as it is.

    Raises:
        UsageError: the loader's dataset makes whole batches itself.
    """
    if not isinstance(data, DataLoader):
        return data, collate_fn, None
    if data.batch_sampler is None and data.batch_size is None:
        raise UsageError(
            "The DataLoader has batch_size=None: its dataset yields whole batches, whose size is fixed.",
            remedy="Give the data as a function that returns a batch of any size: make_batch(batch_size).",
        )
    loading = Loading(
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        shuffle=isinstance(_sampler(data), RandomSampler),
        pin_memory=data.pin_memory,
        prefetch_factor=data.prefetch_factor,
        worker_init_fn=data.worker_init_fn,
        samples=samples_in_an_epoch(data),
    )
    return data.dataset, collate_fn or data.collate_fn, loading


def samples_in_an_epoch(loader: DataLoader[Any]) -> int | None:
    """How many samples a loader's sampler chooses, which may be some of the dataset's; None where it cannot tell."""
    with suppress(Exception):  # torch's own ask the dataset, whose errors are told where its length is needed
        return len(_sampler(loader))
    return None


def _sampler(loader: DataLoader[Any]) -> Any:
    """The one that chooses: a batch sampler of the caller's may hold it."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def loader_of(
    dataset: Any, collate_fn: Callable[[list[Any]], Any] | None, loading: Loading
) -> Callable[[int, int], DataLoader[Any]]:
    """A function of the batch size and the number of workers that makes a DataLoader of whole batches."""

    def make_loader(batch_size: int, num_workers: int) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size,
            shuffle=loading.shuffle and not isinstance(dataset, IterableDataset),
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=loading.pin_memory,
            drop_last=True,
            prefetch_factor=loading.prefetch_factor if num_workers else None,
            worker_init_fn=loading.worker_init_fn,
        )

    return make_loader
