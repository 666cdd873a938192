"""The command as a user runs it: real processes, real signals, a real full disk, a real memory limit."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from containers import memory_cgroup

from autotune.api import journal_path
from autotune.cautions import MAPPED
from autotune.devices.host import variables
from autotune.result import StopReason, load_result
from autotune.store import read_journal
from autotune.trial import Outcome

MODEL = """
import time
import torch
from torch import nn

model = nn.Linear(1024, 1024)
loss = nn.MSELoss()

def make_batch(n):
    time.sleep(0.05)
    return torch.randn(n, 1024), torch.randn(n, 1024)
"""
AUTOTUNE = [sys.executable, "-m", "autotune"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def command(model: Path, *options: str) -> list[str]:
    return [*AUTOTUNE, "probe", str(model), "--device", "cpu", "--objective", "memory", *options]


def run(arguments: list[str], **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False, **more)


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_trials(process: subprocess.Popen[str], journal: Path, ended: int) -> None:
    """Wait until so many trials have ended and another has begun."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        lines = journal.read_text().splitlines() if journal.exists() else []
        if sum('"ended"' in line for line in lines) >= ended and lines[-1].startswith('{"type":"began"'):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    pytest.fail(f"{journal} did not come to {ended} trials")


def test_quiet_prints_the_number_alone(model: Path) -> None:
    done = run(command(model, "--max-batch-size", "8", "--quiet"))
    assert (done.stdout, done.stderr, done.returncode) == ("8\n", "", 0)


def test_what_a_model_prints_is_not_mixed_with_the_answer(model: Path) -> None:
    model.write_text(MODEL + "\nprint('chatter')\nimport sys; print('complaint', file=sys.stderr)\n")
    silent = run(command(model, "--max-batch-size", "2", "--quiet"))
    assert (silent.stdout, silent.stderr) == ("2\n", "")
    verbose = run(command(model, "--max-batch-size", "2", "--verbose"))
    assert "chatter" not in verbose.stdout
    assert "chatter" in verbose.stderr and "complaint" in verbose.stderr


