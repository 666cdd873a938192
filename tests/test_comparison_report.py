"""A comparison as it is read: the tables, the sentences, Markdown and JSON."""

from __future__ import annotations

import json
import re
from io import StringIO

import msgspec
import pytest
from example_results import ENVIRONMENT, FACTS, example_result
from example_runs import drawn_result
from rich.console import Console

from autotune.comparison import Quantity, compare
from autotune.reports.comparison import Shown, as_json, as_markdown, render, report
from autotune.result import Result

LIMITS = {Quantity.SPEED: 0.05, Quantity.MEMORY: 0.1}

WIDE = """\
old: old.json, digits, train in fp32 on cpu, 2026-01-02 03:04
new: new.json, digits, train in fp32 on cpu, 2026-01-02 03:04
also changed: torch 2.13.0, now 2.14.0

batch        old        new                   95%       old       new                     95%
 size  samples/s  samples/s  change      interval      peak      peak  change        interval  verdict
─────────────────────────────────────────────────────────────────────────────────────────────────────────────
  128      9,846      9,846      0%  -27% to +37%   420 MiB   420 MiB      0%  -3.5% to +3.6%  not told apart
  256     12,190     12,190      0%  -27% to +37%   645 MiB   645 MiB      0%  -3.5% to +3.6%  not told apart
  512     12,642     12,642      0%  -27% to +37%  1.05 GiB  1.05 GiB      0%  -3.5% to +3.6%  not told apart
1,000     11,765     11,765      0%  -27% to +37%  1.95 GiB  1.95 GiB      0%  -3.5% to +3.6%  not told apart
Samples/s as in each result's report; peaks are medians of a size's runs, where a report has the highest.

                         old     new  change    95% interval  verdict
────────────────────────────────────────────────────────────────────────────
speed, 4 sizes             -       -      0%    -27% to +37%  not told apart
peak memory, 4 sizes       -       -      0%  -3.5% to +3.6%  not told apart
recommended size         256     256    same
samples/s there       12,190  12,190      0%    -27% to +37%  not told apart
epoch there           4.10 s  4.10 s      0%
largest that fitted    1,000   1,000    same

Speed over 4 batch sizes: not told apart from noise. A change of more than 27% for the worse would have shown.
Peak memory over 4 batch sizes: not told apart from noise. A change of more than 3.6% for the worse would have shown.
"""


def shown(old: Result, new: Result, new_name: str = "new.json") -> Shown:
    return Shown(comparison=compare(old, new), names=("old.json", new_name), allowed=LIMITS)


def regressed() -> Shown:
    """A fifth slower and 5% more memory than before."""
    return shown(drawn_result(1), drawn_result(2, slower=1.25, more_memory=1.05))


def line(text: str, start: str) -> str:
    """The first line that starts so, its blanks pressed together."""
    found = next(line for line in text.splitlines() if line.strip().startswith(start))
    return re.sub(r"\s+", " ", found.strip())


def test_what_is_over_the_limit_is_told_from_what_is_within() -> None:
    text = render(regressed())
    assert re.fullmatch(r"speed, 12 sizes - - -\d+% -\d+% to -\d+% slower, over 5%", line(text, "speed,"))
    assert re.fullmatch(r"peak memory, 12 sizes - - \+5\.\d% \+.* more memory", line(text, "peak memory,"))
    assert re.search(r"Speed over 12 batch sizes: slower, -\d+% \(with 95% confidence", text)


def test_no_change_says_how_small_a_one_it_would_have_shown() -> None:
    text = render(shown(drawn_result(1), drawn_result(2)))
    assert re.search(
        r"Speed over 12 batch sizes: not told apart from noise\. A change of more than [\d.]+% for the worse", text
    )


def test_too_much_noise_is_called_that() -> None:
    text = render(shown(drawn_result(1, waited=1.0), drawn_result(2, waited=1.0)))
    assert "There is too much noise to tell anything." in text
    assert line(text, "speed,").endswith("unknown not told apart")


def test_a_manifold_change_is_a_factor() -> None:
    text = render(shown(drawn_result(1, slower=50), drawn_result(2)))
    assert re.search(r"speed, 12 sizes.* x [45]\d\.\d .*faster", text)


def test_the_ends_of_an_interval_are_written_alike() -> None:
    """Also around the factor from which on a change is one."""
    for slower in (1, 4, 8, 9, 10, 11, 20, 200):
        one, other = drawn_result(1), drawn_result(2, slower=slower)
        for pair in ((one, other), (other, one)):
            text = render(shown(*pair), 120)
            ends = re.findall(r"([-+\d.,%]+) to (x )?([-+\d.,%]+)", text)
            assert ends
            assert all(low.endswith("%") == high.endswith("%") == (not sign) for low, sign, high in ends), text


def test_what_the_speed_over_all_sizes_comes_from_is_said_below_the_table() -> None:
    note = "The speed over all sizes compares single trials"
    pooled, plain = shown(drawn_result(1), drawn_result(2)), shown(example_result(), example_result())
    for written in (render, as_markdown):
        assert note in written(pooled)
        assert note not in written(plain)


