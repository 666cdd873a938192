"""`autotune report` and `autotune probe --report`: which file is written, in which format, and what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from example_results import example_result

from autotune.cli import main
from autotune.reports.written import SUFFIXES, Format, rendered

BEGINS = {
    Format.HTML: b"<!DOCTYPE html>",
    Format.MARKDOWN: b"### digits",
    Format.CSV: b"result,model,",
    Format.PNG: b"\x89PNG\r\n",
    Format.SVG: b"<?xml",
}
MODEL = """
import torch
from torch import nn

model = nn.Linear(64, 8)
loss = nn.MSELoss()

def make_batch(n):
    return torch.randn(n, 64), torch.randn(n, 8)
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return example_result().save(tmp_path / "result.json")


@pytest.mark.parametrize("kind", Format)
def test_each_format_is_written_beside_the_result(
    kind: Format, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(saved), "--format", kind.value]) == 0
    written = saved.with_suffix(SUFFIXES[kind][0])
    assert written.read_bytes().startswith(BEGINS[kind])
    assert capsys.readouterr() == ("", f"wrote {written}\n")


@pytest.mark.parametrize("kind", Format)
def test_the_ending_of_the_output_names_the_format(kind: Format, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / f"shared{SUFFIXES[kind][-1].upper()}"
    assert main(["report", str(saved), "--output", str(path)]) == 0
    assert path.read_bytes().startswith(BEGINS[kind])


@pytest.mark.parametrize("kind", Format)
def test_the_same_result_makes_the_same_file(kind: Format) -> None:
    assert rendered([example_result()], kind) == rendered([example_result()], kind)


def test_a_format_that_is_named_goes_before_the_ending(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "comment.txt"
    assert main(["report", str(saved), "--format", "markdown", "--output", str(path)]) == 0
    assert path.read_bytes().startswith(BEGINS[Format.MARKDOWN])


def test_several_results_make_one_report(saved: Path) -> None:
    other = example_result().save(saved.with_name("other.json"))
    assert main(["report", str(saved), str(other)]) == 0
    assert "digits, 2 results" in saved.with_name("report.html").read_text()


def test_the_standard_output_takes_a_report_alone(saved: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["report", str(saved), "--format", "csv", "--output", "-"]) == 0
    assert capsysbinary.readouterr() == (rendered([example_result()], Format.CSV), b"")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["result.json", "--output", "report.pdf"], 2, "--output report.pdf: its ending names no format."),
        (["result.json", "--output", "nowhere/report.html"], 5, "There is no folder nowhere."),
        (["result.json", "--output", "."], 2, "--output .: its ending names no format."),
        (["result.json", "--output", "folder.html"], 5, "folder.html is a directory."),
        (["result.json", "--output", "result.json", "--format", "csv"], 2, "result.json is the result itself."),
        (
            ["result.json", "--output", "x.svg", "--format", "png"],
            2,
            "--format png and --output x.svg ask for different",
        ),
        (["result.json", "--output", "X.MD", "--format", "csv"], 2, "--format csv and --output X.MD ask for different"),
        (["missing.json"], 5, "missing.json cannot be read: No such file or directory."),
        (["foreign.json"], 5, "foreign.json is not a whole autotune result"),
        ([], 2, "Missing argument 'FILES...'."),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(  # noqa: PLR0917 - fixtures
    arguments: list[str],
    code: int,
    line: str,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(saved.parent)
    Path("foreign.json").write_text('{"schema_version": 1}')
    Path("folder.html").mkdir()
    before = sorted(Path().iterdir())
    assert main(["report", *arguments]) == code
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {line}")
    assert second
    assert sorted(Path().iterdir()) == before


def autotune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    (cwd / "model.py").write_text(MODEL)
    command = [sys.executable, "-m", "autotune", "probe", "model.py", "--device", "cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_real_probe_writes_its_report(tmp_path: Path) -> None:
    ended = autotune("--max-trials", "3", "--report", "out.html", cwd=tmp_path)
    assert ended.returncode == 0
    assert "saved to out.html\n" in ended.stderr
    source = (tmp_path / "out.html").read_text()
    (answer,) = re.findall(r"^Use batch size \d+", ended.stdout, re.MULTILINE)
    assert answer in source
    assert "--max-trials 3 --report out.html" in source


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--report", "out.pdf"], 2, "error: --report out.pdf: its ending names no format."),
        (["--report", "nowhere/out.html"], 5, "error: There is no folder nowhere."),
        (["--report", "x.md", "--output", "x.md"], 2, "error: --output and --report are both x.md."),
    ],
)
def test_a_report_that_cannot_be_written_is_found_before_any_trial(
    arguments: list[str], code: int, line: str, tmp_path: Path
) -> None:
    ended = autotune(*arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.splitlines()[0] == line
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


def test_a_disk_that_becomes_full_costs_the_report_and_not_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.csv.partial").symlink_to("/dev/full")
    code = main(["probe", "model.py", "--device", "cpu", "--max-trials", "2", "--report", "out.csv"])
    shown = capsys.readouterr()
    assert code == 5
    assert "Use batch size" in shown.out
    assert "error: out.csv cannot be written: No space left on device." in shown.err


def test_a_report_imports_no_framework(saved: Path) -> None:
    code = (
        "import sys; from autotune.cli import main; main(['report', sys.argv[1]]); "
        "print(sorted({'torch', 'matplotlib.pyplot'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
