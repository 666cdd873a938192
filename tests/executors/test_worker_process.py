"""A worker as its parent sees it: real ones, that are slow, that are killed, or that leave something behind."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from containers import memory_cgroup

import autotune
from autotune.errors import NothingFitsError, WorkloadError
from autotune.executors import Attempt, Effort, TrialRequest, worker_process
from autotune.executors.messages import Job
from autotune.executors.watchdog import Watch, Watchdog
from autotune.executors.worker_process import WorkerProcess
from autotune.spec import FileWorkload, ProbeSpec
from autotune.trial import Conditions, Measurement, Memory, Outcome

GIB = 2**30
WATCH = Watch(budget_bytes=4 * GIB, limit_bytes=None, reserve_bytes=0, seconds=60.0)
QUICK = Effort(warmup_steps=1, min_steps=2, max_steps=2, seconds=0.0)
MODEL = """
import os, time
import torch
from torch import nn

class Model(nn.Linear):
    def forward(self, x):
        in_forward(len(x))
        return super().forward(x)

def in_forward(n):
    pass

def make_batch(n):
    return torch.randn(n, 4), torch.randn(n, 2)

model = Model(4, 2)
loss = nn.MSELoss()
"""


@contextmanager
def worker(folder: Path, more: str, *, forks: bool, verbose: bool = False) -> Iterator[WorkerProcess]:
    """One that was told to build the model, with this code after it."""
    path = folder / "model.py"
    path.write_text(MODEL + more)
    made = WorkerProcess(hide_gpus=True, verbose=verbose, environment={})
    try:
        made.begin(Job(spec=ProbeSpec(workload=FileWorkload(target=str(path)), device="cpu"), forks=forks))
        yield made
    finally:
        made.close()


def test_a_worker_is_none_of_the_processes_that_a_launcher_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in {**place, "ACCELERATE_MIXED_PRECISION": "bf16"}.items():
        monkeypatch.setenv(name, value)
    check = f"""
assert not {set(place)} & os.environ.keys(), os.environ
assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
"""
    with worker(tmp_path, check, forks=False) as alone:
        alone.built(WATCH)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_first_step_that_takes_long_is_not_taken_for_a_deadlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "STALL_SECONDS", 1.0)
    spin = "def in_forward(n):\n    while time.process_time() < 2.0:\n        pass\n"
    with worker(tmp_path, spin, forks=True) as slow:
        assert slow.built(WATCH).forks


def test_a_child_that_is_gone_and_not_yet_told_of_is_not_taken_for_a_deadlocked_one() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert not worker_process._has_stalled(Watchdog(child.pid, WATCH, started=-1e6))


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_worker_that_may_fork_and_does_not_is_never_taken_for_a_deadlocked_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_has_stalled", lambda _: True)
    unsafe = (
        "from autotune import Workload\n"
        "workload = Workload(make_batch=make_batch, training_step=lambda batch: model(batch[0]), is_fork_safe=False)\n"
    )
    with worker(tmp_path, unsafe, forks=True) as unforking:
        assert not unforking.built(WATCH).forks
        assert unforking.run(TrialRequest(batch_size=4, effort=QUICK), WATCH).outcome is Outcome.FITS


# ---------------------------------------------------------------------- killed while building

DIE = "os.kill(os.getpid(), 9)"
PLACES = {"the import": DIE, "the first step": f"def in_forward(n):\n    {DIE}\n"}


@pytest.mark.parametrize("forks", [True, False] if sys.platform == "linux" else [False])
@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_building_is_the_kernels_where_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, forks: bool
) -> None:
    monkeypatch.setattr(worker_process, "_kernel_kills", itertools.count().__next__)
    with (
        worker(tmp_path, PLACES[place], forks=forks) as killed,
        pytest.raises(NothingFitsError, match="the kernel, short of memory"),
    ):
        killed.built(WATCH)


@pytest.mark.parametrize("place", PLACES)
def test_any_other_kill_while_building_is_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(worker_process, "_kernel_kills", lambda: 7)
    with (
        worker(tmp_path, PLACES[place], forks=sys.platform == "linux") as killed,
        pytest.raises(WorkloadError, match="SIGKILL"),
    ):
        killed.built(WATCH)


OPEN = """
from autotune.errors import NothingFitsError
from autotune.executors import worker_process
from autotune.executors.children import ChildExecutor
from autotune.spec import FileWorkload, MemoryBudget, ProbeSpec

worker_process.WATCH_SECONDS = 30.0  # the kernel shall come before the watchdog
spec = ProbeSpec(workload=FileWorkload(target={path!r}), device="cpu", budget=MemoryBudget(bytes_=700 << 20))
with ChildExecutor(spec) as executor:
    try:
        executor.open()
    except NothingFitsError as error:
        print(error.message)
"""
GRAB = "held = b'x' * (2 << 30)"


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups")
@pytest.mark.parametrize("grab", [GRAB, f"def in_forward(n):\n    {GRAB}\n"], ids=PLACES)
def test_a_real_kill_for_memory_while_building_is_told_as_one(tmp_path: Path, grab: str) -> None:
    path = tmp_path / "model.py"
    path.write_text(MODEL + grab)
    with memory_cgroup(GIB) as cgroup:
        enter = f"import os; open({str(cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        done = subprocess.run(
            [sys.executable, "-c", enter + OPEN.format(path=str(path))],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(autotune.__file__).parents[1])},
        )
    assert "the kernel, short of memory" in done.stdout, done


# ---------------------------------------------------------------------- what it printed


def test_the_log_is_read_without_what_windows_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.setattr(worker_process, "signal", ModuleType("signal"), raising=False)  # has no SIGKILL
    code = (
        "print('built', flush=True)\n"
        f"def in_forward(n):\n    if n == 9:\n        print('and then', flush=True)\n        {DIE}\n"
    )
    with worker(tmp_path, code, forks=False, verbose=True) as killed:
        killed.built(WATCH)
        attempt = killed.run(TrialRequest(batch_size=9, effort=QUICK), WATCH)
    assert attempt.outcome is Outcome.CRASHED
    assert attempt.reason == "it was killed by SIGKILL before the trial ended: and then"
    assert capsys.readouterr().err.splitlines() == ["built", "and then"]


# ---------------------------------------------------------------------- the memory of a tree


def with_tree(memory: Memory) -> Memory:
    """What is made of a measurement where the process and its children held 9 GiB of the host's memory."""
    measurement = Measurement(
        batch_size=1,
        step_seconds=(1.0,),
        cpu_seconds=(1.0,),
        warmup_steps=1,
        memory=memory,
        conditions=Conditions(),
    )
    watchdog = Watchdog(os.getpid(), WATCH, peak_tree_bytes=9 * GIB)
    found = worker_process._with_tree_peak(Attempt(outcome=Outcome.FITS, measurement=measurement), watchdog)
    assert found.measurement is not None
    return found.measurement.memory


def test_what_children_hold_of_the_host_counts_there_and_not_on_a_device() -> None:
    on_host = Memory(peak_bytes=GIB, base_bytes=0, method="VmHWM")
    assert with_tree(on_host).peak_bytes == 9 * GIB
    on_device = Memory(peak_bytes=GIB, base_bytes=0, method="reserved by the allocator", allocated_bytes=GIB // 2)
    assert with_tree(on_device) == on_device
