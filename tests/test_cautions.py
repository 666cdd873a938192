"""What a reader is warned of."""

from __future__ import annotations

import msgspec
import pytest
from example_results import ENVIRONMENT, FACTS, fitting

from autotune.cautions import KEEPING, MAPPED, cautions
from autotune.executors import Opened
from autotune.trial import Conditions, Evidence, Outcome, Trial

GLIBC = "Linux-6.1-x86_64-with-glibc2.36"


def opened(platform: str = GLIBC, device: str = "cpu", allocator: str = "") -> Opened:
    environment = msgspec.structs.replace(ENVIRONMENT, platform=platform, device=device, allocator_settings=allocator)
    return Opened(workload=FACTS, environment=environment, budget_bytes=1, free_bytes=1, isolated=True)


def faulting(batch_size: int, faults: float, step_seconds: float = 0.1) -> Trial:
    trial = fitting(1, batch_size, (step_seconds,) * 3, 300)
    assert trial.measurement is not None
    measured = msgspec.structs.replace(trial.measurement, conditions=Conditions(page_faults_per_step=faults))
    return msgspec.structs.replace(trial, measurement=measured)


def test_page_faults_that_cost_time_are_named_with_their_cure() -> None:
    (found,) = cautions([faulting(32, 15_000)], opened(), 32, confirmed=True)
    assert "batch size 32 takes some 15,000 pages" in found and KEEPING in found


@pytest.mark.parametrize(
    ("trial", "where", "recommended"),
    [
        (faulting(32, 100), opened(), 32),
        (faulting(32, 15_000, step_seconds=9.0), opened(), 32),
        (faulting(64, 15_000), opened(), 32),
        (faulting(32, 15_000), opened("macOS-15-arm64"), 32),
        (faulting(32, 15_000), opened(device="cuda:0"), 32),
        (faulting(32, 15_000), opened(allocator=KEEPING), 32),
    ],
    ids=["few", "few for a long step", "at another size", "another allocator", "a GPU", "with the cure"],
)
def test_others_are_not(trial: Trial, where: Opened, recommended: int) -> None:
    assert cautions([trial], where, recommended, confirmed=True) == ()


@pytest.mark.parametrize(
    ("processors", "threads", "device", "fewer"),
    [(2.0, 8, "cpu", "--threads 2"), (0.5, 2, "cpu", "--threads 1"), (1.5, 2, "cpu", ""), (2.0, 8, "cuda:0", "")],
)
def test_more_threads_than_processor_time_are_named(processors: float, threads: int, device: str, fewer: str) -> None:
    where = opened(device=device)
    environment = msgspec.structs.replace(where.environment, container_processors=processors, threads=threads)
    found = cautions([], msgspec.structs.replace(where, environment=environment), 32, confirmed=True)
    assert [fewer in text for text in found] == [True] * bool(fewer)


def test_a_cliff_is_explained_once() -> None:
    trials = [faulting(16, 10, 0.1), faulting(32, 20_000, 0.9)]
    (found,) = cautions(trials, opened(), 32, confirmed=True)
    assert found.startswith("Throughput falls at batch size 32")


def test_an_answer_that_was_not_confirmed_says_so() -> None:
    (found,) = cautions([], opened(), 32, confirmed=False)
    assert "not confirmed" in found


def test_peaks_that_blur_the_edge_are_named_with_a_setting_that_makes_them_equal() -> None:
    evidence = Evidence(source="spread", text="its peak may reach more")
    refused = msgspec.structs.replace(fitting(1, 64, (0.1,) * 3, 300), outcome=Outcome.OUT_OF_MEMORY, evidence=evidence)
    (found,) = cautions([refused], opened(), 32, confirmed=True)
    assert found.startswith("Equal processes differ") and MAPPED in found
    assert cautions([refused], opened(allocator=MAPPED), 32, confirmed=True) == ()
    assert cautions([refused], opened(allocator="PYTORCH_CUDA_ALLOC_CONF=x:1"), 32, confirmed=True) == (found,)
    assert cautions([refused], opened(device="cuda:0"), 32, confirmed=True) == ()
    over = msgspec.structs.replace(refused, evidence=Evidence(source="budget", text="over it"))
    assert cautions([over], opened(), 32, confirmed=True) == ()
