"""What a batch looks like at any size, learnt from small ones, and tensors of that look without data.

Needs torch. Promises a batch in which each tensor has the shape, the strides and the place in its memory that the
workload's own would have, at a cost that does not grow with the batch size. Where small batches differ in more than
that (a list with an item for each sample, text of each, padding by chance), nothing is learnt, and the real batch
must be made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._prims_common import compute_required_storage_length

from autotune.workloads.batches import is_sequence, parts

FIRST = 2
"""The smallest batch looked at: strides of a dimension of size 1 are arbitrary."""


class Layout(NamedTuple):
    """A tensor without its data, in bytes and elements. Those with the same `storage` number share their memory."""

    storage: int
    storage_bytes: int
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def layouts_of(tensors: Iterable[torch.Tensor]) -> list[Layout] | None:
    """The layouts of tensors, storages numbered as they come; None where one has no plain memory (sparse, nested)."""
    numbers: dict[int, int] = {}
    found = []
    for tensor in tensors:
        if not _is_plain(tensor):
            return None
        storage = tensor.untyped_storage()
        number = numbers.setdefault(storage._cdata, len(numbers))
        offset, sizes, strides = int(tensor.storage_offset()), tuple(tensor.size()), tuple(tensor.stride())
        found.append(Layout(number, storage.nbytes(), offset, sizes, strides, tensor.dtype))
    return found


def _is_plain(tensor: torch.Tensor) -> bool:
    known = type(tensor) is torch.Tensor or nn.Parameter in type(tensor).__mro__
    return known and tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized


@torch.no_grad()
def without_data(layouts: Iterable[Layout], device: str) -> list[torch.Tensor]:
    """Tensors of these layouts. To be called where tensors have no data."""
    memories: dict[int, torch.Tensor] = {}
    tensors = []
    for layout in layouts:
        if layout.storage not in memories:
            memories[layout.storage] = torch.empty(layout.storage_bytes, dtype=torch.uint8, device=device)
        memory = memories[layout.storage]
        whole = memory[: memory.numel() // layout.dtype.itemsize * layout.dtype.itemsize].view(layout.dtype)
        tensors.append(whole.as_strided(layout.sizes, layout.strides, layout.offset).detach())
    return tensors


@dataclass(frozen=True)
class BatchShape:
    """A batch each number of whose layouts lies on a straight line over the batch size.

    Attributes:
        example: a real batch of `FIRST` samples.
        layouts: of its tensors, in the order in which they are met.
        growth: by how much each number of each layout grows with a sample more.
    """

    example: Any
    layouts: tuple[Layout, ...]
    growth: tuple[tuple[int, ...], ...]

    def layouts_at(self, batch_size: int) -> list[Layout]:
        """The layouts of a batch of so many samples."""
        more = batch_size - FIRST
        return [
            _from_numbers(layout, [start + more * step for start, step in zip(_numbers(layout), growth, strict=True)])
            for layout, growth in zip(self.layouts, self.growth, strict=True)
        ]

    def fake_batch(self, batch_size: int, device: str) -> Any:
        """A batch without data. To be called where tensors have none."""
        tensors = iter(without_data(self.layouts_at(batch_size), device))
        return with_tensors(self.example, lambda _: next(tensors))


def learn(make_batch: Callable[[int], Any]) -> BatchShape | None:
    """The shape of the batches that a function makes; None where they differ in more than the sizes of tensors.

    Two batches give the lines, a third has to lie on them.
    """
    small, large = make_batch(FIRST), make_batch(FIRST + 1)
    first, second = _layouts_if_alike(small, large)
    if first is None or second is None:
        return None
    growth = tuple(
        tuple(b - a for a, b in zip(_numbers(one), _numbers(other), strict=True))
        for one, other in zip(first, second, strict=True)
    )
    shape = BatchShape(small, tuple(first), growth)
    third = 2 * FIRST + 1
    return shape if layouts_of(tensors_of(make_batch(third))) == shape.layouts_at(third) else None


def emptied(batch: Any, device: str) -> Any:
    """A batch without data in the image of a real one. To be called where tensors have none.

    Tensors without plain memory (sparse, nested) stay as they are.
    """
    layouts = layouts_of(tensors_of(batch))
    if layouts is None:
        return batch
    tensors = iter(without_data(layouts, device))
    return with_tensors(batch, lambda _: next(tensors))


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """The tensors in a batch, in the order in which they are met."""
    return [part for part in parts(batch) if isinstance(part, torch.Tensor)]


def with_tensors(batch: Any, replace: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A batch with other tensors in the places of its own. Containers are rebuilt."""
    if isinstance(batch, torch.Tensor):
        return replace(batch)
    if isinstance(batch, Mapping):
        like: Any = copy.copy(batch)
        like.update({key: with_tensors(value, replace) for key, value in batch.items()})
        return like
    if not is_sequence(batch):
        return batch
    items = [with_tensors(item, replace) for item in batch]
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


_Layouts = list[Layout] | None


def _layouts_if_alike(small: Any, large: Any) -> tuple[_Layouts, _Layouts]:
    """The layouts of two batches, where they are nested alike and differ in the sizes of their tensors only."""
    if _skeleton(small) != _skeleton(large):
        return None, None
    first, second = layouts_of(tensors_of(small)), layouts_of(tensors_of(large))
    if first is None or second is None or any(map(_differ_in_kind, first, second)):
        return None, None
    return first, second


def _skeleton(batch: Any) -> Any:
    """What must be equal in batches of all sizes. Objects of the user's are equal to themselves only."""
    if isinstance(batch, torch.Tensor):
        return torch.Tensor
    if isinstance(batch, Mapping):
        return type(batch), [(key, _skeleton(value)) for key, value in batch.items()]
    if is_sequence(batch):
        return type(batch), [_skeleton(item) for item in batch]
    return batch if isinstance(batch, int | float | str | bytes | None) else object()


def _differ_in_kind(small: Layout, large: Layout) -> bool:
    return (small.storage, small.dtype, len(small.sizes)) != (large.storage, large.dtype, len(large.sizes))


def _numbers(layout: Layout) -> tuple[int, ...]:
    return (layout.storage_bytes, layout.offset, *layout.sizes, *layout.strides)


def _from_numbers(layout: Layout, numbers: list[int]) -> Layout:
    storage_bytes, offset, *rest = numbers
    dimensions = len(layout.sizes)
    sizes, strides = tuple(rest[:dimensions]), tuple(rest[dimensions:])
    needed_bytes = compute_required_storage_length(sizes, strides, offset) * layout.dtype.itemsize
    storage_bytes = max(storage_bytes, needed_bytes)  # of a matrix over pairs of samples, no straight line
    return layout._replace(storage_bytes=storage_bytes, offset=offset, sizes=sizes, strides=strides)
