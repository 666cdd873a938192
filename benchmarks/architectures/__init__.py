"""Public architectures that the forecast of memory is measured on, built without downloads.

Needs torch; those of `hugging_face` also need transformers (`pip install batch-autotune[architectures]`) once they
are built. Sizes are reduced to 1-60 million parameters, short texts and small images, so that a training step at
batch size 8 takes about a second on two cores; what is published of each is its structure.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.architectures.architecture import Architecture
from benchmarks.architectures.generative import GENERATIVE
from benchmarks.architectures.hugging_face import HUGGING_FACE
from benchmarks.architectures.sequences import SEQUENCES
from benchmarks.architectures.vision import VISION

ARCHITECTURES: tuple[Architecture, ...] = (*HUGGING_FACE, *VISION, *SEQUENCES, *GENERATIVE)


def chosen(names: Sequence[str]) -> tuple[Architecture, ...]:
    """The architectures of these names, or all where none is named.

    Raises:
        SystemExit: there is none of that name.
    """
    known = {architecture.name: architecture for architecture in ARCHITECTURES}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"No architecture is called {unknown[0]!r}. There are: {', '.join(known)}.")
    return tuple(known[name] for name in names) or ARCHITECTURES
