"""The gallery of results that are there already: a page for each, one over several, and the README's pictures."""

from __future__ import annotations

from pathlib import Path

from example_results import example_result
from msgspec.structs import replace

from autotune.reports.reproduce import recipe
from autotune.result import Result
from benchmarks.gallery import OVERLAID, SHOWN, _without_paths, gallery
from benchmarks.suite import chosen


def kept(folder: Path, name: str) -> Result:
    """A result that an earlier gallery left for a workload."""
    example = example_result()
    result = replace(example, workload=replace(example.workload, name=f"{name}.py"))
    (folder / "probes").mkdir(exist_ok=True)
    result.save(folder / "probes" / f"{name}-cpu.json")
    return result


def test_kept_results_make_pages_and_the_pictures_of_the_readme(tmp_path: Path) -> None:
    names = sorted({*OVERLAID, *SHOWN.values()})
    for name in names:
        kept(tmp_path, name)
    gallery(chosen(names), "cpu", tmp_path, keep=True)
    pages = {path.name: path.read_text() for path in (tmp_path / "reports").iterdir()}
    assert set(pages) == {*(f"{name}-cpu.html" for name in names), "several-cpu.html"}
    assert all(f"{name}.py" in pages["several-cpu.html"] for name in OVERLAID)
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert pictures == {*(f"{kind.replace(' ', '-')}.svg" for kind in SHOWN), "several.svg"}


def test_a_result_is_published_without_the_folders_of_the_machine_that_made_it(tmp_path: Path) -> None:
    (entry,) = chosen(["resnet"])
    example = example_result()
    spec = replace(example.spec, workload=replace(example.spec.workload, target=str(entry.path.absolute())))
    environment = replace(example.environment, command_line=f"autotune probe {entry.path.absolute()}")
    published = _without_paths(replace(example, spec=spec, environment=environment), entry)
    assert str(Path.cwd()) not in published.save(tmp_path / "result.json").read_text()
    assert recipe(published).text == "autotune probe benchmarks/workloads/resnet.py"
