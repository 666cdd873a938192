"""Text without anything that a terminal would obey, whatever a model or a file is called.

Needs nothing.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything a terminal might obey, such as an escape or a newline, written out."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


def printable_lines(text: str) -> str:
    """As `printable`, for text of several lines such as a traceback: newlines stay, tabs become blanks."""
    return "\n".join(printable(line) for line in text.expandtabs().splitlines())
