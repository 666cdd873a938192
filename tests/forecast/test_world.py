"""Where steps run without data, and what is answered there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forecast_child import in_child

from autotune.errors import NoForecastError
from autotune.forecast.records import Rules


def _asked(name: str) -> tuple[Any, list[str]]:
    """The answer to a question, and what was noted."""
    from autotune.forecast.world import fake_world

    with fake_world(Rules.CPU) as world:
        answer = QUESTIONS[name](torch.ones(3, 4))
        told = tuple(answer.shape) if isinstance(answer, torch.Tensor) else answer
    return told, world.guesses


QUESTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "number": lambda x: x.sum().item(),
    "condition": lambda x: bool((x > 0).all()),
    "comparison": lambda x: torch.equal(x, x + 1),
    "constant": lambda x: torch.tensor(5).item(),
    "rows": lambda x: x[x[:, 0] > 0],
    "columns": lambda x: x[:, torch.empty(4) > 0],
    "elements": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "masked": lambda x: x.masked_select(x[0] > 0),
    "alignment": lambda x: torch._ctc_loss(
        x.new_zeros(50, 8, 20), torch.ones(8, 6).long(), torch.full((8,), 50), torch.full((8,), 6)
    )[1],
    "whole number": lambda x: x.argmax().item(),
    "unique": lambda x: x.unique(),
}


@pytest.mark.parametrize(
    ("question", "answer", "noted"),
    [
        ("number", 1.0, "taken to be 1"),
        ("condition", False, "taken to be false"),
        ("comparison", False, "taken to be false"),
        ("rows", (3, 4), "select everything"),
        ("columns", (3, 4), "select everything"),
        ("elements", (12,), "select everything"),
        ("nonzero", (12, 2), "select everything"),
        ("masked", (12,), "select everything"),
        ("alignment", (8, 50, 13), "equally long"),
    ],
)
def test_a_guess_is_noted_with_its_line(question: str, answer: Any, noted: str) -> None:
    told, guesses = in_child(_asked, question)
    assert told == answer
    assert len(guesses) == 1
    assert guesses[0].startswith("test_world.py:") and noted in guesses[0]


def test_the_value_of_a_constant_is_known() -> None:
    assert in_child(_asked, "constant") == (5, [])


@pytest.mark.parametrize("question", ["whole number", "unique"])
def test_what_may_decide_on_a_shape_is_not_guessed(question: str) -> None:
    with pytest.raises(NoForecastError, match=r"test_world.py:\d+"):
        in_child(_asked, question)


def _left_behind() -> tuple[bool, bool, bool]:
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.optim import optimizer

    from autotune.forecast.world import fake_world

    real = torch.ones(3)
    with fake_world(Rules.CPU) as world:
        once = world.stand_in(real) is world.stand_in(real) and isinstance(real * 2, FakeTensor)
        taken = FakeTensor in optimizer._foreach_supported_types
    left = FakeTensor not in optimizer._foreach_supported_types and type(real * 2) is torch.Tensor
    return once, taken, left


def test_torch_is_as_before_once_the_world_is_left() -> None:
    assert in_child(_left_behind) == (True, True, True)


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_a_processor_s_rules_are_nobody_else_s(device: str) -> None:
    from autotune.forecast.world import is_native

    assert is_native(Rules.CPU, "cpu")
    assert not is_native(Rules.CPU, device)
    assert in_child(_world_of_a_processor, device) == ("cpu", [])


def _world_of_a_processor(device: str) -> tuple[str, list[str]]:
    from autotune.forecast.world import fake_world

    with fake_world(Rules.CPU, device) as world:
        data = torch.ones(4, 4)
        torch.nn.functional.conv1d(data[None], data[:, :, None])  # of which CUDA's rules would make a note
    return world.device, world.guesses


def _asked_in_a_backward_pass() -> list[str]:
    from autotune.forecast.world import fake_world

    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * gradient.sum().item()

    with fake_world(Rules.CPU) as world:
        Asking.apply(torch.ones(3, requires_grad=True)).sum().backward()
    return world.guesses


def test_a_guess_in_the_users_own_backward_names_its_line() -> None:
    (guess,) = in_child(_asked_in_a_backward_pass)
    assert guess.startswith("test_world.py:")


def _asked_by_transformers() -> list[str]:
    masking = pytest.importorskip("transformers.masking_utils")

    from autotune.forecast.world import fake_world

    with fake_world(Rules.CPU) as world:
        masking._ignore_bidirectional_mask_sdpa(torch.ones(2, 8, dtype=torch.bool), 8)
    return world.guesses


def test_a_mask_that_transformers_keeps_is_among_the_guesses() -> None:
    pytest.importorskip("transformers")
    (guess,) = in_child(_asked_by_transformers)
    assert "attention masks" in guess
