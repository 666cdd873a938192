"""A processor's tensors without data that follow the rules of CUDA, where there is no GPU.

Needs torch, and that the tensors inside have no data: what is computed here would be wrong. Tensors labelled "cuda"
can't be used for it: autograd asks for the device's guard, which a build without CUDA does not have, and the process
aborts. So the tensors are the CPU's, and what differs is put in its place while it lasts:

- autocast computes in the types of CUDA's lists (`cuda_autocast`);
- dropout, softmax, RMS norm and attention run the kernels that CUDA would choose (`cuda_kernels`);
- optimizers take their foreach kernels, with temporaries of the size of all parameters;
- "cuda" in the user's code means the CPU, and GradScaler("cuda") scales.

What remains unlike a GPU is noted: workspaces of cuDNN, and recurrent layers. Promises that everything is as before
afterwards. Process-wide, so to be entered by one thread at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.cuda.amp.common as amp_common
import torch.optim.optimizer as optimizer_module
import torch.optim.swa_utils as averaging_module
from torch.amp.autocast_mode import autocast
from torch.library import Library
from torch.overrides import TorchFunctionMode

from autotune.forecast.cuda_autocast import register_cuda_autocast
from autotune.forecast.cuda_kernels import register_cuda_kernels

CONVOLUTION_NOTE = "convolutions were taken to need no workspace, which cuDNN chooses when they run"
RECURRENT_NOTE = "recurrent layers were taken to need what they need on a CPU"
LAYER_NOTE = "attention in a layer that is one operator was taken to run a fused kernel where no mask is given"

UNLIKE_CUDA: dict[Any, str] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), CONVOLUTION_NOTE),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), CONVOLUTION_NOTE),
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), RECURRENT_NOTE),
    **dict.fromkeys((torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell), RECURRENT_NOTE),  # of `recurrence`
    **dict.fromkeys((torch._transformer_encoder_layer_fwd, torch._native_multi_head_attention), LAYER_NOTE),
}
"""Functions whose memory on a GPU is another, and what is said of them."""


@contextmanager
def cuda_on_cpu() -> Iterator[list[str]]:
    """Have tensors of the CPU without data follow CUDA's rules.

    Yields:
        What was guessed, each sentence once; grows while steps run.
    """
    notes: list[str] = []

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)

    with ExitStack() as stack:
        library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        stack.callback(library._destroy)
        _register(library, note)
        mode = _CudaMeansCpu(note)
        for owner, name, replacement in replacements(mode):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)
        stack.enter_context(mode)
        yield notes


def _register(library: Library, note: Callable[[str], None]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*[Oo]verrid")  # which is what this is for
        register_cuda_autocast(library)
        register_cuda_kernels(library, note)


def replacements(mode: TorchFunctionMode) -> list[tuple[Any, str, Any]]:
    """Owner, name and replacement of every attribute of torch's that is changed meanwhile.

    Args:
        mode: is on in backward passes, too, where checkpointed parts run the user's code; torch switches modes off
            inside its own functions.
    """
    is_enabled, dtype_of, start = torch.is_autocast_enabled, torch.get_autocast_dtype, autocast.__init__
    run_backward = torch.autograd.graph._engine_run_backward

    def init(self: autocast, device_type: str, dtype: torch.dtype | None = None, *args: Any, **kwargs: Any) -> None:
        start(self, _cpu_type(device_type), dtype or dtype_of(device_type), *args, **kwargs)

    def backward(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return run_backward(*args, **kwargs)

    return [
        (autocast, "__init__", init),
        (torch.autograd, "_engine_run_backward", backward),
        (torch, "is_autocast_enabled", lambda device_type="cuda": is_enabled(_cpu_type(device_type))),
        (torch, "get_autocast_dtype", lambda device_type: dtype_of(_cpu_type(device_type))),
        (torch.cuda, "synchronize", lambda device=None: None),
        (amp_common, "amp_definitely_not_available", lambda: False),
        (optimizer_module, "_get_foreach_kernels_supported_devices", _foreach_devices),
        (averaging_module, "_get_foreach_kernels_supported_devices", _foreach_devices),
    ]


def _foreach_devices() -> list[str]:
    return ["cpu", "cuda"]


def _cpu_type(device_type: str) -> str:
    return "cpu" if device_type == "cuda" else device_type


class _CudaMeansCpu(TorchFunctionMode):
    """Reads "cuda" as the CPU wherever torch's functions take a device, and notes functions unlike CUDA's."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {key: _here(value) if key == "device" else value for key, value in (kwargs or {}).items()}
        if func in UNLIKE_CUDA:
            self._note(UNLIKE_CUDA[func])
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = tuple(map(_here, args))
        return func(*args, **kwargs)


def _here(value: Any) -> Any:
    """The CPU in place of a CUDA device, however that is written; anything else as it is."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    return "cpu" if isinstance(value, str) and value.split(":")[0] == "cuda" else value
