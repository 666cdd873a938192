"""Layers of a Transformer that are one operator where no gradient is wanted, followed as they run unwatched.

Needs torch. `nn.TransformerEncoderLayer` and `nn.MultiheadAttention` hand their whole forward pass to one operator in
evaluation, whose memory is another than that of its parts: on a processor it holds the scores of all heads. They keep
from it what has rules of its own, which a tensor without data may seem to have, and all do under CUDA's rules.

Promises that these layers choose as they do for tensors with data, and compute in autocast's type as they do where
nobody looks on. `nn.TransformerEncoder` itself also packs sequences by where their padding lies, which only data tell:
the padding is kept, and a note says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import Library

PLAIN = (FakeTensor, torch.Tensor, nn.Parameter, type(None))
"""Types of arguments that have no rules of their own, but to be without data."""

CHOOSING = (nn.TransformerEncoderLayer.forward.__code__, nn.MultiheadAttention.forward.__code__)
PACKING = nn.TransformerEncoder.forward.__code__

PADDING_NOTE = "nn.TransformerEncoder was taken to keep the padding of its sequences, which it may pack away"


@contextmanager
def taken(notes: list[str]) -> Iterator[None]:
    """Let such layers take tensors without data for ordinary ones, and add to the notes what is guessed."""
    ask = torch.overrides.has_torch_function

    def asked(tensors: Iterable[Any]) -> bool:
        caller = sys._getframe(1).f_code
        if caller is PACKING:
            notes.extend([PADDING_NOTE] if PADDING_NOTE not in notes else [])
            return True
        return any(type(tensor) not in PLAIN for tensor in tensors) if caller in CHOOSING else bool(ask(tensors))

    vars(torch.overrides)["has_torch_function"] = asked
    try:
        with cast_as_unwatched():
            yield
    finally:
        vars(torch.overrides)["has_torch_function"] = ask


@contextmanager
def cast_as_unwatched() -> Iterator[None]:
    """Let autocast of a processor reach what is inside an encoder's layer, which it does not where a mode looks on.

    Process-wide.
    """
    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        library.impl("_transformer_encoder_layer_fwd", _cast_layer, "AutocastCPU")  # type: ignore[no-untyped-call]
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def _cast_layer(source: torch.Tensor, *args: Any) -> torch.Tensor:
    """The layer in autocast's type, in which nearly all is that it makes, and its result."""
    dtype = torch.get_autocast_dtype("cpu")
    own = [arg.to(dtype) if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in args]
    query, _key, _value = (source.to(dtype) for _ in range(3))  # each by itself, where they are of another type
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
        layer: torch.Tensor = torch.ops.aten._transformer_encoder_layer_fwd.default(query, *own)
        return layer