def test_a_killed_probe_goes_on_from_its_journal(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    options = ["--max-batch-size", "64", "--no-forecast", "--output", str(output)]
    with started(command(model, *options)) as process:
        wait_for_trials(process, journal_path(output), ended=3)
        process.kill()
        process.wait()
    assert not output.exists()

    done = run(command(model, *options, "--resume"))
    assert done.returncode == 0, done.stderr
    result = load_result(output)
    assert [trial.batch_size for trial in result.trials[:4]] == [1, 2, 4, 8]
    assert result.trials[3].outcome is Outcome.CRASHED  # begun, and never ended
    assert result.batch_size == 7
    assert not journal_path(output).exists()


def test_ctrl_c_shows_the_best_so_far_and_the_probe_can_go_on(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    options = ["--max-batch-size", "64", "--no-forecast", "--output", str(output)]
    with started(command(model, *options)) as process:
        wait_for_trials(process, journal_path(output), ended=4)
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Use batch size 8" in shown and "Traceback" not in said
    assert load_result(output).stop is StopReason.INTERRUPTED
    assert read_journal(journal_path(output), load_result(output).spec)[0].trials

    done = run(command(model, *options, "--resume"))
    assert done.returncode == 0, done.stderr
    assert load_result(output).batch_size == 64


def test_ctrl_c_before_anything_was_found(model: Path) -> None:
    model.write_text(MODEL + "\ntime.sleep(600)\n")
    with started(command(model)) as process:
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted before any trial had finished"


def test_the_limit_on_seconds_returns_the_best_so_far(model: Path) -> None:
    done = run(command(model, "--max-seconds", "3s"))
    assert done.returncode == 0, done.stderr
    assert StopReason.SECONDS.value in " ".join(done.stdout.split())


LSTM = """
import torch
from torch import nn

class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(16, 128, num_layers=2, batch_first=True)

    def forward(self, series):
        return self.lstm(series)[0].square().mean()

model = Forecaster()

def make_batch(n):
    return torch.randn(n, 128, 16)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_where_large_blocks_are_mapped_the_answer_fills_the_budget(tmp_path: Path) -> None:
    """Its kernel asks for two fifths more than it uses, which neither the forecast nor a limit may count."""
    path, output = tmp_path / "lstm.py", tmp_path / "result.json"
    path.write_text(LSTM)
    options = ["--objective", "memory", "--threads", "1", "--output", str(output)]
    mapped = os.environ | variables(MAPPED)
    assert run(command(path, *options, "--max-trials", "1", "--memory-budget", "2GiB"), env=mapped).returncode == 0
    (first,) = load_result(output).trials
    assert first.measurement is not None
    budget_bytes = first.measurement.memory.peak_bytes + 200 * 2**20
    assert run(command(path, *options, "--memory-budget", str(budget_bytes)), env=mapped).returncode == 0
    result = load_result(output)
    peaks = {t.batch_size: t.measurement.memory.peak_bytes for t in result.trials if t.measurement}
    assert 0.97 * budget_bytes < peaks[result.batch_size] <= budget_bytes
    predicted = [(t.forecast_bytes, peaks[t.batch_size]) for t in result.trials if t.measurement and t.forecast_bytes]
    assert len(predicted) > 2
    assert all(forecast == pytest.approx(peak, rel=0.06) for forecast, peak in predicted)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_device_that_is_full_costs_no_answer_and_gets_no_journal(model: Path) -> None:
    before = set(Path("/dev").iterdir())
    done = run(command(model, "--max-batch-size", "2", "--no-forecast", "--quiet", "--output", "/dev/full"))
    assert (done.stdout, done.returncode) == ("2\n", 5)
    assert done.stderr.startswith("error: /dev/full cannot be written: No space left on device.\n")
    assert set(Path("/dev").iterdir()) - before == set()


needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a disk or make a cgroup"
)


@needs_root
def test_a_full_disk_loses_nothing(model: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        done = run(command(model, "--max-batch-size", "8", "--no-forecast", "--output", str(disk / "result.json")))
    finally:
        run(["umount", str(disk)])
    assert done.returncode == 5
    assert "goes on without a journal" in done.stderr
    assert "error:" in done.stderr and "No space left" in done.stderr
    assert "Use batch size 8" in done.stdout


@needs_root
def test_nowhere_to_put_temporary_files_is_told_in_a_line() -> None:
    read_only = "mount --bind {0} {0} && mount -o remount,bind,ro {0} && "
    script = read_only.format("/tmp") + read_only.format("/var/tmp") + 'cd /proc && exec "$@"'
    arguments = ["unshare", "--mount", "sh", "-c", script, "sh", *AUTOTUNE, "probe", "autotune.examples.digits"]
    done = run(arguments, env=os.environ | {"TMPDIR": "/proc"})
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounting a folder once more is not permitted here")
    assert done.returncode == 2
    assert "no folder for temporary files" in done.stderr and "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """With 1 GiB."""
    with memory_cgroup(1 << 30) as folder:
        yield folder


def inside(cgroup: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return run(["sh", "-c", f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', "sh", *arguments])


@needs_root
def test_the_kernel_takes_the_trial_and_never_the_caller(model: Path, tmp_path: Path, cgroup: Path) -> None:
    """With a budget that the container does not have, only the kernel's killer is left to say no."""
    model.write_text(
        MODEL
        + """
import mmap

class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1024, 1024)
    def forward(self, x):
        if len(x) >= 16:
            block = mmap.mmap(-1, 3 << 30)
            for page in range(0, len(block), 4096):
                block[page] = 1
        return self.layer(x)

model = Shared()
"""
    )
    output = tmp_path / "result.json"
    done = inside(cgroup, command(model, "--memory-budget", "8GiB", "--output", str(output)))
    assert done.returncode == 0, done.stderr
    result = load_result(output)
    assert result.max_batch_size == 15
    refused = [trial for trial in result.trials if trial.batch_size == 16]
    assert refused[0].outcome is Outcome.OUT_OF_MEMORY
    assert refused[0].evidence is not None and refused[0].evidence.source in ("kernel", "watchdog")


@needs_root
def test_a_container_may_be_filled_however_large_the_machine_is(model: Path, tmp_path: Path, cgroup: Path) -> None:
    """What is left to the machine is a share of the container, of which a share of the machine may be half."""
    model.write_text(MODEL.replace("time.sleep(0.05)", "torch.held = None; torch.held = torch.ones(75 << 20)"))
    options = ["--memory-budget", "8GiB", "--max-trials", "1", "--no-forecast"]
    done = inside(cgroup, command(model, *options, "--output", str(tmp_path / "result.json")))
    assert done.returncode == 0, done.stderr


@needs_root
def test_a_share_is_of_what_the_container_leaves(model: Path, tmp_path: Path, cgroup: Path) -> None:
    output = tmp_path / "result.json"
    done = inside(cgroup, command(model, "--max-batch-size", "4", "--output", str(output)))
    assert done.returncode == 0, done.stderr
    result = load_result(output)
    assert result.environment.container_limit_bytes == 1 << 30
    assert result.budget_bytes <= 0.9 * (1 << 30)
