"""The processor as a device, in fresh and in forked processes that really allocate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.devices import cpu, host
from autotune.devices import linux_process as linux
from autotune.devices.cpu import CpuDevice

MIB = 2**20
PRELUDE = "import os, sys\nfrom autotune.devices.cpu import CpuDevice\n"


def run(code: str) -> str:
    """Run some code in a fresh process.

    glibc's threshold for mapping an allocation of its own moves while a process runs, which makes peaks differ by
    tens of MiB from one process to the next; held still, they repeat.
    """
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_device_does_not_import_torch() -> None:
    assert run("print('torch' in sys.modules)").strip() == "False"


def test_facts_are_the_machines() -> None:
    facts = CpuDevice().facts()
    assert facts.name == host.processor_name()
    assert facts.total_bytes == host.total_bytes()
    assert 0 < facts.free_bytes <= facts.total_bytes


def test_the_peak_holds_what_was_freed_before_it_was_read() -> None:
    code = f"""
device = CpuDevice()
device.start_reading()
held = bytearray(b'x') * {96 * MIB}; del held
memory = device.memory()
print(memory.peak_bytes - memory.base_bytes, memory.method)
"""
    grown, method = run(code).split(maxsplit=1)
    assert 94 * MIB < int(grown) < 104 * MIB
    assert method.strip() == ("VmHWM" if linux.IS_LINUX else method.strip())


def test_a_new_reading_forgets_the_peak_before_it() -> None:
    code = f"""
device = CpuDevice()
device.start_reading()
held = bytearray(b'x') * {96 * MIB}; del held
device.start_reading()
held = bytearray(b'x') * {16 * MIB}; del held
memory = device.memory()
print(memory.peak_bytes - memory.base_bytes)
"""
    assert 14 * MIB < int(run(code)) < 24 * MIB


def test_what_is_missing_is_added_and_said() -> None:
    code = f"""
read = CpuDevice(); told = CpuDevice(missing_bytes={100 * MIB})
for device in (read, told): device.start_reading()
print(told.memory().base_bytes - read.memory().base_bytes, told.memory().method)
"""
    added, method = run(code).split(maxsplit=1)
    assert abs(int(added) - 100 * MIB) < MIB
    assert method.strip().endswith("and the libraries' pages")


FRESH_AND_FORKED = """
import torch
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(8)])
optimizer = torch.optim.Adam(model.parameters())

def step(n):
    optimizer.zero_grad()
    model(torch.randn(n, 512)).sum().backward()
    optimizer.step()
"""


@pytest.mark.skipif(not linux.IS_LINUX, reason="forks")
def test_a_forked_child_with_the_libraries_pages_has_the_peak_of_a_fresh_process() -> None:
    trial = "device = CpuDevice(); device.start_reading()\nfor _ in range(4): step(2048)\n"
    show = "print(device.memory().peak_bytes, flush=True)\n"
    fresh_peak = int(run(FRESH_AND_FORKED + trial + show))
    forked = """
from autotune.devices.library_pages import populate, touched_file_pages
pages = touched_file_pages()
if os.fork():
    os.wait()
else:
    assert populate(pages)
"""
    indented = "".join(f"    {line}\n" for line in (trial + show).splitlines())
    forked_peak = int(run(FRESH_AND_FORKED + forked + indented + "    os._exit(0)\n"))
    assert abs(forked_peak - fresh_peak) < 0.01 * fresh_peak


@pytest.mark.skipif(not linux.IS_LINUX, reason="forks")
def test_a_fork_leaves_the_libraries_pages_behind_and_populate_fetches_them() -> None:
    code = """
import torch
from autotune.devices.library_pages import populate, touched_file_pages
from autotune.devices.linux_process import resident
pages, mine = touched_file_pages(), resident().file_bytes
if os.fork():
    os.wait()
else:
    bare = resident().file_bytes
    assert populate(pages)
    print(mine, bare, resident().file_bytes, flush=True)
    os._exit(0)
