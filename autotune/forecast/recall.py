"""Runs operators without data, and for those that ran before on arguments of the same kind makes what came of it.

Needs torch. Promises what torch's own mode returns, at a fraction of its cost: that asks hundreds of questions about
the arguments of every operator, even where the answer lies in its own cache, and they were most of what a forecast
cost. A step runs thousands of operators, of which few differ in more than which tensors they take. So where a result
follows from the layouts of the arguments, it is noted how to make its like: a new tensor, a view, or an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import torch
from torch._prims_common import compute_required_storage_length
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

from autotune.forecast.stand_ins import STAND_INS

aten = torch.ops.aten

Args = tuple[Any, ...]

Recipe = Callable[["RecallingMode", Args], Any]
"""Makes the like of a result from other arguments."""

PLAIN_TYPES = frozenset(
    (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
)
"""Types of arguments that say all about themselves."""

HANGING_ON_VALUES = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)

COUNTING = (aten._local_scalar_dense.default, aten.add_.Tensor)
"""What an optimizer does for each parameter with its number of steps, a constant whose value is known."""

ELEMENT_BY_ELEMENT = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.sqrt.default,
    aten.gelu_backward.default,
    aten.threshold_backward.default,
)
"""Operators whose result is laid out like tensors of floating-point numbers that are laid out alike themselves."""

FILLING = (aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default)
"""Operators that change nothing but the values of their first argument, besides those tagged as pointwise."""


class RecallingMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Makes tensors have no data.

    It takes real tensors too, since a user's step may hold some that nobody knows of: a mask, a second model.
    """

    def __init__(self) -> None:
        """Nothing ran yet."""
        super().__init__(allow_non_fake_inputs=True)
        self.cache_enabled = False  # torch's own
        self._recipes: dict[tuple[Any, ...], Recipe | None] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper that keeps torch.compile out of each call: compiled models are refused, and it costs time."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, or make the like of what it returned."""
        kwargs = kwargs or {}
        if func in COUNTING and not kwargs and _is_counter(args):
            return _counted(func, args)
        key = _key(func, args, kwargs) if hangs_on_layouts(func) else None
        if key is None:
            return self._run(func, types, args, kwargs)
        if known := self._recipes.get(key):  # looked up once, since keys are long
            return known(self, args)
        recipe = _foretold(func, args)
        out = recipe(self, args) if recipe else self._run(func, types, args, kwargs)
        self._recipes[key] = recipe or _recipe(args, kwargs, out)
        return out

    def _run(self, func: Any, types: Any, args: Args, kwargs: dict[str, Any]) -> Any:
        out = NotImplemented
        if func in STAND_INS:
            with self:
                out = STAND_INS[func](*args, **kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs) if out is NotImplemented else out


def _is_counter(args: Args) -> bool:
    first, *others = args
    return type(first) is FakeTensor and first.constant is not None and not any(map(torch.is_tensor, others))


def _counted(func: Any, args: Args) -> Any:
    """What comes of a constant, which may change."""
    first, *others = args
    with torch._C._DisableTorchDispatch():
        out = func(first.constant, *others)
    return first if out is first.constant else out


# Which calls are alike


@cache
def hangs_on_layouts(func: Any) -> bool:
    """True for an operator of torch's own whose result's layout follows from its arguments', which it leaves alone."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace != "aten":
        return False
    if any(tag in func.tags for tag in HANGING_ON_VALUES):
        return False
    return not func._schema.is_mutable or func in FILLING or _is_pointwise_in_place(func)


@cache
def _is_pointwise_in_place(func: Any) -> bool:
    """True for an operator that computes each element of its first argument anew, and returns it."""
    written = [argument.is_write for argument in func._schema.arguments]
    return torch.Tag.pointwise in func.tags and written[0] and not any(written[1:])


def _key(func: Any, args: Args, kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """What calls have in common whose results are alike; None for one that is like no other."""
    key = [func, torch.get_default_dtype(), *kwargs]
    return tuple(key) if _tell(key, args) and _tell(key, kwargs.values()) else None


def _tell(key: list[Any], values: Iterable[Any]) -> bool:
    """Append what matters about arguments; False where one may differ in more."""
    for value in values:
        kind = type(value)
        if kind is FakeTensor and _is_plain(value):
            key += (value.dtype, value.shape, value.stride(), value.storage_offset(), value.fake_device)
        elif kind in PLAIN_TYPES:
            key += (kind, value)  # 1 and 1.0 are equal
        elif kind is list or kind is tuple or kind is torch.Size:
            key += (kind, len(value))
            if not _tell(key, value):
                return False
        else:
            return False
    return True


def _is_plain(tensor: FakeTensor) -> bool:
    """True where a tensor's layout says all that matters: it has no value, is not sparse, and no copy awaits it."""
    has_bits = tensor.dtype.is_complex or tensor.is_neg()  # "conjugate me", "negate me"
    return tensor.constant is None and tensor.layout is torch.strided and not has_bits


