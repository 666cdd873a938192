from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.forecast.allocator import (
    LARGE_BUFFER,
    SMALL_BUFFER,
    CachingAllocator,
    OutOfSegmentsError,
    fits,
    reserved_peak_bytes,
)
from autotune.forecast.records import Event

KIB, MIB = 1 << 10, 1 << 20

SIZES = st.one_of(st.integers(1, 2 * MIB), st.integers(MIB, 64 * MIB), st.sampled_from([512, MIB, 10 * MIB, 20 * MIB]))


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Births, and deaths of what is alive, in any order."""
    events: list[Event] = []
    alive: dict[int, int] = {}
    for number in range(draw(st.integers(1, 60))):
        if alive and draw(st.booleans()):
            storage = draw(st.sampled_from(sorted(alive)))
            events.append(Event(storage, -alive.pop(storage)))
        alive[number] = draw(SIZES)
        events.append(Event(number, alive[number]))
    return events


def born(*sizes: int) -> list[Event]:
    return [Event(number, size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, SMALL_BUFFER),
        (MIB, SMALL_BUFFER),
        (MIB + 1, LARGE_BUFFER),
        (10 * MIB - 1, 10 * MIB),  # rounded to 512 bytes it reaches 10 MiB
        (10 * MIB - 512, LARGE_BUFFER),
        (10 * MIB, 10 * MIB),
        (21 * MIB, 22 * MIB),
    ],
)
def test_segments_have_the_sizes_of_the_allocators_source(size: int, segment: int) -> None:
    assert reserved_peak_bytes(born(size)) == segment


def test_small_and_large_requests_never_share_a_segment() -> None:
    assert reserved_peak_bytes(born(5 * MIB, 512)) == LARGE_BUFFER + SMALL_BUFFER


def test_a_remainder_serves_only_where_it_is_worth_splitting() -> None:
    assert reserved_peak_bytes(born(9 * MIB, 9 * MIB)) == LARGE_BUFFER
    # 1 MiB left of 32 MiB is not split off, so a further request of that pool needs a segment
    assert reserved_peak_bytes([Event(0, 32 * MIB), Event(0, -32 * MIB), *born(31 * MIB, 2 * MIB)]) == 52 * MIB


def test_the_smallest_free_block_that_is_large_enough_is_taken() -> None:
    allocator = CachingAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(30 * MIB)
    allocator.free(large)
    allocator.free(small)
    assert allocator.allocate(30 * MIB) is small


def test_a_cached_segment_is_given_back_when_the_device_is_full() -> None:
    events = [Event(0, 30 * MIB), Event(0, -30 * MIB), Event(1, 40 * MIB)]
    assert reserved_peak_bytes(events) == 70 * MIB
    assert fits(events, 40 * MIB)
    assert not fits(events, 40 * MIB - 1)


def test_a_segment_in_use_is_not_given_back() -> None:
    events = [*born(5 * MIB, 5 * MIB), Event(0, -5 * MIB), Event(2, 15 * MIB)]  # 15 are free, but not in one piece
    assert not fits(events, 36 * MIB - 1)
    assert fits(events, 36 * MIB)


def test_a_storage_that_grows_is_served_anew() -> None:
    assert reserved_peak_bytes([Event(0, 30 * MIB), Event(0, -30 * MIB), Event(0, 64 * MIB)]) == 94 * MIB


@given(logs())
def test_what_is_allocated_is_reserved_and_covers_what_was_asked(events: list[Event]) -> None:
    allocator, blocks, asked = CachingAllocator(), {}, {}
    for storage, size in events:
        if size > 0:
            blocks[storage], asked[storage] = allocator.allocate(size), size
        else:
            del asked[storage]
            allocator.free(blocks.pop(storage))
        assert sum(asked.values()) <= allocator.allocated_bytes <= allocator.reserved_bytes
        assert allocator.allocated_bytes == sum(block.size for block in blocks.values())
        assert allocator.reserved_bytes <= allocator.reserved_peak_bytes
    in_order = sorted(blocks.values(), key=lambda block: block.address)
    for before, behind in pairwise(in_order):
        assert before.address + before.size <= behind.address


@given(logs(), st.randoms(use_true_random=False))
def test_whatever_the_order_all_that_is_freed_can_be_given_back(events: list[Event], random: object) -> None:
    allocator, blocks = CachingAllocator(), {}
    for storage, size in events:
        if size > 0:
            blocks[storage] = allocator.allocate(size)
        else:
            allocator.free(blocks.pop(storage))
    left = list(blocks.values())
    random.shuffle(left)  # type: ignore[attr-defined]
    for block in left:
        allocator.free(block)
    assert allocator.allocated_bytes == 0
    allocator.release_cached()
    assert allocator.reserved_bytes == 0


@given(logs())
def test_the_same_log_gives_the_same_answer(events: list[Event]) -> None:
    assert reserved_peak_bytes(events) == reserved_peak_bytes(iter(events))


@given(logs())
def test_the_peak_is_enough_and_less_than_what_lives_is_not(events: list[Event]) -> None:
    assert fits(events, reserved_peak_bytes(events))
    live = peak = 0
    for _, size in events:
        live += size
        peak = max(peak, live)
    assert not fits(events, peak - 1)


def test_a_request_beyond_the_capacity_is_refused() -> None:
    allocator = CachingAllocator(capacity_bytes=30 * MIB)
    with pytest.raises(OutOfSegmentsError):
        allocator.allocate(31 * MIB)
    assert allocator.allocate(30 * MIB).size == 30 * MIB
