"""Small results built by hand, for tests of what is made of them."""

from __future__ import annotations

from typing import Any, Literal

from autotune.result import Edge, Recommendation, Result, StopReason
from autotune.spec import FileWorkload, ProbeSpec
from autotune.trial import (
    Conditions,
    Contest,
    Environment,
    Evidence,
    Measurement,
    Memory,
    Outcome,
    Trial,
    WorkloadFacts,
)

MIB = 1024**2
Source = Literal["exception", "watchdog", "kernel", "budget", "spread", "latency", "exit", "clock"]

ENVIRONMENT = Environment(
    autotune_version="0.1.0",
    python_version="3.12.1",
    torch_version="2.13.0",
    platform="Linux",
    processor="Example CPU 9000",
    physical_cores=2,
    logical_cores=4,
    threads=2,
    host_memory_bytes=16 * 1024 * MIB,
    container_limit_bytes=None,
    device="cpu",
    device_name="Example CPU 9000",
)
FACTS = WorkloadFacts(
    name="digits", parameters=61706, dataset_size=50_000, smallest_batch_size=1, batch_description="float32[8, 1, 8, 8]"
)


def measurement(batch_size: int, step_seconds: tuple[float, ...], peak_mib: int, **changes: Any) -> Measurement:
    """What a trial measured, with everything that no report shows left plain."""
    return Measurement(
        batch_size=batch_size,
        step_seconds=step_seconds,
        cpu_seconds=step_seconds,
        warmup_steps=2,
        memory=Memory(peak_bytes=peak_mib * MIB, base_bytes=200 * MIB, method="VmHWM"),
        conditions=Conditions(),
        **changes,
    )


def fitting(number: int, batch_size: int, step_seconds: tuple[float, ...], peak_mib: int, **changes: Any) -> Trial:
    """A trial that fitted."""
    settings: dict[str, Any] = {"purpose": "grow", "why": "because"} | changes
    return Trial(
        number=number,
        batch_size=batch_size,
        outcome=Outcome.FITS,
        seconds=1.0,
        measurement=measurement(batch_size, step_seconds, peak_mib),
        **settings,
    )


def refused(
    number: int, batch_size: int, source: Source = "watchdog", text: str = "it grew over it", **changes: Any
) -> Trial:
    """A trial that ran out of memory."""
    settings: dict[str, Any] = {"purpose": "grow", "why": "because", "outcome": Outcome.OUT_OF_MEMORY} | changes
    return Trial(
        number=number, batch_size=batch_size, seconds=0.5, evidence=Evidence(source=source, text=text), **settings
    )


def example_result(**changes: Any) -> Result:
    """A probe that recommends 256, found 512 to be the fastest, and 1,000 the largest that fits, exactly."""
    settings: dict[str, Any] = {
        "spec": ProbeSpec(workload=FileWorkload(target="digits.py")),
        "environment": ENVIRONMENT,
        "workload": FACTS,
        "budget_bytes": 2048 * MIB,
        "free_bytes": 2276 * MIB,
        "trials": (
            fitting(1, 128, (0.0130, 0.0128, 0.0132), 420),
            fitting(2, 256, (0.0210, 0.0208, 0.0212), 640),
            fitting(3, 512, (0.0405, 0.0400, 0.0410), 1080),
            refused(4, 1024),
            refused(5, 1001, "exception", "DefaultCPUAllocator: can't allocate memory", purpose="bisect"),
            fitting(6, 1000, (0.0850, 0.0840, 0.0860), 2000, purpose="bisect"),
            fitting(7, 1000, (0.0850, 0.0840, 0.0860), 2010, purpose="confirm"),
            fitting(8, 1000, (0.0850, 0.0840, 0.0860), 1990, purpose="confirm"),
            fitting(9, 256, (0.0210, 0.0208, 0.0212), 650, purpose="confirm", fresh_process=True),
        ),
        "recommendation": Recommendation(
            batch_size=256,
            samples_per_second=12190.0,
            fastest_batch_size=512,
            fastest_samples_per_second=12640.0,
            why="the smallest within 5% of the fastest, 512",
        ),
        "edge": Edge(largest_fits=1000, smallest_refused=1001, refused_by="out of memory", confirmations=2),
        "stop": StopReason.EDGE,
        "seconds": 42.0,
        "created_at": "2026-01-02T03:04:05+00:00",
    } | changes
    return Result(**settings)


CONTEST = Contest(batch_sizes=(256, 512), rounds=((0.0200, 0.0400), (0.0210, 0.0410), (0.0220, 0.0420)))
