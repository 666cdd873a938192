"""The ten workloads that the tool is measured on, with the memory budget of each.

Needs nothing. On CPU the budget is the resident memory of the whole process, of which torch itself takes about 300 MiB
in its build for processors (that for CUDA 13 takes 460 more, and leaves too little room). Each was chosen so that the
largest batch size lies between 50 and 1000 and a step there takes about a second on two cores, which keeps an
exhaustive search affordable. On a GPU one budget serves all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
FOLDER = Path(__file__).parent / "workloads"
CUDA_BUDGET_MIB = 4096


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A workload file, how it is probed, and its budget on CPU in MiB."""

    name: str
    cpu_budget_mib: int
    mode: str = "train"

    @property
    def path(self) -> Path:
        """The model file."""
        return FOLDER / f"{self.name}.py"

    def budget_bytes(self, device: str) -> int:
        """The budget on a device, in bytes."""
        return (self.cpu_budget_mib if device == "cpu" else CUDA_BUDGET_MIB) * MIB


SUITE = (
    Entry(name="mlp", cpu_budget_mib=550),
    Entry(name="resnet", cpu_budget_mib=600),
    Entry(name="transformer_encoder", cpu_budget_mib=900),
    Entry(name="gpt", cpu_budget_mib=900),
    Entry(name="lstm", cpu_budget_mib=800),
    Entry(name="unet", cpu_budget_mib=800),
    Entry(name="contrastive", cpu_budget_mib=900),
    Entry(name="own_loss", cpu_budget_mib=800),
    Entry(name="variable_lengths", cpu_budget_mib=800),
    Entry(name="inference_only", cpu_budget_mib=700, mode="inference"),
)


def chosen(names: Sequence[str]) -> tuple[Entry, ...]:
    """The entries of these names, or all where none is named.

    Raises:
        SystemExit: there is no workload of that name.
    """
    known = {entry.name: entry for entry in SUITE}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"No workload is called {unknown[0]!r}. There are: {', '.join(known)}.")
    return tuple(known[name] for name in names) or SUITE
