"""The pictures of results, as matplotlib draws them: what stands in them, and that they can be read."""

from __future__ import annotations

import io
import itertools
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import matplotlib.image
import pytest
from example_reports import HOSTILE, named
from example_results import CONTEST, ENVIRONMENT, example_result, fitting, refused
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from msgspec.structs import replace

from autotune.errors import AutotuneError, ResultFileError, UsageError
from autotune.reports.captions import caption
from autotune.reports.figures import as_png, as_svg, figures, overview, write_figure
from autotune.reports.findings import accepted_speeds, knee, plateau
from autotune.reports.labels import labels
from autotune.reports.palette import DARK, LIGHT, MARKERS, SERIES
from autotune.reports.svg import standalone
from autotune.result import Result, Verification
from autotune.spec import FileWorkload, Mode, Objective, Precision, ProbeSpec
from autotune.trial import Curve, Outcome


def texts_of(svg: str) -> list[str]:
    """What stands in a picture, text by text."""
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def with_conditions(result: Result, **conditions) -> Result:
    trials = [
        replace(
            trial,
            measurement=replace(trial.measurement, conditions=replace(trial.measurement.conditions, **conditions)),
        )
        if trial.measurement
        else trial
        for trial in result.trials
    ]
    return replace(result, trials=tuple(trials))


def in_inference(result: Result) -> Result:
    spec = ProbeSpec(
        workload=FileWorkload(target="digits.py"),
        mode=Mode.INFERENCE,
        objective=Objective.LATENCY,
        latency_seconds=0.05,
    )
    return replace(result, spec=spec)


def of_many_trials(count: int) -> Result:
    sizes = range(1, count + 1)
    trials = tuple(
        fitting(size, size, tuple(0.01 + 1e-4 * size + 1e-5 * k for k in range(5)), 300 + size) for size in sizes
    )
    return example_result(trials=trials)


def of_one_trial() -> Result:
    example = example_result()
    recommendation = replace(example.recommendation, batch_size=128, fastest_batch_size=128)
    edge = replace(example.edge, largest_fits=128, smallest_refused=None)
    return replace(example, trials=example.trials[:1], recommendation=recommendation, edge=edge)


def test_a_result_has_the_pictures_that_it_has_data_for_in_the_order_of_a_report() -> None:
    example = example_result()
    assert list(figures([example])) == ["throughput", "memory", "step time", "epoch time"]
    without_epochs = replace(example, workload=replace(example.workload, dataset_size=None))
    assert list(figures([without_epochs])) == ["throughput", "memory", "step time"]
    everything = with_conditions(in_inference(example), energy_joules_per_sample=0.02)
    assert list(figures([everything]))[-2:] == ["latency", "energy"]


def test_the_throughput_names_recommendation_knee_fastest_largest_and_plateau() -> None:
    texts = texts_of(as_svg(figures([example_result()])["throughput"]))
    assert {"256: recommended, knee", "512: fastest", "1,000: largest"} <= set(texts)
    assert any("plateau" in text for text in texts)
    assert "within 5% of the fastest" in texts


def test_the_memory_shows_the_budget_and_what_was_refused() -> None:
    texts = texts_of(as_svg(figures([example_result()])["memory"]))
    assert "memory budget 2.00 GiB" in texts
    assert "1,001: refused" in texts


def test_the_memory_marks_no_size_as_refused_that_was_too_slow() -> None:
    example = in_inference(example_result())
    trials = (*(t for t in example.trials if t.accepted), refused(10, 1001, "latency", outcome=Outcome.FITS))
    result = replace(example, trials=trials)
    assert not any("refused" in text for text in texts_of(as_svg(figures([result])["memory"])))
    assert caption("memory", [result]).endswith("No size was refused.")


def crosses(figure: Figure) -> list[float]:
    """How high the crosses stand, as shares of the axis."""
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    return [y / figure.axes[0].get_ylim()[1] for y in line.get_ydata()]


def test_a_size_refused_far_below_the_budget_has_its_cross_within_the_picture() -> None:
    example = replace(example_result(), budget_bytes=2**40)
    trials = (*(t for t in example.trials if t.accepted), refused(10, 1001, "clock", outcome=Outcome.TIMED_OUT))
    figure = figures([replace(example, trials=trials)])["memory"]
    assert 0.9 < crosses(figure)[0] < 1
    assert "1,001: refused" in texts_of(as_svg(figure))


