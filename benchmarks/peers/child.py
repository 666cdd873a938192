"""What runs in a fresh process: a tool's search, plain steps under the same limit, or the measuring of that limit.

Needs torch and Linux. The limit is set once everything is imported and the model built, as so many bytes more: a tool
that imports much is not punished for it. The answer goes to a file, since tools print to both streams.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from autotune.devices.linux_process import data_bytes, resident
from benchmarks.peers import PEERS
from benchmarks.steps import Order, build, run_steps, timed_steps


def search(options: argparse.Namespace) -> dict[str, Any]:
    """Let a tool search, and say what it did to the caller's state."""
    from benchmarks.peers.task import Task

    find = _function(next(peer.function for peer in PEERS if peer.name == options.peer))
    task = Task(options.path, options.device, options.log)
    task.room_bytes, task.budget_bytes = options.room_bytes, options.budget_bytes
    before = task.state()
    confine(options.device, options.room_bytes)
    answer = find(task)
    after = task.handed_over or task.state()
    kept = {part: value == asdict(after)[part] for part, value in asdict(before).items()}
    if task.made_anew:
        kept |= {"weights": None, "optimizer": None}
    return {"answer": answer, "kept": kept}


def _function(name: str) -> Callable[..., int]:
    module, _, function = name.partition(":")
    found: Callable[..., int] = getattr(import_module(f"benchmarks.peers.tools.{module}"), function)
    return found


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Ten plain steps under the limit; what they raise ends the process."""
    order = _order(options)
    workload = build(order)
    confine(options.device, options.room_bytes)
    return {"step_seconds": timed_steps(workload, order)}


def confine(device: str, room_bytes: int) -> None:
    """Grant this process so many more bytes: of private memory on CPU, of the allocator's on CUDA."""
    if device == "cpu":
        import resource

        limit_bytes = (data_bytes() or 0) + room_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))  # the hard one too: a tool might lift it
        return
    import torch

    total_bytes = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, room_bytes / total_bytes), device)


def reference(options: argparse.Namespace) -> dict[str, Any]:
    """What the budget leaves over a plain process: on CPU in private memory, on CUDA in the allocator's.

    A budget is resident memory. A process whose private memory meets a limit has resident: that limit, less what of it
    was never touched, and the pages of files that it maps. So the limit that stands for the budget is the budget less
    (resident - private), read after ten steps of one sample.
    """
    order = replace(_order(options), batch_size=1)
    if options.device != "cpu":
        import torch

        beside_bytes = run_steps(order).peak_bytes - torch.cuda.max_memory_reserved(options.device)
        return {"room_bytes": options.budget_bytes - beside_bytes, "limit_bytes": None}
    workload = build(order)
    built_bytes = data_bytes() or 0
    timed_steps(workload, order)
    limit_bytes = options.budget_bytes - (resident().total_bytes - (data_bytes() or 0))
    return {"room_bytes": limit_bytes - built_bytes, "limit_bytes": limit_bytes}


def _order(options: argparse.Namespace) -> Order:
    return Order(path=options.path, batch_size=options.batch_size, device=options.device)


def main() -> None:
    """Do one of these, and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.child")
    parser.add_argument("task", choices=("search", "steps", "reference"))
    parser.add_argument("path")
    parser.add_argument("report", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer")
    parser.add_argument("--log")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--budget-bytes", type=int, default=0)
    parser.add_argument("--room-bytes", type=int, default=0)
    options = parser.parse_args()
    done = {"search": search, "steps": steps, "reference": reference}[options.task](options)
    options.report.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
