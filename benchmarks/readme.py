"""Put the measured tables into the README, so that no figure there is written by hand.

Replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` with the file of that name in
`benchmarks/results`; `NAME:summary` stands for what follows the last table in it, `NAME:table` for the first table,
`NAME:rest` for what follows that, and `NAME:facts` for the list before it: when, where and with what it was measured.

    python -m benchmarks.readme
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from benchmarks.recording import RESULTS

README = Path(__file__).parent.parent / "README.md"
SECTION = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def filled(text: str, folder: Path) -> str:
    """The text with every section replaced whose file is there."""

    def section(found: re.Match[str]) -> str:
        name, _, part = found[2].partition(":")
        source = folder / name
        if not source.exists():
            return found[0]
        content = {"summary": _summary, "table": _table, "rest": _rest, "facts": _facts}.get(part, _content)(source)
        return f"{found[1]}{content}{found[3]}"

    return SECTION.sub(section, text)


def _summary(source: Path) -> str:
    """What follows a file's last table."""
    return f"{source.read_text().rpartition('|')[2].strip()}\n"


def _table(source: Path) -> str:
    """A file's first table, with nothing around it."""
    lines = source.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    return "\n".join(itertools.takewhile(lambda line: line.startswith("|"), lines[start:])) + "\n"


def _rest(source: Path) -> str:
    """What follows a file's first table."""
    return f"{source.read_text().partition(_table(source))[2].strip()}\n"


def _facts(source: Path) -> str:
    """The list before a file's first table."""
    lines = source.read_text().partition(_table(source))[0].splitlines()
    return "\n".join(line for line in lines if line.startswith("- ")) + "\n"


def _content(source: Path) -> str:
    """A table as it is, less its title; any other text as a code block."""
    text = source.read_text().strip()
    if source.suffix == ".md":
        return f"{re.sub(r'^# .*?$', '', text, count=1, flags=re.MULTILINE).strip()}\n"
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    README.write_text(filled(README.read_text(), RESULTS))
