"""What can be said of, and done to, any batch: its sizes, its description, its move to a device.

Needs torch. A batch is any nesting of tuples, lists and mappings; its leaves are tensors, arrays, text,
numbers, or objects of the user's that know how to move themselves (`.to(device)`), as a tokenizer's output
or a packed sequence does. A leaf that is none of these is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

LISTED_ITEMS = 4
"""A sequence of more items is described by its length: it is a list of samples, not of inputs."""


def is_sequence(value: Any) -> bool:
    """True for a tuple or a list of parts; a `PackedSequence` is a tuple in form only."""
    return isinstance(value, tuple | list) and not isinstance(value, PackedSequence)


def shape_of(leaf: Any) -> tuple[int, ...] | None:
    """The shape of a tensor or an array, None for everything else; of a nested tensor the first size only."""
    if isinstance(leaf, torch.Tensor) and leaf.is_nested:
        return (leaf.size(0),)
    if isinstance(leaf, PackedSequence):
        return (int(leaf.batch_sizes[0]),)
    shape = getattr(leaf, "shape", None)
    return tuple(int(size) for size in shape) if isinstance(shape, tuple) else None


def parts(batch: Any) -> Iterator[Any]:
    """The batch, and every sequence, mapping and leaf within it."""
    yield batch
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if is_sequence(batch):
        for part in batch:
            yield from parts(part)


def leading_sizes(batch: Any) -> list[tuple[int, ...]]:
    """Where a number of samples can show: the first two sizes of each tensor, the length of each sequence."""
    found = []
    for part in parts(batch):
        shape = (len(part),) if is_sequence(part) else shape_of(part)
        if shape:
            found.append(shape[:2])
    return found


def describe(batch: Any) -> str:
    """A batch in words, such as "float32[8, 1, 8, 8], int64[8]" or "input_ids: int64[8, 128]"."""
    if isinstance(batch, Mapping):
        return ", ".join(f"{key}: {_nested(value)}" for key, value in batch.items())
    if is_sequence(batch) and 0 < len(batch) <= LISTED_ITEMS:
        return ", ".join(_nested(value) for value in batch)
    return _leaf(batch)


def _nested(value: Any) -> str:
    return f"({describe(value)})" if isinstance(value, Mapping) or is_sequence(value) else _leaf(value)


def _leaf(value: Any) -> str:
    if isinstance(value, str | bytes) or is_sequence(value):
        return f"{type(value).__name__} of {len(value)}"
    shape = shape_of(value)
    if shape is None or not hasattr(value, "dtype"):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')}{list(shape)}"


def move(batch: Any, device: str | torch.device) -> Any:
    """The same batch on a device. Containers are rebuilt, the caller's are left as they were."""
    if callable(getattr(batch, "to", None)):
        moved = batch.to(device)
        return batch if moved is None else moved
    if isinstance(batch, Mapping):
        return _move_mapping(batch, device)
    if not is_sequence(batch):
        return batch
    items = [move(item, device) for item in batch]
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


def _move_mapping(batch: Mapping[Any, Any], device: str | torch.device) -> Any:
    moved = {key: move(value, device) for key, value in batch.items()}
    if not isinstance(batch, MutableMapping):
        return moved
    like = copy.copy(batch)
    like.update(moved)
    return like
