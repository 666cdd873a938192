"""Libraries that do otherwise once a tensor has no data, and what is said of it.

Needs nothing; a library that was not imported is left alone. transformers asks whether a tensor is without data (its
`is_tracing`), and if so looks at no mask's values: it keeps a mask that it would drop with data, where nothing is
masked. The forecast is then the larger of both, and the note says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ASKED = "transformers.utils.import_utils"
MASKS = "transformers.masking_utils"
MASK_NOTE = "transformers was taken to keep its attention masks, which it drops where nothing is masked"


@contextmanager
def noted(notes: list[str]) -> Iterator[None]:
    """Add to the notes, while this lasts, what a library does otherwise because a tensor has no data."""
    module = sys.modules.get(ASKED)
    ask = getattr(module, "is_fake_tensor", None)
    if module is None or ask is None:
        yield
        return

    def asked(value: Any) -> bool:
        found = bool(ask(value))
        is_mask = sys._getframe(2).f_globals.get("__name__") == MASKS  # who called `is_tracing`
        if found and is_mask and MASK_NOTE not in notes:
            notes.append(MASK_NOTE)
        return found

    vars(module)["is_fake_tensor"] = asked
    try:
        yield
    finally:
        vars(module)["is_fake_tensor"] = ask
