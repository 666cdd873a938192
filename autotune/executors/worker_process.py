"""One worker process as its parent sees it: started, listened to, watched, ended.

Needs the messages and the watchdog, no torch. Promises that a request always comes to an end with an
`Attempt`, whatever the process does, and that nothing the process started is left when it is closed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

import autotune
from autotune.devices import cgroups, host
from autotune.devices import linux_process as linux
from autotune.devices.signs import judge_exit
from autotune.errors import AutotuneError, DeviceError, NothingFitsError, UsageError, WorkloadError
from autotune.executors import Attempt, Request
from autotune.executors.channel import ClosedError, offer
from autotune.executors.messages import Begun, Built, Ended, Job, Refused, Run, describe_exit, from_worker
from autotune.executors.watchdog import Watch, Watchdog, kill_group
from autotune.trial import Evidence, Outcome
from autotune.workloads import scratch

WATCH_SECONDS = 0.02  # pages arrive at up to 3 GiB/s: 60 MiB between two looks
STALL_SECONDS = 15.0  # a child without processor time for so long is taken for deadlocked after its fork
GRACE_SECONDS = 10.0  # a worker that is silent for so long after its child was ended, is ended too
TAIL_BYTES = 4096

LAUNCHERS_NAMES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
LAUNCHERS_PREFIXES = ("TORCHELASTIC_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")
"""Set by torchrun and by MPI's launchers, and read by torch, Accelerate and Lightning."""

Verdict = tuple[Outcome, Evidence]


class StalledError(Exception):
    """A forked child makes no headway: it waits, most likely, for threads that a fork does not bring along."""


@dataclass
class _Heard:
    """What a worker has said, so far, of one request, and what the watchdog thinks of it."""

    watchdog: Watchdog
    attempt: Attempt | None = None
    exit_code: int | None = None
    verdict: Verdict | None = None
    judged_at: float = 0.0

    def take(self, message: object) -> None:
        match message:
            case Begun():
                self.watchdog = Watchdog(message.pid, self.watchdog.watch, message.missing_bytes)
            case Attempt():
                self.attempt = message
            case Ended():
                self.exit_code = message.exit_code


