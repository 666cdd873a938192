"""Pickles for another process, of what neither pickle nor torch alone can send.

Needs torch and cloudpickle, which adds functions and classes that live in no module. Their code goes as Python itself
writes it to a file, with the name of the user's file in it, which cloudpickle leaves out from 3.1.3 on: without it a
traceback shows none of the user's lines. Besides, a module with parametrizations (weight norm, spectral norm,
orthogonal weights) has a class that torch made for it and refuses to pickle: it goes as its own class and its
attributes, and torch makes the class again on the other side.
"""

from __future__ import annotations

import io
import marshal
from contextlib import suppress
from types import CodeType
from typing import Any

import cloudpickle
from torch import nn
from torch.nn.utils import parametrize


def dumps(thing: Any) -> bytes:
    """The thing as bytes, for `pickle.loads`.

    Raises:
        Exception: whatever part of it cannot be pickled.
    """
    file = io.BytesIO()
    _Pickler(file).dump(thing)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, CodeType):
            with suppress(ValueError):  # a constant that no source has, put in later
                return marshal.loads, (marshal.dumps(thing),)  # read by the same Python
        if isinstance(thing, nn.Module) and parametrize.is_parametrized(thing):
            own_class = type(thing).__mro__[1]  # torch's is derived from it
            return _parametrized, (own_class, tuple(thing.parametrizations)), thing.__dict__  # type: ignore[arg-type]
        return super().reducer_override(thing)


def _parametrized(own_class: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """A module of torch's class for it, whose attributes are yet to come."""
    module = own_class.__new__(own_class)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
    return module
