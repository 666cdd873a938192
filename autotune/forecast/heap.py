"""What a process holds resident while glibc's malloc serves a log of births and deaths of tensors.

Needs nothing but the log; no torch. glibc serves large blocks from a heap that grows at its end and keeps what is
free in its middle, so a process may hold nearly twice what its tensors need. Modelled are the rules that decide where
a block lies, after malloc/malloc.c of glibc 2.36, whose names the constants have: best fit, coalescing, the caches of
small chunks, mmap with a threshold that rises, trimming. One arena is modelled, the main thread's; memory counts once
it was touched, and a tensor touches all of its own.

Promises an estimate, since real heaps depend on what the log does not hold: the small objects of torch. Some for each
tensor stand for all: those that live as long as it does, those that an operator leaves to the next few, and the node
that autograd keeps beside an activation until the loss is let go. They matter because one that lies between two large
holes keeps these from becoming one; where they lie differs from process to process, and with them the peak, by some
per cent. So the log is served several times, from other starting states and with other small objects, and the mean is
the answer. Buffers that kernels take and free inside themselves (oneDNN's, MKL's) are served only where the log names
them. Other allocators (musl, jemalloc, Windows and macOS) have other rules.
"""

from __future__ import annotations

import platform
from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Iterable
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

from autotune.devices import host
from autotune.forecast.records import Event, Surroundings

PAGE_BYTES = 4096
SIZE_SZ = 8  # the header of a chunk in use
MALLOC_ALIGNMENT = 16  # chunks are multiples of it, and begin at one
MINSIZE = 32  # the smallest chunk

DEFAULT_MMAP_THRESHOLD_MAX = 32 << 20  # the threshold rises no further (mallopt(3), M_MMAP_THRESHOLD)
DEFAULT_TOP_PAD = 128 << 10  # asked of the system beyond what is needed
FASTBIN_CONSOLIDATION_THRESHOLD = 64 << 10  # freeing so much joins the small chunks, and may trim the top
MAX_FAST_BYTES = 128  # set_max_fast(DEFAULT_MXFAST): chunks up to it are not joined with their neighbours at once
TCACHE_FILL_COUNT = 7  # chunks of one size that a thread keeps for itself
TCACHE_MAX_BYTES = 1040  # the largest chunk that it keeps
MIN_LARGE_SIZE = 1024  # requests from here on join the fast chunks first


def _chunk_size(size_bytes: int) -> int:
    """`request2size`: with the header, and rounded up."""
    rounded = (size_bytes + SIZE_SZ + MALLOC_ALIGNMENT - 1) & -MALLOC_ALIGNMENT
    return rounded if rounded > MINSIZE else MINSIZE  # thousands of times a forecast, so no call


TENSOR_ALIGNMENT = 64  # gAlignment in c10/core/alignment.h; c10/core/impl/alloc_cpu.cpp calls posix_memalign with it
STORAGE_IMPL = (_chunk_size(96),)  # traced with torch 2.13: malloc'ed before a tensor's data, freed after it
TENSOR_OBJECTS = (_chunk_size(176), _chunk_size(24))  # likewise: a TensorImpl and what refers to it, after the data

STARTING_MMAP_THRESHOLD = 1_925_120
"""What the threshold (128 KiB in a new process) is once torch was imported and a model built: traced in six of seven
workloads that train, 2,101,248 in the seventh. Inference alone, without torch.optim, begins at half of it."""

NODE_OBJECTS = (_chunk_size(472), _chunk_size(24))
"""What autograd keeps beside an activation, malloc'ed before it: an operator's node and the list of its edges. Traced
in training steps of a GRU, a BERT, a Swin and an EfficientNet: 0.3 to 1.3 nodes of 464 to 512 bytes for each."""

PASSING_OBJECTS = ((24, 2), (24, 6), (40, 1), (72, 3), (176, 2))
"""Small objects that come with each tensor and outlive the birth of so many others, in bytes. They stand for what was
traced in training steps of a GRU, a WaveNet, a U-Net and an EfficientNet: for each block of over 4 KiB one to four of
24 bytes that outlive the next one to eight, one or two of 40 that outlive one, and fewer of 56 to 176."""


NOTHING = Surroundings()


class Start(NamedTuple):
    """One of the many states of the heap when the first step begins, and of the ways in which small objects live.

    Attributes:
        hole_bytes: room for small objects. 0.3 to 1.1 MiB were traced, in holes and behind the end; none at all is a
            start that agrees with the measured peaks, too.
        stretch: how many times as long as listed the passing objects live.
        with_node: how many more of the smallest objects come and go with an activation's nodes; of up to 24 bytes, 4
            to 9 in all were traced.
    """

    hole_bytes: int
    stretch: int
    with_node: int


STARTS = tuple(
    Start(hole_bytes=place * (512 << 10), stretch=1 + place, with_node=2 * (1 + place)) for place in range(3)
)
"""Evenly over what was traced. Five of them bring forecasts no nearer to 93 measured peaks: 2.6% off in the mean."""


