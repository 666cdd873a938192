"""The child's entry: builds the workload once, then runs the trials that the parent asks for.

Started as `python -m autotune.worker ADDRESS`. Promises that the user's output never touches the messages,
that no process outlives the parent, and that the kernel, short of memory, ends this process before others.

Forking. Importing torch and building the workload take seconds, so a fresh interpreter per trial is too slow.
Instead this server does both with a single thread, runs no step itself, and forks a child per trial, which is
ready in milliseconds and whose peak is its own. Two rules keep that safe: no multi-threaded region runs before
a fork (a thread pool that was started does not survive one: deadlock), and no device context exists. A child
is given the libraries' pages that a fork leaves behind, and so holds what a fresh process would, and a heap scattered
by chance, as each process has its own: the same code then runs as it would in an interpreter of its own.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from autotune.attempt import failed, perform
from autotune.bench import build_bench, built_of, with_smallest, workload_facts
from autotune.devices import linux_process as linux
from autotune.devices import open_device
from autotune.devices.cpu import CpuDevice
from autotune.devices.heap_chance import give_back, hold, scatter
from autotune.devices.library_pages import Pages, populate, touched_file_pages
from autotune.devices.signs import judge
from autotune.errors import AutotuneError, DeviceError, UsageError, WorkloadError
from autotune.executors import Attempt, ForecastRequest, TrialRequest
from autotune.executors.channel import Channel, ClosedError, pair, take
from autotune.executors.messages import Begun, Built, Ended, Job, RefusalKind, Refused, Run, describe_exit, to_worker
from autotune.trial import Outcome, WorkloadFacts
from autotune.workloads.tracebacks import one_line, user_traceback


def main() -> None:
    """Serve one parent, to its end or ours."""
    linux.die_with_parent()
    linux.volunteer_for_oom_kill()
    linux.adopt_orphans()
    os.dup2(2, 1)  # whatever the user's code prints is log
    sys.path.insert(0, str(Path.cwd()))  # as in `python model.py`, but only now that our own imports are done
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    channel = take(sys.argv[1])
    packed = channel.receive()
    assert packed is not None  # without a time-out, receive waits
    job = to_worker.decode(packed)
    assert isinstance(job, Job)
    with suppress(ClosedError):  # the parent is gone, and so nobody waits for more
        Server(channel, job).serve()
    _leave()


def _leave() -> NoReturn:
    """End without the interpreter's own clean-up, which may wait for the user's threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class Server:
    """Holds the workload; runs trials in forked children, or in this very process where it may not fork."""

    def __init__(self, channel: Channel, job: Job) -> None:
        """Keep what the parent said; nothing is built yet."""
        self._channel = channel
        self._job = job
        self._pages: tuple[Pages, ...] = ()
        self._held = hold() if job.forks else ()
        self._missing_bytes = 0

    def serve(self) -> None:
        """Build, say so, and run what is asked for until the parent is gone."""
        try:
            self._prepare()
        except Exception as error:
            self._channel.send(_refusal(error))
            return
        while True:
            packed = self._channel.receive()
            run = to_worker.decode(packed or b"")
            assert isinstance(run, Run)
            if self._forks:
                self._in_child(lambda run=run: self._answer(run))  # type: ignore[misc]
            else:
                self._channel.send(self._answer(run))

    # ------------------------------------------------------------------ building

    def _prepare(self) -> None:
        import torch

        spec = self._job.spec
        self._threads = spec.threads or torch.get_num_threads()
        device = open_device(spec.device)
        self._forks = self._job.forks and device.torch_device == "cpu"
        torch.set_num_threads(1 if self._forks else self._threads)
        self._facts = device.facts()
        self._bench = build_bench(spec, device)
        if self._forks and not self._bench.workload.is_fork_safe:
            self._forks = False
            torch.set_num_threads(self._threads)
        self._channel.send(self._built(self._first_steps()))

    def _first_steps(self) -> WorkloadFacts:
        """Run the first steps, and learn what they show."""
        known, bench = self._job.smallest_batch_size, self._bench
        if known is not None:
            self._bench = replace(bench, smallest_batch_size=known)
        elif not self._forks and not self._job.dry:
            self._bench = with_smallest(bench)
        if not self._forks:
            return workload_facts(self._bench)
        facts = workload_facts(bench) if self._job.dry else self._first_steps_in_child()
        self._bench = replace(bench, smallest_batch_size=facts.smallest_batch_size)
        gc.collect()
        gc.freeze()  # a collection in a child would touch, and so copy, every page with an object on it
        self._pages = touched_file_pages()
        self._missing_bytes = 0 if populate(self._pages) else linux.resident().file_bytes
        return facts

    def _first_steps_in_child(self) -> WorkloadFacts:
        """The first steps, where nothing that they may do can harm this server, or change its memory."""
        for packed in self._in_child(self._first_steps_reply, relay=False):
            reply = msgspec.msgpack.decode(packed, type=Built | Refused)
            if isinstance(reply, Built):
                return reply.workload
            raise _RefusedError(reply)
        raise _RefusedError(_died(self._exit_code))

    def _first_steps_reply(self) -> Built | Refused:
        try:
            return self._built(workload_facts(with_smallest(self._bench)))
        except Exception as error:
            return _refusal(error)

    def _built(self, workload: WorkloadFacts) -> Built:
        return built_of(self._bench, self._facts, workload, threads=self._threads, forks=self._forks)

    # ------------------------------------------------------------------ running

    def _answer(self, run: Run) -> Attempt:
        """Run a request here, and turn whatever it raises into an outcome."""
        try:
            return self._attempt(run)
        except KeyboardInterrupt as error:  # the model raised it: Ctrl-C at the terminal is for the parent alone
            return failed(error)

    def _attempt(self, run: Run) -> Attempt:
        bench = self._bench
        if isinstance(run.request, ForecastRequest):
            return self._forecast(run.request)
        if self._forks:
            give_back(self._held)
            scatter()
        if bench.device.torch_device == "cpu":  # a reading of memory of its own for each trial
            bench = replace(bench, device=CpuDevice(self._missing_bytes))
        enforced = isinstance(run.request, TrialRequest) and run.request.enforce
        bench.device.limit(run.budget_bytes if enforced else self._facts.total_bytes)
        try:
            return perform(bench, run.request)
        finally:
            bench.device.release()

    def _forecast(self, request: ForecastRequest) -> Attempt:
        """Forecast on the workload, or on one like it in another precision."""
        spec, bench = self._job.spec, self._bench
        if request.precision not in (None, spec.precision):
            other = msgspec.structs.replace(spec, precision=request.precision)
            try:
                bench = replace(build_bench(other, bench.device), smallest_batch_size=bench.smallest_batch_size)
            except AutotuneError as error:  # a loop of the user's own has its precision
                return failed(error)
        return perform(bench, request)

    def _in_child(self, work: Callable[[], Any], *, relay: bool = True) -> list[bytes]:
        """Run some work in a forked child; pass on what it sends, or collect it."""
        ours, theirs = pair()
        sys.stdout.flush()
        sys.stderr.flush()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be_child(server, theirs, work)
        theirs.close()
        self._channel.send(Begun(pid=pid, missing_bytes=self._missing_bytes))
        replies = _follow(pid, ours, self._channel if relay else None)
        self._exit_code = _reap(pid)
        ours.close()
        self._channel.send(Ended(exit_code=self._exit_code))
        return replies

    def _be_child(self, server: int, channel: Channel, work: Callable[[], Any]) -> NoReturn:
        """Become the leader of a session of our own, so that all we start can be ended with us."""
        import torch

        child = os.getpid()
        try:
            os.setsid()
            linux.die_with_parent()
            if os.getppid() == server:  # else the server died before the line above
                self._channel.close()
                populate(self._pages)
                torch.set_num_threads(self._threads)
                reply = work()
                if os.getpid() == child:  # else the user's code has forked, and this is its copy of us
                    channel.send(reply)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        _leave()


