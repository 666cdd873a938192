"""The comparison as one HTML page, made from the raw data, in the colours of the tool's own reports.

Needs Jinja2. Errors of the tools are foreign text: every value is escaped, and the page runs no script.

    python -m benchmarks.peers.page benchmarks/results/peers-cpu.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

from autotune.reports.palette import DARK, LIGHT, css_variables
from benchmarks.peers.rows import (
    EXPLANATION,
    OVER_WORKLOADS,
    SPENDING,
    TITLE,
    UNABLE,
    cells,
    over_workloads,
    spending,
    unable,
)
from benchmarks.recording import Cells, Row

WORDS = ("tool", "state kept")
"""Columns that hold words and are set to the left."""

REASON = "why not"
"""What stands on a line of its own under a tool: as a column it would push others off the screen."""


def page(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
    """The page, whole and by itself."""
    loaders = [FileSystemLoader(Path(__file__).parent), PackageLoader("autotune.reports")]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = environment.loader.get_source(environment, "report.css")[0] if environment.loader else ""
    return environment.get_template("page.html.j2").render(
        title=TITLE,
        explanation=EXPLANATION,
        machine=machine,
        over_workloads=over_workloads(rows),
        over_workloads_caption=OVER_WORKLOADS,
        workloads=by_workload(rows),
        maxima={row["workload"]: row["maximum"] for row in rows},
        spending=spending(rows),
        spending_caption=SPENDING,
        unable=unable(rows),
        unable_caption=UNABLE,
        words=WORDS,
        reason=REASON,
        light=Markup(css_variables(LIGHT)),  # these and the style are this repository's own
        dark=Markup(css_variables(DARK)),
        style=Markup(style),
    )


def by_workload(rows: Sequence[Row]) -> dict[str, list[Cells]]:
    """The cells of each workload's tools, less those that are the same in all of them."""
    found: dict[str, list[Cells]] = {}
    for row in rows:
        own = {name: cell for name, cell in cells(row).items() if name not in ("workload", "true maximum")}
        found.setdefault(row["workload"], []).append(own)
    return found


def write_page(source: Path) -> Path:
    """Write the page beside the raw data that it is made of."""
    content = json.loads(source.read_text())
    target = source.with_suffix(".html")
    target.write_text(page(content["rows"], content["machine"]))
    return target


if __name__ == "__main__":
    print(write_page(Path(sys.argv[1])))
