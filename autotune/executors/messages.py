"""What a parent and its worker say to each other, as tagged records in msgpack."""

from __future__ import annotations

import signal
from typing import Literal

import msgspec

from autotune.executors import Attempt, Request
from autotune.spec import ProbeSpec
from autotune.trial import Record, WorkloadFacts

RefusalKind = Literal["usage", "workload", "device", "memory"]


class Job(Record, frozen=True, tag="job"):
    """The first message to a worker: what to build, and how to run trials.

    `forks` asks for a forked child per trial; otherwise trials run in the worker itself, one after the other.
    `smallest_batch_size` is known from an earlier worker, or None: find out. `dry` builds without running a step,
    for forecasts alone.
    """

    spec: ProbeSpec
    forks: bool
    smallest_batch_size: int | None = None
    dry: bool = False


class Built(Record, frozen=True, tag="built"):
    """The workload stands. `free_bytes` is what the device had free before it was built.

    `forks` says whether trials run in forked children: the worker only forks for the CPU.
    """

    workload: WorkloadFacts
    device: str
    device_name: str
    free_bytes: int
    total_bytes: int
    threads: int
    forks: bool
    torch_version: str
    driver_version: str | None = None
    runtime_version: str | None = None
    warnings: tuple[str, ...] = ()


class Refused(Record, frozen=True, tag="refused"):
    """The workload could not be built; `kind` tells which error the parent raises."""

    kind: RefusalKind
    message: str
    remedy: str = ""
    user_traceback: str = ""


class Begun(Record, frozen=True, tag="begun"):
    """A child is about to run a trial: the process to watch.

    `missing_bytes` is to be added to the resident memory that is seen of it: pages that a fork left behind.
    """

    pid: int
    missing_bytes: int = 0


class Ended(Record, frozen=True, tag="ended"):
    """The child that ran a trial is gone: its exit code, negative for a signal."""

    exit_code: int


class Run(Record, frozen=True, tag="run"):
    """Run this request under this budget."""

    request: Request
    budget_bytes: int


ToWorker = Job | Run
FromWorker = Built | Refused | Begun | Attempt | Ended

to_worker = msgspec.msgpack.Decoder(ToWorker)
from_worker = msgspec.msgpack.Decoder(FromWorker)


def describe_exit(code: int) -> str:
    """An exit code in words: "was killed by SIGSEGV", "exited with code 3"."""
    if code >= 0:
        return f"exited with code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"
