"""CUDA: the arithmetic anywhere, the device itself where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune.devices import open_device
from autotune.devices.cuda import CudaDevice, allocator_fraction, nvml_names, outside_bytes
from autotune.devices.signs import judge
from autotune.trial import Outcome

MIB = 2**20
GIB = 2**30
SIZES = st.integers(0, 200 * GIB)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


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


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    device = open_device("cuda")
    assert isinstance(device, CudaDevice)
    device.release()
    yield device
    device.limit(device.facts().total_bytes)
    device.release()


@gpu
@pytest.mark.gpu
def test_facts_of_a_real_gpu(device: CudaDevice) -> None:
    facts = device.facts()
    assert facts.name == torch.cuda.get_device_name(0)
    assert 0 < facts.free_bytes <= facts.total_bytes
    assert facts.runtime_version


@gpu
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


@gpu
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


@gpu
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
