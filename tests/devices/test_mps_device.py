"""Apple's GPU: its bookkeeping, over a Metal that is not here and that keeps torch.mps' own units and names."""

from __future__ import annotations

import pytest
import torch

from autotune.devices.mps import MpsDevice

GIB = 2**30


class Metal:
    """Stands in for the functions of torch.mps."""

    def __init__(self) -> None:
        self.driver_bytes = GIB
        self.fraction = 0.0

    def set_fraction(self, fraction: float) -> None:
        assert 0 < fraction <= 2  # as torch.mps.set_per_process_memory_fraction documents
        self.fraction = fraction


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> Metal:
    metal = Metal()
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: metal.driver_bytes)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: metal.driver_bytes // 2)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16 * GIB)
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", metal.set_fraction)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: None)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    return metal


def test_the_peak_is_the_highest_sample_since_the_reading_began(metal: Metal) -> None:
    device = MpsDevice()
    metal.driver_bytes = 9 * GIB
    device.synchronize()
    metal.driver_bytes = 2 * GIB
    device.start_reading()
    for sampled in (3 * GIB, 5 * GIB, 4 * GIB):
        metal.driver_bytes = sampled
        device.synchronize()
    memory = device.memory()
    assert memory.base_bytes == 2 * GIB
    assert memory.peak_bytes == 5 * GIB
    assert "sampled" in memory.method


@pytest.mark.parametrize(("budget", "fraction"), [(8 * GIB, 0.5), (64 * GIB, 1.0), (0, 1 / (16 * GIB))])
def test_the_limit_is_a_share_of_what_metal_recommends(metal: Metal, budget: int, fraction: float) -> None:
    MpsDevice().limit(budget)
    assert metal.fraction == pytest.approx(fraction)


def test_free_is_what_metal_recommends_less_what_is_held_and_no_more_than_the_machine_has(
    metal: Metal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.devices.host.available_bytes", lambda: 100 * GIB)
    assert MpsDevice().facts().free_bytes == 15 * GIB
    monkeypatch.setattr("autotune.devices.host.available_bytes", lambda: 3 * GIB)
    assert MpsDevice().facts().free_bytes == 3 * GIB
