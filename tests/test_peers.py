"""The benchmark against other tools: what is the same for all of them. Runs without them, with plain doubling."""

from __future__ import annotations

import ast
import itertools
import json
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.peers import PEERS, START, Peer
from benchmarks.peers import tools as tools_package
from benchmarks.peers.__main__ import WORKLOADS, beyond, main, turns, with_speeds
from benchmarks.peers.arena import Arena, child, fresh, open_arena
from benchmarks.peers.counting import counted_names, names_of, steps_by_size
from benchmarks.peers.page import page
from benchmarks.peers.rows import Row, Run, cells, summary
from benchmarks.peers.task import Task, digest
from benchmarks.recording import RESULTS, latest_rows
from benchmarks.suite import MIB, SUITE, Entry, chosen
from benchmarks.throughput import Sweep

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a data limit is Linux'")

MLP = chosen(["mlp"])[0]
TINY = Entry(name="mlp", cpu_budget_mib=1)


# What counts as a step


def test_each_step_is_counted_at_its_size_and_forecasts_are_not(tmp_path: Path) -> None:
    log = tmp_path / "steps.log"
    model = counted_names(str(MLP.path), str(log))["model"]
    for batch_size in (3, 5, 5):
        model(torch.randn(batch_size, 64, 60))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model(mode.from_tensor(torch.empty(7, 64, 60)))
    assert steps_by_size(log) == Counter({3: 1, 5: 2})


def test_a_model_made_by_a_function_is_counted_too(tmp_path: Path) -> None:
    log, path = tmp_path / "steps.log", chosen(["resnet"])[0].path
    names = counted_names(str(path), str(log))
    names["build_model"]()(torch.randn(2, 3, 32, 32))
    assert steps_by_size(log) == Counter({2: 1})


@linux_only
def test_steps_in_a_process_that_the_model_was_sent_to_are_counted_beside_other_hooks(tmp_path: Path) -> None:
    log, sent = tmp_path / "steps.log", tmp_path / "model"
    sent.write_bytes(cloudpickle.dumps(Task(str(MLP.path), "cpu", str(log)).model))
    code = f"""
import json, pathlib, pickle, torch
model = pickle.loads(pathlib.Path({str(sent)!r}).read_bytes())
model.register_forward_pre_hook(lambda module, arguments: None)
model(torch.randn(4, 64, 60))
pathlib.Path({str(tmp_path / "report.json")!r}).write_text("{{}}")
"""
    ran = fresh([sys.executable, "-c", code], tmp_path / "report.json")
    assert ran.report == {}, ran.error
    assert steps_by_size(log) == Counter({4: 1})


# The caller's state


def test_a_digest_tells_one_bit() -> None:
    state: dict[str, Any] = {"a": torch.zeros(3), "b": [1, {"c": torch.ones(2, dtype=torch.int64)}]}
    other = pickle.loads(pickle.dumps(state))
    assert digest(state) == digest(other)
    other["a"].view(torch.int32)[1] = 1
    assert digest(state) != digest(other)


def test_a_search_that_trains_the_callers_model_changes_its_state(tmp_path: Path) -> None:
    task = Task(str(MLP.path), "cpu", str(tmp_path / "steps.log"))
    before = task.state()
    assert task.state() == before
    task.train(task.model, task.optimizer, 2, steps=1)
    after = task.state()
    assert before.weights != after.weights
    assert before.optimizer != after.optimizer


def test_a_model_made_anew_leaves_the_callers_alone(tmp_path: Path) -> None:
    task = Task(str(MLP.path), "cpu", str(tmp_path / "steps.log"))
    before = task.state()
    task.train(*task.fresh(), 2, steps=2)
    assert task.state().weights == before.weights
    assert task.made_anew


# The limit and the truth


@linux_only
def test_the_same_steps_run_or_fail_by_the_room_they_are_given() -> None:
    enough = child("steps", MLP, "cpu", batch_size=256, room_bytes=400 * MIB)
    scarce = child("steps", MLP, "cpu", batch_size=256, room_bytes=60 * MIB)
    assert enough.report is not None, enough.error
    assert len(enough.report["step_seconds"]) == 10
    assert scarce.report is None
    assert scarce.exit_code != 0
    assert "memory" in scarce.error