class WorkerProcess:
    """A worker, its channel and its log."""

    def __init__(self, *, hide_gpus: bool, verbose: bool, environment: Mapping[str, str]) -> None:
        """Start the process, with these variables besides its own.

        With `hide_gpus` torch sees none, and so starts no threads for them.
        """
        self._scratch = scratch.temporary_folder()
        log = Path(self._scratch.name) / "log"
        self._log, self._printed = log.open("wb"), log.open("rb")
        self._verbose, self._shown, self._log_start = verbose, 0, 0
        self._forks = False
        offered = offer()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "autotune.worker", offered.address],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=offered.inherit,
            start_new_session=True,  # Ctrl-C at the terminal is for the parent, which ends the worker itself
            env={**_environment_for(hide_gpus=hide_gpus), **environment, scratch.VARIABLE: self._scratch.name},
        )
        self._channel = offered.accepted()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def begin(self, job: Job) -> None:
        """Tell the worker what to build, and don't wait for it. One that is dead already shows in `built`."""
        self._forks = job.forks
        with suppress(ClosedError):
            self._channel.send(job)

    def built(self, watch: Watch) -> Built:
        """Wait until the worker has built its workload.

        Raises:
            AutotuneError: as `Executor.open` says.
            StalledError: it hangs in a way that a worker without forks would not.
        """
        kills, exit_code = _kernel_kills(), 0
        watchdogs = [Watchdog(self._process.pid, watch)]
        try:
            while not isinstance(message := self._next(), Built):
                match message:
                    case Refused():
                        raise _no_room() if _kernel_ended(exit_code, kills) else _raised(message)
                    case Begun():
                        watchdogs.append(Watchdog(message.pid, watch))
                    case Ended():  # its number may be another's by now
                        exit_code = message.exit_code
                        del watchdogs[1:]
                for watchdog in watchdogs:
                    _check_opening(watchdog)
                if len(watchdogs) > 1:
                    self._check_headway(watchdogs[-1])
        except ClosedError as error:
            raise self._died_while_building(kills) from error
        self._forks = message.forks  # it may, and does not where "auto" is found to be a GPU
        return message

    def run(self, request: Request, watch: Watch) -> Attempt:
        """Run one request to its end.

        Raises:
            StalledError: it hangs in a way that a worker without forks would not.
        """
        kills = _kernel_kills()
        self._log_start = self._log_size()
        heard = _Heard(Watchdog(self._process.pid, watch))
        try:
            self._channel.send(Run(request=request, budget_bytes=watch.budget_bytes))
            while not self._is_over(heard):
                heard.take(self._next())
                self._guard(heard)
        except ClosedError:
            heard.exit_code = self._process.wait(GRACE_SECONDS)
        if heard.verdict is not None:
            return Attempt(outcome=heard.verdict[0], evidence=heard.verdict[1])
        if heard.attempt is not None:
            return _with_tree_peak(heard.attempt, heard.watchdog)
        return _unexplained(heard.exit_code or 0, kills, self._tail())

    def _is_over(self, heard: _Heard) -> bool:
        """An attempt in the worker itself ends with its answer; in a child, with the child."""
        in_worker = heard.watchdog.pid == self._process.pid
        return heard.exit_code is not None or (in_worker and heard.attempt is not None)

    def _guard(self, heard: _Heard) -> None:
        """End a trial that must be ended, and a worker that then stays silent."""
        if self._is_over(heard):
            return
        if heard.verdict is None:
            self._check_headway(heard.watchdog)
            heard.verdict, heard.judged_at = heard.watchdog.verdict(), time.monotonic()
            if heard.verdict is not None:
                heard.watchdog.kill()
        elif time.monotonic() - heard.judged_at > GRACE_SECONDS:
            self._process.kill()

    def _check_headway(self, child: Watchdog) -> None:
        if self._forks and _has_stalled(child):
            child.kill()
            raise StalledError

    def close(self) -> None:
        """End the process and its children. May be called twice."""
        if self._log.closed:  # its number, and its group's, may be another's by now
            return
        if self.is_alive:
            Watchdog(self._process.pid, Watch(0, None, 0, 0)).kill()
        kill_group(self._process.pid)  # what it started may outlive it
        self._process.wait()
        self._channel.close()
        self._show_log()
        self._log.close()
        self._printed.close()
        self._scratch.cleanup()

    def _next(self) -> object:
        """The next message, or None. A worker that is dead and has none is gone, whoever else holds its channel."""
        packed = self._channel.receive(WATCH_SECONDS)
        self._show_log()
        if packed is None and not self.is_alive and (packed := self._channel.receive(0.0)) is None:
            raise ClosedError
        return None if packed is None else from_worker.decode(packed)

    def _died_while_building(self, kills_before: int) -> AutotuneError:
        code = self._process.wait(GRACE_SECONDS)
        if _kernel_ended(code, kills_before):
            return _no_room()
        return WorkloadError(
            f"The process that builds the model {describe_exit(code)}.",
            remedy="What it printed last stands above; run the file by hand to see more.",
            user_traceback=self._tail(),
        )

    # ------------------------------------------------------------------ the log

    def _log_size(self) -> int:
        return os.fstat(self._log.fileno()).st_size

    def _tail(self) -> str:
        """The last that was printed since the request began."""
        start = max(self._log_start, self._log_size() - TAIL_BYTES)
        return self._read(start, TAIL_BYTES).strip()

    def _show_log(self) -> None:
        if not self._verbose or (size := self._log_size()) == self._shown:
            return
        sys.stderr.write(self._read(self._shown, size - self._shown))
        sys.stderr.flush()
        self._shown = size

    def _read(self, start: int, most_bytes: int) -> str:
        self._printed.seek(start)
        return self._printed.read(most_bytes).decode(errors="replace")


