"""CUDA: the bookkeeping over a GPU that is not here, the device itself where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.devices import open_device
from autotune.devices.cuda import CudaDevice, allocator_fraction, fraction_set, nvml_names, outside_bytes
from autotune.devices.signs import judge
from autotune.trial import Outcome

MIB = 2**20
GIB = 2**30
SIZES = st.integers(0, 200 * GIB)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@given(budget=SIZES, outside=SIZES, total=st.integers(1, 200 * GIB))
def test_the_share_of_the_allocator_is_legal_and_keeps_the_budget(budget: int, outside: int, total: int) -> None:
    fraction = allocator_fraction(budget, outside, total)
    assert 0 < fraction <= 1
    allowed = fraction * total
    assert allowed <= max(1, budget - outside) * (1 + 1e-12)
    if 1 <= budget - outside <= total:
        assert allowed == pytest.approx(budget - outside)


def test_what_is_outside_the_allocator_is_what_the_driver_says_less_what_is_reserved() -> None:
    assert outside_bytes(3 * GIB, None, 20 * GIB, 2 * GIB) == GIB


def test_where_the_driver_does_not_list_us_the_growth_since_before_the_context_counts() -> None:
    assert outside_bytes(None, 5 * GIB, 8 * GIB, 2 * GIB) == GIB


def test_what_is_outside_is_unknown_without_either_and_never_negative() -> None:
    assert outside_bytes(None, None, 8 * GIB, GIB) is None
    assert outside_bytes(None, 5 * GIB, None, GIB) is None
    assert outside_bytes(None, 5 * GIB, 3 * GIB, GIB) == 0  # another process left meanwhile
    assert outside_bytes(GIB, 0, 0, 2 * GIB) == 0


def test_names_for_nvml_carry_its_prefixes_and_format() -> None:
    properties = SimpleNamespace(uuid="1a2b", pci_domain_id=0, pci_bus_id=0x65, pci_device_id=0)
    assert nvml_names(properties) == ["GPU-1a2b", "MIG-1a2b", "00000000:65:00.0"]
    assert nvml_names(SimpleNamespace()) == []


class Gpu:
    """Stands in for the functions of torch.cuda and for NVML: one GPU of 10 GiB, of which another process holds 1.

    This process' context takes half a GiB, and comes to be with the first question that needs it, as CUDA's does.
    """

    def __init__(self, *, lists_us: bool) -> None:
        self.lists_us = lists_us
        self.context_bytes = self.reserved_bytes = self.peak_bytes = self.retries = 0
        self.fraction, self.joules = 1.0, 1000.0

    def used_bytes(self) -> int:
        return GIB + self.context_bytes + self.reserved_bytes

    def process_bytes(self, pid: int) -> int | None:
        return self.context_bytes + self.reserved_bytes if self.lists_us and pid == os.getpid() else None

    def mem_get_info(self, index: int) -> tuple[int, int]:
        self.context_bytes = GIB // 2
        return 10 * GIB - self.used_bytes(), 10 * GIB

    def reserve(self, reserved_bytes: int) -> None:
        self.context_bytes = GIB // 2
        self.reserved_bytes = reserved_bytes
        self.peak_bytes = max(self.peak_bytes, reserved_bytes)

    def reset_peak(self, index: int) -> None:
        self.peak_bytes = self.reserved_bytes

    def set_fraction(self, fraction: float, index: int) -> None:
        self.fraction = fraction

    def other_processes(self) -> int:
        return 1

    def energy_joules(self) -> float:
        return self.joules

    def clock_mhz(self) -> int:
        return 1755

    def throttle_reasons(self) -> tuple[str, ...]:
        return ("power cap",)

    def driver_version(self) -> str:
        return "570.86.15"


def opened_on(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, nvml: object, own_fraction: float | None = None) -> CudaDevice:
    """The device; `own_fraction` is what a process that uses the GPU already has left to its allocator."""
    functions = {
        "is_initialized": lambda: own_fraction is not None,
        "get_per_process_memory_fraction": lambda index: own_fraction,
        "get_device_properties": lambda index: SimpleNamespace(name="NVIDIA A10", uuid="1a2b"),
        "mem_get_info": gpu.mem_get_info,
        "memory_reserved": lambda index: gpu.reserved_bytes,
        "max_memory_reserved": lambda index: gpu.peak_bytes,
        "max_memory_allocated": lambda index: gpu.peak_bytes // 2,
        "memory_stats": lambda index: {"num_alloc_retries": gpu.retries},
        "reset_peak_memory_stats": gpu.reset_peak,
        "set_per_process_memory_fraction": gpu.set_fraction,
        "synchronize": lambda index: None,
        "empty_cache": lambda: None,
    }
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function, raising=False)
    monkeypatch.setattr("autotune.devices.cuda.open_nvml", lambda names: nvml)
    return CudaDevice(0)


@pytest.mark.parametrize("lists_us", [True, False])
def test_the_context_counts_in_the_peak_and_as_free_to_a_new_process(
    lists_us: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(lists_us=lists_us)
    device = opened_on(gpu, monkeypatch, gpu)
    facts = device.facts()
    assert (facts.total_bytes, facts.free_bytes) == (10 * GIB, 9 * GIB)
    assert facts.driver_version == "570.86.15"
    assert "1 other process(es) compute on cuda:0" in facts.warnings[0]
    gpu.reserve(GIB)
    gpu.retries = 2
    device.start_reading()
    gpu.reserve(3 * GIB)
    gpu.reserve(2 * GIB)
    gpu.retries = 5
    memory = device.memory()
    assert memory.base_bytes == GIB + GIB // 2
    assert memory.peak_bytes == 3 * GIB + GIB // 2
    assert (memory.reserved_bytes, memory.allocator_retries) == (3 * GIB, 3)
    assert memory.method == "reserved by the allocator, plus context"
    assert device.facts().free_bytes + device.held_bytes() == 9 * GIB  # each byte once
    device.limit(4 * GIB)
    assert gpu.fraction == pytest.approx(0.35)


def test_without_nvml_the_context_counts_on_neither_side_and_the_record_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(lists_us=False)
    device = opened_on(gpu, monkeypatch, "NVML is not used: it is missing.")
    assert device.facts().free_bytes == 8 * GIB + GIB // 2
    assert device.facts().warnings == ("NVML is not used: it is missing.",)
    device.start_reading()
    gpu.reserve(3 * GIB)
    assert device.memory().peak_bytes == 3 * GIB
    assert "context not known" in device.memory().method
    device.start_conditions()
    assert device.conditions(1, 1).power_watts is None


def test_a_limit_of_the_callers_own_bounds_what_is_free_and_the_budget_and_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(lists_us=True)
    device = opened_on(gpu, monkeypatch, gpu, own_fraction=0.5)
    assert device.facts().free_bytes == 5 * GIB + GIB // 2
    gpu.reserve(2 * GIB)
    assert device.facts().free_bytes + device.held_bytes() == 5 * GIB + GIB // 2  # each byte once
    for budget_bytes, fraction in ((2 * GIB, 0.15), (8 * GIB, 0.5), (10 * GIB, 0.5)):
        device.limit(budget_bytes)
        assert gpu.fraction == pytest.approx(fraction)


def test_a_budget_of_the_whole_device_lifts_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(lists_us=True)
    device = opened_on(gpu, monkeypatch, gpu)
    device.limit(4 * GIB)
    device.limit(device.facts().total_bytes)
    assert gpu.fraction == 1.0


def test_an_older_torch_tells_of_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction", raising=False)
    assert fraction_set(0) == 1.0


def test_releasing_a_device_that_died_does_not_hide_what_it_died_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty_cache() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    gpu = Gpu(lists_us=True)
    device = opened_on(gpu, monkeypatch, gpu)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    device.release()


def test_energy_is_a_difference_over_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(lists_us=True)
    device = opened_on(gpu, monkeypatch, gpu)
    device.start_conditions()
    gpu.joules += 64
    conditions = device.conditions(steps=4, samples=128)
    assert conditions.energy_joules_per_sample == pytest.approx(0.5)
    assert conditions.power_watts is not None
    assert conditions.power_watts > 0
    assert (conditions.clock_mhz, conditions.throttle_reasons, conditions.other_device_processes) == (
        1755,
        ("power cap",),
        1,
    )


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    device = open_device("cuda")
    assert isinstance(device, CudaDevice)
    device.release()
    yield device
    device.limit(device.facts().total_bytes)
    device.release()


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "auto"])
def test_a_real_gpu_is_looked_at_before_its_context_is_made(name: str) -> None:
    code = (
        f"from autotune.devices import open_device; device = open_device({name!r}); "
        "print(device._nvml is None or device._used_before_bytes is not None)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "True"


@needs_gpu
@pytest.mark.gpu
def test_a_limit_of_the_callers_own_on_a_real_gpu_is_put_back() -> None:
    torch.ones(1, device="cuda")
    torch.cuda.set_per_process_memory_fraction(0.5, 0)
    try:
        device = open_device("cuda:0")
        total_bytes = device.facts().total_bytes
        assert device.facts().free_bytes < 0.6 * total_bytes
        device.limit(GIB)
        device.limit(total_bytes)
        assert fraction_set(0) == 0.5
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


@needs_gpu
@pytest.mark.gpu
def test_facts_of_a_real_gpu(device: CudaDevice) -> None:
    facts = device.facts()
    assert facts.name == torch.cuda.get_device_name(0)
    assert 0 < facts.free_bytes <= facts.total_bytes
    assert facts.runtime_version


@needs_gpu
@pytest.mark.gpu
def test_the_peak_on_a_real_gpu_holds_what_was_freed(device: CudaDevice) -> None:
    device.start_reading()
    held = torch.ones(256 * MIB // 4, device=device.torch_device)
    del held
    device.synchronize()
    memory = device.memory()
    assert memory.reserved_bytes is not None
    assert memory.peak_bytes >= memory.reserved_bytes >= 256 * MIB
    assert 250 * MIB < memory.peak_bytes - memory.base_bytes < 320 * MIB
    device.release()
    device.start_reading()
    assert device.memory().peak_bytes < memory.peak_bytes - 200 * MIB


@needs_gpu
@pytest.mark.gpu
def test_the_limit_on_a_real_gpu_raises_what_a_full_device_raises(device: CudaDevice) -> None:
    torch.ones(1, device=device.torch_device)
    budget_bytes = device.memory().peak_bytes + 128 * MIB
    device.limit(budget_bytes)
    within = torch.empty(64 * MIB, dtype=torch.uint8, device=device.torch_device)
    assert within.numel() == 64 * MIB
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(512 * MIB, dtype=torch.uint8, device=device.torch_device)
    assert judge(caught.value) is Outcome.OUT_OF_MEMORY
    device.limit(device.facts().total_bytes)
    assert torch.empty(512 * MIB, dtype=torch.uint8, device=device.torch_device).numel() == 512 * MIB


@needs_gpu
@pytest.mark.gpu
def test_conditions_of_a_real_gpu(device: CudaDevice) -> None:
    device.start_conditions()
    matrix = torch.rand(2048, 2048, device=device.torch_device)
    for _ in range(50):
        matrix = (matrix @ matrix).clamp(0, 1)
    device.synchronize()
    conditions = device.conditions(steps=50, samples=100)
    assert conditions.energy_joules_per_sample is None or conditions.energy_joules_per_sample >= 0
    assert conditions.clock_mhz is None or conditions.clock_mhz > 0
