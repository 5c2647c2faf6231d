"""What is scraped is what the client library would show, of one process or of several, but for `_created` gauges."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families

from metrics.exposition import Exposition
from metrics.instruments import Instruments
from metrics.merging import MergedExposition
from tests.support import ROOT

ODD = 'a "quoted" \\ back\nslash, ünï{code}="x"'


def lines_of_the_library(registry: CollectorRegistry) -> list[str]:
    """Its lines in order, without those that we leave out."""
    text = prometheus_client.generate_latest(registry).decode()
    families = text.split("# HELP ")[1:]
    return [f"# HELP {family}" for family in families if not family.split(" ", 1)[0].endswith("_created")]


def lines_of_ours(text: bytes) -> list[str]:
    """The same of ours."""
    return [f"# HELP {family}" for family in text.decode().split("# HELP ")[1:]]


def use(instruments: Instruments, seed: int) -> None:
    """Something in every kind of instrument, with labels that need escaping."""
    instruments.http_requests.labels("core", "POST", ODD, "201").inc(3 + seed)
    instruments.http_requests.labels("core", "GET", f"/only/{seed}", "200").inc()
    for value in (0.0009, 0.3, 4.0 + seed, 1e9):
        instruments.http_duration.labels("core", "POST", ODD).observe(value)
        instruments.store_batch.observe(value)
    instruments.attempts.labels("acquirer", "charge", "approved").inc(12345678.5)
    instruments.breaker_state.labels("user_service").set(seed)
    instruments.outbox_depth.set(10 * seed)
    instruments.loop_lag.set(0.25 / (seed + 1))
    instruments.store_fit.set(seed != 1)
    instruments.database_connections.set(4 + seed)
    instruments.process.sample()


def test_one_process_shows_what_the_library_shows() -> None:
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    use(instruments, 1)
    # Its time goes on meanwhile; what a sample has set does not.
    exposition = Exposition(registry)
    assert lines_of_ours(exposition.text()) == lines_of_the_library(registry)
    use(instruments, 2)
    instruments.payment_success_rate.set(math.nan)
    instruments.unknown_oldest.set(math.inf)
    instruments.rejections.labels("a new one").inc()
    assert lines_of_ours(exposition.text()) == lines_of_the_library(registry), "also with lines that were kept"


def test_the_odd_label_is_read_back_as_it_was() -> None:
    registry = CollectorRegistry()
    Counter("odd_total", f"Help with {ODD}.", ["label"], registry=registry).labels(ODD).inc()
    [family] = text_string_to_metric_families(Exposition(registry).text().decode())
    assert [sample.labels for sample in family.samples] == [{"label": ODD}]


def test_kinds_of_metrics_that_are_empty_or_unlabelled_are_shown_too() -> None:
    registry = CollectorRegistry()
    Gauge("some_gauge", "A gauge.", registry=registry).set(-0.5)
    Counter("some_counter_total", "Nothing has happened.", ["label"], registry=registry)
    Histogram("some_seconds", "A histogram.", ["label"], registry=registry).labels("a").observe(1e-7)
    assert lines_of_ours(Exposition(registry).text()) == lines_of_the_library(registry)


PROCESS = """
import sys
from prometheus_client import CollectorRegistry
from metrics.instruments import Instruments
from tests.metrics.test_exposition import use
use(Instruments(CollectorRegistry()), int(sys.argv[1]))
print(__import__("os").getpid())
"""


@pytest.fixture
def process(tmp_path: Path) -> Callable[[int], int]:
    """Runs a process that counts, to its end; gives its id. Its files stay, as those of a live one."""

    def run(seed: int) -> int:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, str(seed)],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout)

    return run


def merged_by_the_library(folder: Path) -> list[str]:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    # It also has the heads of gauges that nobody has set yet.
    return [family for family in lines_of_the_library(registry) if family.count("\n") > 2]


def in_any_order(families: list[str]) -> list[list[str]]:
    """Lines of a metric, and metrics: the library has them in the order of the files, and adds them up in that."""
    return sorted(sorted(_rounded(line) for line in family.splitlines()) for family in families)


def _rounded(line: str) -> str:
    start, _, value = line.rpartition(" ")
    return line if line.startswith("#") else f"{start} {float(value):.12g}"


def test_several_processes_show_what_the_library_shows_also_when_one_has_ended(
    process: Callable[[int], int], tmp_path: Path
) -> None:
    """Counters and histograms are summed for ever, gauges over those that live, each in its own way."""
    exposition = MergedExposition(tmp_path)
    assert exposition.text() == b""
    dead, _ = process(1), process(2)
    both = lines_of_ours(exposition.text())
    assert in_any_order(both) == in_any_order(merged_by_the_library(tmp_path))
    assert any('status="201",surface="core"} 9.0' in family for family in both), "3 + 1 and 3 + 2"
    mark_process_dead(dead, str(tmp_path))  # type: ignore[no-untyped-call]
    process(3)
    later = lines_of_ours(exposition.text())
    assert in_any_order(later) == in_any_order(merged_by_the_library(tmp_path))
    assert "database_connections_active 13.0" in "".join(later), "6 and 7; the dead one has none"
    assert len(later) == len(both)
    assert in_any_order(lines_of_ours(MergedExposition(tmp_path).text())) == in_any_order(later), (
        "nothing depends on before"
    )
