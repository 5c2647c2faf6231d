"""The reconciler: every payment without an outcome is due at some time; then it gets a job again.

It covers all that can go wrong with a job: an unknown outcome to ask about, a charge that could not be sent, a
worker that died, a stream that lost an entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from engine.errors import Overloaded, StoreUnavailable
from engine.ids import Clock
from engine.relay import Leases


class DuePayments(Protocol):
    """Payments by the time when they should be looked at."""

    async def redrive(self, shards: Sequence[int], *, now_ms: int, again_ms: int) -> int:
        """Give each payment that is due a job, and make it due again at `again_ms`. Returns how many."""
        ...


class Reconciler:
    """Redrives what is due in the shards it holds, until cancelled."""

    def __init__(
        self, due: DuePayments, leases: Leases, clock: Clock, *, redrive_after_s: float, every_s: float = 0.25
    ) -> None:
        self._due = due
        self._leases = leases
        self._clock = clock
        self._redrive_after_ms = int(redrive_after_s * 1000)
        self._every_s = every_s

    async def run(self) -> None:
        """Look for due payments until cancelled, then give the leases back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_leases())
                tasks.create_task(self._redrive_for_ever())
        finally:
            await self._leases.release()

    async def pass_once(self) -> int:
        """Redrive what is due now."""
        now = self._clock()
        return await self._due.redrive(self._leases.held(), now_ms=now, again_ms=now + self._redrive_after_ms)

    async def _keep_leases(self) -> None:
        while True:
            await self._leases.renew()
            await asyncio.sleep(1.5)

    async def _redrive_for_ever(self) -> None:
        while True:
            try:
                await self.pass_once()
            except (StoreUnavailable, Overloaded) as error:
                structlog.get_logger().warning("cannot redrive", reason=str(error))
                await asyncio.sleep(1.0)
            await asyncio.sleep(self._every_s)
