"""What a step of the caller's own may change."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from autotune.executors.reach import stateful

GLOBAL = nn.Linear(2, 2)


def uses_a_global(batch: Any) -> Any:
    return GLOBAL(batch)


class Loop:
    """A loop as people write them."""

    def __init__(self) -> None:
        self.model = nn.Linear(2, 2)
        self.parts = {"optimizer": torch.optim.SGD(self.model.parameters(), lr=0.1)}

    def step(self, batch: Any) -> Any:
        return self.model(batch)

    def __call__(self, batch: Any) -> Any:
        return self.step(batch)


def test_a_closure_reaches_what_it_names_and_what_that_names() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scaler = torch.amp.GradScaler("cpu")

    def helper() -> None:
        scaler.step(optimizer)
        scheduler.step()

    def step(batch: Any) -> Any:
        loss = uses_a_global(model(batch)).sum()
        helper()
        return loss

    assert {id(thing) for thing in stateful(step)} == {id(x) for x in (model, optimizer, scheduler, scaler, GLOBAL)}


def test_methods_callable_objects_and_partial_functions_reach_their_own() -> None:
    loop = Loop()
    own = {id(loop.model), id(loop.parts["optimizer"])}
    for step in (loop.step, loop, partial(loop.step), lambda batch, loop=loop: loop.step(batch)):
        assert {id(thing) for thing in stateful(step)} == own


def test_data_classes_and_modules_are_not_searched() -> None:
    data = [nn.Linear(1, 1) for _ in range(2)] + [object()] * 10**6
    assert len(stateful(data, nn, nn.Linear, None, 3)) == 2


def test_a_closure_without_a_value_yet_is_no_obstacle() -> None:
    def step() -> Any:
        return later

    assert stateful(step) == []
    later = nn.Linear(1, 1)
    assert stateful(step) == [later]
