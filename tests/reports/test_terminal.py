"""The table and the whole report, as they are read."""

from __future__ import annotations

import re
from io import StringIO

import msgspec
import pytest
from example_results import CONTEST, ENVIRONMENT, FACTS, MIB, example_result, fitting, measurement, refused
from rich.console import Console

from autotune.reports.terminal import render, report
from autotune.result import Edge, Recommendation, StopReason
from autotune.trial import Outcome

WIDE = """\
digits, 61,706 parameters
train in fp32 on cpu (Example CPU 9000), 2 threads
memory budget 2.00 GiB of 2.22 GiB free

batch  samples           step      peak      of  batches   epoch
 size       /s     ±     time    memory  budget   /epoch    time  outcome
───────────────────────────────────────────────────────────────────────────────────────────
  128    9,846  1.6%  13.0 ms   420 MiB     21%      391  5.08 s  fits
  256   12,190  1.0%  21.0 ms   650 MiB     32%      196  4.10 s  recommended x2
  512   12,642  1.3%  40.5 ms  1.05 GiB     53%       98  3.96 s  fits, fastest
1,000   11,765  1.2%  85.0 ms  1.96 GiB     98%       50  4.25 s  fits x3, largest
1,001        -     -        -         -       -       50       -  out of memory (exception)
1,024        -     -        -         -       -       49       -  out of memory (watchdog)

Use batch size 256: the smallest within 5% of the fastest, 512. It processes 12,190 samples/s and peaks at 650 MiB, 32%
of the memory budget of 2.00 GiB. An epoch of 50,000 samples is 196 batches, about 4.10 s. The fastest is 512, with 3.7%
more samples/s and 66% more memory compared with 256. The largest that fits is 1,000, with 3.5% fewer samples/s and 3.09
times the memory compared with 256: already 1,001 ran out of memory.
"""

NARROW_TABLE = """\
batch samples         step     peak     of batches  epoch
 size      /s    ±    time   memory budget  /epoch   time outcome
────────────────────────────────────────────────────────────────────────────────
  128   9,846 1.6% 13.0 ms  420 MiB    21%     391 5.08 s fits
  256  12,190 1.0% 21.0 ms  650 MiB    32%     196 4.10 s recommended x2
  512  12,642 1.3% 40.5 ms 1.05 GiB    53%      98 3.96 s fits, fastest
1,000  11,765 1.2% 85.0 ms 1.96 GiB    98%      50 4.25 s fits x3, largest
1,001       -    -       -        -      -      50      - out of memory
                                                          (exception)
1,024       -    -       -        -      -      49      - out of memory
                                                          (watchdog)
"""


def row(text: str, batch_size: str) -> str:
    """The table's row of a batch size, its blanks pressed together."""
    line = next(line for line in text.splitlines() if line.split()[:1] == [batch_size])
    return re.sub(r"\s+", " ", line.strip())


def test_the_report_reads_well_in_120_columns() -> None:
    assert render(example_result(), 120) == WIDE


def test_the_table_keeps_every_column_in_80_columns() -> None:
    text = render(example_result(), 80)
    assert NARROW_TABLE in text
    assert max(map(len, text.splitlines())) <= 80


def test_long_figures_break_no_word_and_crop_no_number_in_80_columns() -> None:
    trials = (
        fitting(1, 256, (3.2, 3.1), 640),
        fitting(2, 65536, (701.0,), 2047),
        refused(3, 131072, "exit", outcome=Outcome.CRASHED),
    )
    facts = msgspec.structs.replace(FACTS, dataset_size=128_116_700)
    text = render(example_result(trials=trials, workload=facts, edge=Edge(largest_fits=65536)), 80)
    assert row(text, "65,536") == "65,536 93.5 - 11m 41s 2.00 GiB 100% 1,955 15d 21h fits, largest"
    assert row(text, "256").endswith("recommended")
    assert "…" not in text


