"""The tool against its peers: which there are, and where each can run.

Needs the standard library. Each is used as released and called as its own documentation says, in `tools/`; what they
are given is in `task`, how the memory is made scarce in `arena`, what a row of the table holds in `rows`.

    pip install -e ".[peers]"
    pip install --no-deps timm batchtune    # the latter from Python 3.13 on
    python -m benchmarks.peers                           # the published table: all workloads, about an hour
    python -m benchmarks.peers NAME ...                  # some of them
    python -m benchmarks.peers --merge benchmarks/results/peers-cpu.json    # the tables anew, from raw data

These two stand apart since their releases require torchvision, whose build on PyPI is for CUDA: beside a torch for CPU
only it makes `import lightning` fail. What is used of them here does without.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

STEPS = 10
"""Where a tool wraps the training itself, the training is this long: as long as a run of the oracle."""

START = 1024
"""Tools that only shrink answer no more than they start from. Each starts here, above every true maximum, so that
none is held back by its default (8 to 512)."""

BATCHTUNE_PYTHON = (3, 13)

APART = ("timm", "batchtune")
"""Packages that the extra `peers` leaves out, see above."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A tool.

    `function` is that of its file in `tools/` which searches, `package` what it is installed as. `objective` makes it
    our own command. `only_on` names the kind of device that it can be compared on, with the reason.
    """

    name: str
    function: str = ""
    package: str = ""
    objective: Literal["", "memory", "throughput"] = ""
    only_on: str = ""
    reason: str = ""

    @property
    def version(self) -> str:
        """Its name and the release that is installed; empty where it is none, or ours."""
        try:
            return f"{self.package} {version(self.package)}" if self.package else ""
        except PackageNotFoundError:
            return ""

    def unable(self, device: str) -> str:
        """Why it cannot run on this device, under this Python; empty where it can."""
        if self.only_on and not device.startswith(self.only_on):
            return self.reason
        if self.package == "batchtune" and sys.version_info < BATCHTUNE_PYTHON:
            return "needs Python 3.13"
        if self.package and find_spec(self.package.removeprefix("torch-").replace("-", "_")) is None:
            apart = f": pip install --no-deps {self.package}" if self.package in APART else ""
            return f"{self.package} is not installed{apart}"
        return ""


NO_CPU = "knows CUDA and MPS only"
NO_CUDA = "its trials run in processes of their own, which a limit on CUDA memory does not reach"

PEERS = (
    Peer(name="autotune probe, largest", objective="memory"),
    Peer(name="autotune probe, recommended", objective="throughput"),
    Peer(name="autotune.find_batch_size", function="ours:find"),
    Peer(name="Lightning, power", function="lightning:power", package="lightning"),
    Peer(name="Lightning, binsearch", function="lightning:binsearch", package="lightning"),
    Peer(name="Accelerate", function="accelerate:find", package="accelerate"),
    Peer(name="Transformers", function="transformers:find", package="transformers"),
    Peer(name="toma", function="toma:find", package="toma"),
    Peer(name="timm's decay", function="timm:find", package="timm"),
    Peer(name="batch-finder", function="batch_finder:find", package="batch-finder", only_on="cpu", reason=NO_CUDA),
    Peer(name="torch-kitsune", function="kitsune:find", package="torch-kitsune"),
    Peer(name="batchtune, largest", function="batchtune:largest", package="batchtune", only_on="cuda", reason=NO_CPU),
    Peer(name="batchtune, best", function="batchtune:best", package="batchtune", only_on="cuda", reason=NO_CPU),
    Peer(name="plain doubling", function="doubling:find"),
)
"""In the order of the table."""
