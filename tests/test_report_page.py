"""The HTML page: complete by itself, in its order, accessible, and never taken in by a name."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from io import StringIO
from itertools import pairwise

import pytest
from example_reports import HOSTILE, Page, named
from example_results import ENVIRONMENT, example_result, fitting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from autotune.reports.html import fragment, page
from autotune.reports.palette import LIGHT
from autotune.reports.panels import PANELS
from autotune.reports.plain_text import printable
from autotune.reports.terminal import render
from autotune.result import load_result
from autotune.spec import Mode

GPU = replace(ENVIRONMENT, device="cuda", device_name="Example GPU")


@pytest.fixture(scope="module")
def example() -> Page:
    return Page(page([example_result(warnings=("The machine was busy.",))]))


def test_the_page_asks_for_nothing_from_outside() -> None:
    source = page([named(HOSTILE)])
    links = [value for name, value in Page(source).attributes if name in ("src", "href", "xlink:href", "action")]
    assert links
    assert all(link and link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import", re.sub(r"<td.*?</td>", "", source))


def test_the_policy_allows_the_pages_own_script_alone(example: Page) -> None:
    (script,) = example.text("script")
    (source,) = re.findall(r"<script>(.*?)</script>", page([example_result()]), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in example.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert script.startswith('"use strict"')
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_sections_follow_the_order_of_the_questions(example: Page) -> None:
    assert example.text("h1") == ["digits"]
    assert example.text("h2") == [
        *("Throughput", "Memory", "Step time", "Epoch time"),
        *("By batch size", "Trials", "Environment", "Warnings", "Do it again"),
    ]
    headline = example.texts.index(("p", "Use batch size 256: the smallest within 5% of the fastest, 512."))
    assert headline < example.texts.index(("h2", "Throughput"))


def test_the_two_numbers_stand_alone_so_that_they_can_be_copied(example: Page) -> None:
    assert example.text("dd")[:2] == ["256", "1000"]
    assert example.text("dt")[:2] == ["recommended batch size", "largest that fits"]
    assert "DataLoader(dataset, batch_size=256, shuffle=True)" in example.text("code")


def test_every_trial_has_a_row_with_the_raw_numbers_to_sort_by(example: Page) -> None:
    result = example_result()
    numbers = [attributes["data-number"] for tag, attributes in example.elements if "data-number" in attributes]
    peaks = [str(trial.measurement.memory.peak_bytes) for trial in result.trials if trial.measurement]
    assert set(peaks) <= set(numbers)
    assert example.tags.count("tr") == 1 + 6 + 1 + len(result.trials)  # two tables, six batch sizes


def test_headings_never_skip_a_level_and_ids_are_unique() -> None:
    several = Page(page([example_result(), example_result(environment=GPU)]))
    levels = [int(tag[1]) for tag in several.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [value for name, value in several.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = [value for name, value in several.attributes if name == "aria-labelledby"]
    assert set(referred) <= set(ids)
    assert ("lang", "en") in several.attributes


def test_intervals_of_few_times_are_not_said_to_hold_the_truth_with_95_per_cent(example: Page) -> None:
    (said,) = [text for text in example.text("p") if "±" in text]
    (below, *_) = example.text("figcaption")
    assert "the whole range where fewer than six times were taken" in said
    assert "the whole range where fewer than six times were taken" in below
    assert not [value for name, value in example.attributes if name == "aria-label" and "95%" in (value or "")]


def test_every_picture_says_in_words_what_it_shows(example: Page) -> None:
    drawings = [attributes for tag, attributes in example.elements if tag == "svg"]
    assert len(drawings) == 4 == len(example.text("figcaption"))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)


def test_inference_shows_the_tails_of_the_latency() -> None:
    spec = replace(example_result().spec, mode=Mode.INFERENCE)
    shown = Page(page([example_result(spec=spec)]))
    assert {"95% within, in trials", "99% within, in trials"} <= set(shown.text("th"))
    assert "DataLoader(dataset, batch_size=256)" in shown.text("code")


def test_a_largest_size_that_nothing_confirmed_is_not_called_the_one_that_fits() -> None:
    edge = replace(example_result().edge, confirmations=0)
    shown = Page(page([example_result(edge=edge)]))
    assert shown.text("dt")[:2] == ["recommended batch size", "largest that fitted, not confirmed"]
    assert any("1,000 was not confirmed; --objective memory confirms" in text for text in shown.text("p"))
    several = Page(page([example_result(edge=edge), example_result(environment=GPU)]))
    assert {"1,000 (not confirmed)", "1,000"} <= set(several.text("td"))


def test_one_trial_makes_a_whole_page() -> None:
    result = example_result(trials=(fitting(1, 256, (0.0210, 0.0208, 0.0212), 640),))
    assert "Trials" in Page(page([result])).text("h2")


def test_several_results_are_told_apart_by_what_differs() -> None:
    shown = Page(page([example_result(), example_result(environment=GPU)]))
    assert shown.text("h1") == ["digits, 2 results"]
    assert {"Example CPU 9000", "Example GPU"} <= set(shown.text("h2")) & set(shown.text("td"))
    assert "All of them: digits, train, fp32, not compiled, 2 threads, torch 2.13.0" in shown.text("caption")


def test_hostile_texts_stay_text() -> None:
    plain, hostile = Page(page([named("plain")])), Page(page([named(HOSTILE)]))
    assert [tag for tag in hostile.tags if tag != "tspan"] == [tag for tag in plain.tags if tag != "tspan"]
    assert hostile.text("h1") == [HOSTILE]
    assert hostile.text("li") == [HOSTILE, f"- {HOSTILE}"]
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(lambda text: text.strip() == text))
def test_any_name_is_shown_as_it_is_with_its_control_characters_written_out(name: str) -> None:
    shown = Page(fragment(named(name)))
    assert any(printable(name) in text for text in shown.text("strong"))
    assert "script" not in shown.tags


def test_a_fragment_draws_no_more_than_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object) -> int:
        raise AssertionError

    for kind in PANELS.keys() - {"throughput"}:
        monkeypatch.setitem(PANELS, kind, dataclasses.replace(PANELS[kind], draw=drawn))
    assert "<svg" in fragment(example_result())


def test_a_fragment_has_a_colour_for_each_curve_of_the_palette() -> None:
    named = set(re.findall(r"--(series-\d+):", fragment(example_result())))
    assert named == {role for role in LIGHT if role.startswith("series-")}


def test_two_fragments_in_one_notebook_share_no_id() -> None:
    ids = [v for n, v in Page(fragment(example_result()) + fragment(example_result())).attributes if n == "id"]
    tables = [name for name in ids if name and name.startswith("autotune-")]
    assert len(tables) == len(set(tables)) == 2


def test_a_result_shows_itself_and_is_still_saved_whole(tmp_path) -> None:
    result = example_result()
    assert load_result(result.save(tmp_path / "result.json")) == result
    assert "Use batch size 256" in result._repr_html_()
    console = Console(file=StringIO(), width=120, color_system=None)
    console.print(result)
    assert "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n" == render(result, 120)
