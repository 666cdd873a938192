"""The forecast's benchmark: its architectures train, its parts run in processes of their own, its sums are right."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.architectures import ARCHITECTURES, chosen
from benchmarks.architectures.architecture import Architecture
from benchmarks.architectures.hugging_face import HUGGING_FACE
from benchmarks.forecast import (
    QUANTILE,
    Case,
    Comparison,
    PartFailedError,
    bench_of,
    compare,
    in_fresh_process,
    live_error,
    process_error,
    quantile,
    summary,
)

GIB = 2**30

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def case(architecture: str, batch_size: int = 2, precision: str = "fp32") -> Case:
    return Case(architecture=architecture, precision=precision, batch_size=batch_size, device="cpu")


# The architectures


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_each_architecture_takes_a_step_that_trains_nearly_all_of_it(architecture: Architecture) -> None:
    if architecture in HUGGING_FACE:
        pytest.importorskip("transformers")
    workload = bench_of(case(architecture.name)).workload
    assert workload.model is not None
    assert workload.training_step is not None
    before = {name: parameter.detach().clone() for name, parameter in workload.model.named_parameters()}
    loss = workload.training_step(workload.make_batch(2))
    assert math.isfinite(loss.item())
    counts = {name: parameter.numel() for name, parameter in before.items()}
    changed = {name for name, value in workload.model.named_parameters() if not torch.equal(value, before[name])}
    assert 0.5e6 < sum(counts.values()) < 60e6
    assert sum(counts[name] for name in changed) > 0.9 * sum(counts.values())


def test_the_architectures_have_names_of_their_own_and_a_paper_each() -> None:
    names = [architecture.name for architecture in ARCHITECTURES]
    assert len(names) == len(set(names)) >= 20
    assert all(re.search(r"(19|20)\d\d", architecture.source) for architecture in ARCHITECTURES)


def test_an_unknown_architecture_is_named_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match=r"No architecture is called 'nothing'\. There are: gpt2, "):
        chosen(["gpt2", "nothing"])


# The processes


@linux_only
def test_the_peak_of_a_process_grows_with_the_batch() -> None:
    small, large = (
        in_fresh_process("run", case("autoencoder", size), 8 * GIB)["real_process_bytes"] for size in (1, 64)
    )
    # the first convolution's output is kept for the backward pass, at least: 64 samples of 32 x 32 x 32 numbers
    assert large - small > 63 * 32 * 32 * 32 * 4
    assert 0.15 * GIB < small < 2 * GIB


@linux_only
def test_a_run_out_of_memory_is_a_part_that_failed() -> None:
    with pytest.raises(PartFailedError, match=r"run failed with exit code 1: .*memory"):
        in_fresh_process("run", case("unet", 2000), 2 * GIB)


@linux_only
def test_what_is_forecast_to_exceed_the_limit_is_not_run() -> None:
    row = compare(case("dlrm", 4), limit_bytes=2**20)
    assert row.failure == "not run: forecast to exceed the memory limit"
    assert row.forecast_process_bytes > 2**20
    assert row.real_process_bytes == 0


@linux_only
def test_a_comparison_holds_forecast_and_truth_side_by_side() -> None:
    row = compare(case("autoencoder", 16), 8 * GIB)
    assert row.failure == ""
    assert row.forecast_seconds > 0
    assert row.operator
    error, whole = live_error(asdict(row)), process_error(asdict(row))
    assert error is not None
    assert whole is not None
    assert abs(error) < 0.02
    assert abs(whole) < 0.25


# The sums


def compared(forecast_bytes: int, real_bytes: int, **fields: object) -> Comparison:
    row = Comparison(
        architecture="net",
        precision="fp32",
        batch_size=8,
        forecast_live_bytes=forecast_bytes,
        real_live_bytes=real_bytes,
        forecast_process_bytes=forecast_bytes,
        real_process_bytes=real_bytes,
    )
    return replace(row, **fields)  # type: ignore[arg-type]


def test_an_error_has_the_sign_of_the_forecast_and_none_without_a_truth() -> None:
    assert live_error(asdict(compared(110, 100))) == pytest.approx(0.1)
    assert process_error(asdict(compared(90, 100))) == pytest.approx(-0.1)
    assert process_error(asdict(compared(90, 0))) is None
    assert live_error(asdict(compared(0, 100))) is None


def test_the_summary_tells_median_worst_and_shares_by_precision() -> None:
    rows = [
        compared(101, 100),
        compared(95, 100, forecast_seconds=1.5),
        compared(80, 100, architecture="wide", batch_size=64),
        compared(102, 100, precision="bf16"),
        Comparison(architecture="odd", precision="bf16", batch_size=1, failure="no forecast: data decides"),
    ]
    lines = summary([asdict(row) for row in rows]).splitlines()
    assert lines[0] == (
        "- fp32, tensors: 3 compared, median 5.0% off, 95% within 20.0%, worst -20.0% (wide at 64); "
        "33% within 2%, 67% within 10%"
    )
    assert lines[3].startswith("- bf16, process: 1 compared, median 2.0% off")
    assert lines[-1] == "- a forecast took 1.5 s at most; 1 of 5 rows failed"


def test_the_summary_of_failures_alone_compares_nothing() -> None:
    failed = Comparison(architecture="odd", precision="bf16", batch_size=1, failure="no forecast")
    assert "bf16, tensors: none compared" in summary([asdict(failed)])


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_the_quantile_covers_its_share_and_no_smaller_size_does(sizes: list[float]) -> None:
    ranked = sorted(sizes)
    bound = quantile(ranked)
    assert sum(size <= bound for size in ranked) >= QUANTILE * len(ranked)
    assert sum(size < bound for size in ranked) < QUANTILE * len(ranked)
