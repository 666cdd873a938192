from __future__ import annotations

import pytest

from autotune.evaluation_options import evaluation_options


@pytest.mark.parametrize(
    ("objective", "then"), [("time-to-quality", "throughput"), ("memory", "memory"), ("latency", "latency")]
)
def test_the_second_probe_is_for_inference_and_leaves_the_first_ones_file_alone(objective: str, then: str) -> None:
    given = {"objective": objective, "output": "result.json", "resume": True, "max_batch_size": 8}
    before = dict(given)
    assert evaluation_options(given) == {"objective": then, "mode": "inference", "max_batch_size": 8}
    assert given == before


def test_what_is_left_out_stays_left_out() -> None:
    assert evaluation_options({}) == {"mode": "inference"}