def test_the_cross_of_several_results_is_explained_where_there_is_one() -> None:
    one = example_result()
    fitted = replace(one, trials=tuple(trial for trial in one.trials if trial.accepted))
    for results, is_there in (([one, in_bf16(one)], True), ([fitted, in_bf16(fitted)], False)):
        drawn = figures(results)
        assert ("refused" in texts_of(as_svg(drawn["memory"]))) is is_there
        assert ("refused" in texts_of(as_svg(overview(results)))) is is_there
        assert "refused" not in texts_of(as_svg(drawn["throughput"]))


def test_no_curve_looks_like_the_crosses_of_refused_sizes() -> None:
    assert not {marker.lower() for marker in MARKERS} & {"x", "+"}
    assert len({(SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]) for number in range(42)}) == 42


@pytest.mark.parametrize("second_mib", [1950, 2040, 2048 + 90, 4096])
def test_no_line_strikes_the_name_of_a_budget_and_no_two_names_touch(second_mib: int) -> None:
    example = example_result()
    results = [replace(example, budget_bytes=mib * 1024**2) for mib in (2048, second_mib, 1900)]
    figure = figures(results)["memory"]
    axes, renderer = figure.axes[0], FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    names = [text for text in axes.texts if "budget" in text.get_text()]
    places = sorted((name.get_window_extent(renderer) for name in names), key=lambda box: box.y0)
    assert len(names) == 3
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(places))
    for name in names:
        patch = name.get_bbox_patch()
        assert patch is not None and patch.get_alpha() == 1
        assert all(name.get_zorder() > line.get_zorder() for line in axes.lines if list(line.get_xdata()) == [0, 1])


@pytest.mark.parametrize(("factor", "scale"), [(2, "linear"), (9, "linear"), (11, "log")])
def test_results_whose_speeds_lie_far_apart_are_drawn_on_a_logarithmic_axis(factor: int, scale: str) -> None:
    trials = tuple(fitting(size, size, tuple(factor * size * s for s in (8e-5, 9e-5, 8.5e-5)), 300) for size in (1, 8))
    slow = in_bf16(example_result(trials=trials))
    fast = example_result(trials=tuple(fitting(n, n, tuple(n * s for s in (8e-5, 9e-5, 8.5e-5)), 300) for n in (1, 8)))
    axes = figures([fast, slow])["throughput"].axes[0]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    heights = [y for line in axes.lines for y in line.get_ydata() if not math.isnan(y)]
    assert all(low < y < high for y in heights)
    assert len(axes.get_yticklabels()) >= 2


def test_the_tolerance_is_named_below_the_picture_where_no_mark_or_curve_crosses_it() -> None:
    figure = figures([example_result()])["throughput"]
    (axes,) = figure.axes
    assert "within 5% of the fastest" not in [text.get_text() for text in axes.texts]
    assert "within 5% of the fastest" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_picture_is_laid_out_alike_however_often_it_is_drawn() -> None:
    for kind, figure in figures([in_inference(example_result())]).items():
        figure.draw_without_rendering()
        first = figure.axes[0].get_position().bounds
        figure.draw_without_rendering()
        assert figure.axes[0].get_position().bounds == pytest.approx(first, abs=1e-9), kind


def test_the_caption_of_the_latency_says_what_its_curves_are() -> None:
    one = in_inference(example_result())
    alone, several = caption("latency", [one]), caption("latency", [one, one])
    assert alone.startswith("How long 50%, 95% and 99% of the steps in each size's trials take at most")
    assert several == "How long a step takes, except for the slowest 5% in each size's trials."


def heading_of(results: list[Result]) -> tuple[str, bool]:
    """The heading of the whole picture, and whether it lies within it."""
    figure = overview(results)
    figure.draw_without_rendering()
    heading = figure._suptitle
    assert heading is not None
    return heading.get_text(), heading.get_window_extent(FigureCanvasAgg(figure).get_renderer()).x1 < figure.bbox.x1


def named_machine(name: str) -> list[Result]:
    one = replace(example_result(), environment=replace(ENVIRONMENT, device_name=name))
    return [replace(one, workload=replace(one.workload, name=model)) for model in ("mlp.py", "lstm.py")]


def test_a_heading_has_all_that_there_is_room_for() -> None:
    alike = "Example CPU 9000, train, fp32, not compiled, 2 threads, torch 2.13.0"
    assert heading_of(named_machine("Example CPU 9000")) == (f"2 results ({alike})", True)


@pytest.mark.parametrize("length", [30, 50, 70, 90, 300])
def test_a_heading_that_is_too_long_ends_with_a_whole_part(length: int) -> None:
    text, is_within = heading_of(named_machine("e" * length))
    parts = text.removeprefix("2 results (").removesuffix(")").split(", ")
    assert is_within
    whole = {"e" * length, "train", "fp32", "not compiled", "2 threads", "torch 2.13.0", "…"}
    assert set(parts) <= whole or (length > 60 and parts == ["e" * (len(text) - len("2 results (…)")) + "…"])


