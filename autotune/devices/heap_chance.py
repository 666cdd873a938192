"""The heap of a new process, for a forked child, which else would have its parent's, and less than that at hand.

Needs a C library; where there is none that can be asked, it does nothing.

Where a heap's blocks lie differs from process to process, and decides how large ones fall between them: peak memory and
speed of equal processes differ by it. Forked children share their parent's draw. So a child takes some blocks that
stay, at the cost of a fork, and each is then a draw of its own. Where some were given back at once, their room took up
the small objects of the steps, and peaks were too low.

A fork also takes something. Python makes its locks anew in a child and leaves the old ones, so that some blocks of 32
bytes are gone from those that malloc keeps at hand: the children of a worker had one of its five. What an aligned
tensor leaves beside it is of about that size; where such a remainder goes to the blocks at hand, and not back to its
neighbours, the room that the tensor leaves is too small for the next. So a child is given as many as malloc would keep.
Both must not take from what is at hand of other sizes, and so no block of chance is that small.
"""

from __future__ import annotations

import ctypes
import random
import sys

MOST_BLOCKS = 20
SMALLEST_BITS, LARGEST_BITS = 11, 18
"""Blocks of 2 to 256 KiB, each octave alike likely; half a MiB in the mean, where a heap has holes of 1.5 MiB when the
first step begins. Measured with one thread, in MiB, mean and standard deviation: an MLP's new interpreters peaked at
523 and 24 (40 draws), the children of six workers at 521 and 23 (36), and with blocks from 16 bytes up and nothing
given back at 530 and 26 (50 of ten); a U-Net's at 749 and 15 (16) and its children at 748 and 20 (24 of six); a
ResNet's at 567 and 12 (16) and its children at 576 and 14 (24 of four). With up to 40 blocks the children of the U-Net
peaked at 760 (16 of four)."""

LOCK_BYTES = 32  # of a lock of Python's (3.11): a sem_t on 64-bit Linux
KEPT_AT_HAND = 7  # the default of glibc.malloc.tcache_count

Held = tuple[int, ...]
"""The addresses of blocks."""


def hold() -> Held:
    """Take small blocks, for children to give back; before the workload is built, so that its heap has no gaps."""
    return _taken([LOCK_BYTES] * KEPT_AT_HAND)


def give_back(held: Held) -> None:
    """In a child: let go of the blocks that its parent held."""
    if held:
        free = ctypes.CDLL(None).free
        free.restype, free.argtypes = None, (ctypes.c_void_p,)
        for address in held:
            free(address)


def scatter(chance: random.Random | None = None) -> int:
    """Take blocks of random sizes for as long as this process lives.

    Args:
        chance: where numbers come from; a source of its own by default, so that the caller's are not used up.

    Returns:
        The bytes that they take, of which none is written to.
    """
    chance = chance or random.Random()
    sizes = [int(2 ** chance.uniform(SMALLEST_BITS, LARGEST_BITS)) for _ in range(chance.randrange(MOST_BLOCKS))]
    return sum(sizes) if _taken(sizes) else 0


def _taken(sizes: list[int]) -> Held:
    """Blocks of these sizes in bytes; none where no process is forked."""
    if sys.platform != "linux":
        return ()
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    return tuple([malloc(size) for size in sizes])