def _environment_for(*, hide_gpus: bool) -> dict[str, str]:
    package_parent = str(Path(autotune.__file__).parent.parent)
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""} if hide_gpus else {}
    python_path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package_parent]))
    kept = {name: value for name, value in host.heeded_by_malloc().items() if not _is_launchers(name)}
    return {**kept, **hidden, "PYTHONPATH": python_path}


def _is_launchers(name: str) -> bool:
    """Whether a variable tells a process its place among several. A trial that took it would wait for the others."""
    return name in LAUNCHERS_NAMES or name.startswith(LAUNCHERS_PREFIXES)


def _check_opening(watchdog: Watchdog) -> None:
    """End a worker, or its first step, that needs more than there is."""
    verdict = watchdog.verdict()
    if verdict is None:
        return
    watchdog.kill()
    outcome, evidence = verdict
    if outcome is Outcome.TIMED_OUT:
        raise WorkloadError(
            f"Building the model and its first step took too long: {evidence.text}.",
            remedy="Run the file by hand to see where it hangs.",
        )
    raise _nothing_fits(f"Not even the smallest batch size fits: {evidence.text}.")


def _no_room() -> NothingFitsError:
    why = "the kernel, short of memory, ended the process that builds the model"
    return _nothing_fits(f"Not even the smallest batch size fits: {why}.")


def _nothing_fits(message: str) -> NothingFitsError:
    return NothingFitsError(message, remedy="Raise --memory-budget, or make the model smaller.")


def _has_stalled(child: Watchdog) -> bool:
    """True where a child has lived long and hardly run. One that is gone has not stalled, told of or not."""
    age = child.age_seconds()
    if age <= STALL_SECONDS:
        return False
    used = child.cpu_seconds()
    return used is not None and used < age / 10


def _raised(refused: Refused) -> AutotuneError:
    """What the worker refused, as the error that it stands for."""
    match refused.kind:
        case "usage":
            return UsageError(refused.message, remedy=refused.remedy)
        case "device":
            return DeviceError(refused.message, remedy=refused.remedy)
        case "memory":
            return _nothing_fits(refused.message)
    return WorkloadError(refused.message, remedy=refused.remedy, user_traceback=refused.user_traceback)


def _with_tree_peak(attempt: Attempt, watchdog: Watchdog) -> Attempt:
    """Count what a trial's own children held, where it had some: its own peak does not contain them."""
    measurement = attempt.measurement
    if measurement is None or measurement.memory.allocated_bytes is not None:  # memory of a device, not the host's
        return attempt
    tree = watchdog.peak_tree_bytes + watchdog.missing_bytes
    if not watchdog.peak_tree_bytes or tree <= measurement.memory.peak_bytes:
        return attempt
    memory = msgspec.structs.replace(
        measurement.memory, peak_bytes=tree, method=measurement.memory.method + ", with its children's"
    )
    return msgspec.structs.replace(attempt, measurement=msgspec.structs.replace(measurement, memory=memory))


def _kernel_kills() -> int:
    """Processes that the kernel has killed for memory, in this container and on the whole machine."""
    return (cgroups.oom_kills() or 0) + (cgroups.machine_oom_kills() or 0)


def _kernel_ended(exit_code: int, kills_before: int) -> bool:
    """True where it was the kernel, short of memory, that ended a process with this exit code."""
    return exit_code == -linux.SIGKILL and _kernel_kills() > kills_before


def _unexplained(exit_code: int, kills_before: int, tail: str) -> Attempt:
    """A child that ended without a word: name it by what the kernel and its last output say."""
    if _kernel_ended(exit_code, kills_before):
        text = "the kernel, short of memory, ended the trial"
        return Attempt(outcome=Outcome.OUT_OF_MEMORY, evidence=Evidence(source="kernel", text=text))
    outcome = judge_exit(tail) or Outcome.CRASHED
    last = f": {tail.splitlines()[-1]}" if tail else ""
    text = f"it {describe_exit(exit_code)} before the trial ended{last}"
    return Attempt(outcome=outcome, evidence=Evidence(source="exit", text=text))
