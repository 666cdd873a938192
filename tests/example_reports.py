"""Results whose every text is hostile, and a reader of HTML, for tests of the written reports."""

from __future__ import annotations

from html.parser import HTMLParser

from example_results import ENVIRONMENT, FACTS, example_result, refused
from msgspec.structs import replace

from autotune.result import Result

HOSTILE = (
    '=cmd()<script>alert(1)</script>"><img src=x onerror=alert(2)></style></svg> [link](http://evil.example) '
    "@octocat #1 | `x` **b** ~s~ $m$ &lt; www.evil.example :x: ![i](j)"
)
_VOID = {"meta", "link", "img", "br", "hr", "input"}


def named(name: str) -> Result:
    """A result in which each text that comes from foreign code is this one."""
    example = example_result()
    trials = list(example.trials)
    trials[3] = refused(4, 1024, text=name, why=name)
    return replace(
        example,
        trials=tuple(trials),
        environment=replace(
            ENVIRONMENT,
            **dict.fromkeys(("device_name", "processor", "platform", "torch_version", "command_line"), name),
        ),
        workload=replace(FACTS, name=name, batch_description=name, assumptions=(name,)),
        recommendation=replace(example.recommendation, why=name),
        warnings=(name, f"- {name}"),
        created_at=name,
    )


class Page(HTMLParser):
    """The elements of a page in their order, and the text in each of them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def attributes(self) -> list[tuple[str, str | None]]:
        return [pair for _, attributes in self.elements for pair in attributes.items()]

    def text(self, *tags: str) -> list[str]:
        """The texts directly in elements of these kinds, without what is blank."""
        return [data.strip() for tag, data in self.texts if tag in tags and data.strip()]