@linux_only
def test_a_search_ends_where_the_room_does_and_says_what_it_did(tmp_path: Path) -> None:
    log = tmp_path / "steps.log"
    ran = child("search", MLP, "cpu", peer="plain doubling", log=log, room_bytes=80 * MIB)
    assert ran.report is not None, ran.error
    answer, counted = ran.report["answer"], steps_by_size(log)
    assert 2 <= answer < START
    assert counted[answer] == 3
    assert 1 <= counted[2 * answer] <= 3
    assert ran.report["kept"] == {"weights": False, "optimizer": False, "random": False}


@linux_only
def test_the_room_of_a_budget_is_less_than_the_budget_by_what_a_process_holds() -> None:
    budget_bytes = 2048 * MIB  # whichever build of torch it is
    ran = child("reference", MLP, "cpu", budget_bytes=budget_bytes)
    assert ran.report is not None, ran.error
    assert 0 < ran.report["room_bytes"] < ran.report["limit_bytes"]
    assert abs(ran.report["limit_bytes"] - budget_bytes) < budget_bytes / 2


@linux_only
def test_a_size_holds_by_the_room_that_the_budget_leaves() -> None:
    ample = Arena(entry=MLP, device="cpu", budget_bytes=0, room_bytes=500 * MIB, limit_bytes=None)
    assert ample.holds(64)
    assert not replace(ample, room_bytes=20 * MIB).holds(512)


@linux_only
def test_a_true_maximum_that_is_known_is_not_looked_for_again(tmp_path: Path) -> None:
    cache, told = tmp_path / "truth.json", list[str]()
    first = open_arena(TINY, "cpu", cache, told.append)
    assert first.maximum == 0  # not even one sample fits in a budget of 1 MiB
    assert open_arena(TINY, "cpu", cache, told.append) == first
    assert len(told) == 1


