"""What a process tells of itself: CPU, memory, files, garbage collection."""

from __future__ import annotations

import gc
import os
import time

import pytest
from prometheus_client import CollectorRegistry

from metrics.process import ProcessUsage


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def usage(registry: CollectorRegistry) -> ProcessUsage:
    return ProcessUsage(registry)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """What a scrape would show."""
    found = registry.get_sample_value(name, labels)
    assert found is not None, f"{name} is not there"
    return found


def test_cpu_is_what_the_process_has_used_and_only_grows(usage: ProcessUsage, registry: CollectorRegistry) -> None:
    usage.sample()
    before_s = value(registry, "process_cpu_seconds_total")
    used_s = time.process_time()
    while time.process_time() < used_s + 0.05:
        pass
    usage.sample()
    gained_s = value(registry, "process_cpu_seconds_total") - before_s
    assert gained_s >= 0.05
    assert value(registry, "process_cpu_seconds_total") <= time.process_time()


def test_memory_and_files_are_those_of_this_process(usage: ProcessUsage, registry: CollectorRegistry) -> None:
    usage.sample()
    files, memory = value(registry, "process_open_fds"), value(registry, "process_resident_memory_bytes")
    assert memory > 10_000_000, "a Python with this library is never smaller"
    held = bytearray(os.urandom(30_000_000))
    with open(os.devnull) as _, open(os.devnull) as _:  # noqa: PTH123
        usage.sample()
    assert value(registry, "process_open_fds") == files + 2
    assert value(registry, "process_resident_memory_bytes") > memory + 20_000_000
    assert held


def test_collections_are_counted_while_somebody_watches(usage: ProcessUsage, registry: CollectorRegistry) -> None:
    callbacks = list(gc.callbacks)
    gc.collect()
    with usage.watching_gc():
        gc.collect()
        gc.collect()
    gc.collect()
    usage.sample()
    assert value(registry, "python_gc_collections_total", generation="2") == 2
    assert value(registry, "python_gc_pause_seconds_total", generation="2") > 0
    assert gc.callbacks == callbacks
    usage.sample()
    assert value(registry, "python_gc_collections_total", generation="2") == 2, "nothing is counted twice"
