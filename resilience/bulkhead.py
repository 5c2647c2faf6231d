"""A bound on the calls to one counterparty that are under way, and on those that wait for a place."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from resilience.errors import BulkheadFull


class Bulkhead:
    """Admits `concurrency_max` calls at a time; up to `waiting_max` more wait their turn, first come, first served.

    Every `enter_now` that answered True and every `enter` that returned is followed by exactly one `leave`.
    """

    def __init__(self, name: str, *, concurrency_max: int, waiting_max: int, waiting_timeout_s: float) -> None:
        self.name = name
        self._concurrency_max = concurrency_max
        self._waiting_max = waiting_max
        self._waiting_timeout_s = waiting_timeout_s
        self._in_flight = 0
        # A waiter's result says whether it got a place. Places are handed over, never put up for grabs,
        # so nobody overtakes the queue and a place is free only when nobody waits.
        self._waiters: deque[asyncio.Future[bool]] = deque()

    @property
    def in_flight(self) -> int:
        """Calls that hold a place."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiters)

    def enter_now(self) -> bool:
        """Take a place if one is free."""
        if self._in_flight >= self._concurrency_max:
            return False
        self._in_flight += 1
        return True

    async def enter(self, *, patience_s: float | None = None) -> None:
        """Take a place, waiting up to `waiting_timeout_s`, or `patience_s` if that is less; else `BulkheadFull`."""
        if self.enter_now():
            return
        wait_s = self._waiting_timeout_s if patience_s is None else min(patience_s, self._waiting_timeout_s)
        if len(self._waiters) >= self._waiting_max or wait_s <= 0:
            raise self.full()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(wait_s, self._give_up, waiter)
        self._waiters.append(waiter)
        try:
            got_a_place = await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                # `leave` may have met it first and thrown it out.
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            elif waiter.result():
                # The place was handed over in the same loop pass as the cancellation: pass it on.
                self.leave()
            raise
        finally:
            timer.cancel()
        if not got_a_place:
            raise self.full()

    def leave(self) -> None:
        """Give the place to the first who still waits, or free it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return
        self._in_flight -= 1

    def full(self) -> BulkheadFull:
        """The refusal, to be raised by whoever cannot wait any longer."""
        return BulkheadFull(
            self.name,
            f"{self._in_flight} calls under way, {len(self._waiters)} waiting",
            retry_after_s=self._waiting_timeout_s,
        )

    def _give_up(self, waiter: asyncio.Future[bool]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            waiter.set_result(False)
