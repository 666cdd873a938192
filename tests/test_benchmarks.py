"""The benchmarks' own machinery: the ten workloads run, and the oracle finds the truth."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from example_results import example_result, fitting, refused
from hypothesis import given
from hypothesis import strategies as st

from autotune.spec import FileWorkload
from autotune.workloads import BuildOptions
from benchmarks import allocating, throughput
from benchmarks.accuracy import Accuracy
from benchmarks.allocating import Allocating
from benchmarks.guidance import trials_to_edge
from benchmarks.oracle import Oracle, RunFailedError, largest_of_all, largest_passing, oracle_for, run_fresh
from benchmarks.readme import README, filled
from benchmarks.recording import RESULTS, latest_rows, recorded_machine
from benchmarks.steps import Order
from benchmarks.suite import MIB, SUITE, Entry, chosen
from benchmarks.throughput import DUEL_PROCESSES, SURVEY_PROCESSES, Speeds, Sweep, fastest, sweep_sizes, timed_fresh

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the oracle reads /proc")


@pytest.mark.parametrize("entry", SUITE, ids=lambda entry: entry.name)
def test_each_workload_takes_two_steps_at_batch_size_three(entry: Entry) -> None:
    from autotune.workloads.opening import build_workload

    workload = build_workload(FileWorkload(target=str(entry.path)), BuildOptions(device="cpu", mode=entry.mode))
    batch = workload.make_batch(3)
    if entry.mode == "inference":
        assert workload.inference_step is not None
        first, second = workload.inference_step(batch), workload.inference_step(batch)
        assert first.shape == (3, 3, 128, 128)
        assert first.equal(second)
        return
    assert workload.training_step is not None
    before, after = (workload.training_step(batch).detach().item() for _ in range(2))
    assert math.isfinite(after)
    assert after != before


def test_the_suite_lists_every_workload_there_is() -> None:
    files = {path.stem for path in (Path(SUITE[0].path).parent).glob("*.py")}
    assert files == {entry.name for entry in SUITE}


def test_an_unknown_workload_is_named_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match=r"No workload is called 'nothing'\. There are: mlp, "):
        chosen(["mlp", "nothing"])


@given(edge=st.integers(0, 5000), start=st.integers(1, 300))
def test_the_search_of_the_oracle_finds_every_edge(edge: int, start: int) -> None:
    asked: list[int] = []

    def passes(size: int) -> bool:
        asked.append(size)
        return size <= edge

    assert largest_passing(passes, start) == edge
    assert len(asked) == len(set(asked)) <= 2 * math.log2(max(edge, start)) + 4


@given(edge=st.integers(0, 5000), start=st.integers(1, 300))
def test_looking_beyond_changes_nothing_where_memory_grows_with_the_batch(edge: int, start: int) -> None:
    assert largest_of_all(lambda size: size <= edge, start) == edge


@given(edge=st.integers(10, 500), gap=st.floats(0.05, 1.2))
def test_looking_beyond_finds_sizes_that_fit_again(edge: int, gap: float) -> None:
    first_again, last = edge + 1 + int(gap * edge), 4 * edge
    assert largest_of_all(lambda size: size <= edge or first_again <= size <= last, 1) == last


@given(largest=st.integers(1, 3000), share=st.floats(0, 1))
def test_sweep_sizes_reach_from_one_to_the_largest_without_gaps(largest: int, share: float) -> None:
    recommended = max(1, int(largest * share))
    sizes = sweep_sizes(largest, recommended)
    assert sizes[0] == 1
    assert sizes[-1] == largest
    assert recommended in sizes
    assert all(larger <= 2 * smaller for smaller, larger in itertools.pairwise(sizes))


def torch_bytes() -> int:
    """What a process holds that has imported torch: 220 MiB with its build for processors, 600 with that for CUDA."""
    code = "import psutil, torch; print(psutil.Process().memory_info().rss)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@linux_only
def test_a_run_of_the_oracle_sees_memory_grow_with_the_batch() -> None:
    order = Order(path=str(chosen(["mlp"])[0].path), batch_size=1, steps=2)
    small = run_fresh(order, 2048 * MIB)
    large = run_fresh(replace(order, batch_size=400), 2048 * MIB)
    assert small.completed
    assert large.completed
    assert len(large.step_seconds) == 2
    assert 150 * MIB < small.peak_bytes < torch_bytes() + 400 * MIB
    # 400 rays of 64 points keep 8 tensors of width 128 at the least: 4 layers, before and after each ReLU
    assert large.peak_bytes - small.peak_bytes > 400 * 64 * 128 * 4 * 5


@linux_only
def test_a_run_over_the_budget_is_ended_from_outside() -> None:
    order = Order(path=str(chosen(["mlp"])[0].path), batch_size=4000, steps=2)
    seen = run_fresh(order, 400 * MIB)
    assert not seen.completed
    assert seen.peak_bytes > 500 * MIB
    assert seen.step_seconds == ()


@linux_only
def test_a_workload_that_fails_is_no_refusal(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise ValueError('no such file of weights')\n")
    with pytest.raises(RunFailedError, match="no such file of weights"):
        run_fresh(Order(path=str(broken), batch_size=1), 2048 * MIB)


@linux_only
def test_a_run_has_the_variables_that_it_is_given(tmp_path: Path) -> None:
    asking = tmp_path / "asking.py"
    asking.write_text("import os\nraise ValueError(os.environ['MALLOC_TOP_PAD_'] + os.environ['MALLOC_ARENA_MAX'])\n")
    with pytest.raises(RunFailedError, match="ValueError: 131072 1"):
        run_fresh(Order(path=str(asking), batch_size=1), 2048 * MIB, "MALLOC_TOP_PAD_='131072 ' MALLOC_ARENA_MAX=1")


@linux_only
def test_large_blocks_that_are_mapped_peak_alike_and_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocating, "PROCESSES", 3)
    row = allocating.compare(chosen(["mlp"])[0], 442)
    assert row.failure == ""
    default, mapped = (row.peaks_bytes[name] for name in ("default", "mapped"))
    assert len(default) == len(row.step_seconds["kept"]) == 3
    assert max(mapped) < 1.01 * min(mapped)
    assert max(mapped) < min(default)


def test_settings_are_compared_turn_by_turn() -> None:
    peaks = {"default": [500 * MIB, 550 * MIB], "mapped": [400 * MIB, 404 * MIB], "kept": [510 * MIB, 510 * MIB]}
    seconds = {"default": [1.0, 2.0], "mapped": [0.5, 2.0], "kept": [0.9, 1.6]}
    row = asdict(Allocating(workload="mlp", batch_size=442, peaks_bytes=peaks, step_seconds=seconds))
    cells = allocating._cells(row)
    assert [cells["peak, default"], cells["peak, mapped"]] == ["500 to 550", "400 to 404"]
    assert [cells["step, mapped"], cells["step, kept"]] == ["0.75 (0.50 to 1.00)", "0.85 (0.80 to 0.90)"]
    assert "With 'mapped' peaks of equal processes differ by 1.0% to 1.0%, they are -23%" in allocating._summary([row])


@linux_only
def test_the_oracle_takes_remembered_runs_and_only_where_they_answer(tmp_path: Path) -> None:
    entry = chosen(["mlp"])[0]
    cache = tmp_path / "runs.jsonl"
    order = Order(path=str(entry.path), batch_size=1, steps=2)
    oracle = Oracle(order, 1024 * MIB, cache=cache)
    assert oracle.fits(8)
    assert len(cache.read_text().splitlines()) == 1  # far from the edge one run is enough
    assert oracle.observe(8) == oracle.observe(8)
    assert len(cache.read_text().splitlines()) == 1
    assert not replace(oracle, budget_bytes=100 * MIB).fits(8)  # answered by the same run
    assert len(cache.read_text().splitlines()) == 1


def test_each_entry_has_the_oracle_of_its_own_mode_and_budget() -> None:
    oracles = {entry.name: oracle_for(entry, "cpu") for entry in SUITE}
    assert oracles["inference_only"].order.mode == "inference"
    assert all(oracles[entry.name].budget_bytes == entry.cpu_budget_mib * MIB for entry in SUITE)


def test_a_sweep_times_every_size() -> None:
    speeds = timed_fresh(chosen(["mlp"])[0], "cpu", [1, 4, 16])
    assert len(speeds) == 3
    assert min(speeds) > 0


def test_the_fastest_is_that_of_all_processes_not_of_one_lucky_turn() -> None:
    assert fastest((1, 2), ((10.0, 12.0), (13.0, 12.0), (10.0, 12.0))) == 2
    assert fastest((1, 2), ((30.0, 10.0), (10.0, 12.0))) == 1


def test_a_ratio_is_taken_within_each_process() -> None:
    duel = Sweep(sizes=(1, 2), survey=(), duellists=(2, 1), duel=((10.0, 8.0), (20.0, 20.0)))
    assert duel.ratios(1) == (0.8, 1.0)
    assert duel.ratios(2) == (1.0, 1.0)


def test_a_sweep_times_its_best_again_with_the_answers_in_processes_that_did_not_choose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Sequence[int]] = []

    def timed(_entry: Entry, _device: str, sizes: Sequence[int]) -> Speeds:
        asked.append(sizes)
        is_lucky = len(asked) <= SURVEY_PROCESSES
        return tuple(float(200 if is_lucky and size == 8 else 100 - size) for size in sizes)

    monkeypatch.setattr(throughput, "timed_fresh", timed)
    swept = throughput.sweep(chosen(["mlp"])[0], "cpu", (4, 8, 16), [5, 8])
    assert swept.best == 8
    assert asked[:2] == [(4, 8, 16), (16, 8, 4)]  # none is always first
    assert asked[SURVEY_PROCESSES:][:2] == [(8, 5), (5, 8)]
    assert len(asked) == SURVEY_PROCESSES + DUEL_PROCESSES
    assert set(swept.ratios(5)) == {95 / 92}  # its luck does not count
    assert set(swept.ratios(8)) == {1.0}


def test_a_best_size_that_is_the_answer_is_timed_against_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "timed_fresh", lambda _entry, _device, sizes: tuple(map(float, sizes)))
    assert throughput.sweep(chosen(["mlp"])[0], "cpu", (4, 8), [8]).ratios(8) == (1.0,)


def test_trials_to_the_edge_end_with_the_first_pair_of_neighbours() -> None:
    trials = (fitting(1, 8, (0.1,), 10), refused(2, 20), fitting(3, 18, (0.1,), 10), refused(4, 19), refused(5, 18))
    result = example_result(trials=trials)
    assert trials_to_edge(result) == 4


def test_the_rows_of_runs_are_joined_in_the_order_of_the_suite_and_the_latest_count(tmp_path: Path) -> None:
    def merged(files: list[Path]) -> list[Accuracy]:
        return latest_rows(Accuracy, files, [entry.name for entry in SUITE])

    files = []
    for answer, names in enumerate((("gpt", "unet", "unet"), ("mlp",), ("unet",))):
        rows = [
            asdict(Accuracy(workload=name, budget_bytes=1, answer=answer, check_peaks_bytes=(1,))) for name in names
        ]
        files.append(tmp_path / f"{answer}.json")
        facts = {"device": "cpu", "date": str(answer)}
        files[-1].write_text(json.dumps({"machine": facts, "rows": rows}))
    assert [row.workload for row in merged(files[:2])] == ["mlp", "gpt", "unet", "unet"]
    assert [(row.workload, row.answer) for row in merged(files)] == [("mlp", 1), ("gpt", 0), ("unet", 2)]
    assert recorded_machine(files) == {"device": "cpu", "date": "0; 1; 2"}


def test_the_readme_shows_the_tables_that_lie_in_the_results() -> None:
    text = README.read_text()
    assert filled(text, RESULTS) == text
    assert filled(text.replace("| resnet |", "| made up |"), RESULTS) == text


def test_a_part_of_a_table_file_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("# X\n\nwhy\n\n- date: now\n\n| a |\n| 1 |\n\nover all:\n\n| b |\n| 2 |\n\nso.\n")
    shown = {
        "facts": "- date: now",
        "table": "| a |\n| 1 |",
        "rest": "over all:\n\n| b |\n| 2 |\n\nso.",
        "summary": "so.",
    }
    for part, content in shown.items():
        marks = f"<!-- begin x.md:{part} -->\n", f"<!-- end x.md:{part} -->"
        assert filled("old".join(marks), tmp_path) == f"{content}\n".join(marks)
