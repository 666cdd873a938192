"""Forked children whose heaps are scattered, against such whose are not."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable

import pytest

from autotune.devices.heap_chance import LARGEST_BITS, LOCK_BYTES, MOST_BLOCKS, Held, give_back, hold, scatter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

BLOCKS_BYTES = (3000, 24, 9000, 400, 15000, 72, 6000, 1100, 12000, 200)


Child = tuple[int, int]
"""The number of a process, and of the pipe that it writes to."""


def in_child(work: Callable[[], str]) -> str:
    """What some work returns in a forked child."""
    return said(forked(work))


def forked(work: Callable[[], str]) -> Child:
    """A child that does some work."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, work().encode())
        os._exit(0)
    os.close(theirs)
    return pid, ours


def said(child: Child) -> str:
    """What its work returned."""
    pid, ours = child
    with os.fdopen(ours) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def layout(sizes: tuple[int, ...] = BLOCKS_BYTES) -> str:
    """Where the C library puts a few blocks now."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    return " ".join(str(libc.malloc(size)) for size in sizes)


def next_locks(given_back: Held = ()) -> str:
    """Where blocks of a lock's size would lie now."""
    give_back(given_back)
    return layout((LOCK_BYTES,) * 7)


def scattered_layout(seed: int) -> str:
    scatter(random.Random(seed))
    return layout()


def test_forked_children_share_a_layout_and_scattered_ones_have_their_own() -> None:
    assert len({in_child(layout) for _ in range(6)}) <= 3  # what this process does in between may move it
    several_blocks = range(5, 11)  # with one block or two, as others have, two children may come to the same
    assert len({in_child(lambda seed=seed: scattered_layout(seed)) for seed in several_blocks}) == 6


def test_the_same_numbers_take_the_same_bytes() -> None:
    assert in_child(lambda: str(scatter(random.Random(3)))) == in_child(lambda: str(scatter(random.Random(3))))


def test_what_stays_is_small() -> None:
    stays = [int(in_child(lambda seed=seed: str(scatter(random.Random(seed))))) for seed in range(40)]
    assert 2**18 < sum(stays) / len(stays) < 2**20
    assert max(stays) < MOST_BLOCKS * 2**LARGEST_BITS / 3


def test_the_callers_random_numbers_are_not_used_up() -> None:
    before = random.getstate()
    in_child(lambda: str(scatter()))
    scatter()
    assert random.getstate() == before


def test_a_child_has_the_small_blocks_at_hand_that_it_is_given_back() -> None:
    held = hold()
    without, given = in_child(next_locks), in_child(lambda: next_locks(held))
    assert not set(map(str, held)) & set(without.split())
    assert len(set(map(str, held)) & set(given.split())) >= 3  # those of the seven that the fork had taken


def test_blocks_of_chance_leave_small_ones_at_hand() -> None:
    held = hold()

    def after_chance() -> str:
        give_back(held)
        scatter()
        return next_locks()

    with_chance, without = forked(after_chance), forked(lambda: next_locks(held))  # reading from one takes a lock
    assert said(with_chance) == said(without)
