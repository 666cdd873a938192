"""What torch's caching allocator would hold of a GPU while it serves a log of births and deaths.

Needs nothing but the log; no torch. Promises the answer of `c10/cuda/CUDACachingAllocator.cpp` with its default
settings, one stream and no CUDA graphs: best fit, blocks split and joined again, and small and large requests in
pools of their own. It is written from that file's rules, and the constants have its names. Two things it can't
know: where the driver puts a segment (here each lies behind the last), which decides between free blocks of equal
size, and what other libraries take besides.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from autotune.forecast.records import Event

MIN_BLOCK_SIZE = 512  # kMinBlockSize: every request is rounded up to a multiple of it
SMALL_SIZE = 1 << 20  # kSmallSize: the largest request that the small pool serves
SMALL_BUFFER = 2 << 20  # kSmallBuffer: a segment of the small pool
LARGE_BUFFER = 20 << 20  # kLargeBuffer: a segment for large requests below kMinLargeAlloc
MIN_LARGE_ALLOC = 10 << 20  # kMinLargeAlloc: from here on a request gets a segment of its own size
ROUND_LARGE = 2 << 20  # kRoundLarge: rounded up to a multiple of it


def reserved_peak_bytes(events: Iterable[Event]) -> int:
    """The most that the allocator reserves while it serves a log, on a device without bounds.

    A device with fewer bytes may still serve it: a full allocator gives back what it caches and tries again. Until it
    fails, that is thrash.
    """
    allocator = CachingAllocator()
    _replay(events, allocator)
    return allocator.reserved_bytes  # nothing is given back


class CachingAllocator:
    """The allocator's state: segments of device memory, cut into blocks.

    Attributes:
        reserved_bytes: of all segments; it only grows.
    """

    def __init__(self) -> None:
        """Nothing is reserved yet."""
        self.reserved_bytes = 0
        self._small, self._large = _Pool(), _Pool()
        self._next_address = 0

    def allocate(self, size_bytes: int) -> Block:
        """A block of at least so many bytes (`malloc`)."""
        size = max(MIN_BLOCK_SIZE, _round_up(size_bytes, MIN_BLOCK_SIZE))
        pool = self._small if size <= SMALL_SIZE else self._large
        block = pool.take_best_fit(size) or self._new_segment(pool, size)
        self._split(block, size)
        block.is_free = False
        return block

    def free(self, block: Block) -> None:
        """Take a block back and join it with its free neighbours (`free_block`)."""
        for neighbour in (block.previous, block.next):
            if neighbour is not None and neighbour.is_free:
                block.pool.remove(neighbour)
                block.absorb(neighbour)
        block.pool.add(block)

    def _new_segment(self, pool: _Pool, size: int) -> Block:
        """A segment from the device (`alloc_block`)."""
        segment_bytes = _segment_bytes(size)
        self.reserved_bytes += segment_bytes
        address, self._next_address = self._next_address, self._next_address + segment_bytes
        return Block(pool, address, segment_bytes)

    def _split(self, block: Block, size: int) -> None:
        """Leave what a request does not need in the pool, unless it is too little (`should_split`)."""
        rest = block.size - size
        if rest >= MIN_BLOCK_SIZE if block.pool is self._small else rest > SMALL_SIZE:
            block.pool.add(block.cut(size))


class Block:
    """A stretch of a segment, with its neighbours there; sizes and addresses in bytes."""

    __slots__ = ("address", "is_free", "next", "pool", "previous", "size")

    def __init__(self, pool: _Pool, address: int, size: int) -> None:
        """A whole segment."""
        self.pool, self.address, self.size = pool, address, size
        self.previous: Block | None = None
        self.next: Block | None = None
        self.is_free = False

    def cut(self, size: int) -> Block:
        """Keep the first bytes; what is behind them becomes a block of its own."""
        rest = Block(self.pool, self.address + size, self.size - size)
        rest.previous, rest.next = self, self.next
        if rest.next is not None:
            rest.next.previous = rest
        self.next, self.size = rest, size
        return rest

    def absorb(self, neighbour: Block) -> None:
        """Become one with the block before or behind."""
        self.size += neighbour.size
        if neighbour is self.previous:
            self.address, self.previous = neighbour.address, neighbour.previous
            if self.previous is not None:
                self.previous.next = self
        else:
            self.next = neighbour.next
            if self.next is not None:
                self.next.previous = self


class _Pool:
    """Free blocks in the order of the allocator's set: by size, then by address."""

    def __init__(self) -> None:
        self._order: list[tuple[int, int]] = []
        self._at: dict[int, Block] = {}

    def add(self, block: Block) -> None:
        block.is_free = True
        self._at[block.address] = block
        insort(self._order, (block.size, block.address))

    def remove(self, block: Block) -> None:
        self._pop(bisect_left(self._order, (block.size, block.address)))

    def take_best_fit(self, size: int) -> Block | None:
        """The smallest block that is large enough, taken out (`get_free_block`)."""
        place = bisect_left(self._order, (size, 0))
        return self._pop(place) if place < len(self._order) else None

    def _pop(self, place: int) -> Block:
        _, address = self._order.pop(place)
        block = self._at.pop(address)
        block.is_free = False
        return block


def _replay(events: Iterable[Event], allocator: CachingAllocator) -> None:
    blocks: dict[int, Block] = {}
    for storage, size_bytes in events:
        if size_bytes > 0:
            blocks[storage] = allocator.allocate(size_bytes)
        elif size_bytes < 0:
            allocator.free(blocks.pop(storage))


def _segment_bytes(size: int) -> int:
    """What is asked of the device for a request (`get_allocation_size`)."""
    if size <= SMALL_SIZE:
        return SMALL_BUFFER
    return LARGE_BUFFER if size < MIN_LARGE_ALLOC else _round_up(size, ROUND_LARGE)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
