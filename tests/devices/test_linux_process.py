"""Each primitive on a real process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from autotune.devices import linux_process as linux

pytestmark = pytest.mark.skipif(not linux.IS_LINUX, reason="Linux only")

MIB = 2**20
PRELUDE = "import os, sys, time, subprocess, mmap\nfrom autotune.devices import linux_process as linux\n"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_dies_with_its_parent() -> None:
    child = PRELUDE + "assert linux.die_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, text=True)\n"
        "print(p.stdout.readline(), flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert not is_gone(pid)
    process.kill()
    process.wait()
    process.stdout.close()
    assert eventually(lambda: is_gone(pid))


def test_an_orphan_comes_to_the_process_that_adopts() -> None:
    code = """
assert linux.adopt_orphans()
middle = subprocess.Popen(
    [sys.executable, '-c', "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"], stdout=subprocess.PIPE)
orphan = int(middle.stdout.readline()); middle.wait()
print(orphan in linux.descendants(os.getpid()))
os.kill(orphan, 9)
os.waitpid(orphan, 0)
"""
    assert run(code).split() == ["True"]


def test_volunteering_is_what_the_kernel_then_says() -> None:
    assert run("print(linux.volunteer_for_oom_kill(), open('/proc/self/oom_score_adj').read())").split() == [
        "True",
        "1000",
    ]


def test_the_peak_remembers_what_was_freed_and_forgets_it_on_reset() -> None:
    code = f"""
held = bytearray(b'x') * {128 * MIB}; del held
print(linux.peak_resident_bytes() - linux.resident().total_bytes)
assert linux.reset_peak()
print(linux.peak_resident_bytes() - linux.resident().total_bytes)
"""
    freed, after_reset = map(int, run(code).split())
    assert freed > 120 * MIB
    assert after_reset < 4 * MIB


def test_resident_tells_anonymous_file_and_shared_memory_apart(tmp_path: Path) -> None:
    file = tmp_path / "mapped"
    file.write_bytes(os.urandom(MIB) * 16)
    code = f"""
def grown(before, after): return [(getattr(after, n) - getattr(before, n)) // {MIB} for n in names]
names = ('anonymous_bytes', 'file_bytes', 'shared_bytes', 'total_bytes')
start = linux.resident()
anonymous = bytearray(b'x') * {64 * MIB}
one = linux.resident()
mapped = mmap.mmap(os.open({str(file)!r}, os.O_RDONLY), 0, prot=mmap.PROT_READ)
sum(mapped[::4096])
two = linux.resident()
shared = mmap.mmap(-1, {32 * MIB}); shared.write(b'x' * {32 * MIB})
three = linux.resident()
print(*grown(start, one), *grown(one, two), *grown(two, three))
"""
    grown = list(map(int, run(code).split()))
    for found, expected in zip(grown, [64, 0, 0, 64, 0, 16, 0, 16, 0, 0, 32, 32], strict=True):
        assert abs(found - expected) <= 3


def test_a_limit_on_data_refuses_and_is_raised_again() -> None:
    code = f"""
assert linux.limit_data(linux.data_bytes() + {16 * MIB})
try:
    bytearray({256 * MIB}); print('taken')
except MemoryError:
    print('refused')
assert linux.limit_data(linux.data_bytes() + {512 * MIB})
print(len(bytearray({256 * MIB})))
"""
    assert run(code).split() == ["refused", str(256 * MIB)]


def test_data_counts_address_space_that_was_never_touched() -> None:
    code = f"""
data, resident = linux.data_bytes(), linux.resident().total_bytes
held = mmap.mmap(-1, {256 * MIB}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print((linux.data_bytes() - data) // {MIB}, (linux.resident().total_bytes - resident) // {MIB})
"""
    data, resident = map(int, run(code).split())
    assert 256 <= data < 260  # the arguments of the print may take a page or more from the heap
    assert resident < 8


def test_a_process_that_ends_while_it_is_looked_at_has_no_descendants_and_no_memory() -> None:
    for _ in range(100):
        with subprocess.Popen(["true"]) as child, ThreadPoolExecutor() as pool:
            ended = pool.submit(child.wait)
            while not ended.done():
                assert linux.descendants(child.pid) == []
                assert linux.tree_resident_bytes(child.pid) >= 0
        assert linux.tree_resident_bytes(child.pid) == 0


def test_descendants_are_children_and_grandchildren_and_nobody_else() -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    try:
        assert linux.descendants(child.pid) == [grandchild]
        assert {child.pid, grandchild} <= set(linux.descendants(os.getpid()))
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert linux.descendants(child.pid) == []


def test_a_tree_counts_copied_on_write_pages_once_and_private_ones_each() -> None:
    code = f"""
held = bytearray(b'x') * {128 * MIB}
alone = linux.tree_resident_bytes(os.getpid())
ready, tell = os.pipe()
pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        own = bytearray(b'y') * {32 * MIB}; os.write(tell, b'.'); time.sleep(60)
    pids.append(pid)
while len(os.read(ready, 1)) and len(linux.descendants(os.getpid())) < 2: pass
os.read(ready, 1)
print(linux.resident().total_bytes, alone, linux.tree_resident_bytes(os.getpid()))
for pid in pids: os.kill(pid, 9); os.waitpid(pid, 0)
"""
    resident, alone, tree = map(int, run(code).split())
    assert abs(alone - resident) < 4 * MIB  # without children it is just the resident size
    assert 60 * MIB < tree - alone < 90 * MIB  # twice 32 MiB, and not twice 128 MiB besides


def test_a_tree_that_is_gone_holds_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert linux.tree_resident_bytes(process.pid) == 0


def test_elsewhere_each_does_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "IS_LINUX", False)
    assert not linux.die_with_parent()
    assert not linux.adopt_orphans()
    assert not linux.volunteer_for_oom_kill()
    assert not linux.reset_peak()
    assert linux.peak_resident_bytes() is None
    assert linux.data_bytes() is None
    assert linux.resident().anonymous_bytes == linux.resident().total_bytes > 0


def test_where_the_kernel_tells_only_some_of_it_the_rest_is_as_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gVisor's /proc does."""
    (tmp_path / "status").write_text("Name:\tpython\nVmSize:\t 9000 kB\nVmRSS:\t 5000 kB\nVmData:\t 4000 kB\n")
    (tmp_path / "clear_refs").touch()
    monkeypatch.setattr(linux, "_SELF", tmp_path)
    assert linux.data_bytes() == 4000 * 1024
    assert linux.resident().anonymous_bytes == linux.resident().total_bytes > 0
    assert linux.peak_resident_bytes() is None
    assert not linux.reset_peak()