def _follow(pid: int, channel: Channel, relay_to: Channel | None) -> list[bytes]:
    """Read what a child sends until it ends or closes its side; a grandchild may hold the socket open."""
    replies: list[bytes] = []
    while True:
        ended = _has_ended(pid)
        try:
            packed = channel.receive(0.0 if ended else 0.02)
        except ClosedError:
            return replies
        if packed is not None:
            replies.append(packed)
            if relay_to is not None:
                relay_to.send_packed(packed)
        elif ended:
            return replies


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reap(pid: int) -> int:
    """Wait for a child, end whatever it left running, and return its exit code."""
    _, status = os.waitpid(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for orphan in linux.descendants(os.getpid()):  # those that made a session of their own came to us
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status)


class _RefusedError(Exception):
    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def _refusal(error: Exception) -> Refused:
    """An error of building, in words that travel."""
    if isinstance(error, _RefusedError):
        return error.refused
    if judge(error) is Outcome.OUT_OF_MEMORY:
        return Refused(kind="memory", message=f"Memory ran out before the first trial: {one_line(error)}")
    if not isinstance(error, AutotuneError):
        message = f"Building the model failed: {one_line(error)}"
        return Refused(kind="workload", message=message, user_traceback=user_traceback(error))
    return Refused(
        kind=_kind(error),
        message=error.message,
        remedy=error.remedy,
        user_traceback=error.user_traceback if isinstance(error, WorkloadError) else "",
    )


def _kind(error: AutotuneError) -> RefusalKind:
    match error:
        case UsageError():
            return "usage"
        case DeviceError():
            return "device"
    return "workload"


def _died(exit_code: int) -> Refused:
    return Refused(
        kind="workload",
        message=f"The first step {describe_exit(exit_code)}, without an exception.",
        remedy="Run one training step of this model by hand to see why.",
    )


if __name__ == "__main__":
    main()
