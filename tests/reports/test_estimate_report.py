"""An estimate as it is read: the tables, the notes, the JSON."""

from __future__ import annotations

import json
import re

import pytest
from example_estimates import ModelledExecutor

from autotune.estimate import LARGEST, Estimate, Place, Question, estimate
from autotune.forecast.records import Rules
from autotune.reports.estimate import as_json, render
from autotune.spec import Mode, Precision

GIB = 1 << 30
CARD = Place(name="Example 40GB", memory_bytes=40 * GIB, context_bytes=GIB)

ONE = """\
net, 26,214,400 parameters
predicted memory of a training step on a GPU; nothing was run
assumed: the optimizer is AdamW(lr=0.001)

What the predicted peak is made of, in fp32
batch size              4     1,000
───────────────────────────────────
parameters        100 MiB   100 MiB
gradients         100 MiB   100 MiB
optimizer state   100 MiB   100 MiB
activations           0 B  19.5 GiB
batch                 0 B       0 B
temporary         100 MiB       0 B
allocator        2.00 MiB  2.00 MiB
CUDA context     1.00 GiB  1.00 GiB

predicted peak   1.39 GiB  20.8 GiB
with margin      1.46 GiB  21.9 GiB
At batch size 4 the peak is in the optimizer, at aten._foreach_sqrt.default.
At batch size 1,000 the peak is in the backward pass, at aten.convolution_backward.default.

Predicted largest batch size
on              memory   fp32
─────────────────────────────
Example 40GB  40.0 GiB  1,884

A size fits where its predicted peak and a margin of 5.0% are within the memory.
Guess: what the driver, CUDA's context and libraries take: 1.00 GiB
Guess: a guess in fp32
Guess: a guess in all
All of this is predicted. To be sure, measure it where it shall run: autotune probe.
"""

NARROW_PEAKS = """\
batch
 size     fp32     bf16     fp16
────────────────────────────────
   64 2.54 GiB 1.98 GiB 1.98 GiB

         fp32,    bf16,    fp16,
batch   check-   check-   check-
 size  pointed  pointed  pointed
────────────────────────────────
   64 1.61 GiB 1.47 GiB 1.47 GiB
"""