def test_without_a_dataset_size_there_are_no_epochs() -> None:
    text = render(example_result(workload=msgspec.structs.replace(FACTS, dataset_size=None)))
    assert "epoch" not in text
    assert row(text, "256") == "256 12,190 1.0% 21.0 ms 650 MiB 32% recommended x2"


def test_figures_of_the_final_round_go_before_those_of_single_trials() -> None:
    text = render(example_result(contest=CONTEST))
    assert row(text, "512").startswith("512 12,488 2.5% 41.0 ms 1.05 GiB")
    assert row(text, "128").startswith("128 9,846 1.6% 13.0 ms")


def test_a_size_that_fitted_and_then_failed_shows_both() -> None:
    trials = (*example_result().trials, refused(10, 512, purpose="confirm"))
    text = render(example_result(trials=trials, edge=Edge(largest_fits=256, smallest_refused=512, band=(512,))))
    assert row(text, "512").endswith("out of memory (watchdog); fitted in 1")
    assert "Caution: Batch size 512 passed once and failed another time" in text


def test_a_refusal_by_the_budget_shows_what_was_measured() -> None:
    over = refused(10, 2000, "budget", measurement=measurement(2000, (0.2, 0.2), 2200), purpose="target")
    text = render(example_result(trials=(*example_result().trials, over)))
    assert row(text, "2,000") == "2,000 10,000 0% 200 ms 2.15 GiB 107% 25 5.00 s out of memory (over budget)"


def test_a_trial_of_a_plan_is_no_row() -> None:
    plan = fitting(10, 96, (0.5, 0.5), 700, purpose="plan")
    assert render(example_result(trials=(*example_result().trials, plan))) == WIDE


def test_a_hostile_name_is_neither_markup_nor_an_escape() -> None:
    facts = msgspec.structs.replace(
        FACTS, name="[bold]net[/]\x1b[31m\n:smile:\u202e", assumptions=("[red]\x07AdamW\x9b",)
    )
    text = render(example_result(workload=facts, warnings=("[blink]\x1b]0;title\x07",)))
    assert r"[bold]net[/]\x1b[31m\n:smile:\u202e, 61,706 parameters" in text
    assert r"assumed: [red]\x07AdamW\x9b" in text
    assert r"Caution: [blink]\x1b]0;title\x07" in text


@pytest.mark.parametrize("width", [1, 20, 40, 79])
def test_any_width_is_survived(width: int) -> None:
    assert render(example_result(), width)


def test_a_terminal_without_unicode_gets_plain_characters() -> None:
    class Ascii(StringIO):
        encoding = "ascii"

    console = Console(file=Ascii(), width=120)
    console.print(report(example_result(), 120))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "─" not in text
    assert "recommended x2" in text


def test_only_the_recommended_row_stands_out_in_colour() -> None:
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system="standard", no_color=False)
    console.print(report(example_result(), 120))
    green = [line for line in console.file.getvalue().splitlines() if "\x1b[1;32m" in line]  # type: ignore[attr-defined]
    assert len(green) == 1
    assert "recommended" in green[0]


def test_a_probe_that_was_not_isolated_says_so_on_top() -> None:
    environment = msgspec.structs.replace(ENVIRONMENT, device="cuda:0", device_name="NVIDIA T4", threads=1)
    text = render(example_result(isolated=False, environment=environment))
    assert "train in fp32 on cuda:0 (NVIDIA T4), 1 thread, in the caller's process (not isolated)" in text


def test_the_smallest_possible_result_is_shown() -> None:
    result = example_result(
        trials=(fitting(1, 1, (0.5,), 100),),
        recommendation=Recommendation(
            batch_size=1,
            samples_per_second=2.0,
            fastest_batch_size=1,
            fastest_samples_per_second=2.0,
            why="the fastest",
        ),
        edge=Edge(largest_fits=1),
        stop=StopReason.TRIALS,
        budget_bytes=1000 * MIB,
        workload=msgspec.structs.replace(FACTS, dataset_size=1, parameters=None),
    )
    assert row(render(result), "1") == "1 2.00 - 500 ms 100 MiB 10% 1 500 ms recommended, fastest, largest"