def test_every_budget_that_is_drawn_lies_within_the_picture() -> None:
    example = example_result()
    figure = figures([replace(example, budget_bytes=2 * example.budget_bytes), example])["memory"]
    assert figure.axes[0].get_ylim()[1] > 2 * example.budget_bytes


def test_the_step_time_shows_its_line_and_where_half_of_the_top_speed_lies() -> None:
    texts = texts_of(as_svg(figures([of_many_trials(30)])["step time"]))
    assert any(text.startswith("t(b) = 10.0 ms + 100 µs · b, h = ") for text in texts)


def test_latency_shows_the_median_both_tails_and_the_limit() -> None:
    texts = texts_of(as_svg(figures([in_inference(example_result())])["latency"]))
    assert {"50% of batches", "95% of batches", "99% of batches", "limit 50.0 ms for 95%"} <= set(texts)


def test_sizes_over_the_latency_limit_have_empty_markers_that_the_legend_explains() -> None:
    example = in_inference(example_result())
    slow = refused(10, 512, "latency", "95% took 60 ms", outcome=Outcome.FITS)
    trials = (*example.trials, replace(slow, measurement=example.trials[2].measurement))
    within = as_svg(figures([example])["throughput"])
    beyond = as_svg(figures([replace(example, trials=trials)])["throughput"])
    assert "over the limit on latency" not in texts_of(within)
    assert "over the limit on latency" in texts_of(beyond)


def test_sizes_refused_for_memory_have_no_speed_and_make_no_plateau() -> None:
    """A size that fitted once and was refused when it ran again is no size to train with."""
    example = example_result()
    trials = (*example.trials, fitting(10, 1010, (0.01,) * 3, 2030), refused(11, 1010, "spread"))
    result = replace(example, trials=trials)
    assert 1010 not in accepted_speeds(result)
    assert plateau(result) == (256, 512)


def test_a_plateau_ends_before_the_first_size_that_is_slower_and_not_where_noise_may_have_slowed_one() -> None:
    """512 is 7% slower than the fastest in the median, though not by its interval; from 1,000 on speed collapses."""
    slower = fitting(3, 512, (0.0450, 0.0410, 0.0460), 1080)
    collapsed = fitting(6, 1000, (0.1600, 0.1590, 0.1610), 2000)
    back = fitting(7, 1010, (0.0840, 0.0830, 0.0850), 2010)
    example = example_result()
    trials = (*example.trials[:2], slower, collapsed, back)
    result = replace(
        example,
        trials=trials,
        recommendation=replace(example.recommendation, fastest_batch_size=256),
        edge=replace(example.edge, largest_fits=1010),
    )
    assert plateau(result) == (256, 512)
    assert "From 256 to 512 lies the plateau" in caption("throughput", [result])
    assert plateau(replace(result, trials=(*example.trials[:2], collapsed))) is None


def trained(size: int, losses: tuple[float, ...] = (2.3, 0.5)) -> Curve:
    seconds = tuple(float(second) for second in range(len(losses)))
    return Curve(batch_size=size, steps=100, seconds=seconds, losses=losses, reached_losses=losses[-1:])


def test_the_knee_is_that_of_the_times_where_training_has_overruled_them() -> None:
    example = example_result()
    verification = Verification(curves=(trained(256), trained(128)), seconds_each=60.0, held_out_samples=100)
    overruled = replace(example, recommendation=replace(example.recommendation, batch_size=128))
    assert knee(example) == 256
    assert knee(replace(overruled, verification=verification)) == 256


@pytest.mark.parametrize("lowest", [0.9, 0.6, 0.2, 1e-2, 1e-4, 1e-8, 1e-30])
def test_losses_along_the_axis_do_not_touch(lowest: float) -> None:
    verification = Verification(
        curves=(trained(256, (1.0, lowest)), trained(512)), seconds_each=60.0, held_out_samples=100
    )
    figure = figures([replace(example_result(), verification=verification)], ["held-out loss"])["held-out loss"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    places = [label.get_window_extent(renderer) for label in figure.axes[0].get_yticklabels()]
    assert len(places) >= 2
    assert all(lower.y1 < upper.y0 for lower, upper in itertools.pairwise(places))


def test_a_line_joins_no_sizes_between_which_nothing_is_known() -> None:
    sizes = (1, 2, 8, 64, 128)
    trials = tuple(fitting(size, size, (0.01, 0.011, 0.012), 300) for size in sizes)
    axes = figures([example_result(trials=trials)])["throughput"].axes[0]
    drawn = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) >= len(sizes)]
    assert len(drawn) == 1
    assert [x for x in drawn[0] if not math.isnan(x)] == list(sizes)
    assert [i for i, x in enumerate(drawn[0]) if math.isnan(x)] == [3]  # between 8 and 64


