"""What a function of the caller's may change: whatever it names that has a state.

Needs the standard library alone. A step of one's own reaches its optimizer, scheduler or scaler through its closure,
its globals or its object; nothing else tells of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any

MOST_ITEMS = 100
"""A longer collection holds data."""


def stateful(*roots: Any) -> list[Any]:
    """Everything with a `state_dict` that can be loaded again, among these objects and what they name."""
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}  # holds on to each, so that no other takes its id
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if _has_state(thing):
            found[id(thing)] = thing
        else:
            waiting.extend(_named_by(thing))
    return list(found.values())


def _has_state(thing: Any) -> bool:
    methods = (getattr(thing, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(thing, type) and all(map(callable, methods))


def _named_by(thing: Any) -> Iterable[Any]:
    match thing:
        case FunctionType():
            named = _named_by_function(thing)
        case MethodType():
            named = (thing.__func__, thing.__self__)
        case partial():
            named = (thing.func, *thing.args, *thing.keywords.values())
        case list() | tuple():
            named = thing[:MOST_ITEMS]
        case dict():
            named = islice(thing.values(), MOST_ITEMS)
        case type() | ModuleType():
            named = ()
        case _:
            named = getattr(thing, "__dict__", {}).values()
    return list(named)


def _named_by_function(function: FunctionType) -> Iterable[Any]:
    try:
        named = inspect.getclosurevars(function)
    except ValueError:  # a variable of its closure has no value yet
        return ()
    return (*named.nonlocals.values(), *named.globals.values(), *(function.__defaults__ or ()))
