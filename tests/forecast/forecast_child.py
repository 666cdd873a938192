"""What tests of forecasts share: runs without data and with, each in a process of its own.

A run without data changes torch for the whole process while it lasts, and uses the model up.
"""

from __future__ import annotations

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
from autotune.spec import FileWorkload, ProbeSpec

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


def model_file(folder: Path, text: str) -> str:
    """A user's file, whose path is returned."""
    file = folder / "model.py"
    file.write_text("import torch\nfrom torch import nn\n" + dedent(text))
    return str(file)
