"""Reports of the ten workloads, and the pictures that the README shows, all made from probes by this command.

Needs nothing beside the package. Each workload is probed under its budget as a user would, its result kept, and a page
made of it; then one page lays several results over each other. Results that are there already are kept with
`--keep`, so that reports can be made again after a change of their looks.

    python -m benchmarks.gallery [NAME ...] [--keep]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from autotune.reports.figures import figures, write_figure
from autotune.reports.written import write_report
from autotune.result import Result, load_result
from benchmarks.probing import ProbeFailedError, probe
from benchmarks.recording import RESULTS
from benchmarks.suite import Entry, chosen

SHOWN = {"throughput": "resnet", "memory": "gpt", "step time": "transformer_encoder"}
"""Which workload the README shows each kind of picture of."""

LATENCY = "inference_only"
OVERLAID = ("resnet", "unet", "transformer_encoder", "gpt")


def gallery(entries: Sequence[Entry], device: str, folder: Path, *, keep: bool) -> None:
    """Probe, and write results, reports and pictures into folders of their own."""
    for name in ("probes", "reports", "pictures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    found = {}
    for number, entry in enumerate(entries, start=1):
        try:
            found[entry.name] = _result(entry, device, _place(folder, "probes", entry.name, device, "json"), keep=keep)
        except ProbeFailedError as error:
            print(f"{entry.name}: {error}", file=sys.stderr)
            continue
        write_report([found[entry.name]], _place(folder, "reports", entry.name, device, "html"))
        print(f"{entry.name}: {found[entry.name].batch_size} ({number} of {len(entries)})", flush=True)
    overlaid = [found[name] for name in OVERLAID if name in found]
    if len(overlaid) > 1:
        write_report(overlaid, _place(folder, "reports", "several", device, "html"))
    _write_pictures(found, overlaid, folder / "pictures")


def _result(entry: Entry, device: str, path: Path, *, keep: bool) -> Result:
    if keep and path.exists():
        return load_result(path)
    result, _ = probe(entry, device, "throughput")
    shared = _without_paths(result, entry)
    shared.save(path)
    return shared


def _without_paths(result: Result, entry: Entry) -> Result:
    """The result as if probed from the project's folder, wherever that is; reports build the command from the spec."""
    where = entry.path.relative_to(RESULTS.parent.parent).as_posix()
    spec = msgspec.structs.replace(result.spec, workload=msgspec.structs.replace(result.spec.workload, target=where))
    environment = msgspec.structs.replace(result.environment, command_line="")
    return msgspec.structs.replace(result, spec=spec, environment=environment)


def _place(folder: Path, kind: str, name: str, device: str, suffix: str) -> Path:
    return folder / kind / f"{name}-{device.partition(':')[0]}.{suffix}"


def _write_pictures(found: dict[str, Result], overlaid: Sequence[Result], folder: Path) -> None:
    for kind, name in SHOWN.items():
        if name in found:
            write_figure(figures([found[name]])[kind], folder / f"{kind.replace(' ', '-')}.svg")
    if len(overlaid) > 1:
        write_figure(figures(overlaid)["throughput"], folder / "several.svg")
    if LATENCY in found:
        write_figure(figures([found[LATENCY]])["latency"], folder / "latency.svg")


def main() -> None:
    """Make the gallery of each workload named, or of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=main.__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", action="store_true", help="probe only what has no result yet")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    options = parser.parse_args()
    gallery(chosen(options.names), options.device, options.results, keep=options.keep)


if __name__ == "__main__":
    main()
