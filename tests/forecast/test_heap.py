from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.cautions import MAPPED
from autotune.devices.host import variables
from autotune.forecast.heap import (
    DEFAULT_MMAP_THRESHOLD_MAX,
    FASTBIN_CONSOLIDATION_THRESHOLD,
    MALLOC_ALIGNMENT,
    PAGE_BYTES,
    STARTS,
    TENSOR_ALIGNMENT,
    Chunk,
    Heap,
    heap_peak_bytes,
    most_live_bytes,
)
from autotune.forecast.records import Event, Surroundings

MIB = 1 << 20
sizes = st.integers(1, 2000) | st.integers(1, 48 * MIB)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Births and deaths in any order; what lives at the end stays."""
    events: list[Event] = []
    live: list[Event] = []
    for number, size in enumerate(draw(st.lists(sizes, max_size=60))):
        events.append(Event(number, size))
        live.append(events[-1])
        for _ in range(draw(st.integers(0, min(2, len(live))))):
            storage, dying = live.pop(draw(st.integers(0, len(live) - 1)))
            events.append(Event(storage, -dying))
    return events


def serve(heap: Heap, events: list[Event]) -> dict[int, Chunk]:
    """Serve a log without the small objects around each tensor."""
    chunks: dict[int, Chunk] = {}
    for storage, size in events:
        if size > 0:
            chunks[storage] = heap.memalign(size)
        else:
            heap.free(chunks.pop(storage))
    return chunks


@given(logs())
def test_resident_bytes_are_never_fewer_than_the_live_ones(events):
    heap, chunks, live = Heap(), {}, 0
    for storage, size in events:
        live += size
        if size > 0:
            chunks[storage] = heap.memalign(size)
        else:
            heap.free(chunks.pop(storage))
        assert heap.resident_bytes >= live
        assert heap.peak_bytes >= heap.resident_bytes


@given(logs())
def test_chunks_in_use_are_aligned_and_do_not_overlap(events):
    heap = Heap()
    chunks = serve(heap, events)
    placed = sorted((start, size) for start, size in chunks.values() if start is not None)
    assert all(start + size <= following for (start, size), (following, _) in pairwise(placed))
    assert all((start + 16) % TENSOR_ALIGNMENT == 0 for start, _ in placed)
    assert all(start + size <= heap.top <= heap.end for start, size in placed)


@given(logs())
def test_a_peak_lies_between_the_live_bytes_and_all_that_was_ever_asked_for(events):
    live = peak = asked = 0
    for _, size in events:
        live, asked = live + size, asked + max(size, 0)
        peak = max(peak, live)
    births = sum(1 for event in events if event.size_bytes > 0)
    largest_hole_bytes = max(start.hole_bytes for start in STARTS)
    assert peak - largest_hole_bytes <= heap_peak_bytes(events) <= asked + births * (PAGE_BYTES + 2000)


@given(st.lists(st.integers(FASTBIN_CONSOLIDATION_THRESHOLD, 8 * MIB), min_size=1, max_size=30), st.randoms())
def test_when_everything_is_freed_little_more_than_the_trim_threshold_stays(blocks, shuffle):
    heap = Heap(mmap_threshold=9 * MIB)
    chunks = [heap.chunk(size - size % MALLOC_ALIGNMENT) for size in blocks]
    shuffle.shuffle(chunks)
    for chunk in chunks:
        heap.free(chunk)
    assert heap.top == 0
    assert heap.mapped_bytes == 0
    assert heap.resident_bytes < 2 * heap.mmap_threshold


@given(logs(), st.integers(DEFAULT_MMAP_THRESHOLD_MAX + 1, 1 << 30))
def test_a_block_over_32_mib_that_no_hole_fits_is_given_back_at_once(events, size):
    heap = Heap()
    serve(heap, events)
    before = heap.resident_bytes
    start, mapped = heap.memalign(size)
    if start is None:
        assert heap.resident_bytes - before == mapped < size + 2 * PAGE_BYTES
        heap.free((start, mapped))
        assert heap.resident_bytes == before


def test_freeing_a_mapped_block_moves_its_size_to_the_heap():
    heap = Heap(mmap_threshold=128 << 10)
    start, size = heap.memalign(4 * MIB)
    assert start is None
    heap.free((start, size))
    assert heap.mmap_threshold == size
    (below, _), (above, _) = heap.memalign(4 * MIB - PAGE_BYTES), heap.memalign(5 * MIB)
    assert below is not None
    assert above is None


def test_the_threshold_does_not_rise_above_32_mib():
    heap = Heap(mmap_threshold=128 << 10)
    heap.free(heap.memalign(40 * MIB))
    assert heap.mmap_threshold == 128 << 10
    heap.free(heap.memalign(31 * MIB))
    assert 31 * MIB < heap.mmap_threshold <= DEFAULT_MMAP_THRESHOLD_MAX


def test_a_walled_in_hole_is_too_small_for_another_tensor_of_the_same_size():
    heap = Heap(mmap_threshold=9 * MIB)
    first = heap.memalign(8 * MIB)
    wall, _ = heap.chunk(4000)
    heap.free(first)
    second, _ = heap.memalign(8 * MIB)
    assert second > wall  # posix_memalign asks for more than it will use
    smaller, _ = heap.memalign(8 * MIB - 200)
    assert smaller < wall


def test_a_hole_that_was_there_before_is_not_counted_again():
    assert Heap(hole_bytes=MIB).resident_bytes == 0
    heap = Heap(hole_bytes=MIB)
    heap.memalign(MIB // 2)
    assert heap.peak_bytes == 0


def test_beside_each_activation_lies_a_node():
    size, count = 8192, 5000
    events = births(range(count), size)
    plain = heap_peak_bytes(events)
    more = heap_peak_bytes(events, Surroundings(dict.fromkeys(range(count), 1))) - plain
    assert 480 + 32 + 2 * 32 <= more / count <= 480 + 32 + 6 * 32 + 16  # and objects of 32 bytes; 2 to 6 more


def test_an_activation_that_stands_for_several_operators_has_as_many_nodes_beside_it():
    size, count = 8192, 2000
    events = births(range(count), size)
    one, four = (heap_peak_bytes(events, Surroundings(dict.fromkeys(range(count), n))) for n in (1, 4))
    assert (four - one) / count == pytest.approx(3 * (480 + 32), rel=0.03)


def test_beside_a_storage_inside_a_kernel_lies_nothing():
    size, count = 8192, 2000
    events = births(range(count), size)
    less = heap_peak_bytes(events) - heap_peak_bytes(events, Surroundings(bare=frozenset(range(count))))
    objects = 112 + 192 + 32  # StorageImpl, TensorImpl and what refers to it; some go where a tensor left a rest
    assert objects - 64 < less / count <= objects


def test_nodes_outlive_what_they_saved_and_go_when_the_step_ends():
    """So they lie between the holes, which stay too small for what comes next, until the step has ended."""
    count, size = 200, 64 << 10
    forward, backward = births(range(count), size), deaths(range(count - 1, -1, -1), size)
    larger = births(range(count, count + 10), MIB)
    events = [*births(range(-1, 0), size), *forward, *backward, *larger]
    activations = dict.fromkeys(range(count), 1)
    while_held = heap_peak_bytes(events, Surroundings(activations, (len(events),)))
    once_gone = heap_peak_bytes(events, Surroundings(activations, (len(events) - len(larger),)))
    assert while_held > count * size + 8 * MIB
    assert once_gone < count * size + 2 * MIB


CHILD = """
import json, re, sys
import torch
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
events = json.load(sys.stdin)
torch.set_num_threads(1)
torch.empty(1000).fill_(1.0)
before, tensors = status("VmRSS"), {}
open("/proc/self/clear_refs", "w").write("5")
for storage, size in events:
    if size > 0:
        tensors[storage] = torch.empty(size, dtype=torch.uint8).fill_(1)
    else:
        del tensors[storage]
