"""The colours and markers of pictures, and the look that matplotlib is given for them.

Needs nothing at once. Promises that every colour of a picture is one of these roles, so that a page can exchange
them for its own, and that no two series share both colour and marker. The series' colours are those of Okabe and Ito
(Color Universal Design, 2008), which people with any kind of colour blindness tell apart, darkened or lightened until
each has a contrast of at least 3 to 1 with the paper (WCAG 2.1, criterion 1.4.11).
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "muted": "#59636e",
    "grid": "#e3e6ea",
    "series-1": "#0072b2",
    "series-2": "#d55e00",
    "series-3": "#008a68",
    "series-4": "#b4558c",
    "series-5": "#a87400",
    "series-6": "#2f8fc9",
}
"""Hexadecimal colours by role, each of them once, since a colour in a picture tells its role."""

DARK = {
    "paper": "#14181d",
    "ink": "#e8ebef",
    "muted": "#9aa4af",
    "grid": "#2c333b",
    "series-1": "#56b4e9",
    "series-2": "#ff8a47",
    "series-3": "#2cc59a",
    "series-4": "#e59ac8",
    "series-5": "#e6b23c",
    "series-6": "#9db8ff",
}
"""The same roles on a dark page."""

PAPER, INK, MUTED, GRID = (LIGHT[role] for role in ("paper", "ink", "muted", "grid"))
SERIES = tuple(colour for role, colour in LIGHT.items() if role.startswith("series-"))
MARKERS = ("o", "s", "^", "D", "v", "P", "<")
"""One more than colours, so that a second round pairs them anew; none of them is a cross, which means "refused"."""

STYLE: dict[str, object] = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a model's name is a dollar
    "text.usetex": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.4,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "autotune",  # the same picture is the same file
}
"""Settings of matplotlib, on top of its own defaults, whatever the user has set."""


def css_variables(colours: dict[str, str]) -> str:
    """The colours as declarations of CSS variables: `--ink: #1b1f24; ...`."""
    return " ".join(f"--{role}: {colour};" for role, colour in colours.items())
