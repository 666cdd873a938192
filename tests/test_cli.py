"""The command line: what it asks for, what it prints where, and the code it ends with.

What comes of a probe is played by a stand-in for `autotune.api.run`, at the border that the command line calls;
the last tests run the whole command in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from example_results import CONTEST, MIB, example_result

from autotune import __version__
from autotune.cli import main
from autotune.errors import (
    AutotuneError,
    DeviceError,
    NothingFitsError,
    NoTrialFinishedError,
    ResultFileError,
    UnsavedResultError,
    UsageError,
    WorkloadError,
)
from autotune.listener import Silence
from autotune.reports.live import Live
from autotune.reports.terminal import render
from autotune.result import StopReason, load_result
from autotune.spec import ClassWorkload, FileWorkload, MemoryBudget, Mode, Objective, Precision, ProbeSpec

Calls = list[dict[str, Any]]
StandIn = Callable[[Any], Calls]


@pytest.fixture
def probe_gives(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Let a probe return a result or raise an error, and note how it was called."""

    def arrange(ending: Any) -> Calls:
        calls: Calls = []

        def run(spec: ProbeSpec, **options: Any) -> Any:
            calls.append({"spec": spec, **options})
            if isinstance(ending, BaseException):
                raise ending
            return ending

        monkeypatch.setitem(sys.modules, "autotune.api", types.SimpleNamespace(run=run))  # type: ignore[arg-type]
        return calls

    return arrange