def heap_peak_bytes(events: Iterable[Event], beside: Surroundings = NOTHING) -> int:
    """The most that glibc's malloc holds resident while it serves a log: what the log's tensors add to a process.

    Args:
        events: births and deaths in their order, with the bytes that torch asks for.
        beside: what small objects lie beside the storages.
    """
    log = tuple(events)
    return round(fmean(_peak_bytes(log, beside, start) for start in STARTS))


def most_live_bytes(events: Iterable[Event]) -> int:
    """The most that a log's storages need at one time: what an allocator holds that gives back all that is freed."""
    return max(accumulate((size_bytes for _, size_bytes in events), initial=0))


def _peak_bytes(events: Iterable[Event], beside: Surroundings, start: Start) -> int:
    heap, chunks = Heap(hole_bytes=start.hole_bytes), dict[int, list[Chunk]]()
    passing, nodes, step_ends = _Passing(heap, start), list[Chunk](), set(beside.step_ends)
    with_node, take = (MINSIZE,) * start.with_node, heap.chunk
    for number, (storage, size_bytes) in enumerate(events):
        if number in step_ends:
            _free_last_first(heap, nodes)
        if size_bytes < 0:
            _free_last_first(heap, chunks.pop(storage))
            continue
        passing.free_due()
        if storage in beside.bare:
            chunks[storage] = [heap.memalign(size_bytes)]
        else:
            count = beside.activations.get(storage, 0)
            nodes += map(take, NODE_OBJECTS * count)
            chunks[storage] = [*map(take, STORAGE_IMPL), heap.memalign(size_bytes), *map(take, TENSOR_OBJECTS)]
            nodes += map(take, with_node if count else ())
        passing.take()
    return heap.peak_bytes


def _free_last_first(heap: Heap, chunks: list[Chunk]) -> None:
    free, take = heap.free, chunks.pop
    while chunks:
        free(take())


class _Passing:
    """The small objects that pass from birth to birth: a ring of what is due at each of the next ones."""

    def __init__(self, heap: Heap, start: Start) -> None:
        self._heap = heap
        self._lives = [(_chunk_size(size_bytes), births * start.stretch) for size_bytes, births in PASSING_OBJECTS]
        self._due: deque[list[Chunk]] = deque([] for _ in range(max(life for _, life in self._lives) + 1))

    def take(self) -> None:
        due, chunk = self._due, self._heap.chunk
        for size, life in self._lives:
            due[life].append(chunk(size))

    def free_due(self) -> None:
        self._due.rotate(-1)
        due, free = self._due[0], self._heap.free
        for chunk in due:
            free(chunk)
        due.clear()


Chunk = tuple[int | None, int]
"""Where bytes in use begin and how many they are, header included; no start where they have a mapping of their own."""


