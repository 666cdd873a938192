"""`autotune compare`: files in, a report on the standard output, and the code it ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from example_runs import drawn_result

from autotune.cli import main
from autotune.result import load_result

FORMS = ([], ["--format", "markdown"], ["--json"], ["--quiet"])


@pytest.fixture
def old(tmp_path: Path) -> str:
    return str(drawn_result(1).save(tmp_path / "old.json"))


@pytest.fixture
def new(tmp_path: Path) -> str:
    """A quarter longer a step, 5% more memory."""
    return str(drawn_result(2, slower=1.25, more_memory=1.05).save(tmp_path / "new.json"))


def test_without_limits_a_change_is_shown_and_no_failure(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", old, new]) == 0
    out, err = capsys.readouterr()
    assert "Speed over 12 batch sizes: slower" in out
    assert "Peak memory over 12 batch sizes: more memory" in out
    assert err == ""


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (["--fail-if-slower", "5%"], 8),
        (["--fail-if-slower", "0.6"], 0),
        (["--fail-if-memory", "1%"], 8),
        (["--fail-if-memory", "10%"], 0),
        (["--fail-if-slower", "60%", "--fail-if-memory", "1%"], 8),
    ],
)
def test_the_code_is_8_where_a_limit_is_passed_in_every_form(
    old: str, new: str, limits: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in FORMS:
        assert main(["compare", old, new, *limits, *form]) == code
        out, err = capsys.readouterr()
        assert bool(out) is (form != ["--quiet"])
        assert ("is allowed" in err) is (code == 8)
        assert main(["compare", new, old, *limits, *form]) == 0  # better is no failure
        capsys.readouterr()


def test_quiet_says_no_more_than_why_the_code_is_not_0(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    assert "Print nothing" not in capsys.readouterr().out
    assert main(["compare", old, new, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["compare", old, new, "--quiet", "--fail-if-slower", "5%"]) == 8
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 2  # what, and what to do


def test_json_is_what_json_readers_expect(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", old, new, "--json", "--fail-if-slower", "5%"]) == 8
    as_flag = capsys.readouterr().out
    assert json.loads(as_flag)["regressions"]
    main(["compare", old, new, "--format", "json", "--fail-if-slower", "5%"])
    assert capsys.readouterr().out == as_flag


def test_nothing_in_common_is_a_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(drawn_result(1, sizes=(size,), in_turns=1).save(tmp_path / f"{size}.json")) for size in (2, 3)]
    assert main(["compare", *files]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "No batch size fitted in both results" in err


def test_files_that_are_no_results_get_one_line(old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = Path(old).read_bytes()
    for name, bad in {
        "cut": content[: len(content) // 2],
        "foreign": b'{"a": 1}',
        "future": content.replace(b'"schema_version": 1', b'"schema_version": 99'),
        "bytes": b"\xff\x00",
        "empty": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(bad)
        for files in ([old, str(path)], [str(path), old]):
            assert main(["compare", *files]) == 5, name
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("error: ")
            assert "Traceback" not in err
    assert main(["compare", old, str(tmp_path / "missing")]) == 5


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--fail-if-slower", "5"], "--fail-if-slower: '5' is not a share"),
        (["--fail-if-memory", "-3%"], "--fail-if-memory: '-3%' is not a share"),
        (["--format", "csv"], "--format"),
    ],
)
def test_bad_options_are_named(old: str, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", old, old, *arguments]) == 2
    assert part in capsys.readouterr().err


def test_one_file_is_not_enough(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", old]) == 2
    assert "NEW" in capsys.readouterr().err


def test_comparing_imports_no_framework(old: str, new: str) -> None:
    code = (
        "import sys; from autotune.cli import main; "
        f"main(['compare', {old!r}, {new!r}]); "
        "sys.exit(bool({'torch', 'matplotlib', 'jinja2', 'numpy'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_two_real_probes_of_the_bundled_example_are_compared(tmp_path: Path) -> None:
    """That they are told apart or not is up to the machine; that all their sizes are compared is not."""
    files = [str(tmp_path / name) for name in ("first.json", "second.json")]
    limits = ["--max-batch-size", "4", "--max-trials", "4", "--threads", "1", "--no-forecast"]
    for file in files:
        probe = [sys.executable, "-m", "autotune", "probe", "autotune.examples.digits", *limits, "--output", file]
        subprocess.run([*probe, "--quiet"], check=True, capture_output=True, timeout=240)
    compare = [sys.executable, "-m", "autotune", "compare", *files, "--json"]
    found = json.loads(subprocess.run(compare, check=True, capture_output=True, timeout=60).stdout)
    tried = [{t.batch_size for t in load_result(file).trials if t.fits} for file in files]
    assert {size["batch_size"] for size in found["sizes"]} == tried[0] & tried[1]
    assert {d["name"] for d in found["differences"] if d["matters"]} <= {"batch"}
    assert all(size["memory"]["low"] <= 1 <= size["memory"]["high"] for size in found["sizes"])
