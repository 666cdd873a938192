"""Steps fed by the caller's DataLoader: what is timed, what is said of it, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from example_results import example_result
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import autotune
from autotune.errors import UsageError
from autotune.executors.fake import FakeExecutor
from autotune.listener import Silence
from autotune.probe import Probe, worker_counts
from autotune.reports import words
from autotune.reports.html import page
from autotune.reports.markdown import markdown
from autotune.reports.terminal import render
from autotune.result import Result
from autotune.spec import FileWorkload, ProbeSpec
from autotune.store import NoJournal
from autotune.trial import Feed, Feeding
from autotune.workloads.sources import source_of

FEW = {"max_batch_size": 4, "max_trials": 2, "quiet": True, "device": "cpu"}


class Slow(Dataset):
    """Ten milliseconds to read a sample; notes the process that did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            (self.folder / f"{worker.num_workers}-{os.getpid()}").touch()
        time.sleep(0.01)
        return torch.full((4,), float(index)), index % 2


def model() -> nn.Module:
    return nn.Linear(4, 2)


def found(data, **options) -> Result:
    return autotune.find_batch_size(model(), data, loss=nn.CrossEntropyLoss(), **FEW | options)


# what is timed


def test_a_slow_loader_is_seen_with_the_workers_that_the_caller_has(tmp_path: Path) -> None:
    result = found(DataLoader(Slow(tmp_path), batch_size=2, num_workers=1), threads=1)
    assert result.feeding is not None
    (feed,) = result.feeding.feeds
    assert feed.num_workers == result.num_workers == 1
    assert any(path.name.startswith("1-") for path in tmp_path.iterdir())  # read in a process of a loader with one
    assert feed.mean_seconds > 0.9 * 0.01 * result.batch_size  # it sleeps so long for each sample
    assert result.feeding.waiting_fraction(feed) > 0.1
    assert "data takes" in result.summary() and "--tune-workers" in result.summary()


def test_tuning_tries_other_numbers_of_workers(tmp_path: Path) -> None:
    result = found(Slow(tmp_path), tune_workers=True)
    assert result.feeding is not None
    counts = [feed.num_workers for feed in result.feeding.feeds]
    assert counts[:2] == [0, 1] and counts == sorted(set(counts))
    assert result.num_workers in counts
    assert f"num_workers={result.num_workers}" in result.summary()


def test_data_that_no_loader_reads_is_not_timed() -> None:
    result = found((torch.randn(64, 4), torch.randint(2, (64,))))
    assert result.feeding is None and result.num_workers is None
    assert "DataLoader" not in result.summary()


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.randn(4), index % 2) for index in range(64)])


def test_an_iterable_dataset_is_read_by_a_loader_too() -> None:
    assert found(Stream()).num_workers == 0


class Broken(Slow):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if torch.utils.data.get_worker_info() is not None:
            raise OSError("the file handle does not live in this process")
        return super().__getitem__(index)


def test_a_loader_that_fails_does_not_cost_the_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = found(DataLoader(Broken(tmp_path), num_workers=1), quiet=False)
    assert result.batch_size in (1, 2, 4)
    assert result.feeding is None
    said = " ".join(capfd.readouterr().err.split())
    assert "The DataLoader could not be timed" in said and "the file handle does not live in this process" in said


def test_a_loader_reads_as_the_callers_does() -> None:
    dataset = TensorDataset(torch.arange(8.0))
    in_order = source_of(DataLoader(dataset, batch_size=2)).make_loader
    shuffled = source_of(DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=len)).make_loader
    assert in_order is not None and shuffled is not None
    assert [batch[0].tolist() for batch in in_order(3, 0)] == [[0, 1, 2], [3, 4, 5]]
    assert list(shuffled(3, 0)) == [3, 3]
    assert isinstance(shuffled(3, 0).sampler, torch.utils.data.RandomSampler)


# what is asked for, and what is said


def test_tuning_needs_a_loader(tmp_path: Path) -> None:
    spec = ProbeSpec(workload=FileWorkload(target="model.py"), tune_workers=True)
    with pytest.raises(UsageError, match="needs data that a DataLoader reads"):
        Probe(spec, FakeExecutor(), NoJournal(), Silence()).run()

    path = tmp_path / "model.py"
    path.write_text(
        "import torch\nmodel = torch.nn.Linear(2, 2)\nloss = torch.nn.MSELoss()\nsample = (torch.ones(2),) * 2"
    )
    command = [sys.executable, "-m", "autotune", "probe", str(path), "--device", "cpu", "--tune-workers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "model.py has none" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("now", "cores", "expected"),
    [
        (0, 1, (0, 1)),
        (0, 2, (0, 1, 2)),
        (3, 4, (0, 1, 2, 3, 4)),
        (0, 6, (0, 1, 2, 4)),
        (24, 64, (0, 1, 2, 4, 8, 16, 24)),
    ],
)
def test_numbers_of_workers_worth_a_try(now: int, cores: int, expected: tuple[int, ...]) -> None:
    assert worker_counts(now, cores) == expected


def test_the_answer_itself_is_fed_and_the_fewest_workers_that_keep_up_are_named() -> None:
    spec = ProbeSpec(workload=FileWorkload(target="model.py"), tune_workers=True)
    executor = FakeExecutor(num_workers=1, loading_seconds=0.0005)  # half of what a sample's step takes
    result = Probe(spec, executor, NoJournal(), Silence()).run()
    assert result.feeding is not None
    assert result.feeding.batch_size == result.batch_size
    assert result.num_workers == 1
    assert result.feeding.waiting_fraction(result.feeding.feeds[1]) == 0.0
    assert 0.2 < result.feeding.waiting_fraction(result.feeding.feeds[0]) < 0.5


FED = Feeding(
    batch_size=256,
    from_memory_seconds=(0.1, 0.1),
    feeds=(
        Feed(num_workers=0, step_seconds=(0.4, 0.4)),
        Feed(num_workers=2, step_seconds=(0.205, 0.205)),
        Feed(num_workers=4, step_seconds=(0.2, 0.2)),
    ),
)


@pytest.mark.parametrize(
    ("workers", "seconds", "said"),
    [
        (0, 0.105, "data takes 4.8% of each step."),
        (0, 0.15, "--tune-workers finds out whether other numbers of workers help."),
        (0, 0.25, "The data is the bottleneck, not the batch size; --tune-workers finds out"),
        (2, 0.15, "The data is the bottleneck, not the batch size; --tune-workers finds out"),
    ],
)
def test_without_workers_the_data_is_the_bottleneck_from_half_of_a_step_on(workers: int, seconds: float, said: str):
    feed = Feed(num_workers=workers, step_seconds=(seconds, seconds))
    text = words.feeding(example_result(feeding=Feeding(batch_size=8, from_memory_seconds=(0.1, 0.1), feeds=(feed,))))
    assert said in text
    assert ("bottleneck" in text) is ("bottleneck" in said) and ("--tune-workers" in text) is ("--tune" in said)


def test_every_report_says_what_the_data_costs() -> None:
    result = example_result(feeding=FED)
    text = " ".join(render(result).split())
    assert "Use num_workers=2, of 0, 2, 4 the fewest" in text
    assert "data takes 51% of each step" in text and "The data is the bottleneck" in text
    for shown in (page([result]), markdown([result]), markdown([result, result])):
        assert "num_workers=2" in shown.replace("\\", "")
        assert "75%" in shown  # the share without workers, in the table
    assert "num_workers" not in page([example_result()])
