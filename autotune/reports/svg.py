"""A figure as SVG whose colours are CSS variables, so that one file suits light and dark pages.

Needs matplotlib. Promises the same text for the same figure, text that stays text, and no id that could meet that of
another picture in the same page. Every colour also stands there as a plain attribute, for programs that know no
variables.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree as ET

import matplotlib.style
from matplotlib.figure import Figure

from autotune.reports.palette import DARK, LIGHT, STYLE, css_variables

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_ROLE_OF = {colour: role for role, colour in LIGHT.items()}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_DECLARATION = re.compile(r"\s*([a-z-]+)\s*:\s*(.+?)\s*(?:;|$)")


@contextmanager
def styled() -> Iterator[None]:
    """Our look while a figure is made or written; letters that the font lacks are no reason to warn."""
    with matplotlib.style.context(["default", STYLE], after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def as_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element to be put into a page, as wide as its place there.

    Colours are `var(--ink)`, `var(--muted)`, `var(--grid)`, `var(--paper)` and `var(--series-1)` to
    `var(--series-6)`; where the page defines none, those of a light page hold.
    """
    drawn = _drawn(figure)
    root = ET.fromstring(drawn)
    _drop(root, "metadata")
    _drop(root, "defs", holding="style")
    prefix = f"f{hashlib.sha256(drawn).hexdigest()[:10]}-"  # alike only in pictures that are alike
    referred = _referred(root)
    for element in root.iter():
        _rename(element, prefix, referred)
        _paint(element)
    for name in ("width", "height"):
        root.attrib.pop(name)
    root.attrib |= {"role": "img", "aria-label": str(figure.get_label()), "stroke-linejoin": "round"}
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return ET.tostring(root, encoding="unicode")


def standalone(figure: Figure) -> str:
    """The figure as an SVG file that follows the light or dark setting of whoever opens it."""
    width, height = (round(inches * 96) for inches in figure.get_size_inches())  # CSS pixels an inch
    style = (
        f"<style>:root {{ {css_variables(LIGHT)} }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }}</style>"
    )
    head, rest = as_svg(figure).split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} width="{width}" height="{height}">{style}{rest}\n'


def _drawn(figure: Figure) -> bytes:
    """What matplotlib makes of it, without date and version."""
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _drop(root: ET.Element, tag: str, holding: str = "") -> None:
    for element in root.findall(f"{{{_SVG}}}{tag}"):
        if not holding or element.find(f"{{{_SVG}}}{holding}") is not None:
            root.remove(element)


def _referred(root: ET.Element) -> set[str]:
    """The ids that something in the picture points to."""
    texts = (text for element in root.iter() for text in element.attrib.values())
    return {name for text in texts for name in re.findall(r"^#(\w+)$|url\(#(\w+)\)", text) for name in name if name}


def _rename(element: ET.Element, prefix: str, referred: set[str]) -> None:
    """Give ids that are pointed to the prefix, and take the others away."""
    if (name := element.attrib.pop("id", None)) in referred:
        element.set("id", f"{prefix}{name}")
    if (target := element.get(_LINK)) is not None:
        element.set(_LINK, f"#{prefix}{target[1:]}")
    if (clip := element.get("clip-path")) is not None:
        element.set("clip-path", clip.replace("url(#", f"url(#{prefix}"))


def _paint(element: ET.Element) -> None:
    """Turn the declarations of a style into attributes, and its colours into variables besides."""
    declared = dict(_DECLARATION.findall(element.attrib.pop("style", "")))
    if "font-family" in declared:
        declared["font-family"] = _FONTS
    element.attrib |= declared
    roles = {name: _ROLE_OF[value] for name, value in declared.items() if value in _ROLE_OF}
    if roles:
        element.set("style", "; ".join(f"{name}: var(--{role}, {LIGHT[role]})" for name, role in roles.items()))
