"""Scenarios that mostly wait run side by side: each in a thread and a loop of its own, a few at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

Scenario = Callable[[Path], Coroutine[Any, Any, None]]

AT_ONCE = int(os.environ.get("FAULTS_AT_ONCE", "10"))


class Scenarios:
    """All chosen scenarios, started in order; each test waits for its own."""

    def __init__(self, chosen: Iterable[Scenario], folder: Callable[[str], Path]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="scenario")
        self._running: dict[Scenario, Future[None]] = {
            scenario: self._pool.submit(_run, scenario, folder) for scenario in chosen
        }

    def outcome(self, scenario: Scenario) -> None:
        """Wait for the scenario; raises what it raised."""
        self._running[scenario].result()

    def close(self) -> None:
        """Start no more, and wait for those that run."""
        self._pool.shutdown(cancel_futures=True)


def _run(scenario: Scenario, folder: Callable[[str], Path]) -> None:
    asyncio.run(scenario(folder(getattr(scenario, "__name__", "scenario"))))


def side_by_side(scenario: Scenario) -> Callable[[Scenarios], None]:
    """Make a test of a scenario that needs only an empty folder; it may run before, and with, others."""

    def test(scenarios: Scenarios) -> None:
        scenarios.outcome(scenario)

    test.__name__ = getattr(scenario, "__name__", "test")
    test.__doc__ = scenario.__doc__
    test.scenario = scenario  # type: ignore[attr-defined]
    return test
