"""Markdown, CSV, and how to do a probe again: what was written is read back by the programs that will read it."""

from __future__ import annotations

import ast
import csv
import html
import inspect
import re
import shlex
from io import StringIO
from typing import Any

import pytest
from example_reports import HOSTILE, Page, named
from example_results import CONTEST, ENVIRONMENT, example_result, fitting, measurement, refused
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from msgspec.structs import replace

from autotune.api import find_batch_size
from autotune.cli.probing import _spec, probe
from autotune.reports.labels import labels
from autotune.reports.markdown import escaped, markdown
from autotune.reports.plain_text import printable
from autotune.reports.reproduce import recipe
from autotune.reports.sheet_tables import sizes_table, speeds_table, trials_table
from autotune.reports.table_file import csv_text
from autotune.spec import (
    ClassWorkload,
    FileWorkload,
    LiveWorkload,
    MemoryBudget,
    Mode,
    Objective,
    Precision,
    ProbeSpec,
)
from autotune.trial import Outcome

COMMENT = "<!-- -->"


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


def shown(text: str) -> Page:
    return Page(rendered(text).replace(COMMENT, ""))


def test_markdown_holds_answer_table_warnings_and_the_rest_folded_away() -> None:
    page = shown(markdown([example_result(warnings=("The machine was busy.",))]))
    assert page.text("h3") == ["digits"]
    assert "Use batch size 256: the smallest within 5% of the fastest, 512." in page.text("strong")
    assert "The machine was busy." in page.text("li")
    assert "recommended x2" in page.text("strong")
    assert page.text("code") == ["autotune probe digits.py"]
    assert page.tags.index("table") < page.tags.index("details") < page.tags.index("code")


def test_markdown_of_several_results_lines_them_up() -> None:
    gpu = replace(ENVIRONMENT, device_name="Example GPU")
    page = shown(markdown([example_result(), example_result(environment=gpu)]))
    assert {"Example CPU 9000", "Example GPU"} <= set(page.text("td"))


def test_what_a_container_limits_is_told() -> None:
    inside = replace(ENVIRONMENT, container_limit_bytes=2 << 30, container_processors=1.5)
    assert "2.00 GiB, the time of 1.5 processors" in shown(markdown([example_result(environment=inside)])).text("td")


def test_hostile_texts_stay_text_in_markdown() -> None:
    plain, hostile = shown(markdown([named("plain")])), shown(markdown([named(HOSTILE)]))
    assert hostile.tags == plain.tags
    assert hostile.text("h3") == [HOSTILE]


@pytest.mark.parametrize("linked", ["@octocat", "#12", "https://evil.example", "www.evil.example", ":tada:", "a@b.com"])
def test_what_github_links_after_rendering_is_split(linked: str) -> None:
    assert COMMENT in escaped(linked)
    assert linked not in html.unescape(rendered(escaped(linked)))
    assert html.unescape(rendered(escaped(linked)).replace(COMMENT, "")) == f"<p>{linked}</p>\n"


@given(st.text(max_size=60).map(printable))
def test_any_printable_text_is_shown_as_it_is_in_markdown(text: str) -> None:
    assert html.unescape(rendered(escaped(text)).replace(COMMENT, "")) == (
        f"<p>{text.strip()}</p>\n" if text.strip() else ""
    )


@given(st.text(max_size=60).map(printable))
def test_any_printable_text_fills_one_cell_of_a_markdown_table(text: str) -> None:
    page = shown(f"| a | b |\n| --- | --- |\n| x{escaped(text)} | y |\n")
    assert page.tags.count("td") == 2
    assert " ".join(page.text("td")) == f"x{text.strip()} y"


def test_csv_holds_every_trial_with_its_raw_numbers() -> None:
    result = example_result()
    records = list(csv.DictReader(StringIO(csv_text([result]))))
    assert [int(record["trial"]) for record in records] == [trial.number for trial in result.trials]
    for record, trial in zip(records, result.trials, strict=True):
        assert record["outcome"] == trial.outcome.value
        peak = trial.measurement.memory.peak_bytes if trial.measurement else None
        assert record["peak_bytes"] == ("" if peak is None else str(peak))
        assert float(record["trial_seconds"]) == trial.seconds
    assert float(records[1]["step_seconds_median"]) == 0.0210
    assert records[3]["samples_per_second"] == ""


def test_csv_has_the_times_of_one_batch_where_a_step_accumulates_several() -> None:
    trial = fitting(1, 256, (0.080, 0.084, 0.088), 640)
    trial = replace(trial, measurement=replace(trial.measurement, accumulation_steps=4))
    (record,) = csv.DictReader(StringIO(csv_text([example_result(trials=(trial,))])))
    times = {name: float(record[f"step_seconds_{name}"]) for name in ("median", "p95")}
    assert times == pytest.approx({"median": 0.021, "p95": 0.022})
    assert float(record["samples_per_second"]) == pytest.approx(256 / times["median"])


def test_csv_of_several_results_says_whose_a_trial_is() -> None:
    results = [example_result(), example_result(environment=replace(ENVIRONMENT, threads=1))]
    records = list(csv.DictReader(StringIO(csv_text(results))))
    assert list(dict.fromkeys(record["result"] for record in records)) == labels(results)


@given(st.sampled_from(["", " ", "\t", "\n"]), st.sampled_from("=+-@\t\r＝＋－＠"), st.text(max_size=20))  # noqa: RUF001
def test_no_text_begins_like_a_formula(before: str, start: str, rest: str) -> None:
    for row in csv.DictReader(StringIO(csv_text([named(before + start + rest)]))):
        assert not re.match(r"\s*[=+\-@＝＋－＠]", row["model"])  # noqa: RUF001


