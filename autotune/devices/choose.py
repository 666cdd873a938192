"""From a device's name to the device, or to one line on why it isn't there.

Needs torch. Promises that a name which is not available is refused with what there is and what to do.
"""

from __future__ import annotations

import re

import torch

from autotune.devices import Device
from autotune.devices.cpu import CpuDevice
from autotune.errors import DeviceError


def open_device(name: str) -> Device:
    """The device by its torch name, or for "auto" the best there is: CUDA or ROCm, then Apple's GPU, then CPU.

    Raises:
        DeviceError: the name is unknown, or no such device is there; the message lists what is.
    """
    if name == "auto":
        name = available_devices()[0]
    if name == "cpu":
        return CpuDevice()
    if name in ("mps", "mps:0"):  # the latter is what a tensor there says
        return _open_mps()
    if match := re.fullmatch(r"cuda(?::([0-9]+))?", name):
        return _open_cuda(None if match[1] is None else int(match[1]))
    raise DeviceError(
        f"{name!r} is not a device; there is {_listed()}.", remedy=f"Use --device {available_devices()[0]}."
    )


def available_devices() -> list[str]:
    """The names of the devices that are there, the best first; "cpu" is always the last."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return gpus + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"]


def _open_cuda(index: int | None) -> Device:
    if not torch.cuda.is_available():
        raise DeviceError(f"There is no CUDA device: {_why_no_cuda()}; there is {_listed()}.", remedy=_cuda_remedy())
    if index is None:  # asking for the current one makes a context, whose memory CudaDevice could then not tell
        index = torch.cuda.current_device() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
    if index >= torch.cuda.device_count():
        best = available_devices()[0]
        raise DeviceError(f"There is no cuda:{index}; there is {_listed()}.", remedy=f"Use --device {best}.")
    from autotune.devices.cuda import CudaDevice

    return CudaDevice(index)


def _open_mps() -> Device:
    if not torch.backends.mps.is_available():
        why = "no Apple GPU was found" if torch.backends.mps.is_built() else "this torch is built without Metal"
        raise DeviceError(
            f"There is no mps device: {why}; there is {_listed()}.", remedy=f"Use --device {available_devices()[0]}."
        )
    from autotune.devices.mps import MpsDevice

    return MpsDevice()


def _listed() -> str:
    return ", ".join(available_devices())


def _is_cpu_build() -> bool:
    return torch.version.cuda is None and torch.version.hip is None


def _why_no_cuda() -> str:
    if _is_cpu_build():
        return f"torch {torch.__version__} is a CPU build"
    return "no GPU or no driver was found"


def _cuda_remedy() -> str:
    if _is_cpu_build():
        return "Use --device cpu, or install a CUDA build of torch (https://pytorch.org/get-started)."
    return "Use --device cpu, or install the GPU's driver and check CUDA_VISIBLE_DEVICES."
