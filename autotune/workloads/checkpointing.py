"""Activation checkpointing, where a model has a switch for it.

Needs nothing of a framework. Knows the switches in use: `activation_checkpointing_enable()` of Hugging Face models,
`gradient_checkpointing_enable()` of their versions before 5.23, and `set_grad_checkpointing()` of timm's.
"""

from __future__ import annotations

from typing import Any

from autotune.errors import NoForecastError

SWITCHES = ("activation_checkpointing_enable", "gradient_checkpointing_enable", "set_grad_checkpointing")


def switch_on_checkpointing(model: Any) -> None:
    """Let the model, or the first of its parts that can, drop activations and compute them again.

    Raises:
        NoForecastError: nothing in it has such a switch, or the switch refuses.
    """
    modules = model.modules() if hasattr(model, "modules") else ()
    for module in modules:  # the outermost comes first
        switch = next((getattr(module, name) for name in SWITCHES if hasattr(module, name)), None)
        if switch is not None:
            try:
                switch()
            except (ValueError, NotImplementedError, AttributeError) as error:  # some inherit a switch they don't serve
                raise NoForecastError(f"The model refuses activation checkpointing: {error}") from error
            return
    raise NoForecastError(
        "The model has no switch for activation checkpointing.",
        remedy=f"Such a switch is called {SWITCHES[0]} or {SWITCHES[-1]}; or use torch.utils.checkpoint in the model.",
    )