def run_command(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return run_python("-m", "autotune", *arguments, **settings)


def run_python(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240, **settings)


# ---------------------------------------------------------------------- what is asked for


def test_a_bare_probe_asks_for_the_defaults_of_the_spec(probe_gives: StandIn) -> None:
    calls = probe_gives(example_result())
    assert main(["probe", "model.py"]) == 0
    assert calls[0]["spec"] == ProbeSpec(workload=FileWorkload(target="model.py"))
    assert (calls[0]["output"], calls[0]["resume"], calls[0]["verbose"]) == (None, False, False)
    assert calls[0]["command_line"].startswith("autotune")


def test_every_option_reaches_the_spec(probe_gives: StandIn, tmp_path: Path) -> None:
    calls = probe_gives(example_result())
    output = tmp_path / "result.json"
    options = (
        "--device cuda:1 --mode inference --objective latency --max-latency 50ms --memory-budget 8GiB --start 4 "
        "--max-batch-size 512 --multiple-of 4 --target 100 --tolerance 2.5% --precision bf16 --compile --threads 3 "
        "--max-seconds 2m30s --max-trials 9 --trial-timeout 90 --seed 7 --resume --verbose"
    )
    assert main(["probe", "package.model", *options.split(), "--output", str(output)]) == 0
    assert calls[0]["spec"] == ProbeSpec(
        workload=FileWorkload(target="package.model"),
        device="cuda:1",
        mode=Mode.INFERENCE,
        objective=Objective.LATENCY,
        latency_seconds=0.05,
        budget=MemoryBudget(bytes_=8 * 1024**3),
        start=4,
        max_batch_size=512,
        multiple_of=4,
        target=100,
        tolerance=0.025,
        precision=Precision.BF16,
        compile=True,
        threads=3,
        max_seconds=150.0,
        max_trials=9,
        trial_timeout_seconds=90.0,
        seed=7,
    )
    assert (calls[0]["output"], calls[0]["resume"], calls[0]["verbose"]) == (output, True, True)


def test_a_class_takes_its_inputs_its_target_and_the_question_of_a_batch_size(probe_gives: StandIn) -> None:
    calls = probe_gives(example_result())
    arguments = "--input 3x224x224 --input int:9:5 --target class:10 --target 4096 --arg num_classes=10 --arg a=None"
    assert main(["probe", "package.module:Class", *arguments.split()]) == 0
    assert calls[0]["spec"].target == 4096
    assert calls[0]["spec"].workload == ClassWorkload(
        target="package.module:Class",
        inputs=("3x224x224", "int:9:5"),
        answer="class:10",
        arguments=("num_classes=10", "a=None"),
    )


def test_a_colon_in_a_path_makes_no_class(probe_gives: StandIn) -> None:
    calls = probe_gives(example_result())
    assert main(["probe", r"C:\models\model.py"]) == 0
    assert calls[0]["spec"].workload == FileWorkload(target=r"C:\models\model.py")


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        ("", "Missing argument 'TARGET'.", "See 'autotune probe --help'."),
        ("m.py --strat 4", "No such option", "See 'autotune probe --help'."),
        ("m.py --start four", "Invalid value for '--start': 'four' is not a valid integer.", "See 'autotune probe"),
        ("m.py --mode trian", "Invalid value for '--mode': 'trian' is not one of 'train', 'inference'.", "See "),
        ("m.py --precision fp8", "Invalid value for '--precision': 'fp8' is not one of 'fp32', 'bf16', 'fp16'.", "See"),
        ("m.py --objective speed", "Invalid value for '--objective': 'speed' is not one of 'throughput',", "See"),
        ("m.py --memory-budget 8XB", "--memory-budget: '8XB' is not a memory budget.", "Write a size such as 8GiB"),
        ("m.py --memory-budget 120%", "--memory-budget is over 100%.", "Give at most 100% of the free memory"),
        ("m.py --memory-budget 0", "--memory-budget is 0, which is not positive.", "Give --memory-budget a value"),
        ("m.py --tolerance 5", "--tolerance: '5' is not a share.", "Write a percentage such as 5%"),
        ("m.py --tolerance 100%", "--tolerance is 100%, outside 0% to 100%.", "Give a share such as 5%."),
        ("m.py --max-seconds soon", "--max-seconds: 'soon' is not a duration.", "Write a number and a unit"),
        ("m.py --max-latency x", "--max-latency: 'x' is not a duration.", "Write a number and a unit"),
        ("m.py --trial-timeout 1:30", "--trial-timeout: '1:30' is not a duration.", "Write a number and a unit"),
        (
            "m.py --trial-timeout 0",
            "--trial-timeout is 0.0, which is not positive.",
            "Give --trial-timeout a value above",
        ),
        ("m.py --noise nan", "--noise is nan, which is not positive.", "Give --noise a value above 0"),
        ("m.py --max-latency 50ms", "--objective latency and --max-latency belong together.", "Add --max-latency"),
        ("m.py --objective latency", "--objective latency and --max-latency belong together.", "Add --max-latency"),
        ("m.py --start 0", "--start is 0, which is not positive.", "Give --start a value above 0"),
        ("m.py --target -5", "--target is -5, which is not positive.", "Give --target a value above 0"),
        ("m.py --target 8 --target 9", "--target is given twice for the same thing.", "Give one whole number"),
        ("m:C --input 3 --target a --target b", "--target is given twice for the same thing.", "Give one whole"),
        ("m.py --target 1e3", "--target 1e3 is not a whole number, and m.py is not a class", "Give the batch size in"),
        ("m.py --input 3x2", "--input describes a class, and m.py is not one.", "Leave it out, or write TARGET as"),
        ("m.py --arg a=1", "--arg describes a class, and m.py is not one.", "Leave it out, or write TARGET as"),
        ("m:C", "m:C is a class, and it is not said what its input looks like.", "Add --input with one sample's"),
        ("m.py --start 9 --max-batch-size 8", "--max-batch-size 8 is below --start or --multiple-of.", "Raise --max"),
    ],
)
def test_bad_options_get_one_line_and_a_remedy(
    arguments: str, message: str, remedy: str, capsys: pytest.CaptureFixture[str], probe_gives: StandIn
) -> None:
    calls = probe_gives(example_result())
    assert main(["probe", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second.startswith(remedy)
    assert (out, calls) == ("", [])


# ---------------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("m", remedy="r"), 2),
        (WorkloadError("m", remedy="r"), 1),
        (NothingFitsError("m", remedy="r"), 3),
        (DeviceError("m", remedy="r"), 4),
        (ResultFileError("m", remedy="r"), 5),
        (NoTrialFinishedError("m", remedy="r"), 6),
    ],
)
def test_each_error_has_its_line_and_its_code(
    error: AutotuneError, code: int, probe_gives: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    probe_gives(error)
    assert main(["probe", "m.py"]) == code
    assert capsys.readouterr() == ("", "error: m\nr\n")


def test_the_users_traceback_comes_whole_before_the_line(
    probe_gives: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    traceback = 'Traceback (most recent call last):\n  File "m.py", line 3\n\x1b[2J' + "x" * 300
    probe_gives(WorkloadError("the model failed", remedy="Mend it.", user_traceback=traceback))
    assert main(["probe", "m.py"]) == 1
    escaped = traceback.replace("\x1b", r"\x1b")
    assert capsys.readouterr().err == f"{escaped}\nerror: the model failed\nMend it.\n"


def test_a_surprise_of_our_own_keeps_its_traceback(probe_gives: StandIn) -> None:
    probe_gives(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        main(["probe", "m.py"])


def test_an_interruption_before_any_trial_says_so(probe_gives: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    probe_gives(KeyboardInterrupt())
    assert main(["probe", "m.py"]) == 130
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "interrupted before any trial had finished")


def test_an_interruption_later_shows_the_best_so_far(probe_gives: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    probe_gives(example_result(stop=StopReason.INTERRUPTED))
    assert main(["probe", "m.py"]) == 130
    out, err = capsys.readouterr()
    assert "Use batch size 256" in out
    assert err == "interrupted: what follows is the best so far\n"
    assert main(["probe", "m.py", "--quiet"]) == 130
    assert capsys.readouterr() == ("256\n", "")


# ---------------------------------------------------------------------- what is printed


def test_the_answer_alone_goes_to_the_standard_output(
    probe_gives: StandIn, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    calls = probe_gives(example_result())
    output = tmp_path / "result.json"
    assert main(["probe", "m.py", "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert [line.rstrip() for line in out.splitlines()] == render(example_result(), 120).splitlines()
    assert err == f"saved to {output}\n"
    assert isinstance(calls[0]["listener"], Live)


def test_quiet_prints_the_number_and_nothing_else(
    probe_gives: StandIn, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls = probe_gives(example_result())
    assert main(["probe", "m.py", "--quiet", "--output", str(tmp_path / "result.json")]) == 0
    assert capsys.readouterr() == ("256\n", "")
    assert isinstance(calls[0]["listener"], Silence)


@pytest.mark.parametrize(("options", "shown"), [([], "Use batch size 256"), (["--quiet"], "256\n")])
def test_an_answer_that_could_not_be_saved_is_shown_as_asked(
    options: list[str], shown: str, probe_gives: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    probe_gives(UnsavedResultError("m", remedy="r", result=example_result()))
    assert main(["probe", "m.py", *options]) == 5
    out, err = capsys.readouterr()
    assert (shown in out, len(out) > 100) == (True, not options)
    assert err == "error: m\nr\n"


def test_show_prints_a_saved_result_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = example_result().save(tmp_path / "result.json")
    assert main(["show", str(path)]) == 0
    assert "Use batch size 256" in capsys.readouterr().out
    assert main(["show", str(path), "--quiet"]) == 0
    assert capsys.readouterr() == ("256\n", "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"", "is not a whole autotune result"),
        (b'{"schema_version": 1, "x": ' + b"[" * 200_000, "is not a whole autotune result: it is nested too deeply."),
        (b"{}", "is not a whole autotune result"),
        (b"\xff\xfe", "is not a whole autotune result"),
        (b'{"schema_version": 99}', "has schema version 99"),
    ],
)
def test_show_refuses_what_is_no_result_in_one_line(
    content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["show", str(path)]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err.splitlines()[0]
    assert len(err.splitlines()) == 2


def test_a_result_cut_short_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = example_result().save(tmp_path / "result.json")
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["show", str(path)]) == 5
    assert "is not a whole autotune result" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "damaged", "words"),
    [
        ({"budget_bytes": 2048 * MIB}, {"budget_bytes": 0}, "Expected `int` >= 1 - at `$.budget_bytes`"),
        ({"peak_bytes": 420 * MIB}, {"peak_bytes": 0}, "Expected `int` >= 1 - at `$.trials[0].measurement.memory"),
        ({"trial_timeout_seconds": 300.0}, {"trial_timeout_seconds": 0.0}, "--trial-timeout is 0.0"),
        ({"rounds": CONTEST.rounds}, {"rounds": [[0.02], [0.021], [0.022]]}, "times are missing in its final round"),
        ({"rounds": CONTEST.rounds}, {"rounds": []}, "times are missing in its final round"),
        ({"rounds": CONTEST.rounds}, {"rounds": [[0.02, 0.0]]}, "Expected `float` > 0.0"),
        ({"batch_sizes": (256, 512)}, {"batch_sizes": (256, 511)}, "times are missing in its final round"),
        ({"step_seconds": (0.013, 0.0128, 0.0132)}, {"step_seconds": []}, "Expected `array` of length >= 1"),
    ],
)
def test_figures_that_cannot_be_are_refused(
    part: dict[str, Any], damaged: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = msgspec.json.encode(example_result(contest=CONTEST))
    before, after = (msgspec.json.encode(fields)[1:-1] for fields in (part, damaged))
    assert before in whole
    path = tmp_path / "result.json"
    path.write_bytes(whole.replace(before, after))
    assert main(["show", str(path)]) == 5
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 2)
    assert f"is not a whole autotune result: {words}" in err


def test_a_recommendation_that_did_not_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = example_result(trials=()).save(tmp_path / "result.json")
    assert main(["show", str(path)]) == 5
    assert "batch size 256, which it recommends, did not run" in capsys.readouterr().err


def test_results_of_the_benchmarks_are_still_read() -> None:
    folder = Path(__file__).parent.parent / "benchmarks" / "results" / "probes"
    assert [load_result(path).schema_version for path in folder.glob("*.json")] == [1] * 10


# ---------------------------------------------------------------------- the help


@pytest.mark.parametrize("arguments", [["--help"], ["probe", "--help"], ["show", "--help"], ["-h"]])
def test_help_fits_a_terminal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 84


def test_help_names_every_option_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    from autotune.cli import probe

    main(["probe", "--help"])
    text = capsys.readouterr().out
    options = [name for param in probe.params if param.param_type_name == "option" for name in param.opts]
    assert [name for name in options if name not in text] == []
    assert all(f"\n    {code}" in text for code in (0, 1, 2, 3, 4, 5, 6, 130))


def test_the_command_alone_shows_its_help_as_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("Usage: autotune [OPTIONS] COMMAND")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"autotune, version {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["probe", "--help"], ["--version"]])
def test_help_imports_neither_a_framework_nor_what_only_a_probe_needs(arguments: list[str]) -> None:
    code = (
        "import sys; from autotune.cli import main; main(sys.argv[1:]); "
        "print(*{'torch', 'numpy', 'rich', 'msgspec', 'psutil'} & set(sys.modules), file=sys.stderr)"
    )
    ran = run_python("-c", code, *arguments)
    assert (ran.returncode, ran.stderr.strip()) == (0, "")


def test_show_imports_no_framework(tmp_path: Path) -> None:
    path = example_result().save(tmp_path / "result.json")
    code = "import sys; from autotune.cli import main; main(['show', sys.argv[1]]); print('torch' in sys.modules)"
    ran = run_python("-c", code, str(path))
    assert ran.stdout.endswith("False\n")


# ---------------------------------------------------------------------- the real command


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE semantics")
def test_a_reader_that_goes_away_is_no_error_worth_a_word(tmp_path: Path) -> None:
    path = example_result().save(tmp_path / "result.json")
    command = [sys.executable, "-m", "autotune", "show", str(path)]
    read_end, write_end = os.pipe()
    os.close(read_end)
    ran = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write_end)
    assert ran.stderr == ""


needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")


@needs_full_device
@pytest.mark.parametrize("arguments", [["show"], ["show", "--quiet"], ["report", "--output", "-"]])
def test_an_output_that_is_full_is_told_in_a_line(arguments: list[str], tmp_path: Path) -> None:
    path = example_result().save(tmp_path / "result.json")
    command = [sys.executable, "-m", "autotune", *arguments, str(path)]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ran.returncode == 5
    first, second = ran.stderr.splitlines()
    assert first == "error: The standard output cannot be written: No space left on device."
    assert ("The batch size to use is 256." in second) is (arguments[0] == "show")


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is another one there")
def test_closed_streams_end_nothing(tmp_path: Path) -> None:
    path = example_result().save(tmp_path / "result.json")
    command = ["sh", "-c", f"{sys.executable} -m autotune show {path} >&- 2>&-"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


def test_a_stream_that_knows_no_such_sign_gets_another(tmp_path: Path) -> None:
    path = example_result().save(tmp_path / "result.json")
    ran = run_command("show", str(path), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "recommended x2" in ran.stdout


def test_a_missing_model_file_ends_with_one_line() -> None:
    ran = run_command("probe", "no_such_model.py")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "no_such_model.py" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_output_that_cannot_be_written_is_found_before_any_trial(tmp_path: Path) -> None:
    ran = run_command("probe", "autotune.examples.digits", "--output", str(tmp_path / "nowhere" / "result.json"))
    assert (ran.returncode, ran.stdout) == (5, "")
    assert "error: " in ran.stderr
    assert "samples/s" not in ran.stderr


def test_resume_without_output_is_refused() -> None:
    ran = run_command("probe", "autotune.examples.digits", "--resume")
    assert ran.returncode == 2
    assert "error: --resume needs --output." in ran.stderr


def test_a_real_probe_of_the_bundled_example_answers_and_saves(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    limits = ("--max-batch-size", "16", "--threads", "1", "--target", "8")
    ran = run_command("probe", "autotune.examples.digits", *limits, "--output", str(output))
    assert ran.returncode == 0, ran.stderr
    answer = " ".join(ran.stdout.split())  # where its lines break depends on the figures in them
    assert "Use batch size " in answer
    assert "Yes, a batch of 8 fits at once" in answer
    assert "\x1b" not in ran.stdout + ran.stderr
    assert ran.stderr.count("samples/s") >= 5
    shown = run_command("show", str(output))
    assert shown.stdout == ran.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT can't be sent to one process there")
def test_interrupting_a_real_probe_gives_the_best_so_far() -> None:
    command = [sys.executable, "-u", "-m", "autotune", "probe", "autotune.examples.digits", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("  fits  " in line for line in lines)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, "Use batch size " in out) == (130, True), err
