"""What chance gives the heap of a new process, for a forked child, which else would have its parent's.

Needs a C library; where there is none that can be asked, it does nothing.

Where a heap's small objects lie differs from process to process, and decides how large blocks fall between them: peak
memory and speed of equal processes differ by it. Forked children share one such draw. Measured at fixed batch sizes,
ten to twelve processes each, in MiB: an MLP's fresh interpreters peaked at 476 to 546 (513 in the mean), its forked
children all at 602, and with what is done here at 481 to 561 (519); a U-Net's at 724 to 786 (762), 757 to 772, and 719
to 774 (747). Speed likewise, in samples/s: 1,721 to 3,515, 3,421 to 4,247, and 2,426 to 3,983 for the MLP. So a child
takes some small objects, and gives half of them back: each is then a draw of its own, at the cost of a fork.
"""

from __future__ import annotations

import ctypes
import random
import sys

MOST_OBJECTS = 1500
SMALLEST_BITS, LARGEST_BITS = 4, 14
"""Objects of 16 bytes to 16 KiB, small and large ones alike likely in each octave, as a heap has them. What stays is
0.9 MiB in the mean."""


def scatter(chance: random.Random | None = None) -> int:
    """Take small objects of random sizes, give half of them back, and leave the others where they are.

    Args:
        chance: where numbers come from; a source of its own by default, so that the caller's are not used up.

    Returns:
        The bytes that stay.
    """
    if sys.platform != "linux":  # no process is forked elsewhere
        return 0
    chance = chance or random.Random()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    count = chance.randrange(MOST_OBJECTS)
    sizes = [int(2 ** chance.uniform(SMALLEST_BITS, LARGEST_BITS)) for _ in range(count)]
    taken = [(libc.malloc(size), size) for size in sizes]
    stays = 0
    for address, size in taken:
        if chance.random() < 0.5:
            libc.free(address)
        else:
            stays += size
    return stays
