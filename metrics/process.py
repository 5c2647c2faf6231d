"""What this process uses: CPU, memory, open files, garbage collection.

The client library has collectors for these, but they speak of one process only: in a scrape that stands for several
(`serve --processes N`) they would be missing. These are instruments like all others, set by whoever samples.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

_STATM: Final = Path("/proc/self/statm")
_DESCRIPTORS: Final = Path("/proc/self/fd")
_GENERATIONS: Final = range(3)


class ProcessUsage:
    """The process's own use of the machine. `sample()` sets the values; memory and files are told on Linux only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.cpu_seconds = Counter(
            "process_cpu_seconds_total", "Seconds of CPU, user and system, since the start.", registry=registry
        )
        self.resident_bytes = Gauge(
            "process_resident_memory_bytes",
            "Memory in use; of several processes the sum.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.open_descriptors = Gauge(
            "process_open_fds",
            "Open files and sockets; of several processes the sum.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        collections = Counter(
            "python_gc_collections_total", "Garbage collections, by generation.", ["generation"], registry=registry
        )
        pauses = Counter(
            "python_gc_pause_seconds_total",
            "Seconds for which garbage collection held everything up.",
            ["generation"],
            registry=registry,
        )
        self._collections = [collections.labels(str(generation)) for generation in _GENERATIONS]
        self._pauses = [pauses.labels(str(generation)) for generation in _GENERATIONS]
        self._cpu_told_s = 0.0
        self._began_s = 0.0
        # Told with the next sample: a counter is not touched in the middle of a collection, whose end finds its lock
        # perhaps taken.
        self._counted = [0 for _ in _GENERATIONS]
        self._paused_s = [0.0 for _ in _GENERATIONS]

    def sample(self) -> None:
        """Set the values as of now."""
        used_s = time.process_time()
        self.cpu_seconds.inc(max(0.0, used_s - self._cpu_told_s))
        self._cpu_told_s = used_s
        counted, self._counted = self._counted, [0 for _ in _GENERATIONS]
        paused_s, self._paused_s = self._paused_s, [0.0 for _ in _GENERATIONS]
        for generation in _GENERATIONS:
            self._collections[generation].inc(counted[generation])
            self._pauses[generation].inc(paused_s[generation])
        with contextlib.suppress(OSError):
            self.resident_bytes.set(int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            self.open_descriptors.set(sum(1 for _ in _DESCRIPTORS.iterdir()))

    @contextlib.contextmanager
    def watching_gc(self) -> Iterator[None]:
        """Measure the pauses of garbage collection meanwhile."""
        gc.callbacks.append(self._collected)
        try:
            yield
        finally:
            gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began_s = time.perf_counter()
        elif self._began_s:
            self._counted[info["generation"]] += 1
            self._paused_s[info["generation"]] += time.perf_counter() - self._began_s
