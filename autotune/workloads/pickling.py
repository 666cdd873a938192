"""Pickles for another process, of what neither pickle nor torch alone can send.

Needs torch and cloudpickle, which adds functions and classes that live in no module. Their code goes as Python itself
writes it to a file, with the name of the user's file in it, which cloudpickle leaves out from 3.1.3 on: without it a
traceback shows none of the user's lines. Besides, a module with parametrizations (weight norm, spectral norm,
orthogonal weights) has a class that torch made for it and refuses to pickle: it goes as its own class and its
attributes, and torch makes the class again on the other side.

Promises that the contents of tensors and arrays are held once while they are written, however large: torch's own way
copies a storage twice. A storage is written once, however many tensors are views of it, as the samples of a dataset or
the parameters in a flat buffer may be. An array that maps a file goes as the file's name, and what a step writes to it
is its own.
"""

from __future__ import annotations

import marshal
import os
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from pickle import PickleBuffer
from types import CodeType
from typing import IO, Any, Literal

import cloudpickle
import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.storage import TypedStorage


def dump(thing: Any, file: IO[bytes]) -> None:
    """Write the thing to a file, for `pickle.load`.

    Raises:
        Exception: whatever part of it cannot be pickled.
        OSError: the file cannot be written.
    """
    _Pickler(file).dump(thing)


def check(thing: Any) -> None:
    """Find out whether a thing can be pickled.

    Raises:
        Exception: whatever part of it cannot be pickled.
    """
    with Path(os.devnull).open("wb") as nowhere:
        dump(thing, nowhere)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is TypedStorage and thing._untyped_storage.device.type == "cpu":
            return _typed, (thing.dtype, thing._untyped_storage)  # each view has one of these, but all the same within
        if type(thing) is torch.UntypedStorage and thing.device.type == "cpu":
            return _storage, (PickleBuffer(_contents(thing)),)
        if type(thing) in (np.ndarray, np.memmap) and (mapped := _mapped_file(thing)) is not None:
            return _part_of_file, _reference(mapped, thing)
        if isinstance(thing, CodeType):
            with suppress(ValueError):  # a constant that no source has, put in later
                return marshal.loads, (marshal.dumps(thing),)  # read by the same Python
        if isinstance(thing, nn.Module) and parametrize.is_parametrized(thing):
            own_class = type(thing).__mro__[1]  # torch's is derived from it
            return _parametrized, (own_class, tuple(thing.parametrizations)), thing.__dict__  # type: ignore[arg-type]
        return super().reducer_override(thing)


def _typed(dtype: torch.dtype, storage: torch.UntypedStorage) -> TypedStorage:
    """A storage with a type, as a tensor's pickle has it."""
    return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def _storage(contents: bytes | bytearray) -> torch.UntypedStorage:
    """A storage of torch's own memory, with these contents."""
    storage = torch.UntypedStorage(len(contents))  # type: ignore[no-untyped-call]
    _contents(storage)[:] = np.frombuffer(contents, np.uint8)
    return storage


def _contents(storage: torch.UntypedStorage) -> Any:
    """What a storage holds, as an array of bytes, not copied."""
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


def _mapped_file(array: np.ndarray[Any, Any]) -> np.memmap[Any, Any] | None:
    """The map of a file that an array is or is a view of; None where the file is gone, or may hold something else."""
    root: Any = array
    while isinstance(root, np.ndarray) and not isinstance(root.base, mmap):
        root = root.base
    if not isinstance(root, np.memmap) or not root.filename or root.mode == "c":
        return None
    return root if Path(root.filename).exists() else None


def _reference(mapped: np.memmap[Any, Any], array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    """What `_part_of_file` takes to make an array again that is a map or a view of it."""
    begins = mapped.offset + array.__array_interface__["data"][0] - mapped.__array_interface__["data"][0]
    mode = "r" if mapped.mode == "r" else "c"
    return str(mapped.filename), mode, type(array), (array.shape, array.dtype, begins, array.strides)


def _part_of_file(
    path: str, mode: Literal["r", "c"], kind: type[np.ndarray[Any, Any]], form: tuple[Any, ...]
) -> np.ndarray[Any, Any]:
    """The same part of the same file, which is never written to: mode "c" writes to a copy of a page."""
    shape, dtype, begins, strides = form
    return np.ndarray.__new__(kind, shape, dtype, np.memmap(path, np.uint8, mode), begins, strides)


def _parametrized(own_class: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """A module of torch's class for it, whose attributes are yet to come."""
    module = own_class.__new__(own_class)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
    return module
