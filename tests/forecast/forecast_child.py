"""What tests of forecasts share: runs without data and with, each in a process of its own.

A run without data changes torch for the whole process while it lasts, and uses the model up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
import torch

from autotune.forecast.records import Footprint, Rules
from autotune.spec import FileWorkload, Mode, Precision, ProbeSpec

M_MMAP_THRESHOLD = -3
reads_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN computes nothing in bf16 on this processor"
)


class Told(NamedTuple):
    """What a forecaster said."""

    footprints: list[Footprint]
    base_bytes: int
    guesses: list[str]


@cache
def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "autotune.bench", "autotune.devices.choose", "autotune.forecast.world"])
    return context


def in_child(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function returns or raises in a fresh process with one thread."""
    with ProcessPoolExecutor(1, mp_context=_context(), max_tasks_per_child=1) as pool:
        return pool.submit(_with_one_thread, function, args, kwargs).result()


def _with_one_thread(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    torch.set_num_threads(1)
    return function(*args, **kwargs)


def _bench(target: str, spec: dict[str, Any]) -> Any:
    from autotune.bench import build_bench
    from autotune.devices import open_device

    return build_bench(ProbeSpec(workload=FileWorkload(target=target), **spec), open_device("cpu"))


def _forecast(target: str, sizes: tuple[int, ...], rules: Rules, accumulation_steps: int, spec: dict[str, Any]) -> Told:
    from autotune.forecast.run import Forecaster

    forecaster = Forecaster(_bench(target, spec), rules, accumulation_steps=accumulation_steps)
    footprints = [forecaster.footprint(size) for size in sizes]
    return Told(footprints, forecaster.base_bytes, forecaster.guesses)


def _truth(target: str, size: int, accumulation_steps: int, spec: dict[str, Any]) -> Footprint:
    from autotune.forecast.run import track_real

    return track_real(_bench(target, spec), size, accumulation_steps=accumulation_steps)


def forecast(target: str, *sizes: int, rules: Rules = Rules.CPU, accumulation_steps: int = 1, **spec: Any) -> Told:
    """A forecaster's footprints of a model file, in the order asked for."""
    told: Told = in_child(_forecast, target, sizes, rules, accumulation_steps, spec)
    return told


def truth(target: str, size: int, *, accumulation_steps: int = 1, **spec: Any) -> Footprint:
    """The footprint of steps that really ran."""
    footprint: Footprint = in_child(_truth, target, size, accumulation_steps, spec)
    return footprint


def inference_bytes(target: str, size: int, precision: Precision = Precision.FP32) -> int:
    """What steps of inference really add to a process at most: their results, the last one kept, and all besides."""
    found: int = in_child(_inference_bytes, target, size, precision)
    return found


def _inference_bytes(target: str, size: int, precision: Precision) -> int:
    from autotune.bench import Step
    from autotune.devices import linux_process

    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)  # each block on its own, so that no hole in the heap hides one
    step = Step(_bench(target, {"mode": Mode.INFERENCE, "precision": precision}), size)
    for _ in range(2):  # brings what libraries keep
        step.rehearse()
    before_bytes = linux_process.resident().total_bytes
    _result = step()
    linux_process.reset_peak()
    _other = step()
    peak_bytes = linux_process.peak_resident_bytes()
    assert peak_bytes is not None
    return peak_bytes - before_bytes


def forecast_inference_bytes(target: str, size: int, precision: Precision = Precision.FP32) -> int:
    """The same, as a forecast has it."""
    (said,) = forecast(target, size, mode=Mode.INFERENCE, precision=precision).footprints
    return said.peak_bytes - said.composition.parameters_bytes - said.composition.batch_bytes


def model_file(folder: Path, text: str) -> str:
    """A user's file, whose path is returned."""
    file = folder / "model.py"
    file.write_text("import torch\nfrom torch import nn\n" + dedent(text))
    return str(file)
