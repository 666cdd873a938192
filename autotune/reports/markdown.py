"""Results as Markdown for a pull request, in GitHub's flavour: the answer, the table, the rest folded away.

Needs the sheet. Promises that whatever a result holds stays text. Words of a result are escaped with backslashes, and
an empty comment splits what GitHub would otherwise turn into a mention, a reference or a link after rendering; code
stands in fences longer than any run of backticks in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from autotune.reports.reproduce import Recipe
from autotune.reports.sheet import ResultSheet, Sheet, sheet
from autotune.reports.sheet_tables import Table
from autotune.result import Result

_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&$]|^(?:[-+=#:]|\d+(?=[.)](?:\s|$)))")
"""What means something anywhere in a line, and what does at its start."""

_SPLIT = "<!-- -->"
"""Between two characters that GitHub would link: it renders to nothing (GitHub Flavored Markdown, section 6.10)."""

_LINKED = re.compile(r"@(?=\w)|#(?=\d)|:(?=//|[\w+-]+:)|\bwww(?=\.)", re.IGNORECASE)
"""The beginnings of mentions, references, addresses and emoji, which GitHub looks for in the rendered text."""


def markdown(results: Sequence[Result]) -> str:
    """The whole report of one or several results."""
    report = sheet(results)
    blocks = _single(report.results[0]) if len(report.results) == 1 else _several(report)
    return "\n\n".join(blocks) + "\n"


def _single(result: ResultSheet) -> Iterator[str]:
    yield f"### {escaped(result.label)}"
    yield f"**{escaped(result.headline)}** {escaped(result.details)}"
    if result.model:
        yield f"**Model:** {escaped(result.model)}"
    if result.verified:
        yield f"**Verified:** {escaped(result.verified)}"
    if result.data:
        yield f"**Data:** {escaped(result.data)}"
    yield from _warnings(result)
    yield _table(result.sizes)
    yield from map(_table, filter(None, (result.quality, result.trainings, result.workers)))
    yield from _folded(result)


def _several(report: Sheet) -> Iterator[str]:
    yield f"### {escaped(report.title)}"
    yield _table(report.comparisons[0])
    for result in report.results:
        yield f"**{escaped(result.label)}**: {escaped(result.headline)} {escaped(result.data)}".rstrip()
        yield from _warnings(result)
        yield from _folded(result, *filter(None, (result.sizes, result.quality, result.trainings, result.workers)))


def _warnings(result: ResultSheet) -> Iterator[str]:
    for kind, texts in (("WARNING", result.warnings), ("TIP", result.advice)):
        if texts:
            yield "\n".join([f"> [!{kind}]", *(f"> - {escaped(text)}" for text in texts)])


def _folded(result: ResultSheet, *tables: Table) -> Iterator[str]:
    """What few readers of a pull request need, behind a line that opens it."""
    yield "<details>\n<summary>Environment, and how to do it again</summary>"
    yield from map(_table, tables)
    facts = [f"| {escaped(fact.name)} | {escaped(fact.value)} |" for fact in result.environment]
    yield "\n".join(["| | |", "| --- | --- |", *facts])
    yield _code(result.recipe)
    yield "</details>"


def _table(table: Table) -> str:
    lines = [_line(map(escaped, table.headings)), _line("---" if words else "---:" for words in table.is_text)]
    for index, row in enumerate(table.rows):
        cells = [escaped(cell.text) for cell in row]
        lines.append(_line(f"**{cell}**" for cell in cells) if index == table.marked_row else _line(cells))
    return "\n".join(lines)


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(recipe: Recipe) -> str:
    longest = max((len(run) for run in re.findall("`+", recipe.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{'sh' if recipe.language == 'shell' else 'python'}\n{recipe.text}\n{fence}"


def escaped(text: str) -> str:
    """Text of one line as Markdown that shows exactly it."""
    return _LINKED.sub(rf"\g<0>{_SPLIT}", _SPECIAL.sub(_backslashed, text.strip()))


def _backslashed(match: re.Match[str]) -> str:
    """What was found as itself: a backslash before a sign, and after a number, before the sign that makes it a list."""
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"