# How the results of such calls are made


def _recipe(args: Args, kwargs: dict[str, Any], out: Any) -> Recipe | None:
    """How to make the like of what came of a call; None where that is not known."""
    if not isinstance(out, list | tuple):
        return _recipe_of_one(args, kwargs, out)
    recipes = [recipe for one in out if (recipe := _recipe_of_one(args, kwargs, one))]
    return partial(_all, list if isinstance(out, list) else tuple, recipes) if len(recipes) == len(out) else None


def _recipe_of_one(args: Args, kwargs: dict[str, Any], out: Any) -> Recipe | None:
    if out is None:
        return _nothing
    if type(out) is not FakeTensor or not _is_plain(out):
        return None
    place = next((place for place, arg in enumerate(args) if _shares_memory(arg, out)), None)
    if place is None:
        is_own = _is_whole(out) and not any(_shares_memory(value, out) for value in kwargs.values())
        return partial(_new, *_looks(out)) if is_own else None
    if args[place] is out:
        return partial(_argument, place)
    is_of_one = isinstance(args[place], FakeTensor) and args[place].dtype is out.dtype
    return partial(_view, place, (out.shape, out.stride(), out.storage_offset())) if is_of_one else None


def _foretold(func: Any, args: Args) -> Recipe | None:
    """How to make what is plain without asking torch even once, which takes it a millisecond."""
    if func is aten.as_strided.default:
        return partial(_view, 0, args[1:]) if len(args) == 4 else None
    is_in_place = _is_pointwise_in_place(func)
    if not is_in_place and func not in ELEMENT_BY_ELEMENT:
        return None
    tensors = [arg for arg in args if isinstance(arg, FakeTensor)]
    looks = set(map(_looks, tensors))
    if len(looks) != 1 or not tensors[0].is_floating_point() or not _is_dense(tensors[0]):
        return None
    return partial(_argument, 0) if is_in_place else partial(_new, *looks.pop())


def _looks(tensor: FakeTensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.fake_device


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def _shares_memory(value: Any, out: torch.Tensor) -> bool:
    if isinstance(value, list | tuple):
        return any(_shares_memory(part, out) for part in value)
    return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata == out.untyped_storage()._cdata


def _is_whole(tensor: torch.Tensor) -> bool:
    """True where its memory begins with its first element and ends with its last."""
    whole_bytes = compute_required_storage_length(tensor.shape, tensor.stride(), 0) * tensor.itemsize
    return not tensor.storage_offset() and tensor.untyped_storage().nbytes() == whole_bytes


def _all(container: type, recipes: list[Recipe], mode: RecallingMode, args: Args) -> Any:
    return container([recipe(mode, args) for recipe in recipes])


def _nothing(_mode: RecallingMode, _args: Args) -> None:
    return None


def _argument(place: int, _mode: RecallingMode, args: Args) -> Any:
    return args[place]


def _view(place: int, layout: tuple[Any, ...], mode: RecallingMode, args: Args) -> FakeTensor:
    with in_kernel_invocation_manager(mode):
        meta = args[place].as_strided(*layout)
    return FakeTensor(mode, meta, args[place].fake_device)


def _new(
    shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device, mode: RecallingMode, _: Args
) -> FakeTensor:
    with torch._C._DisableTorchDispatch():
        meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    return FakeTensor(mode, meta, device)
