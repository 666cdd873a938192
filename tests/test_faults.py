"""Children that misbehave in every way there is; the caller survives each, and the outcome names it rightly.

One workload holds all the faults, each behind a batch size of its own, so that one server forks them all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from autotune.executors import Attempt, ContestRequest, Effort, TrialRequest
from autotune.executors.children import ChildExecutor
from autotune.spec import FileWorkload, MemoryBudget, ProbeSpec
from autotune.trial import Outcome

QUICK = Effort(warmup_steps=1, min_steps=2, max_steps=2, seconds=0.0)
BUDGET_BYTES = 1 << 30

MODEL = """
import ctypes, mmap, os, signal, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class BackwardFails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ArithmeticError("backward went wrong")


class Faulty(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        fault = FAULTS.get(len(x))
        if fault is not None:
            x = fault(x)
        return self.layer(x)


class FailingOptimizer(torch.optim.SGD):
    def step(self, closure=None):
        if self.param_groups[0].pop("fail", False):
            raise KeyError("optimizer went wrong")
        return super().step(closure)


class Broken(Dataset):
    def __init__(self, act):
        self.act = act

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.act()


def grab_memory(x):
    kept = []
    while True:
        kept.append(torch.ones(8 << 20))


def grab_shared_memory(x):
    kept = []
    while True:
        block = mmap.mmap(-1, 32 << 20)
        for page in range(0, len(block), 4096):
            block[page] = 1
        kept.append(block)


def child_grabs_memory(x):
    if os.fork() == 0:
        try:
            grab_shared_memory(x)
        finally:
            os._exit(0)
    os.wait()
    return x


def die(number):
    def fault(x):
        os.kill(os.getpid(), number)
    return fault


def hang(x):
    while True:
        time.sleep(1)


def spin(x):
    while True:
        pass


def leave(x):
    os._exit(3)


def leave_politely(x):
    sys.exit(4)


def raise_in_forward(x):
    raise ValueError("forward went wrong")


def raise_in_backward(x):
    return BackwardFails.apply(x.requires_grad_())


def raise_in_optimizer(x):
    optimizer.param_groups[0]["fail"] = True
    return x


def raise_in_loader(x):
    def act():
        raise LookupError("loader went wrong")
    next(iter(DataLoader(Broken(act), num_workers=1)))


def loader_dies(x):
    next(iter(DataLoader(Broken(lambda: os.kill(os.getpid(), signal.SIGKILL)), num_workers=1)))


def print_garbage(x):
    for stream in (1, 2):
        os.write(stream, bytes(range(256)) * 64)
    print("{" * 10000)
    return x


def fork_and_go_on(x):
    os.fork()
    return x


def fork_and_stay(x):
    if os.fork() == 0:
        os.setsid()
        open(os.environ["AUTOTUNE_TEST_PIDS"], "a").write(f"{os.getpid()}\\n")
        time.sleep(600)
    time.sleep(0.2)
    return x


def fork_and_leave(x):
    if os.fork() == 0:
        open(os.environ["AUTOTUNE_TEST_PIDS"], "a").write(f"{os.getpid()}\\n")
        time.sleep(600)
    time.sleep(0.2)
    os._exit(3)


def interrupt(x):
    signal.raise_signal(signal.SIGINT)


def close_everything(x):
    os.closerange(3, 4096)
    return x


FAULTS = {number: fault for number, fault in enumerate([
    grab_memory, grab_shared_memory, die(signal.SIGKILL), die(signal.SIGSEGV), hang, spin, leave, leave_politely,
    raise_in_forward, raise_in_backward, raise_in_optimizer, raise_in_loader, loader_dies, print_garbage,
    fork_and_go_on, fork_and_stay, close_everything, child_grabs_memory, fork_and_leave, interrupt,
], start=10)}

model = Faulty()
optimizer = FailingOptimizer(model.parameters(), lr=0.1)
loss = nn.functional.mse_loss


def make_batch(n):
    return torch.randn(n, 4), torch.zeros(n, 1)
"""
NAMES = re.search(r"enumerate\(\[(.*?)\], start", MODEL, re.S).group(1).replace("signal.", "")  # type: ignore[union-attr]
SIZES = {name.strip(): 10 + i for i, name in enumerate(n for n in NAMES.split(",") if n.strip())}


@pytest.fixture(scope="module")
def pids(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pids") / "pids"


@pytest.fixture(scope="module")
def executor(tmp_path_factory, pids: Path) -> Iterator[ChildExecutor]:
    path = tmp_path_factory.mktemp("faults") / "faulty.py"
    path.write_text(MODEL)
    os.environ["AUTOTUNE_TEST_PIDS"] = str(pids)
    spec = ProbeSpec(workload=FileWorkload(target=str(path)), device="cpu", budget=MemoryBudget(bytes_=BUDGET_BYTES))
    with ChildExecutor(spec) as opened:
        opened.open()
        yield opened
    del os.environ["AUTOTUNE_TEST_PIDS"]


def attempt(executor: ChildExecutor, fault: str, timeout_seconds: float = 60.0) -> Attempt:
    request = TrialRequest(batch_size=SIZES[fault], effort=QUICK, timeout_seconds=timeout_seconds)
    found = executor.run(request)
    after = executor.run(TrialRequest(batch_size=5, effort=QUICK))
    assert after.outcome is Outcome.FITS, f"the trial after {fault} was harmed: {after}"
    return found


@pytest.mark.parametrize(
    ("fault", "outcome", "source", "text"),
    [
        ("grab_memory", Outcome.OUT_OF_MEMORY, "exception|watchdog", "memory"),
        ("grab_shared_memory", Outcome.OUT_OF_MEMORY, "watchdog", "over the budget of 1 GiB|1.00 GiB"),
        ("child_grabs_memory", Outcome.OUT_OF_MEMORY, "watchdog", "over the budget"),
        ("die(SIGKILL)", Outcome.CRASHED, "exit", "was killed by SIGKILL"),
        ("die(SIGSEGV)", Outcome.CRASHED, "exit", "was killed by SIGSEGV"),
        ("leave", Outcome.CRASHED, "exit", "exited with code 3"),
        ("leave_politely", Outcome.FAILED, "exception", "SystemExit"),
        ("interrupt", Outcome.FAILED, "exception", "KeyboardInterrupt"),
        ("raise_in_forward", Outcome.FAILED, "exception", "ValueError: forward went wrong"),
        ("raise_in_backward", Outcome.FAILED, "exception", "ArithmeticError: backward went wrong"),
        ("raise_in_optimizer", Outcome.FAILED, "exception", "KeyError: 'optimizer went wrong'"),
        ("raise_in_loader", Outcome.FAILED, "exception", "LookupError"),
        ("loader_dies", Outcome.OUT_OF_MEMORY, "exception", "exited unexpectedly"),
    ],
)
def test_a_fault_is_named(executor: ChildExecutor, fault: str, outcome: Outcome, source: str, text: str) -> None:
    found = attempt(executor, fault)
    assert found.outcome is outcome, found
    assert found.evidence is not None
    assert re.fullmatch(source, found.evidence.source), found.evidence
    assert re.search(text, found.evidence.text), found.evidence


@pytest.mark.parametrize("fault", ["raise_in_forward", "raise_in_backward", "raise_in_optimizer"])
def test_the_users_traceback_is_whole_and_holds_nothing_of_ours(executor: ChildExecutor, fault: str) -> None:
    evidence = attempt(executor, fault).evidence
    assert evidence is not None
    assert "went wrong" in evidence.user_traceback
    assert f"{os.sep}autotune{os.sep}" not in evidence.user_traceback
    expected = "in backward" if fault == "raise_in_backward" else "faulty.py"
    assert expected in evidence.user_traceback


@pytest.mark.parametrize("fault", ["hang", "spin"])
def test_a_trial_that_does_not_end_is_ended(executor: ChildExecutor, fault: str) -> None:
    found = attempt(executor, fault, timeout_seconds=2.0)
    assert found.outcome is Outcome.TIMED_OUT
    assert found.evidence is not None and found.evidence.source == "clock"


@pytest.mark.parametrize("fault", ["print_garbage", "fork_and_go_on"])
def test_noise_and_copies_of_us_do_not_disturb_the_answer(executor: ChildExecutor, fault: str) -> None:
    found = attempt(executor, fault)
    assert found.outcome is Outcome.FITS
    assert found.measurement is not None and found.measurement.batch_size == SIZES[fault]


def test_a_child_that_closes_our_socket_is_a_crash_and_no_hang(executor: ChildExecutor) -> None:
    assert attempt(executor, "close_everything").outcome is Outcome.CRASHED


def test_what_a_trial_leaves_running_is_ended_with_it(executor: ChildExecutor, pids: Path) -> None:
    assert attempt(executor, "fork_and_stay").outcome is Outcome.FITS
    assert_are_gone(pids)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def assert_are_gone(pids: Path) -> None:
    """The processes that a fault has left behind, of which there is one at least; they may take a moment to end."""
    left = [int(pid) for pid in pids.read_text().split()]
    assert left
    end = time.monotonic() + 20
    while any(is_running(pid) for pid in left):
        assert time.monotonic() < end, "what a trial started outlives it"
        time.sleep(0.05)


def test_a_fresh_process_that_ends_before_what_it_started_is_a_crash_and_leaves_nothing(
    executor: ChildExecutor, pids: Path
) -> None:
    """What it started holds the other end of our socket open."""
    request = TrialRequest(batch_size=SIZES["fork_and_leave"], effort=QUICK, fresh_process=True, timeout_seconds=30.0)
    found = executor.run(request)
    assert found.outcome is Outcome.CRASHED, found
    assert "exited with code 3" in found.reason
    assert_are_gone(pids)


def test_the_server_may_die_and_is_replaced(executor: ChildExecutor) -> None:
    assert executor._worker is not None
    os.kill(executor._worker.pid, 9)
    executor.run(TrialRequest(batch_size=5, effort=QUICK))
    assert executor.run(TrialRequest(batch_size=5, effort=QUICK)).outcome is Outcome.FITS


def test_a_contest_alternates_in_one_child(executor: ChildExecutor) -> None:
    found = executor.run(ContestRequest(batch_sizes=(2, 4, 8), seconds=0.2))
    assert found.contest is not None
    assert found.contest.batch_sizes == (2, 4, 8)
    assert all(len(row) == 3 for row in found.contest.rounds)
    assert len(found.contest.rounds) >= 5


def test_a_fault_in_a_fresh_process_is_named_alike(executor: ChildExecutor) -> None:
    for fault, outcome in [
        ("die(SIGKILL)", Outcome.CRASHED),
        ("grab_shared_memory", Outcome.OUT_OF_MEMORY),
        ("interrupt", Outcome.FAILED),
    ]:
        request = TrialRequest(batch_size=SIZES[fault], effort=QUICK, fresh_process=True)
        assert executor.run(request).outcome is outcome


def test_closing_ends_every_process(tmp_path: Path) -> None:
    path = tmp_path / "faulty.py"
    path.write_text(MODEL)
    before = set(psutil.Process().children(recursive=True))
    with ChildExecutor(ProbeSpec(workload=FileWorkload(target=str(path)), device="cpu")) as executor:
        executor.open()
        assert set(psutil.Process().children(recursive=True)) - before
    assert not set(psutil.Process().children(recursive=True)) - before


CALLER = """
import os, sys
from autotune.executors.children import ChildExecutor
from autotune.spec import FileWorkload, ProbeSpec
with ChildExecutor(ProbeSpec(workload=FileWorkload(target=sys.argv[1]), device="cpu")) as executor:
    executor.open()
    print(executor._worker.pid, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_caller_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    path = tmp_path / "faulty.py"
    path.write_text(MODEL)
    done = subprocess.run([sys.executable, "-c", CALLER, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    worker = int(done.stdout)
    end = time.monotonic() + 20
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != "zombie":
        assert time.monotonic() < end, "the worker outlives its caller"
        time.sleep(0.05)
