"""Inference as a tracker can follow it: what torch does whole in inference mode is seen part by part.

Needs torch. In inference mode torch passes operators that are made of others on to whoever looks on undivided: a
stacked LSTM, attention without a fused kernel, a padded convolution. What these take inside themselves would then be
seen by nobody. With gradients merely off they are divided before; their memory is the same.

Promises that all is as before afterwards. Process-wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def means_no_grad() -> Iterator[None]:
    """Let `torch.inference_mode` do what `torch.no_grad` does, under whatever name the user's code has it."""
    enter = torch.inference_mode.__enter__
    torch.inference_mode.__enter__ = _enter  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.inference_mode.__enter__ = enter  # type: ignore[method-assign]


def _enter(mode: torch.inference_mode) -> None:
    """Switch gradients off, or on where inference mode is left for a while: its own `__exit__` switches back."""
    context: Any = torch.set_grad_enabled(not mode.mode)
    context.__enter__()
    mode._inference_mode_context = context
