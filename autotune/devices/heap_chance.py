"""What chance gives the heap of a new process, for a forked child, which else would have its parent's.

Needs a C library; where there is none that can be asked, it does nothing.

Where a heap's small objects lie differs from process to process, and decides how large blocks fall between them: peak
memory and speed of equal processes differ by it. Forked children share one such draw. Measured at one batch size, in
MiB: a U-Net's new interpreters peaked at 732 to 777 (746 in the mean of twelve), its forked children at 704 to 713
(709), and with what is done here at 699 to 762 (735); an MLP's at 493 to 548 (514), all at 498 or all at 602, as their
parent had it, and at 492 to 575 (523). So a child takes some small objects that stay: each is then a draw of its own,
at the cost of a fork. To give half of them back was tried, too: the room that they leave takes up the small objects of
the steps, and the U-Net then peaked at 726, too low.
"""

from __future__ import annotations

import ctypes
import random
import sys

MOST_OBJECTS = 1500
SMALLEST_BITS, LARGEST_BITS = 4, 10
"""Objects of 16 bytes to 1 KiB, each octave alike likely; 180 KiB in the mean. Chosen among eight variants by nine
to twenty draws of the two models above: sizes of up to 16 KiB spread the U-Net's peaks more than interpreters' (31
MiB, one standard deviation, against 12; these 20), up to 256 bytes gave a lower mean (719); at most 60 objects did
as well."""


def scatter(chance: random.Random | None = None) -> int:
    """Take small objects of random sizes for as long as this process lives.

    Args:
        chance: where numbers come from; a source of its own by default, so that the caller's are not used up.

    Returns:
        The bytes that they take.
    """
    if sys.platform != "linux":  # no process is forked elsewhere
        return 0
    chance = chance or random.Random()
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    sizes = [int(2 ** chance.uniform(SMALLEST_BITS, LARGEST_BITS)) for _ in range(chance.randrange(MOST_OBJECTS))]
    for size in sizes:
        malloc(size)
    return sum(sizes)