"""
    mine, bare, fetched = map(int, run(code).split())
    assert bare < 0.5 * mine
    assert abs(fetched - mine) < 0.05 * mine


@pytest.mark.skipif(not linux.IS_LINUX, reason="forks")
def test_data_that_is_mapped_is_not_among_the_pages_of_libraries(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(4 * MIB))
    code = f"""
import mmap
from autotune.devices.library_pages import touched_file_pages
with open({str(path)!r}, "rb") as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(data[::4096])
place = next(line.split()[0] for line in open("/proc/self/maps") if {str(path)!r} in line)
start, end = (int(address, 16) for address in place.split("-"))
pages = touched_file_pages()
print(len(pages) > 10, any(start <= at < end for at, _ in pages))
"""
    assert run(code).split() == ["True", "False"]


def test_no_pages_are_no_pages() -> None:
    from autotune.devices.library_pages import populate

    assert not populate(())


def test_without_a_resettable_peak_a_thread_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "reset_peak", lambda: False)
    device = CpuDevice()
    device.start_reading()
    held = bytearray(b"x") * (96 * MIB)
    memory = device.memory()
    assert len(held) == 96 * MIB
    assert memory.method == "sampled every 5 ms"
    assert memory.peak_bytes - memory.base_bytes > 90 * MIB
    sampler = device._sampler
    assert sampler is not None
    device.release()
    assert not sampler._thread.is_alive()


def test_the_sampler_sees_what_comes_and_goes_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
from autotune.devices import cpu
import time
sampler = cpu._Sampler()
start = sampler.peak_bytes()
held = bytearray(b'x') * {96 * MIB}; time.sleep(0.5); del held
print(sampler.peak_bytes() - start)
sampler.stop()
"""
    assert int(run(code)) > 90 * MIB


@pytest.mark.skipif(not linux.IS_LINUX, reason="RLIMIT_DATA is Linux's")
def test_the_limit_lets_the_budget_through_and_stops_what_runs_away() -> None:
    code = f"""
device = CpuDevice()
device.start_reading()
device.limit(device.held_bytes() + {200 * MIB})
print(len(bytearray({190 * MIB})) // {MIB})
try:
    bytearray({600 * MIB}); print('taken')
except MemoryError:
    print('refused')
device.limit(device.facts().total_bytes)
print(len(bytearray({600 * MIB})) // {MIB})
"""
    assert run(code).split() == ["190", "refused", "600"]


@pytest.mark.skipif(not linux.IS_LINUX, reason="RLIMIT_DATA is Linux's")
def test_a_budget_below_what_is_held_already_leaves_only_the_slack() -> None:
    code = f"""
device = CpuDevice()
device.limit(1)
try:
    bytearray({cpu.LIMIT_SLACK_BYTES + 8 * MIB}); print('taken')
except MemoryError:
    print('refused')
"""
    assert run(code).split() == ["refused"]


def test_conditions_count_the_pages_that_a_step_touches() -> None:
    code = f"""
device = CpuDevice()
device.start_conditions()
held = bytearray(b'x') * {64 * MIB}
print(device.conditions(steps=4, samples=8).page_faults_per_step)
"""
    assert float(run(code)) > 20  # 64 MiB are 16384 small pages or 32 huge ones, in 4 steps


def test_the_stall_fraction_is_microseconds_over_seconds() -> None:
    assert cpu.stall_fraction(1_000_000, 1_500_000, 2.0) == pytest.approx(0.25)
    assert cpu.stall_fraction(None, 5, 2.0) is None
    assert cpu.stall_fraction(5, 5, 0.0) is None


def test_conditions_on_a_real_machine_are_within_reason() -> None:
    device = CpuDevice()
    device.start_conditions()
    sum(range(10**6))
    stall = device.conditions(1, 1).cpu_stall_fraction
    assert stall is None or stall >= 0