print(status("VmHWM") - before)
"""

unchanged_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc"
    or any(name.startswith("MALLOC_") or name in ("LD_PRELOAD", "GLIBC_TUNABLES") for name in os.environ),
    reason="needs glibc's malloc with its default settings",
)


def births(numbers: range, size: int) -> list[Event]:
    return [Event(number, size) for number in numbers]


def deaths(numbers: range, size: int) -> list[Event]:
    return [Event(number, -size) for number in numbers]


RAISED = [Event(-1, 30 * MIB), Event(-1, -30 * MIB)]  # from here on, what is smaller comes from the heap

HISTORIES = {
    "holes that are too small": (
        [*RAISED, *births(range(10), 10 * MIB), *deaths(range(0, 10, 2), 10 * MIB), *births(range(10, 15), 12 * MIB)],
        160,
    ),
    "holes that are used again": (
        [*RAISED, *births(range(10), 12 * MIB), *deaths(range(0, 10, 2), 12 * MIB), *births(range(10, 15), 10 * MIB)],
        120,
    ),
    "holes beside mappings": (
        [*RAISED, *births(range(8), 20 * MIB), *deaths(range(7), 20 * MIB), *births(range(8, 10), 150 * MIB)],
        460,
    ),
}


def real_peak_bytes(events: list[Event], setting: str = "") -> int:
    environment = os.environ | variables(setting)
    command, log = [sys.executable, "-c", CHILD], json.dumps(events)
    child = subprocess.run(command, input=log, capture_output=True, text=True, check=True, env=environment)
    return int(child.stdout)


@unchanged_glibc
@pytest.mark.parametrize("history", HISTORIES)
def test_the_peak_of_a_real_process_is_foretold_within_3_percent(history):
    events, expected_mib = HISTORIES[history]
    assert heap_peak_bytes(events) == pytest.approx(expected_mib * MIB, rel=0.03)
    assert real_peak_bytes(events) == pytest.approx(heap_peak_bytes(events), rel=0.03)


@unchanged_glibc
@pytest.mark.parametrize("history", HISTORIES)
def test_where_large_blocks_are_mapped_a_real_process_holds_what_is_live(history):
    events, fragmented_mib = HISTORIES[history]
    assert real_peak_bytes(events, MAPPED) == pytest.approx(most_live_bytes(events), rel=0.02)
    assert most_live_bytes(events) <= fragmented_mib * MIB


def plan(seed: int) -> list[Event]:
    """Up to twelve tensors live at a time, of 1 to 20 MiB each: enough to leave holes."""
    choose = random.Random(seed)
    events: list[Event] = []
    live: list[Event] = []
    for number in range(150):
        while len(live) >= choose.randint(2, 12):
            storage, size = live.pop(choose.randrange(len(live)))
            events.append(Event(storage, -size))
        live.append(Event(number, choose.randrange(MIB, 20 * MIB)))
        events.append(live[-1])
    return events


@unchanged_glibc
@pytest.mark.parametrize("seed", range(3))
def test_fragments_left_at_random_are_foretold_within_the_spread_of_real_processes(seed):
    events = plan(seed)
    real_bytes = sorted(real_peak_bytes(events) for _ in range(3))
    # one plan's processes differed by up to 42% (196 to 279 MiB), as where the heap begins is drawn
    assert 0.7 * real_bytes[-1] < heap_peak_bytes(events) < 1.45 * real_bytes[0]
    assert most_live_bytes(events) < 0.75 * real_bytes[0]