@pytest.fixture(autouse=True)
def margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of these examples, whatever the benchmark shows."""
    monkeypatch.setattr("autotune.estimate.MARGIN_SHARES", dict.fromkeys(Rules, 0.05))


def example(executor: ModelledExecutor | None = None, **settings) -> Estimate:
    return estimate(executor or ModelledExecutor(), Question(**({"places": (CARD,)} | settings)))


def test_one_variant_reads_well_in_120_columns() -> None:
    assert render(example(batch_sizes=(4, 1000)), 120) == ONE


@pytest.mark.parametrize("width", [60, 72, 80, 100])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(width: int) -> None:
    sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1_048_576)
    text = render(example(precisions=tuple(Precision), checkpointing=True, batch_sizes=sizes), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert len(re.findall(r"^predicted peak", text, re.MULTILINE)) >= 2  # the many sizes take several tables
    heads = re.findall(r"^batch size +(.+)$", text, re.MULTILINE)
    assert [size for head in heads for size in head.split()] == [f"{size:,}" for size in sizes]


@pytest.mark.parametrize("width", [1, 20, 40])
def test_any_width_is_survived(width: int) -> None:
    assert render(example(precisions=tuple(Precision), checkpointing=True), width)


def test_several_variants_stand_side_by_side() -> None:
    text = render(example(precisions=tuple(Precision), checkpointing=True, batch_sizes=(64,)), 80)
    rows = [re.sub(r"\s+", " ", line.strip()) for line in text.splitlines()]
    assert "64 2.54 GiB 1.98 GiB 1.98 GiB 1.61 GiB 1.47 GiB 1.47 GiB" in rows
    assert "Example 40GB 40.0 GiB 1,884 3,425 3,425 7,536 13,703 13,703" in rows


def test_where_they_don_t_fit_those_with_checkpointing_stand_below() -> None:
    text = render(example(precisions=tuple(Precision), checkpointing=True, batch_sizes=(64,)), 56)
    assert NARROW_PEAKS in text


def test_a_variant_without_a_forecast_has_no_column_but_a_reason() -> None:
    text = render(example(ModelledExecutor(has_switch=False), checkpointing=True))
    assert "No forecast: fp32, checkpointed: The model has no switch." in text
    assert "check-" not in text


def test_what_does_not_fit_and_what_memory_does_not_bound_are_told_apart() -> None:
    places = (Place(name="tiny", memory_bytes=1 << 20), Place(name="huge", memory_bytes=1 << 60))
    found = example(places=(places[0],), batch_sizes=(1,))
    assert re.search(r"^tiny +1.00 MiB +none$", render(found), re.MULTILINE)

    class Capped(ModelledExecutor):
        def _largest(self, room_bytes: int, sample_bytes: int) -> int:
            return min(LARGEST, super()._largest(room_bytes, sample_bytes))

    assert re.search(r"^huge .* 1,048,576\+$", render(example(Capped(), places=(places[1],))), re.MULTILINE)


def test_a_processor_has_a_process_and_no_context() -> None:
    place = Place(name="this machine", memory_bytes=8 * GIB)
    text = render(
        example(ModelledExecutor(base_bytes=300 << 20), places=(place,), rules=Rules.CPU, mode=Mode.INFERENCE)
    )
    assert "predicted memory of a step of inference on this machine's processor; nothing was run" in text
    assert re.search(r"^process +300 MiB", text, re.MULTILINE)
    assert "CUDA" not in text


def test_accumulated_sizes_are_called_micro_batches() -> None:
    text = render(example(accumulation_steps=8))
    assert "a training step of 8 micro-batches on a GPU" in text
    assert "Predicted largest micro-batch size" in text


def test_a_hostile_name_is_neither_markup_nor_an_escape() -> None:
    place = Place(name="[red]card\x1b[2J", memory_bytes=GIB)
    executor = ModelledExecutor(name="[bold]net[/]\x1b[31m\n", refused={Precision.BF16: "\x1b]0;title\x07 [blink]"})
    text = render(example(executor, places=(place,), precisions=(Precision.FP32, Precision.BF16)))
    assert r"[bold]net[/]\x1b[31m\n, 26,214,400 parameters" in text
    assert r"[red]card\x1b[2J" in text
    assert r"bf16: \x1b]0;title\x07 [blink]" in text
    assert "\x1b" not in text


def test_json_has_the_keys_that_are_promised() -> None:
    answer = json.loads(as_json(example(ModelledExecutor(has_switch=False), batch_sizes=(8,), checkpointing=True)))
    assert list(answer) == [
        *("version", "predicted", "workload", "parameters", "assumptions", "rules", "mode", "accumulation_steps"),
        *("margin_share", "guesses", "batch_sizes", "devices", "variants"),
    ]
    assert answer["devices"] == [{"name": "Example 40GB", "memory_bytes": 40 * GIB, "context_bytes": GIB}]
    plain, checkpointed = answer["variants"]
    assert list(plain) == ["precision", "checkpointing", "no_forecast", "largest_batch_sizes", "sizes"]
    assert (plain["no_forecast"], plain["largest_batch_sizes"]) == (None, [1884])
    assert (checkpointed["no_forecast"], checkpointed["sizes"]) == ("The model has no switch.", [])
    size = next(size for size in plain["sizes"] if size["batch_size"] == 8)
    assert list(size) == [
        *("batch_size", "peak_bytes", "peak_with_margin_bytes", "parameters_bytes", "gradients_bytes"),
        *("optimizer_bytes", "activations_bytes", "batch_bytes", "temporary_bytes", "allocator_bytes"),
        *("process_bytes", "phase", "phase_peak_bytes", "operator"),
    ]
    assert size["phase_peak_bytes"] == {"backward": (300 + 160) << 20, "optimizer": 400 << 20}
