"""Everything that protects the calls to one counterparty, in one place and one order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from metrics.instruments import Instruments
from resilience.breaker import Breaker
from resilience.bulkhead import Bulkhead
from resilience.errors import BulkheadFull
from resilience.observing import GuardObserver
from resilience.retry import Retry
from resilience.settings import GuardSettings
from resilience.status import BreakerStatus

__all__ = ["BreakerStatus", "Guard", "GuardSettings"]

T = TypeVar("T")


class Guard:
    """Guards one counterparty: deadline, bulkhead, retry, breaker, time limit per try, from the outside in.

    For one event loop. Opens nothing and needs no closing.
    """

    def __init__(
        self,
        name: str,
        settings: GuardSettings,
        instruments: Instruments,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._deadline_s, self._timeout_s = settings.deadline_s, settings.timeout_s
        self._try_least_s = settings.try_least_s
        self._clock = clock
        self._observer = GuardObserver(name, instruments)
        self._bulkhead = Bulkhead(
            name,
            concurrency_max=settings.concurrency_max,
            waiting_max=settings.waiting_max,
            waiting_timeout_s=settings.waiting_timeout_s,
        )
        self._retry = Retry(settings, self._observer.retried, clock=clock, sleep=sleep, random=random)
        self._breaker = Breaker(name, settings, self._observer, clock=clock, wall_clock=wall_clock, random=random)

    async def call(
        self, try_once: Callable[[], Awaitable[T]], *, idempotent: bool = False, limits_itself: bool = False
    ) -> T:
        """Call the counterparty under protection; `try_once` is run once per try and makes a new request each time.

        `idempotent`: the request may reach the counterparty twice, so it is repeated even if it may have been sent.
        `limits_itself`: each try ends by itself within `timeout_s`; without it the limit is set here.

        Raises what `try_once` raises; `NoAnswer` when a try takes too long; `BreakerOpen` or `BulkheadFull` when
        nothing was sent by any try of this call. It takes at most `deadline_s`: no try starts when it could not
        last long enough to tell, because a try cut short turns a sure "not sent" into an "unknown".
        """
        deadline_s = self._clock() + self._deadline_s
        stop_at_s = deadline_s - self._try_least_s
        if not self._bulkhead.enter_now():
            await self._queue(stop_at_s)

        def limited_try() -> Awaitable[T]:
            left_s = deadline_s - self._clock()
            if left_s < self._timeout_s:
                # The function would keep its own limit, but not this shorter one.
                return self._breaker.call(try_once, limit_s=left_s)
            return self._breaker.call(try_once, limit_s=self._timeout_s, limits_itself=limits_itself)

        try:
            return await self._retry.call(limited_try, idempotent=idempotent, stop_at_s=stop_at_s)
        finally:
            self._bulkhead.leave()

    @property
    def in_flight(self) -> int:
        """Calls that hold a place in the bulkhead; 0 at rest."""
        return self._bulkhead.in_flight

    @property
    def waiting(self) -> int:
        """Calls that wait for a place; 0 at rest."""
        return self._bulkhead.waiting

    def status(self) -> BreakerStatus:
        """The breaker's state and counts as of now."""
        return self._breaker.status()

    def force_open(self) -> None:
        """Isolate the counterparty until `reset` or `force_close`."""
        self._breaker.force_open()

    def force_close(self) -> None:
        """Switch the breaker off, still counting, until `reset` or `force_open`."""
        self._breaker.force_close()

    def reset(self) -> None:
        """Back to normal: closed, counts empty."""
        self._breaker.reset()

    async def _queue(self, stop_at_s: float) -> None:
        try:
            await self._bulkhead.enter(patience_s=stop_at_s - self._clock())
            if self._clock() > stop_at_s:
                self._bulkhead.leave()
                raise self._bulkhead.full()
        except BulkheadFull:
            self._observer.full()
            raise
