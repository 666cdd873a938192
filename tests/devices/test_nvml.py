"""NVML: the real package where there is no driver, and a library in its place that behaves as documented.

The stand-in takes every constant, structure and error class from the real package; only the calls that need a
driver are its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from autotune.devices.nvml import THROTTLE_WORDS, Nvml, open_nvml

GIB = 2**30
UUID = "GPU-1a2b3c4d-0000-1111-2222-333344445555"
PCI = "00000000:65:00.0"


def not_supported(*_: object) -> Any:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def find(known: str) -> Callable[[str], str]:
    def look_up(name: str) -> str:
        if name != known:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "the handle"

    return look_up


def memory_info(handle: str) -> pynvml.c_nvmlMemory_t:
    assert handle == "the handle"
    return pynvml.c_nvmlMemory_t(total=80 * GIB, free=60 * GIB, used=20 * GIB)


def processes(*listed: tuple[int, int | None]) -> Callable[[str], list[Any]]:
    return lambda handle: [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in listed]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fake = ModuleType("pynvml")
    fake.__dict__.update({name: value for name, value in vars(pynvml).items() if not name.startswith("__")})
    fake.__dict__.update(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=find(UUID),
        nvmlDeviceGetHandleByPciBusId=find(PCI),
        nvmlDeviceGetMemoryInfo=memory_info,
        nvmlDeviceGetComputeRunningProcesses=processes((os.getpid(), 2 * GIB), (4711, GIB), (4712, None)),
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: (
            pynvml.nvmlClocksEventReasonSwPowerCap
            | pynvml.nvmlClocksEventReasonHwThermalSlowdown
            | pynvml.nvmlClocksEventReasonGpuIdle
        ),
        nvmlDeviceGetClockInfo=lambda handle, kind: {pynvml.NVML_CLOCK_SM: 1755}[kind],
        nvmlDeviceGetPowerUsage=lambda handle: 312_500,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 9_876_543,
        nvmlSystemGetDriverVersion=lambda: "570.86.15",
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def opened(*names: str) -> Nvml:
    nvml = open_nvml(names)
    assert isinstance(nvml, Nvml), nvml
    return nvml


def test_readings_come_in_plain_units(library: ModuleType) -> None:
    nvml = opened(UUID)
    assert nvml.used_bytes() == 20 * GIB
    assert nvml.clock_mhz() == 1755
    assert nvml.power_watts() == pytest.approx(312.5)
    assert nvml.energy_joules() == pytest.approx(9876.543)
    assert nvml.driver_version() == "570.86.15"
    assert nvml.process_bytes(os.getpid()) == 2 * GIB


def test_a_device_is_found_by_the_first_name_that_is_known(library: ModuleType) -> None:
    assert opened("GPU-unknown", "MIG-unknown", PCI).used_bytes() == 20 * GIB


def test_throttling_is_told_in_words_and_being_idle_is_none(library: ModuleType) -> None:
    assert opened(UUID).throttle_reasons() == ("power cap", "too hot (hardware)")


def test_an_older_driver_knows_throttling_by_its_older_name(library: ModuleType) -> None:
    library.nvmlDeviceGetCurrentClocksEventReasons = not_supported  # type: ignore[attr-defined]
    library.nvmlDeviceGetCurrentClocksThrottleReasons = (  # type: ignore[attr-defined]
        lambda handle: pynvml.nvmlClocksThrottleReasonHwSlowdown
    )
    assert opened(UUID).throttle_reasons() == ("hardware slowdown",)


def test_every_throttle_word_stands_for_a_reason_of_the_real_package() -> None:
    assert all(getattr(pynvml, name) > 0 for name, _ in THROTTLE_WORDS)


@pytest.mark.parametrize(
    ("listed", "others"),
    [
        ([(os.getpid(), GIB)], 0),
        ([(os.getpid(), GIB), (4711, GIB)], 1),
        ([], 0),  # a container that hides processes
        ([(900_001, GIB)], 0),  # in a container: this process, by its number outside
        ([(900_001, GIB), (900_002, GIB)], 1),
    ],
)
def test_other_processes_leave_out_this_one(
    library: ModuleType, listed: list[tuple[int, int | None]], others: int
) -> None:
    library.nvmlDeviceGetComputeRunningProcesses = processes(*listed)  # type: ignore[attr-defined]
    assert opened(UUID).other_processes() == others


def test_memory_that_windows_does_not_tell_is_none(library: ModuleType) -> None:
    assert opened(UUID).process_bytes(4712) is None
    assert opened(UUID).process_bytes(99_999_999) is None


def test_what_is_not_supported_is_none_and_never_raises(library: ModuleType) -> None:
    nvml = opened(UUID)
    for name in list(vars(library)):
        if name.startswith(("nvmlDeviceGet", "nvmlSystemGet")):
            setattr(library, name, not_supported)
    readings = (
        nvml.used_bytes,
        nvml.other_processes,
        nvml.throttle_reasons,
        nvml.clock_mhz,
        nvml.power_watts,
        nvml.energy_joules,
        nvml.driver_version,
    )
    assert [reading() for reading in readings] == [None] * len(readings)
    assert nvml.process_bytes(os.getpid()) is None


def test_an_unknown_device_is_one_line(library: ModuleType) -> None:
    why = open_nvml(["GPU-nothing"])
    assert isinstance(why, str)
    assert "GPU-nothing" in why
    assert "\n" not in why


def test_a_missing_package_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # what import finds then raises ImportError
    why = open_nvml([UUID])
    assert isinstance(why, str)
    assert "pip install nvidia-ml-py" in why


def test_the_real_package_without_a_driver_is_one_line() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        why = open_nvml([UUID])
        assert isinstance(why, str)
        assert why.startswith("NVML is not used: ")
        assert "driver" in why
        assert "\n" not in why
    else:
        pytest.skip("this machine has a driver")
