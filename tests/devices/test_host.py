"""The machine's figures, against what other sources say of the same machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from autotune.devices import host, linux_process

MIB = 2**20


def test_facts_agree_with_psutil() -> None:
    facts = host.facts()
    assert facts.memory_bytes == psutil.virtual_memory().total
    assert facts.processor
    assert 1 <= facts.logical_cores <= (os.cpu_count() or 1)
    assert facts.physical_cores is None or 1 <= facts.physical_cores <= facts.logical_cores
    assert facts.python_version == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_cores_are_those_that_the_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from autotune.devices import host; print(host.logical_cores(), host.physical_cores())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["1", "1"]


def test_available_is_not_more_than_total() -> None:
    assert 0 < host.available_bytes() <= host.total_bytes() <= psutil.virtual_memory().total


def test_resident_grows_by_what_is_touched() -> None:
    before = host.resident_bytes(os.getpid())
    held = bytearray(b"x") * (64 * MIB)
    grown = host.resident_bytes(os.getpid()) - before
    assert len(held) == 64 * MIB
    assert 60 * MIB < grown < 72 * MIB


def test_a_process_that_is_gone_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert host.resident_bytes(process.pid) == 0


def test_processor_name_is_the_model_name_or_else_the_architecture(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X 16-Core Processor\nflags\t: fpu\n")
    assert host.processor_name(cpuinfo) == "AMD Ryzen 9 7950X 16-Core Processor"
    cpuinfo.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")  # as ARM writes it
    assert host.processor_name(cpuinfo) == host.processor_name(tmp_path / "missing") != ""


def test_stall_time_is_the_total_of_the_first_line(tmp_path: Path) -> None:
    pressure = tmp_path / "cpu"
    pressure.write_text("some avg10=1.52 avg60=0.80 avg300=0.21 total=123456\nfull avg10=0.00 total=99\n")
    assert host.cpu_stall_microseconds(pressure) == 123456
    assert host.cpu_stall_microseconds(tmp_path / "missing") is None


@pytest.mark.skipif(not Path("/proc/pressure/cpu").exists(), reason="no pressure stall information here")
def test_more_runnable_processes_than_cores_stall() -> None:
    before = host.cpu_stall_microseconds()
    spin = "import time\nend = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"
    crowd = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2 * host.logical_cores() + 1)]
    for process in crowd:
        process.wait()
    after = host.cpu_stall_microseconds()
    assert before is not None
    assert after is not None
    assert after > before


def test_what_the_environment_says_of_allocating_is_told_as_in_a_shell() -> None:
    environment = {"PATH": "/bin", "MALLOC_ARENA_MAX": "2", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    settings = "GLIBC_TUNABLES=glibc.malloc.tcache_count=0 MALLOC_ARENA_MAX=2"
    assert host.allocator_settings(environment) == settings
    assert host.allocator_settings({"PATH": "/bin"}) == ""
    assert host.allocator_settings({"LD_PRELOAD": "/a.so /b.so"}) == "'LD_PRELOAD=/a.so /b.so'"


def test_children_are_given_what_this_process_malloc_has_read() -> None:
    started = {"PATH": "/bin", "GLIBC_TUNABLES": "glibc.malloc.check=1", "MALLOC_ARENA_MAX": "2"}
    now = {"PATH": "/usr/bin", "LD_PRELOAD": "libjemalloc.so", "MALLOC_TOP_PAD_": "3"}
    assert host.heeded_by_malloc(now, started) == {**started, "PATH": "/usr/bin"}
    late = ["GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_TOP_PAD_"]
    assert host.set_too_late(now, started) == late
    assert host.set_too_late({**started, "PATH": "/usr/bin", "LD_PRELOAD": "libprofiler.so"}, started) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_knows_what_it_was_started_with_until_that_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = """
import os
os.environ["A"] = "late"
from autotune.devices import linux_process
print(linux_process.environment_at_start())
"""
    started = {"A": "1=2", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=0", "B": "3"}
    done = subprocess.run([sys.executable, "-c", ask], env=started, capture_output=True, text=True, check=True)
    assert done.stdout == f"{started}\n"
    (tmp_path / "environ").write_bytes(b"a title that was set\0\0\0")
    monkeypatch.setattr(linux_process, "_SELF", tmp_path)
    assert linux_process.environment_at_start() is None
    assert host.heeded_by_malloc({"MALLOC_ARENA_MAX": "1"}) == {"MALLOC_ARENA_MAX": "1"}
