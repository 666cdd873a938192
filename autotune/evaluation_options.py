"""The options of a probe for training, as they suit one for evaluation that follows it. Pure."""

from __future__ import annotations

from typing import Any

OF_ONE_RESULT = ("output", "resume")
"""A second result would be written over the first."""


def evaluation_options(options: dict[str, Any]) -> dict[str, Any]:
    """For `find_batch_size`, from those that it was given for training.

    Which size trains to a quality soonest is no question of evaluation: there the fastest is looked for.
    """
    kept = {name: value for name, value in options.items() if name not in OF_ONE_RESULT}
    if kept.get("objective") == "time-to-quality":
        kept["objective"] = "throughput"
    return kept | {"mode": "inference"}
