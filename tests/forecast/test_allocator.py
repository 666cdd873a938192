from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.forecast.allocator import (
    LARGE_BUFFER,
    SMALL_BUFFER,
    CachingAllocator,
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


def test_a_cached_segment_that_is_too_small_is_kept() -> None:
    assert reserved_peak_bytes([Event(0, 30 * MIB), Event(0, -30 * MIB), Event(1, 40 * MIB)]) == 70 * MIB


def test_a_storage_that_grows_is_served_while_it_still_has_what_it_had() -> None:
    assert reserved_peak_bytes([Event(0, 30 * MIB), Event(1, 64 * MIB), Event(0, -30 * MIB)]) == 94 * MIB


@given(logs())
def test_what_is_allocated_is_reserved_and_covers_what_was_asked(events: list[Event]) -> None:
    allocator, blocks, asked = CachingAllocator(), {}, {}
    for storage, size in events:
        if size > 0:
            blocks[storage], asked[storage] = allocator.allocate(size), size
        else:
            del asked[storage]
            allocator.free(blocks.pop(storage))
        assert sum(asked.values()) <= sum(block.size for block in blocks.values()) <= allocator.reserved_bytes
    in_order = sorted(blocks.values(), key=lambda block: block.address)
    for before, behind in pairwise(in_order):
        assert before.address + before.size <= behind.address


@given(logs(), st.randoms(use_true_random=False))
def test_whatever_the_order_all_that_is_freed_becomes_whole_segments_again(events: list[Event], random: object) -> None:
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
    free = [block for pool in (allocator._small, allocator._large) for block in pool._at.values()]
    assert all(block.previous is None and block.next is None for block in free)
    assert sum(block.size for block in free) == allocator.reserved_bytes


@given(logs())
def test_the_same_log_gives_the_same_answer(events: list[Event]) -> None:
    assert reserved_peak_bytes(events) == reserved_peak_bytes(iter(events))


@given(logs())
def test_no_less_is_reserved_than_lives_at_most(events: list[Event]) -> None:
    assert reserved_peak_bytes(events) >= max(accumulate(size for _, size in events))
