"""The container's limits: from recorded trees of both versions, and from a real cgroup with a real kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import memory_cgroup, processor_cgroup

import autotune
from autotune.devices import cgroups

MIB = 2**20
V1_UNLIMITED = "9223372036854771712\n"
PACKAGE_PARENT = str(Path(autotune.__file__).parent.parent)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def v2_level(
    folder: str, limit: str, used: int, inactive_file: int = 0, oom_kill: int = 0, *, unmapped: int = 0
) -> dict[str, str]:
    files = f"inactive_file {inactive_file}\nactive_file {7 + unmapped}\nfile_mapped 7\n"
    return {
        f"sys/fs/cgroup/{folder}memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}memory.current": f"{used}\n",
        f"sys/fs/cgroup/{folder}memory.stat": f"anon 1\nfile 2\n{files}",
        f"sys/fs/cgroup/{folder}memory.events": f"low 0\nhigh 0\nmax 9\noom 3\noom_kill {oom_kill}\n",
    }


def v1_level(folder: str, limit: str, used: int, inactive_file: int = 0, oom_kill: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory/{folder}memory.limit_in_bytes": limit,
        f"sys/fs/cgroup/memory/{folder}memory.usage_in_bytes": f"{used}\n",
        f"sys/fs/cgroup/memory/{folder}memory.stat": f"inactive_file 5\ntotal_inactive_file {inactive_file}\n",
        f"sys/fs/cgroup/memory/{folder}memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {oom_kill}\n",
    }


def test_v2_reads_limit_use_less_droppable_pages_and_kills(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/job\n"} | v2_level("job/", str(512 * MIB), 300 * MIB, 100 * MIB, 2))
    assert cgroups.limit_bytes(tmp_path) == 512 * MIB
    assert cgroups.available_bytes(tmp_path) == 312 * MIB
    assert cgroups.oom_kills(tmp_path) == 2


def test_cached_files_count_as_free_unless_a_process_maps_them(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/\n"} | v2_level("", str(512 * MIB), 300 * MIB, 0, unmapped=200 * MIB))
    assert cgroups.available_bytes(tmp_path) == 412 * MIB


def test_v2_takes_the_tightest_of_all_levels(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"proc/self/cgroup": "0::/outer/inner\n"}
        | v2_level("outer/inner/", str(400 * MIB), 100 * MIB)
        | v2_level("outer/", str(500 * MIB), 450 * MIB),
    )
    assert cgroups.limit_bytes(tmp_path) == 400 * MIB
    assert cgroups.available_bytes(tmp_path) == 50 * MIB  # the outer one, shared with others, is nearly full


def test_v2_without_limit_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/job\n"} | v2_level("job/", "max", 300 * MIB))
    assert cgroups.limit_bytes(tmp_path) is None
    assert cgroups.available_bytes(tmp_path) is None


@pytest.mark.parametrize("listed", ["/kubepods/pod7/abc", "/../../other", "/"])
def test_in_a_container_the_root_of_what_is_mounted_stands_for_a_path_that_is_not_there(
    tmp_path: Path, listed: str
) -> None:
    write(tmp_path, {"proc/self/cgroup": f"0::{listed}\n"} | v2_level("", str(256 * MIB), 56 * MIB, oom_kill=1))
    assert cgroups.limit_bytes(tmp_path) == 256 * MIB
    assert cgroups.available_bytes(tmp_path) == 200 * MIB
    assert cgroups.oom_kills(tmp_path) == 1


def test_v1_reads_the_hierarchy_and_knows_its_huge_number_for_no_limit(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"proc/self/cgroup": "11:cpu,cpuacct:/x\n4:memory:/outer/inner\n0::/elsewhere\n"}
        | v1_level("outer/inner/", V1_UNLIMITED, 80 * MIB, oom_kill=4)
        | v1_level("outer/", f"{300 * MIB}\n", 150 * MIB, 50 * MIB)
        | v1_level("", V1_UNLIMITED, 900 * MIB),
    )
    assert cgroups.limit_bytes(tmp_path) == 300 * MIB
    assert cgroups.available_bytes(tmp_path) == 200 * MIB
    assert cgroups.oom_kills(tmp_path) == 4


def test_use_over_the_limit_leaves_nothing_rather_than_less(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/\n"} | v2_level("", str(100 * MIB), 120 * MIB))
    assert cgroups.available_bytes(tmp_path) == 0


def test_the_machines_count_stands_in_where_the_cgroup_keeps_none(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "proc/vmstat": "nr_free_pages 5\noom_kill 3\n"})
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    assert cgroups.oom_kills(tmp_path) == 3


def test_a_machine_without_cgroups_has_no_limit_and_no_count(tmp_path: Path) -> None:
    assert cgroups.limit_bytes(tmp_path) is None
    assert cgroups.available_bytes(tmp_path) is None
    assert cgroups.oom_kills(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "a/b/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/a\n0::/elsewhere\n",
                "cpu/a/cpu.cfs_quota_us": "200000\n",
                "cpu/a/cpu.cfs_period_us": "50000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
        ({}, None),
    ],
    ids=["v2", "v2 without limit", "v1", "no cgroups"],
)
def test_processor_time_is_the_tightest_quota_over_its_period(
    tmp_path: Path, files: dict[str, str], processors: float | None
) -> None:
    write(tmp_path, {name if name.startswith("proc/") else f"sys/fs/cgroup/{name}": files[name] for name in files})
    assert cgroups.processors(tmp_path) == processors


def test_a_real_quota_is_read_from_inside() -> None:
    with processor_cgroup(quota_us=150_000, period_us=100_000) as folder:
        done = run_inside(folder, "from autotune.devices import host; print(host.facts().container_processors)")
    assert done.stdout == "1.5\n"


@pytest.fixture
def real_cgroup() -> Iterator[Path]:
    """With 96 MiB."""
    with memory_cgroup(96 * MIB) as folder:
        yield folder


def run_inside(cgroup: Path, code: str) -> subprocess.CompletedProcess[str]:
    enter = f"import os; open({str(cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    return subprocess.run(
        [sys.executable, "-c", enter + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": PACKAGE_PARENT},
    )


def test_a_real_limit_is_read_from_inside_and_a_real_kill_is_counted(real_cgroup: Path) -> None:
    read = "from autotune.devices import cgroups as c; print(c.limit_bytes(), c.available_bytes(), c.oom_kills())"
    before = run_inside(real_cgroup, read)
    limit, available, kills = map(int, before.stdout.split())
    assert limit == 96 * MIB
    assert 32 * MIB < available < 96 * MIB
    assert kills == 0
    assert run_inside(real_cgroup, f"bytearray({512 * MIB})").returncode == -signal.SIGKILL
    after = run_inside(real_cgroup, read)
    assert int(after.stdout.split()[2]) == 1


def test_a_file_that_was_read_twice_takes_nothing(real_cgroup: Path, tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom autotune.devices import cgroups as c\n"
        f"path, before = Path({str(tmp_path / 'data')!r}), c.available_bytes()\n"
        f"with path.open('wb') as file: file.write(os.urandom({40 * MIB})); file.flush(); os.fsync(file)\n"
        "for _ in range(3):\n"
        "    with path.open('rb') as file:\n"
        "        while file.read(1 << 16): pass\n"
        "print(before - c.available_bytes())"
    )
    assert int(run_inside(real_cgroup, code).stdout) < 8 * MIB


def test_what_is_available_inside_falls_by_what_is_taken(real_cgroup: Path) -> None:
    code = (
        "from autotune.devices import cgroups as c, host\n"
        f"before = host.available_bytes(); held = bytearray({40 * MIB}); held[::4096] = b'x' * len(held[::4096])\n"
        "print(before, host.available_bytes(), host.container_limit_bytes(), host.total_bytes())"
    )
    before, after, limit, total = map(int, run_inside(real_cgroup, code).stdout.split())
    assert 36 * MIB < before - after < 48 * MIB
    assert limit == total == 96 * MIB
