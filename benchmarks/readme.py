"""Put the measured tables into the README, so that no figure there is written by hand.

Replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` with the file of that name in
`benchmarks/results`.

    python -m benchmarks.readme
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.recording import RESULTS

README = Path(__file__).parent.parent / "README.md"
SECTION = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def filled(text: str, folder: Path) -> str:
    """The text with every section replaced whose file is there."""

    def section(found: re.Match[str]) -> str:
        source = folder / found[2]
        return found[0] if not source.exists() else f"{found[1]}{_content(source)}{found[3]}"

    return SECTION.sub(section, text)


def _content(source: Path) -> str:
    """A table as it is, less its title; any other text as a code block."""
    text = source.read_text().strip()
    if source.suffix == ".md":
        return f"{re.sub(r'^# .*?$', '', text, count=1, flags=re.MULTILINE).strip()}\n"
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    README.write_text(filled(README.read_text(), RESULTS))
