"""What is said of the learning rate and of accumulation, and what is not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autotune import find_batch_size
from autotune.advice import advice, rule_of
from autotune.trial import Training


def test_adam_goes_with_the_square_root_and_sgd_in_proportion() -> None:
    (text,) = advice(Training("AdamW", 1e-3, 32), 128)
    assert "from 32 to 128" in text and "from 0.001 to 0.002" in text and "2205.10287" in text
    (text,) = advice(Training("SGD", 0.1, 32), 128)
    assert "from 0.1 to 0.4" in text and "1706.02677" in text


def test_beyond_its_range_a_rule_is_not_applied() -> None:
    (text,) = advice(Training("SGD", 0.1, 32), 256)
    assert "tune it" in text and "0.8" not in text


def test_a_smaller_batch_may_be_accumulated_to_the_present_one() -> None:
    accumulate, rate = advice(Training("Adam", 1e-3, 256), 64)
    assert "accumulate the gradients of 4 batches of 64" in accumulate
    assert "from 0.001 to 0.0005" in rate
    assert len(advice(Training("Adam", 1e-3, 100), 64)) == 1  # 64 does not divide 100


def test_an_optimizer_without_a_rule_is_named() -> None:
    (text,) = advice(Training("Lion", 1e-3, 32), 64)
    assert "no rule for the learning rate of Lion" in text
    assert rule_of("adamw_torch") is rule_of("NAdam") is not None


def test_where_the_present_batch_size_is_unknown_the_rule_is_given_with_its_range_and_source() -> None:
    (text,) = advice(Training("AdamW", 1e-3), 64)
    assert "with the square root" in text and "factor of 16" in text and "2205.10287" in text
    (text,) = advice(Training("Lion", 1e-3), 64)
    assert "no rule for that of Lion" in text


def test_what_is_accumulated_counts_as_one_batch() -> None:
    (text,) = advice(Training("AdamW", 1e-3, 32, 4), 32)
    assert "from 32 to 128, 4 x 32" in text and "from 0.001 to 0.002" in text
    accumulate, _ = advice(Training("AdamW", 1e-3, 32, 4), 16)
    assert "accumulate the gradients of 2 batches of 16" in accumulate
    assert advice(Training("AdamW", 1e-3, 32, 4), 8) == ()


@pytest.mark.parametrize("training", [None, Training("AdamW", 1e-3, 64)])
def test_where_nothing_changes_or_nothing_is_known_nothing_is_said(training: Training | None) -> None:
    assert advice(training, 64) == ()


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(1e-6, 1.0))
def test_there_and_back_the_learning_rate_is_what_it_was(now: int, then: int, rate: float) -> None:
    rule = rule_of("Adam")
    assert rule is not None
    there = rate * rule.gain(then / now)
    assert math.isclose(there * rule.gain(now / then), rate)


def test_the_present_batch_size_is_the_loaders_and_nothing_is_applied() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(2, (64,))), batch_size=3)
    result = find_batch_size(
        model, loader, loss=nn.CrossEntropyLoss(), optimizer=optimizer, quiet=True, start=2, max_batch_size=2
    )
    assert result.workload.training == Training("SGD", 0.5, 3)
    assert "from 0.5 to 0.333" in result.advice[0]
    assert f"Advice: {result.advice[0]}" in result.summary()
    assert optimizer.param_groups[0]["lr"] == 0.5