@pytest.mark.parametrize("highest", [3, 10, 1024, 2048, 9000, 70_000, 2_000_000])
@pytest.mark.parametrize("dataset_size", [None, 50_000, 1_281_167])
def test_batch_sizes_along_the_axis_do_not_touch(highest: int, dataset_size: int | None) -> None:
    trials = tuple(fitting(size, size, (0.01, 0.011, 0.012), 300) for size in (1, highest // 2, highest))
    example = example_result(trials=trials)
    result = replace(example, workload=replace(example.workload, dataset_size=dataset_size))
    figure = figures([result])["epoch time" if dataset_size else "throughput"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    places = [label.get_window_extent(renderer) for label in figure.axes[0].get_xticklabels()]
    assert len(places) >= 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(places))


def test_titles_of_a_row_stand_at_the_same_height() -> None:
    figure = overview([example_result()])
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    titled = [axes for axes in figure.axes if axes.get_title(loc="left")]
    heights = [axes._left_title.get_window_extent(renderer).y1 for axes in titled]
    assert heights[0] == pytest.approx(heights[1], abs=1)
    assert heights[2] == pytest.approx(heights[3], abs=1)


def test_several_results_share_a_picture_with_a_legend_that_says_how_they_differ() -> None:
    one = example_result()
    other = replace(one, spec=replace(one.spec, precision=Precision.BF16))
    texts = texts_of(as_svg(figures([one, other])["throughput"]))
    assert {"fp32", "bf16", "recommended"} <= set(texts)
    assert labels([one, other]) == ["fp32", "bf16"]


def in_bf16(result: Result) -> Result:
    return replace(result, spec=replace(result.spec, precision=Precision.BF16))


def test_a_picture_of_one_among_several_results_keeps_its_colour_and_says_whose_it_is() -> None:
    without_epochs = replace(example_result(), workload=replace(example_result().workload, dataset_size=None))
    drawn = figures([without_epochs, in_bf16(example_result())])
    curves = {kind: drawn[kind].axes[0].lines for kind in ("throughput", "epoch time")}
    (alone,) = [line for line in curves["epoch time"] if line.get_label() == "bf16"]
    (among_both,) = [line for line in curves["throughput"] if line.get_label() == "bf16"]
    assert (alone.get_color(), alone.get_marker()) == (among_both.get_color(), among_both.get_marker())
    texts = texts_of(as_svg(drawn["epoch time"]))
    assert {"bf16", "recommended"} <= set(texts)
    assert not {"fp32", "256: recommended"} & set(texts)


def test_every_kind_of_picture_can_be_of_one_among_several_results() -> None:
    example = example_result()
    everything = with_conditions(in_inference(example), energy_joules_per_sample=0.02)
    for kind, figure in figures([of_one_trial(), everything]).items():
        assert len(figure.legends) == 1, kind
        assert figure.axes[0].get_legend() is None, kind


@pytest.mark.parametrize("kind", ["step time", "epoch time", "energy"])
def test_results_whose_names_differ_in_their_middle_all_count(kind: str) -> None:
    """The one with the larger batches comes first, so that the axis would end too early without it."""
    name = f"{'a' * 60}{'b' * 60}.py"
    names = (name.replace("bb", "bcb", 1), name)
    results = []
    for named_so, size in zip(names, (4096, 64), strict=True):
        trials = tuple(fitting(number, n, (n / 10_000,) * 3, 300) for number, n in enumerate((size // 2, size)))
        example = with_conditions(example_result(trials=trials), energy_joules_per_sample=0.02)
        results.append(replace(example, workload=replace(example.workload, name=named_so)))
    figure = figures(results)[kind]
    assert len(figure.legends[0].get_texts()) == 3  # two that read alike, and the ring
    axes = figure.axes[0]
    assert axes.get_xlim()[1] > 4096
    low, high = axes.get_ylim()
    assert all(low <= y <= high for line in axes.lines for y in line.get_ydata() if not math.isnan(y))


def test_long_names_that_differ_at_an_end_stay_apart() -> None:
    one = example_result()
    names = [f"{'long' * 30}/{end}.py" for end in ("small", "large")]
    results = [replace(one, workload=replace(one.workload, name=name)) for name in names]
    shown = [text for text in texts_of(as_svg(figures(results)["memory"])) if "long" in text]
    assert len(set(shown)) == 2
    assert all(len(text) <= 60 for text in shown)


def test_only_the_pictures_that_are_asked_for_are_drawn() -> None:
    assert list(figures([example_result()], ["memory"])) == ["memory"]


@pytest.mark.parametrize("result", [of_one_trial(), of_many_trials(200), example_result(contest=CONTEST)])
def test_one_trial_and_two_hundred_make_pictures_with_something_in_them(result: Result) -> None:
    for figure in [*figures([result]).values(), overview([result])]:
        pixels = matplotlib.image.imread(io.BytesIO(as_png(figure)))
        assert pixels[..., :3].std() > 0.02


def boxes(figure: Figure) -> list[tuple[str, float, float, float, float]]:
    """The labels above the axes with their edges: left, bottom, right, top."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    return [
        (text.get_text(), *text.get_window_extent(renderer).extents)
        for axes in figure.axes
        for text in axes.texts
        if text.get_text() and text.get_position()[1] >= 0 and text.get_window_extent(renderer).y0 >= axes.bbox.y1
    ]


@pytest.mark.parametrize("kind", ["throughput", "memory", "step time", "epoch time"])
@pytest.mark.parametrize("fastest", [300, 512, 900, 1000])
def test_labels_do_not_lie_over_each_other(kind: str, fastest: int) -> None:
    example = example_result()
    trials = (*example.trials, fitting(10, fastest, (fastest / 13_000,) * 3, 900))
    recommendation = replace(example.recommendation, fastest_batch_size=fastest)
    figure = figures([replace(example, trials=trials, recommendation=recommendation)])[kind]
    shown = boxes(figure)
    assert shown
    for one, other in itertools.combinations(shown, 2):
        apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]
        assert apart, (one, other)


def test_hostile_names_are_drawn_as_they_are() -> None:
    hostile = named(HOSTILE)
    other = replace(hostile, spec=replace(hostile.spec, precision=Precision.BF16))
    third = named("\x1b[31m_$\\frac{1}{0}$ <b>")
    for svg in (as_svg(overview([hostile])), as_svg(overview([hostile, other, third]))):
        assert "<script" not in svg
        assert "<img" not in svg
    heading = texts_of(as_svg(overview([third])))
    assert any("\\x1b[31m_$\\frac{1}{0}$ <b>" in text for text in heading)


def test_an_svg_takes_its_colours_from_the_page_and_meets_no_other() -> None:
    pictures = figures([example_result()])
    first, again, other = (as_svg(picture) for picture in (pictures["throughput"],) * 2 + (pictures["memory"],))
    assert first == again
    assert "var(--ink, " in first
    assert "var(--series-1, " in first
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, other)]
    assert all(ids)
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", first)) <= ids[0]


def test_an_svg_file_follows_the_readers_light_or_dark_setting(tmp_path: Path) -> None:
    figure = figures([example_result()])["throughput"]
    written = write_figure(figure, tmp_path / "picture.svg").read_text()
    assert written == standalone(figure)
    assert "prefers-color-scheme: dark" in written
    assert ET.fromstring(written).get("width")


def test_a_figure_is_written_as_png_or_svg_and_as_nothing_else(tmp_path: Path) -> None:
    figure = figures([example_result()])["memory"]
    assert write_figure(figure, tmp_path / "picture.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"picture\.gif is neither \.png nor \.svg"):
        write_figure(figure, tmp_path / "picture.gif")
    with pytest.raises(ResultFileError):
        write_figure(figure, tmp_path / "missing" / "picture.png")


def test_a_result_plots_itself_and_leaves_the_users_matplotlib_alone() -> None:
    before = dict(mpl.rcParams)
    figure = example_result().plot()
    assert isinstance(figure, Figure)
    assert len([axes for axes in figure.axes if axes.axison]) == 4
    assert figure._repr_png_().startswith(b"\x89PNG")
    figure.savefig(io.BytesIO(), format="png")
    assert dict(mpl.rcParams) == before


def test_without_matplotlib_a_plot_ends_with_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "autotune.reports.figures")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as Python notes a module that cannot be imported
    with pytest.raises(AutotuneError, match="matplotlib") as raised:
        example_result().plot()
    assert raised.value.remedy == "Run: pip install matplotlib"


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_every_curve_and_text_stands_out_from_the_paper(palette: dict[str, str]) -> None:
    for role, colour in palette.items():
        needed = {"paper": 0.0, "grid": 0.0, "ink": 7.0, "muted": 4.5}.get(role, 3.0)
        bright, dim = sorted([luminance(colour), luminance(palette["paper"])], reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= needed, role
