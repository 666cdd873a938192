"""A workload of `package.module:Class` and shapes, for a model without a file of its own.

Needs `loading` and `plain`. Promises batches of random numbers of the shapes given, the same ones each time,
and one clear line for whatever is malformed or cannot be found.

    3x224x224        float32, normally distributed       int:50257:128    whole numbers below 50257, 128 a sample
    class:1000       a class a sample, cross-entropy     class:21:16x16   a class a pixel, cross-entropy
    float:5          five numbers, mean squared error
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from autotune.errors import UsageError
from autotune.spec import ClassWorkload
from autotune.workloads import BuildOptions, Workload
from autotune.workloads.loading import load_module
from autotune.workloads.plain import Parts, assemble, built
from autotune.workloads.sources import Source
from autotune.workloads.tracebacks import blame

SHAPE = r"[1-9]\d*(?:x[1-9]\d*)*"
INPUT = re.compile(rf"(?:int:(?P<below>[1-9]\d*):)?(?P<shape>{SHAPE})")
ANSWER = re.compile(rf"class:(?P<below>[1-9]\d*)(?::(?P<labels>{SHAPE}))?|float:(?P<numbers>{SHAPE})")
TARGET = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<attribute>\w+(?:\.\w+)*)")


@dataclass(frozen=True)
class RandomTensor:
    """Random numbers of a shape, the batch dimension left out: whole ones below `below`, else normal ones."""

    shape: tuple[int, ...]
    below: int | None = None

    def make(self, batch_size: int, generator: Generator) -> Tensor:
        """A tensor of `(batch_size, *shape)`: int64 with `below`, else float32."""
        size = (batch_size, *self.shape)
        if self.below is None:
            return torch.randn(size, generator=generator)
        return torch.randint(self.below, size, generator=generator)


def from_class(ref: ClassWorkload, options: BuildOptions) -> Workload:
    """The workload that a class, its inputs and its target describe.

    Raises:
        UsageError: a description is malformed, or the class cannot be found or called as described.
        WorkloadError: its code raised.
    """
    tensors = [parse_input(text) for text in ref.inputs]
    if not tensors:
        raise UsageError(f"{ref.target} was given no input.", remedy="Add --input 3x224x224, say.")
    loss = None
    if ref.answer is not None:
        answer, loss = parse_answer(ref.answer)
        tensors.append(answer)
    arguments = dict(parse_argument(text) for text in ref.arguments)
    attribute = find(ref.target)
    return assemble(
        Parts(
            name=ref.target,
            model=built(_builder(attribute, ref.target, arguments)),
            loss=loss,
            source=_source(tensors, options.seed),
        ),
        options,
    )


def _source(tensors: list[RandomTensor], seed: int) -> Source:
    def make_batch(batch_size: int) -> tuple[Tensor, ...]:
        generator = Generator().manual_seed(seed)
        return tuple(tensor.make(batch_size, generator) for tensor in tensors)

    return Source(make_batch=make_batch, assumptions=("inputs are random numbers of the shapes given",))


# What was written on the command line


def parse_input(text: str) -> RandomTensor:
    """An input such as "3x224x224" or "int:50257:128".

    Raises:
        UsageError: it is malformed.
    """
    match = INPUT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--input {text} is no shape.",
            remedy="Leave the batch size out: --input 3x224x224, or --input int:50257:128 for ids below 50257.",
        )
    return RandomTensor(_sizes(match["shape"]), _whole(match["below"]))


def parse_answer(text: str) -> tuple[RandomTensor, Callable[[Any, Any], Any]]:
    """A target such as "class:1000", "class:21:16x16" or "float:5", and the loss that goes with it.

    Raises:
        UsageError: it is malformed.
    """
    match = ANSWER.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--target {text} is no target.",
            remedy="Use class:1000 (one class a sample), class:21:16x16 (one a pixel) or float:5 (numbers).",
        )
    if match["numbers"]:
        return RandomTensor(_sizes(match["numbers"])), mse_loss
    return RandomTensor(_sizes(match["labels"]), _whole(match["below"])), cross_entropy


def _sizes(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, text.split("x"))) if text else ()


def _whole(text: str | None) -> int | None:
    return int(text) if text else None


def parse_argument(text: str) -> tuple[str, Any]:
    """A constructor's argument such as "num_classes=10".

    Raises:
        UsageError: it is no name and Python literal.
    """
    name, equals, literal = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--arg {text} is not NAME=VALUE.", remedy="--arg num_classes=10, say.")
    try:
        return name, ast.literal_eval(literal)
    except (ValueError, SyntaxError) as error:
        raise UsageError(
            f"The value of --arg {text} is no Python literal.",
            remedy=f"A number, True, None, a tuple, or text in quotes: --arg \"{name}='{literal}'\"",
        ) from error


# What it stands for


def find(target: str) -> Any:
    """The attribute that "package.module:Class" names.

    Raises:
        UsageError: the text is malformed, or there is no such module or attribute.
        WorkloadError: importing the module raised.
    """
    match = TARGET.fullmatch(target)
    if match is None:
        raise UsageError(f"{target} is not package.module:Class.", remedy="torchvision.models:resnet50, say.")
    owner: Any = load_module(match["module"])
    for name in match["attribute"].split("."):
        owner = _attribute(owner, name, target)
    return owner


def _attribute(owner: Any, name: str, target: str) -> Any:
    if hasattr(owner, name):
        return getattr(owner, name)
    close = get_close_matches(name, [known for known in dir(owner) if not known.startswith("_")])
    remedy = f"Did you mean {', '.join(close)}?" if close else "Check the spelling."
    raise UsageError(f"{target}: {getattr(owner, '__name__', owner)} has no {name}.", remedy=remedy)


def _builder(attribute: Any, target: str, arguments: Mapping[str, Any]) -> Any:
    """A module, or a function without arguments that makes one."""
    if isinstance(attribute, nn.Module) and not arguments:
        return attribute
    is_other_class = isinstance(attribute, type) and not issubclass(attribute, nn.Module)
    if is_other_class or isinstance(attribute, nn.Module) or not callable(attribute):
        kind = "class that" if is_other_class else f"{type(attribute).__name__}, which"
        raise UsageError(
            f"{target} is a {kind} makes no torch.nn.Module.",
            remedy="Name a subclass of torch.nn.Module, or a function that returns a module.",
        )
    _check_arguments(attribute, target, arguments)

    def build() -> nn.Module:
        with blame(f"{target}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"):
            built = attribute(**arguments)
        if not isinstance(built, nn.Module):
            raise UsageError(
                f"{target} returned a {type(built).__name__}, not a torch.nn.Module.",
                remedy="Name a subclass of torch.nn.Module, or a function that returns a module.",
            )
        return built

    return build


def _check_arguments(attribute: Callable[..., Any], target: str, arguments: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(attribute).parameters.values()
    except (TypeError, ValueError):
        return  # written in C: calling it will tell
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if missing:
        raise UsageError(
            f"{target} needs {', '.join(missing)}.",
            remedy="Add " + " ".join(f"--arg {name}=VALUE" for name in missing),
        )
    unknown = [name for name in arguments if name not in {p.name for p in named}]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise UsageError(
            f"{target} takes no {', '.join(unknown)}.", remedy=f"It takes {', '.join(p.name for p in named) or 'none'}."
        )
