"""Files that are written whole: what stays what it was."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from example_results import example_result

from autotune.errors import ResultFileError
from autotune.reports.written import check_writable
from autotune.result import write_whole


def test_a_link_stays_a_link_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "folder" / "link"
    link.parent.mkdir()
    link.symlink_to(file)
    check_writable(link)
    write_whole(link, b"first")
    write_whole(link, b"second")
    assert link.is_symlink()
    assert file.read_bytes() == b"second"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "link"]


@pytest.mark.parametrize("name", ["file/result.json", "n" * 300, "loop/result.json"])
def test_a_name_that_cannot_be_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for refuse in (check_writable, example_result().save):
        with pytest.raises(ResultFileError):
            refuse(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"content")
    reader.join(timeout=10)
    assert found == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is denied to root")
def test_a_folder_that_is_read_only_is_found_out_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("earlier")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResultFileError, match="permission denied"):
            check_writable(tmp_path / "result.json")
    finally:
        tmp_path.chmod(0o700)
