"""What a scrape costs when every label there can be is there: of one process, and of four that share a scrape.

It is CPU, since a scrape waits for nothing, and the event loop waits for it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

from metrics.exposition import Exposition
from metrics.instruments import Instruments
from metrics.merging import MergedExposition

_SURFACES: Final = 5
_ROUTES: Final = 16
"""Of each surface; on average there are fewer."""
_STATUSES: Final = ("200", "201", "400", "401", "404", "409", "422", "429", "503")
_COUNTERPARTIES: Final = 12
_STATES: Final = ("closed", "half_open", "open", "forced_open")
_OUTCOMES: Final = ("success", "failure", "slow", "neutral", "late", "refused_open", "refused_full")
_KINDS: Final = ("charge", "authorize", "capture", "void", "refund")
_ENDS: Final = ("approved", "rejected", "unknown", "not_sent")
_PROCESSES: Final = 4
_SCRAPES: Final = 20


class ScrapeCost(NamedTuple):
    """Milliseconds of CPU a scrape, the median, and how many lines it has."""

    one_ms: float
    four_ms: float
    lines: int


def scrape_cost(folder: Path) -> ScrapeCost:
    """Measure. Raises `AssertionError` when four processes do not show the same lines as one."""
    alone = Exposition(filled()).text
    files = folder / "scraping"
    files.mkdir()
    for _ in range(_PROCESSES):
        subprocess.run(
            [sys.executable, "-m", "bench.scraping"],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(files)},
            check=True,
        )
    together = MergedExposition(files).text
    # A gauge that nobody has set is shown by one process, and not by several.
    lines = {text.count(b"http_") for text in (alone(), together())}
    assert len(lines) == 1, lines
    return ScrapeCost(_median_ms(alone), _median_ms(together), alone().count(b"\n"))


def filled() -> CollectorRegistry:
    """Instruments with every label, each used once."""
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    for surface in (f"surface-{number}" for number in range(_SURFACES)):
        for route in (f"/api/payments/{number}/{{payment_id}}" for number in range(_ROUTES)):
            instruments.http_duration.labels(surface, "POST", route).observe(0.0123)
            for status in _STATUSES:
                instruments.http_requests.labels(surface, "POST", route, status).inc()
    for name in (f"counterparty-{number}" for number in range(_COUNTERPARTIES)):
        instruments.call_duration.labels(name).observe(0.0123)
        instruments.breaker_state.labels(name).set(0)
        instruments.retries.labels(name).inc()
        for outcome in _OUTCOMES:
            instruments.breaker_calls.labels(name, outcome).inc()
        for state in _STATES:
            instruments.breaker_transitions.labels(name, state).inc()
        for kind in _KINDS:
            for end in _ENDS:
                instruments.attempts.labels(name, kind, end).inc()
    return registry


def _median_ms(scrape: Callable[[], bytes]) -> float:
    taken_s = []
    for _ in range(_SCRAPES):
        began_s = time.process_time()
        scrape()
        taken_s.append(time.process_time() - began_s)
    return statistics.median(taken_s) * 1000


if __name__ == "__main__":
    # One of the processes that share a scrape: it leaves its files behind.
    filled()
