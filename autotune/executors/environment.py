"""Where a probe runs, put together from what the worker said and what this process sees. No torch."""

from __future__ import annotations

import autotune
from autotune.devices import host
from autotune.executors.messages import Built
from autotune.trial import Environment


def environment_of(built: Built) -> Environment:
    """Where this probe runs, from what the worker said and what this process sees."""
    facts = host.facts()
    on_cpu = built.device == "cpu"
    return Environment(
        autotune_version=autotune.__version__,
        python_version=facts.python_version,
        torch_version=built.torch_version,
        platform=facts.platform,
        processor=facts.processor,
        physical_cores=facts.physical_cores,
        logical_cores=facts.logical_cores,
        threads=built.threads,
        host_memory_bytes=facts.memory_bytes,
        container_limit_bytes=facts.container_limit_bytes,
        container_processors=facts.container_processors,
        device=built.device,
        device_name=facts.processor if on_cpu else built.device_name,
        device_memory_bytes=None if on_cpu else built.total_bytes,
        driver_version=built.driver_version,
        runtime_version=built.runtime_version,
        allocator_settings=host.allocator_settings(host.heeded_by_malloc()),
    )


def warnings_of(built: Built) -> tuple[str, ...]:
    """What the worker warns of, and what of this process' own environment neither it nor the worker heeds."""
    late = host.set_too_late()
    if not late:
        return built.warnings
    names = " and ".join(late)
    return (
        *built.warnings,
        f"{names} changed after this process had started, when memory was already allocated without it: neither the "
        "trials nor a training here heeds that. Set it in the shell, before Python starts.",
    )
