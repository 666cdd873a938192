"""Results as one HTML page that needs nothing else, and as a fragment for a notebook.

Needs Jinja2, the sheet and the figures. Promises that whatever a result holds stays text: every value is escaped by
Jinja2, the figures by matplotlib, and a content security policy allows no script but the page's own and nothing from
a network. The page is complete without its script, which sorts tables and copies text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autotune.reports.captions import caption
from autotune.reports.figures import as_svg, figures
from autotune.reports.palette import DARK, LIGHT, css_variables
from autotune.reports.plain_text import printable
from autotune.reports.sheet import result_sheet, sheet
from autotune.result import Result

_NUMBERS = count(1)
"""Tell fragments of one notebook apart: an id must be the only one of its kind in a page."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as SVG to stand in the page, with its heading and the words below it."""

    heading: str
    svg: Markup
    caption: str


def page(results: Sequence[Result]) -> str:
    """The whole page for one or several results."""
    environment = _environment()
    style, script = _source("report.css"), _source("report.js")
    return environment.get_template("report.html.j2").render(
        sheet=sheet(results),
        pictures=list(_pictures(results)),
        light=Markup(css_variables(LIGHT)),  # these and the next two are this package's own, written by nobody else
        dark=Markup(css_variables(DARK)),
        style=Markup(style),
        script=Markup(script),
        script_hash=_hash(script),
    )


def fragment(result: Result) -> str:
    """A compact form for a notebook's cell: the answer, the table and the throughput, in the notebook's own colours."""
    drawn = figures([result], ["throughput"])
    return (
        _environment()
        .get_template("fragment.html.j2")
        .render(
            result=result_sheet(result, printable(result.workload.name)),
            id=next(_NUMBERS),
            drawing=Markup(as_svg(drawn["throughput"])) if "throughput" in drawn else "",
            style=Markup(_source("fragment.css")),
        )
    )


def _pictures(results: Sequence[Result]) -> Iterator[Picture]:
    for kind, figure in figures(results).items():
        for axes in figure.axes:
            axes.set_title("", loc="left")  # the page has a heading there
        yield Picture(heading=kind.capitalize(), svg=Markup(as_svg(figure)), caption=caption(kind, results))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("autotune.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    """A file beside the templates, as it is."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(script: str) -> str:
    """The script's hash as a content security policy names it (W3C CSP3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