@linux_only
def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    ran = fresh([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "report.json", timeout_seconds=1)
    assert (ran.exit_code, ran.report, ran.error) == (-9, None, "SIGKILL")


@linux_only
def test_a_process_that_is_killed_says_by_what_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"""
import os, pathlib, signal, subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(pid_file)!r}).write_text(str(left.pid))
print("about to end", file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    ran = fresh([sys.executable, "-c", code], tmp_path / "report.json")
    assert (ran.exit_code, ran.report, ran.error) == (-11, None, "SIGSEGV: about to end")
    left = int(pid_file.read_text())
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)


# The tools and their turns


def test_every_tool_has_its_file_and_its_function() -> None:
    folder = Path(tools_package.__file__).parent
    for peer in PEERS:
        if peer.objective:
            continue
        module, _, function = peer.function.partition(":")
        tree = ast.parse((folder / f"{module}.py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, peer.name


def test_the_workloads_are_those_that_plain_parts_describe() -> None:
    def is_plain(path: Path) -> bool:
        names = names_of(str(path))
        own = {"training_step", "inference_step", "collate_fn"} & names.keys()
        return "loss" in names and not own

    assert {entry.name for entry in SUITE if is_plain(entry.path)} == set(WORKLOADS)


def test_a_tool_that_cannot_run_says_why() -> None:
    assert Peer(name="x", package="no-such-package").unable("cpu") == "no-such-package is not installed"
    apart = Peer(name="x", package="no-such-package")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.peers.APART", ("no-such-package",))
        assert apart.unable("cpu") == "no-such-package is not installed: pip install --no-deps no-such-package"
    assert Peer(name="x", only_on="cuda", reason="knows CUDA only").unable("cpu") == "knows CUDA only"
    assert Peer(name="x", package="torch", only_on="cuda", reason="knows CUDA only").unable("cuda:0") == ""
    assert Peer(name="x", package="torch").version.startswith("torch 2")
    assert Peer(name="x", package="no-such-package").version == ""


def test_every_tool_searches_every_workload_in_every_repetition_and_none_is_always_first() -> None:
    arenas = [
        Arena(entry=entry, device="cpu", budget_bytes=1, room_bytes=1, limit_bytes=1, maximum=9)
        for entry in chosen(["mlp", "gpt"])
    ]
    made = list(turns(arenas, PEERS, 3))
    asked = Counter((turn.repetition, turn.arena.entry.name, turn.peer.name) for turn in made)
    assert len(made) == 3 * 2 * len(PEERS)
    assert set(asked.values()) == {1}
    firsts = {turn.peer.name for turn in made[:: len(PEERS)]}
    assert len(firsts) == 3


# The table


def searched(**fields: Any) -> Run:
    known: dict[str, Any] = {"steps": 30, "sizes": 4, "seconds": 30.0, "certificate_seconds": 10.0, "exit_code": 0}
    return Run(**{**known, **fields})


def fields_of(*runs: Run, **fields: Any) -> dict[str, Any]:
    return asdict(Row(workload="mlp", budget_bytes=1, maximum=100, tool="plain doubling", runs=runs, **fields))


def test_cells_show_the_median_and_the_range() -> None:
    kept = {"weights": False, "optimizer": True, "random": False}
    row = fields_of(
        searched(answer=64, fits=True, kept=kept),
        searched(answer=90, fits=True, kept=kept, seconds=20.0),
        searched(answer=110, fits=False, kept=kept, seconds=50.0, certificate_seconds=15.0),
        searched(seconds=5.0, exit_code=1),
        speeds=((0.8, 0.8), (0.9, 1.0), (), ()),
    )
    found = cells(row)
    assert found["answer"] == "90 (64 to 110)"
    assert found["of the maximum"] == "90% (64% to 110%)"
    assert found["fits again"] == "2 of 3"
    assert found["certificates"] == "3.0 (2.0 to 5.0)"
    assert found["steps"] == "30"
    assert found["speed"] == "87% (80% to 95%)"
    assert found["state kept"] == "weights, random changed"
    assert found["survived"] == "3 of 4"


def test_a_failed_run_stays_in_the_table_with_its_error_as_plain_text() -> None:
    row = fields_of(searched(exit_code=-11, error="SIGSEGV: a | b\n<script>"), searched(answer=50, fits=True))
    found = cells(row)
    assert found["survived"] == "1 of 2"
    assert "|" not in found["why not"]
    assert "\n" not in found["why not"]
    assert found["state kept"] == "yes: out of its reach"


def test_a_tool_that_could_not_run_has_a_row_with_the_reason() -> None:
    found = cells(fields_of(unable="needs Python 3.13"))
    assert found["why not"] == "needs Python 3.13"
    assert found["answer"] == found["seconds"] == found["survived"] == ""


def test_the_summary_takes_every_workload_once_and_says_where_our_time_went() -> None:
    ours = {"tool": "autotune probe, largest"}
    rows = [
        {**fields_of(searched(answer=50, fits=True)), **ours},
        {**fields_of(searched(answer=90, fits=True, spent={"measuring": 3.0, "confirming": 1.0})), **ours},
    ]
    text = summary([*rows, fields_of(searched(answer=9, kept={"weights": False}))])
    assert "| plain doubling | 1 of 1 | 9% |  | 3.0 |  | 0 of 1 | 1 of 1 |" in text
    assert "| autotune probe, largest | 2 of 2 | 70% (50% to 90%) | 2 of 2 | 3.0 |  | 2 of 2 | 2 of 2 |" in text
    assert "measuring 75%, confirming 25%" in text


def test_the_summary_says_on_how_many_of_the_workloads_a_tool_gave_an_answer() -> None:
    crashed = fields_of(searched(exit_code=1), searched(exit_code=1))
    answered = fields_of(searched(answer=50, fits=True), searched(exit_code=1))
    text = summary([answered, {**crashed, "workload": "gpt"}, {**crashed, "workload": "unet"}])
    assert "| plain doubling | 1 of 3 | 50% | 1 of 1 |" in text
    assert "Workloads: those on which a tool gave an answer, of all that" in text


def test_the_summary_names_every_tool_that_could_not_run_once_with_the_reason() -> None:
    rows = [{**fields_of(unable="knows CUDA only"), "tool": "batchtune, best", "workload": name} for name in ("a", "b")]
    ran = fields_of(searched(answer=50))
    assert summary([ran, *rows]).count("\n- batchtune, best: knows CUDA only") == 1
    assert "could not run" not in summary([ran])
    assert page([ran, *rows], {}).count("<li>batchtune, best: knows CUDA only</li>") == 1


def test_the_page_has_the_reason_on_a_line_of_its_own_and_a_range_below_its_middle() -> None:
    text = page([fields_of(searched(answer=10), searched(answer=20), searched(exit_code=1, error="SIGSEGV"))], {})
    columns = [table.count('<th scope="col"') for table in text.split("<table>")[1:]]
    assert columns == [8, 11]
    assert '<tr><td class="reason" colspan="11">SIGSEGV</td></tr>' in text
    assert '<td>15 <span class="range">(10 to 20)</span></td>' in text
    assert "why not" not in text


def test_without_names_all_workloads_of_the_published_table_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys, "argv", ["peers"])
    monkeypatch.setattr(
        "benchmarks.peers.__main__.compare", lambda entries, *_: asked.extend(entry.name for entry in entries)
    )
    main()
    published = json.loads((RESULTS / "peers-cpu.json").read_text())["rows"]
    assert set(asked) == {row["workload"] for row in published}


def test_the_published_tables_are_what_the_raw_data_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = str(RESULTS / "peers-cpu.json")
    monkeypatch.setattr(sys, "argv", ["peers", "--merge", raw, "--results", str(tmp_path)])
    main()
    for suffix in ("json", "md"):  # the page changes with the style of the tool's own reports
        name = f"peers-cpu.{suffix}"
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()


def test_the_page_holds_every_row_and_foreign_text_stays_text() -> None:
    rows = [
        fields_of(searched(exit_code=1, error="<script>alert(1)</script>")),
        {**fields_of(searched(answer=50, fits=True)), "workload": "gpt", "tool": "autotune probe, largest"},
    ]
    text = page(rows, {"device": "cpu <b>"})
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "cpu &lt;b&gt;" in text
    assert text.count("<h2>mlp</h2>") == text.count("<h2>gpt</h2>") == 1
    assert text.count('<tr class="ours">') == 2  # among all workloads, and in its own


def test_the_certificate_looks_for_a_size_that_fails_ever_further_above() -> None:
    assert list(itertools.islice(beyond(100), 4)) == [101, 110, 120, 130]
    assert list(itertools.islice(beyond(1), 3)) == [2, 2, 2]


def test_every_answer_that_fits_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(_entry: Entry, _device: str, sizes: tuple[int, ...], answers: Sequence[int]) -> Sweep:
        assert answers == [4, 8]
        return Sweep(sizes=sizes, survey=(), duellists=(8, 4), duel=((10.0, 5.0), (10.0, 6.0)))

    monkeypatch.setattr("benchmarks.peers.__main__.sweep", sweep)
    runs = (searched(answer=4, fits=True), searched(), searched(answer=9, fits=False), searched(answer=8, fits=True))
    row = Row(workload="mlp", budget_bytes=1, maximum=9, tool="x", runs=runs)
    timed = with_speeds([row], chosen(["mlp"])[0], "cpu")[0]
    assert timed.best == 8
    assert timed.speeds == ((0.5, 0.6), (), (), (1.0, 1.0))
    assert Row.recorded(**json.loads(json.dumps(asdict(timed)))).fitting == (4, None, None, 8)


def test_the_parent_of_all_runs_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys, benchmarks.peers.__main__; sys.exit('torch' in sys.modules)"
    ran = fresh([sys.executable, "-c", code], tmp_path / "none.json")
    assert ran.exit_code == os.EX_OK


def test_a_later_run_of_one_tool_replaces_its_rows_and_no_other(tmp_path: Path) -> None:
    first = [{"workload": "gpt", "tool": tool, "answer": 1} for tool in ("ours", "theirs")]
    runs = (first, [{"workload": "gpt", "tool": "ours", "answer": 2}])
    files = [tmp_path / f"{number}.json" for number in range(2)]
    for file, rows in zip(files, runs, strict=True):
        file.write_text(json.dumps({"rows": rows}))
    joined = latest_rows(dict, files, ["gpt"])
    assert [(row["tool"], row["answer"]) for row in joined] == [("ours", 2), ("theirs", 1)]
