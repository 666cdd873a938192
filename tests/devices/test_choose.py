"""From a name to a device. What this machine lacks is pretended through torch's own questions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from autotune.devices import choose, open_device
from autotune.devices.cpu import CpuDevice
from autotune.errors import DeviceError

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
no_mps = pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")


def test_cpu_is_always_there() -> None:
    assert isinstance(open_device("cpu"), CpuDevice)


@no_gpu
@no_mps
def test_auto_is_the_cpu_where_there_is_nothing_better() -> None:
    assert open_device("auto").torch_device == "cpu"


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, autotune.devices, autotune.devices.host, autotune.devices.cgroups, autotune.devices.signs,"
        " autotune.devices.linux_process, autotune.devices.nvml; print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


@no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_on_a_cpu_build_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(DeviceError, match="is a CPU build; there is cpu") as caught:
        open_device(name)
    assert "--device cpu" in caught.value.remedy
    assert "install a CUDA build" in caught.value.remedy
    assert "\n" not in caught.value.message


@no_gpu
def test_cuda_on_a_cuda_build_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(DeviceError, match="no GPU or no driver was found") as caught:
        open_device("cuda")
    assert "CUDA_VISIBLE_DEVICES" in caught.value.remedy


@no_mps
def test_mps_says_what_is_missing_and_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    with pytest.raises(DeviceError, match=r"built without Metal; there is .*cpu"):
        open_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    with pytest.raises(DeviceError, match="no Apple GPU was found"):
        open_device("mps")


def test_the_name_that_tensors_give_apples_gpu_is_one_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert open_device("mps:0").torch_device == open_device("mps").torch_device == "mps"


@pytest.mark.parametrize(("is_initialized", "index"), [(False, 0), (True, 1)])
def test_cuda_without_an_index_is_the_current_device_and_asking_for_it_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, is_initialized: bool, index: int
) -> None:
    def current_device() -> int:
        assert is_initialized, "it was asked, and so has begun"
        return 1

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_initialized)
    monkeypatch.setattr(torch.cuda, "current_device", current_device)
    monkeypatch.setattr("autotune.devices.cuda.CudaDevice", lambda index: index)
    assert open_device("cuda") == index


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "", "tpu", "cuda:²"])
def test_a_name_that_is_no_device_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(DeviceError, match=r"is not a device; there is .*cpu"):
        open_device(name)


def test_an_index_past_the_last_lists_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="There is no cuda:2; there is cuda:0, cuda:1"):
        open_device("cuda:2")


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose.available_devices() == ["mps", "cpu"]
    assert open_device("auto").torch_device == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose.available_devices() == ["cuda:0", "mps", "cpu"]
