"""What chance gives the heap of a new process, for a forked child, which else would have its parent's.

Needs a C library; where there is none that can be asked, it does nothing.

Where a heap's blocks lie differs from process to process, and decides how large ones fall between them: peak memory and
speed of equal processes differ by it. Forked children share their parent's draw. So a child takes some blocks that
stay, at the cost of a fork, and each is then a draw of its own. Small blocks alone do not undo what the parent has:
measured in MiB with one thread, a U-Net's new interpreters peaked at 701 to 768 (741 in the mean of ten, standard
deviation 27), the children of one parent with up to 1,500 blocks of up to 1 KiB at 705 to 758 (728), those of another
at 753 to 815 (773); with what is done here the children of four parents had means of 733 to 759, and 744 (23) together.
Where some were given back at once, their room took up the small objects of the steps, and peaks were too low.
"""

from __future__ import annotations

import ctypes
import random
import sys

MOST_BLOCKS = 40
SMALLEST_BITS, LARGEST_BITS = 4, 18
"""Blocks of 16 bytes to 256 KiB, each octave alike likely; half a MiB in the mean, where a heap has holes of 1.5 MiB
when the first step begins. Of seven such pairs, with two to four parents of a U-Net each, five left these 43 to 45 MiB
apart, and this one within what chance does to five draws. All six that an MLP was tried with left its children's peaks
2 to 6% above those of interpreters (540 against 515)."""


def scatter(chance: random.Random | None = None) -> int:
    """Take blocks of random sizes for as long as this process lives.

    Args:
        chance: where numbers come from; a source of its own by default, so that the caller's are not used up.

    Returns:
        The bytes that they take, of which none is written to.
    """
    if sys.platform != "linux":  # no process is forked elsewhere
        return 0
    chance = chance or random.Random()
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    sizes = [int(2 ** chance.uniform(SMALLEST_BITS, LARGEST_BITS)) for _ in range(chance.randrange(MOST_BLOCKS))]
    for size in sizes:
        malloc(size)
    return sum(sizes)