def test_the_quantiles_of_a_step_stand_beside_the_median_of_the_same_steps() -> None:
    """The final round, from which the step time comes, was slower by half; its single steps are not known."""
    spec = replace(example_result().spec, mode=Mode.INFERENCE)
    contest = replace(CONTEST, rounds=((0.0315, 0.0600),) * 3)
    table = sizes_table(example_result(spec=spec, contest=contest))
    shown = dict(zip(table.headings, table.rows[1], strict=True))
    shares = [shown[f"{share}% within, in trials"].number for share in (50, 95, 99)]
    assert shares == [0.0210, 0.0212, 0.0212]
    assert shown["step time"].number == pytest.approx(0.0315)
    assert "step time of 256, 512 come from the final round, which keeps no single steps" in table.caption
    assert "final round" not in sizes_table(example_result(spec=spec)).caption


def test_the_speeds_of_several_results_hold_no_size_that_was_refused() -> None:
    """1,010 ran to its end, over the budget; 1,020 was too slow; 300 was not tried by the other."""
    one = example_result()
    over = replace(refused(10, 1010, "budget"), measurement=measurement(1010, (0.08, 0.08), 2100))
    slow = replace(refused(11, 1020, "latency", outcome=Outcome.FITS), measurement=over.measurement)
    other = replace(one, trials=(*one.trials, over, slow, fitting(12, 300, (0.03, 0.03), 700)))
    shown = {row[0].number: row for row in speeds_table([one, other]).rows}
    assert [cell.text for cell in shown[1010]] == ["1,010", "-", "refused"]
    assert [cell.text for cell in shown[1020]] == ["1,020", "-", "too slow"]
    assert [cell.text for cell in shown[300]] == ["300", "-", "10,000"]
    assert all(cell.number is None for size in (1010, 1020) for cell in shown[size][1:])


def test_the_table_of_trials_names_what_spoke_against_one() -> None:
    table = trials_table(example_result())
    outcomes = [row[table.headings.index("outcome")].text for row in table.rows]
    assert outcomes[4] == "out of memory (exception): DefaultCPUAllocator: can't allocate memory"


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
FEW = st.integers(1, 10**6)
SPANS = st.integers(1, 10**9).map(lambda microseconds: microseconds / 10**6)
SPECS = st.builds(
    ProbeSpec,
    workload=st.one_of(
        st.builds(FileWorkload, target=st.tuples(WORDS, WORDS).map(lambda words: f"{words[0]} '{words[1]}.py")),
        st.builds(
            ClassWorkload,
            target=WORDS.map(lambda word: f"a.b:{word}"),
            inputs=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
            answer=st.none() | WORDS.filter(lambda word: not word.isdigit()),
            arguments=st.lists(WORDS, max_size=2).map(tuple),
        ),
    ),
    device=st.sampled_from(["auto", "cpu", "cuda:1"]),
    mode=st.sampled_from(Mode),
    objective=st.sampled_from([Objective.THROUGHPUT, Objective.MEMORY]),
    budget=st.one_of(
        st.builds(MemoryBudget, bytes_=FEW), st.sampled_from([0.5, 0.9, 0.925]).map(lambda f: MemoryBudget(fraction=f))
    ),
    start=st.none() | st.integers(1, 8),
    max_batch_size=st.none() | st.integers(100, 10**4),
    multiple_of=st.sampled_from([1, 2, 8]),
    target=st.none() | FEW,
    tolerance=st.sampled_from([0.0, 0.05, 0.1, 0.025]),
    precision=st.sampled_from(Precision),
    compile=st.booleans(),
    threads=st.none() | st.integers(1, 64),
    max_seconds=st.none() | SPANS,
    max_trials=st.none() | FEW,
    trial_timeout_seconds=SPANS,
    forecast=st.booleans(),
    seed=st.integers(0, 1000),
)


def read_by_the_command_line(command: str) -> ProbeSpec:
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("autotune", "probe")
    options: dict[str, Any] = dict(probe.make_context("probe", arguments).params)
    for other in ("output", "report_path", "resume", "quiet", "verbose"):
        options.pop(other)
    return _spec(**options)


@given(SPECS)
def test_a_command_that_was_built_asks_for_the_same_probe(spec: ProbeSpec) -> None:
    made = recipe(example_result(spec=spec))
    assert made.language == "shell"
    assert read_by_the_command_line(made.text) == spec


def test_the_command_that_was_given_is_shown_on_one_line() -> None:
    given_command = "autotune probe model.py\nrm -rf ~"
    result = example_result(environment=replace(ENVIRONMENT, command_line=given_command))
    assert recipe(result).text == r"autotune probe model.py\nrm -rf ~"


@given(SPECS)
def test_live_models_get_a_call_that_python_reads_and_find_batch_size_takes(spec: ProbeSpec) -> None:
    made = recipe(example_result(spec=replace(spec, workload=LiveWorkload(name=HOSTILE))))
    assert made.language == "python"
    call = ast.parse(made.text).body[-1].value  # type: ignore[attr-defined]
    known = inspect.signature(find_batch_size).parameters
    assert {keyword.arg for keyword in call.keywords} <= set(known)
    assert all(
        ast.literal_eval(k.value) != known[k.arg].default for k in call.keywords if k.arg not in ("loss", "optimizer")
    )