def test_recommendations_and_epochs_stand_side_by_side() -> None:
    old, new = drawn_result(1, in_turns=0, between_processes=0), drawn_result(1, in_turns=0, between_processes=0)
    new = msgspec.structs.replace(new, recommendation=msgspec.structs.replace(new.recommendation, batch_size=512))
    text = render(shown(old, new))
    assert line(text, "recommended size") == "recommended size 64 512 differs"
    assert re.fullmatch(r"epoch there 1\.\d+ s 1\.\d+ s -\d+%", line(text, "epoch there"))
    assert line(text, "largest that fitted") == "largest that fitted 512 512 same"


def test_without_a_dataset_there_are_no_epochs() -> None:
    unknown = drawn_result(1, workload=msgspec.structs.replace(FACTS, dataset_size=None))
    assert "epoch" not in render(shown(unknown, unknown))


def test_what_else_changed_is_named_and_what_matters_is_a_caution() -> None:
    environment = msgspec.structs.replace(ENVIRONMENT, torch_version="2.14.0", threads=1)
    text = render(shown(drawn_result(1), drawn_result(2, environment=environment, warnings=("The fan was off.",))))
    assert "also changed: torch 2.13.0, now 2.14.0" in text
    assert "Caution: The number of threads is not the same: 2, now 1." in text
    assert "Caution: In the new result: The fan was off." in text


def test_a_caution_of_both_results_is_given_once() -> None:
    old = drawn_result(1, warnings=("The fan was off.", "It was hot."))
    text = render(shown(old, drawn_result(2, warnings=("It was late.", "The fan was off."))))
    assert re.findall("Caution: (.*)", text) == [
        "In both results: The fan was off.",
        "In the old result: It was hot.",
        "In the new result: It was late.",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_line_keeps_to_the_width(width: int) -> None:
    assert max(map(len, render(regressed(), width).splitlines())) <= width


def test_no_figure_is_cropped_in_80_columns() -> None:
    text = render(shown(drawn_result(1, slower=1e-4), drawn_result(2, slower=2e-4, more_memory=300)), 80)
    assert "…" not in text
    assert line(text, "512").endswith("more memory, over 10%") or "over 10%" in text


@pytest.mark.parametrize("width", [1, 20, 40, 79])
def test_any_width_is_survived(width: int) -> None:
    assert render(regressed(), width)


HOSTILE = "[bold]net[/]\x1b[31m\n|<b>@you</b>`x`"


def hostile() -> Shown:
    facts = msgspec.structs.replace(FACTS, name=HOSTILE)
    return shown(drawn_result(1), drawn_result(2, workload=facts, warnings=(HOSTILE,)), f"{HOSTILE}.json")


def test_a_hostile_name_is_neither_markup_nor_an_escape() -> None:
    text = render(hostile(), 200)
    assert "\x1b" not in text
    assert r"new: [bold]net[/]\x1b[31m\n|<b>@you</b>`x`.json, [bold]net[/]\x1b[31m\n|" in text


def test_a_hostile_name_is_text_in_markdown() -> None:
    text = as_markdown(hostile())
    assert "\x1b" not in text
    for sign in ("<b>", "@you", "`", "|"):
        lines = [line for line in text.splitlines() if "net" in line]
        assert lines
        assert not any(re.search(rf"(?<!\\){re.escape(sign)}", line) for line in lines), sign


def test_markdown_has_the_tables_and_folds_the_sizes_away() -> None:
    text = as_markdown(regressed())
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    assert [table.count("\n") for table in tables] == [2 + 6, 2 + 12]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert text.index("<details>") < text.index("batch size | old samples/s") < text.index("</details>")
    assert "WARNING" not in text
    assert "> [!WARNING]\n> - The objective" not in text


def test_json_says_the_same_in_numbers() -> None:
    seen = regressed()
    content = json.loads(as_json(seen))
    assert content["version"] == 1
    assert content["names"] == {"old": "old.json", "new": "new.json"}
    assert content["allowed"] == {"speed": 0.05, "memory": 0.1}
    assert content["speed"]["ratio"] == seen.comparison.speed.ratio.median
    assert content["speed"]["is_regression"] is True
    assert content["memory"] | {"verdict": "more memory", "is_regression": False} == content["memory"]
    assert [size["batch_size"] for size in content["sizes"]] == [size.batch_size for size in seen.comparison.sizes]
    assert content["regressions"][0] == content["speed"]


def test_json_has_null_where_an_interval_is_open() -> None:
    content = json.loads(as_json(shown(drawn_result(1), drawn_result(2, waited=1.0))))
    assert content["speed"]["high"] is None


def test_red_is_only_what_got_worse() -> None:
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system="standard", no_color=False)
    console.print(report(shown(drawn_result(1, slower=3), drawn_result(2)), 120))
    console.print(report(shown(drawn_result(1), drawn_result(2, slower=3)), 120))
    better, worse = console.file.getvalue().split("new: new.json")[1:]  # type: ignore[attr-defined]
    assert "\x1b[32m" in better
    assert "\x1b[31m" not in better
    assert "\x1b[31m" in worse
    assert "\x1b[32m" not in worse


def test_the_whole_report_reads_well() -> None:
    environment = msgspec.structs.replace(ENVIRONMENT, torch_version="2.14.0")
    assert render(shown(example_result(), example_result(environment=environment)), 120) == WIDE
