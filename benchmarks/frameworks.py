"""Public architectures, built from their configurations, probed where people train them: a Trainer, a compiled model.

Needs transformers and keras. Nothing is downloaded, and nothing in the package knows any of them by name.

    python -m benchmarks.frameworks [NAME ...]
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune import AutotuneError, Result, find_batch_size
from benchmarks.architectures.hugging_face import HUGGING_FACE
from benchmarks.recording import RESULTS, Cells, Recording, Row, cell, recorded

TRANSFORMERS = ("gpt2", "llama", "mixtral", "bert", "t5", "vit", "swin", "whisper", "wav2vec2", "clip")
APPLICATIONS = ("MobileNetV2", "EfficientNetV2B0", "DenseNet121", "ResNet50", "ConvNeXtTiny")
SIDE = 96
SAMPLES = 64
BUDGET = "1536MiB"

EXPLANATION = f"""\
`find_batch_size(trainer, objective="memory")` and `find_batch_size(build_model, images, classes, objective="memory")`
within {BUDGET}, at most the {SAMPLES} samples of the dataset. The largest batch size was confirmed in so many fresh
processes; 'next' says why its successor was refused. The forecast's error is the median over the trials. Where only
some architectures were named, the rows of the others are those of the run before."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What came of one architecture."""

    architecture: str
    framework: str
    parameters: int = 0
    largest: int = 0
    confirmations: int = 0
    next_is: str = ""
    trials: int = 0
    forecast_error: float | None = None
    seconds: float = 0.0
    failure: str = ""


def probed(name: str) -> Probed:
    """The largest batch size of an architecture, found where it is trained."""
    framework, find = ("keras", _find_keras) if name in APPLICATIONS else ("transformers", _find_transformers)
    began = time.monotonic()
    try:
        result = find(name)
    except AutotuneError as error:
        return Probed(architecture=name, framework=framework, failure=error.message)
    return Probed(
        architecture=name,
        framework=framework,
        parameters=result.workload.parameters or 0,
        largest=result.max_batch_size,
        confirmations=result.edge.confirmations,
        next_is=_next(result),
        trials=len(result.trials),
        forecast_error=_forecast_error(result),
        seconds=time.monotonic() - began,
    )


def _next(result: Result) -> str:
    """Why the answer's successor was not accepted."""
    if result.edge.no_room_from is not None:
        return "peaks of about its size differ from run to run and may pass the budget"
    return result.edge.refused_by or result.stop_reason


def _forecast_error(result: Result) -> float | None:
    errors = sorted(
        abs(trial.forecast_bytes / trial.measurement.memory.peak_bytes - 1)
        for trial in result.trials
        if trial.measurement and trial.forecast_bytes
    )
    return errors[len(errors) // 2] if errors else None


def _find_transformers(name: str) -> Result:
    from transformers import Trainer, TrainingArguments, default_data_collator

    architecture = next(entry for entry in HUGGING_FACE if entry.name == name)
    batch = architecture.make_batch(SAMPLES)
    tensors = {key: value for key, value in batch.items() if hasattr(value, "shape")}
    others = {key: value for key, value in batch.items() if key not in tensors}
    samples = [{key: value[index] for key, value in tensors.items()} for index in range(SAMPLES)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            architecture.build_model(),
            TrainingArguments(output_dir=folder, use_cpu=True, report_to=[], remove_unused_columns=False),
            data_collator=lambda chosen: {**default_data_collator(chosen), **others},
            train_dataset=samples,
        )
        return _find(trainer)


def _find_keras(name: str) -> Result:
    import keras
    import numpy as np

    def build_model() -> Any:
        model = getattr(keras.applications, name)(weights=None, input_shape=(SIDE, SIDE, 3), classes=100)
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    random = np.random.default_rng(0)
    return _find(
        build_model, random.random((SAMPLES, SIDE, SIDE, 3), dtype="float32"), random.integers(100, size=SAMPLES)
    )


def _find(*what: Any) -> Result:
    find: Callable[..., Result] = find_batch_size
    return find(*what, objective="memory", memory_budget=BUDGET, device="cpu", quiet=True)


def _cells(row: Row) -> Cells:
    error = row["forecast_error"]
    return {
        "architecture": row["architecture"],
        "framework": row["framework"],
        "parameters": f"{row['parameters'] / 1e6:.1f} M",
        "largest": str(row["largest"]),
        "confirmed": str(row["confirmations"]),
        "next": row["next_is"],
        "trials": str(row["trials"]),
        "forecast off by": "no forecast" if error is None else f"{error:.1%}",
        "seconds": f"{row['seconds']:.0f}",
        "failure": cell(row["failure"]),
    }


def _summary(rows: Sequence[Row]) -> str:
    answered = sum(not row["failure"] for row in rows)
    return f"{answered} of {len(rows)} architectures have an answer; no line of the package is about any of them."


def _earlier(folder: Path) -> list[Probed]:
    path = folder / "frameworks-cpu.json"
    return recorded(Probed, [path]) if path.exists() else []


def main() -> None:
    """Probe each architecture named, or all, in its framework."""
    os.environ["KERAS_BACKEND"] = "torch"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frameworks", description=main.__doc__)
    parser.add_argument("names", nargs="*", default=(*TRANSFORMERS, *APPLICATIONS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    recording = Recording.on(
        "cpu",
        options.results,
        "frameworks",
        title="Architectures in their frameworks",
        explanation=EXPLANATION,
        cells=_cells,
        summary=_summary,
    )
    kept = [row for row in _earlier(options.results) if row.architecture not in options.names]
    recording.record(itertools.chain(kept, map(probed, options.names)), len(kept) + len(options.names))


if __name__ == "__main__":
    main()