class Heap:
    """The state of malloc: a heap from address 0 to `top`, the room behind it, and mapped chunks.

    Attributes:
        top: where the unused end begins.
        end: the end of what the system gave ("program break").
        mapped_bytes: of all chunks that have a mapping of their own.
        mmap_threshold: chunks from this size on get one, if no hole fits.
        peak_bytes: the most that was resident.
    """

    def __init__(self, mmap_threshold: int = STARTING_MMAP_THRESHOLD, hole_bytes: int = 0) -> None:
        """A heap with at most one hole, which is resident before anything is served."""
        self.top = self.end = self._touched = hole_bytes
        self.mapped_bytes = 0
        self.mmap_threshold, self._trim_threshold = mmap_threshold, 2 * mmap_threshold
        self._holes = _Holes()
        self._tcache: defaultdict[int, list[Chunk]] = defaultdict(list)
        self._fast: defaultdict[int, list[Chunk]] = defaultdict(list)
        self._before_bytes = hole_bytes  # resident already, so not added by what is served
        self.peak_bytes = 0
        if hole_bytes:
            self._holes.add(0, hole_bytes - MINSIZE)

    @property
    def resident_bytes(self) -> int:
        """What was touched and not given back, besides what was there before."""
        return self._touched - self._before_bytes + self.mapped_bytes

    def chunk(self, size: int) -> Chunk:
        """A chunk of so many bytes, header included: rounded beforehand, where many of a size are asked for."""
        kept = self._tcache[size]
        return kept.pop() if kept else self._allocate(size)

    def memalign(self, size_bytes: int) -> Chunk:
        """A chunk for a tensor's data: cut out of a larger one, whose ends are freed again (`_int_memalign`)."""
        size = _chunk_size(size_bytes)
        start, found = self._allocate(_chunk_size(size + TENSOR_ALIGNMENT + MINSIZE))
        if start is None:
            return None, found
        user = start + 2 * SIZE_SZ
        lead = -user % TENSOR_ALIGNMENT
        if lead:
            lead += TENSOR_ALIGNMENT if lead < MINSIZE else 0
            self.free((start, lead))
        if found - lead > size + MINSIZE:
            self.free((start + lead + size, found - lead - size))
            return start + lead, size
        return start + lead, found - lead

    def free(self, chunk: Chunk) -> None:
        """Take a chunk back (`_int_free`)."""
        start, size = chunk
        if size <= TCACHE_MAX_BYTES and len(kept := self._tcache[size]) < TCACHE_FILL_COUNT:
            kept.append(chunk)  # most are small, and none of these is mapped
        elif size <= MAX_FAST_BYTES:
            self._fast[size].append(chunk)
        elif start is None:
            self._unmap(size)
        elif self._join(start, size) >= FASTBIN_CONSOLIDATION_THRESHOLD:
            self._consolidate()
            self._trim()

    # ------------------------------------------------------------------ allocation

    def _allocate(self, size: int) -> Chunk:
        """The smallest hole that fits, or the top, or a mapping, or more top (`_int_malloc`, `sysmalloc`)."""
        if size >= MIN_LARGE_SIZE:
            self._consolidate()
        elif size in self._fast:
            return self._take_fast(size)
        hole = self._holes.take(size)
        if hole is not None:
            return self._cut(*hole, size)
        if self.end - self.top < size + MINSIZE:
            if self._fast:
                self._consolidate()
                return self._allocate(size)
            if size >= self.mmap_threshold:
                return self._map(size)
            self.end += _up(size + DEFAULT_TOP_PAD + MINSIZE - (self.end - self.top), PAGE_BYTES)
        self.top += size
        self._touched = max(self._touched, self.top)
        self._note_peak()
        return self.top - size, size

    def _cut(self, start: int, found: int, size: int) -> Chunk:
        if found - size < MINSIZE:
            return start, found
        self._holes.add(start + size, found - size)
        return start, size

    def _map(self, size: int) -> Chunk:
        mapped = _up(size + SIZE_SZ, PAGE_BYTES)
        self.mapped_bytes += mapped
        self._note_peak()
        return None, mapped

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes)

    # ------------------------------------------------------------------ release

    def _unmap(self, size: int) -> None:
        """A mapping goes back at once; the next of its size comes from the heap (`munmap_chunk`, `__libc_free`)."""
        self.mapped_bytes -= size
        if self.mmap_threshold < size <= DEFAULT_MMAP_THRESHOLD_MAX:
            self.mmap_threshold, self._trim_threshold = size, 2 * size

    def _join(self, start: int, size: int) -> int:
        """Make a hole, joined with those beside it or with the top; how large that is now."""
        start, size = self._holes.join(start, size)
        if start + size == self.top:
            self.top = start
            return self.end - start
        self._holes.add(start, size)
        return size

    def _take_fast(self, size: int) -> Chunk:
        chunks = self._fast[size]
        chunk = chunks.pop()
        if not chunks:
            del self._fast[size]
        return chunk

    def _consolidate(self) -> None:
        """Join the small chunks, the smallest first (`malloc_consolidate`)."""
        if not self._fast:
            return
        fast, self._fast = self._fast, defaultdict(list)
        for size in sorted(fast):
            for start, _ in reversed(fast[size]):
                assert start is not None  # a mapping is never small
                self._join(start, size)

    def _trim(self) -> None:
        """Give the end of a large top back (`systrim`)."""
        unused = self.end - self.top
        if unused >= self._trim_threshold:
            extra = max(0, unused - MINSIZE - 1 - DEFAULT_TOP_PAD)
            self.end -= extra - extra % PAGE_BYTES
            self._touched = min(self._touched, self.end)


class _Holes:
    """Free chunks, found by size, by start and by end."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []
        self._size_at: dict[int, int] = {}
        self._start_of: dict[int, int] = {}

    def add(self, start: int, size: int) -> None:
        insort(self._by_size, (size, start))
        self._size_at[start] = size
        self._start_of[start + size] = start

    def take(self, size: int) -> tuple[int, int] | None:
        """Remove the smallest hole of at least this size: its start and size."""
        place = bisect_left(self._by_size, (size, -1))
        if place == len(self._by_size):
            return None
        found, start = self._by_size.pop(place)
        del self._size_at[start], self._start_of[start + found]
        return start, found

    def join(self, start: int, size: int) -> tuple[int, int]:
        """Remove the holes that a chunk touches: the start and size of all together."""
        if start in self._start_of:
            before = self._start_of[start]
            start, size = before, size + self._remove(before)
        if start + size in self._size_at:
            size += self._remove(start + size)
        return start, size

    def _remove(self, start: int) -> int:
        size = self._size_at.pop(start)
        del self._start_of[start + size]
        self._by_size.pop(bisect_left(self._by_size, (size, start)))
        return size


def is_in_use() -> bool:
    """True where this process allocates by glibc's malloc as it comes, which is what is replayed here."""
    return platform.libc_ver()[0] == "glibc" and not host.tunes_malloc()


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
