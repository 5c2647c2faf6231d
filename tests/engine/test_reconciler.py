"""The reconciler: what is due gets a job, for as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from engine.errors import Overloaded, StoreUnavailable
from engine.reconciler import Reconciler
from tests.engine.making import NOW_MS, FakeClock
from tests.engine.test_relay import FakeLeases, until


class FakeDue:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int, int]] = []
        self.error: Exception | None = None

    async def redrive(self, shards: Sequence[int], *, now_ms: int, again_ms: int) -> int:
        await asyncio.sleep(0)
        self.asked.append((list(shards), now_ms, again_ms))
        if self.error is not None:
            raise self.error
        return 2


def a_reconciler(due: FakeDue, leases: FakeLeases) -> Reconciler:
    return Reconciler(due, leases, FakeClock(), redrive_after_s=120.0, every_s=0.001)


async def test_what_is_due_now_in_our_shards_is_driven_and_due_again_later() -> None:
    due = FakeDue()
    assert await a_reconciler(due, FakeLeases(3, 7)).pass_once() == 2
    assert due.asked == [([3, 7], NOW_MS, NOW_MS + 120_000)]


async def test_it_looks_again_and_again_and_gives_its_leases_back_when_it_ends() -> None:
    due, leases = FakeDue(), FakeLeases(0)
    running = asyncio.create_task(a_reconciler(due, leases).run())
    await until(lambda: len(due.asked) > 3)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() and leases.renewed >= 1 and leases.released


@pytest.mark.parametrize("error", [StoreUnavailable("away"), Overloaded("store_waiting")])
async def test_a_store_that_is_away_does_not_end_it(
    error: Exception, log_lines: list[MutableMapping[str, Any]]
) -> None:
    due, leases = FakeDue(), FakeLeases(0)
    due.error = error
    running = asyncio.create_task(a_reconciler(due, leases).run())
    await until(lambda: bool(log_lines))
    assert not running.done() and log_lines[0]["event"] == "cannot redrive"
    running.cancel()
    await asyncio.wait([running])
    assert leases.released
