"""What must be measured by looking: depths, ages, loop lag, connections, the success rate."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

from engine.errors import Overloaded, StoreUnavailable
from engine.ids import Clock
from engine.store.depths import Depth, Depths, RedisDepths
from metrics.instruments import Instruments

_WINDOW_S = 300
_LAG_TICK_S = 0.1


class SuccessRate:
    """The share of completed payments among those that ended in the last five minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[list[int]] = deque()  # [second, completed, ended], oldest first

    def count(self, completed: bool) -> None:
        """A payment ended."""
        second = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        self._seconds[-1][1] += completed
        self._seconds[-1][2] += 1

    def now(self) -> float:
        """The rate, NaN when nothing ended."""
        oldest = int(self._clock()) - _WINDOW_S
        while self._seconds and self._seconds[0][0] < oldest:
            self._seconds.popleft()
        ended = sum(second[2] for second in self._seconds)
        return sum(second[1] for second in self._seconds) / ended if ended else math.nan


class Sampler:
    """Sets the gauges until cancelled."""

    def __init__(
        self,
        instruments: Instruments,
        depths: RedisDepths,
        success_rate: SuccessRate,
        connections: Callable[[], int],
        clock: Clock,
        *,
        every_s: float = 2.0,
    ) -> None:
        self._instruments = instruments
        self._depths = depths
        self._success_rate = success_rate
        self._connections = connections
        self._clock = clock
        self._every_s = every_s
        self.depths: Depths | None = None
        """As of the last look; None before the first."""
        self.lag_s = 0.0
        """The worst of the last round."""

    async def run(self) -> None:
        """Sample until cancelled."""
        with self._instruments.process.watching_gc():
            await self._run()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sample_for_ever())
            tasks.create_task(self._watch_lag())

    async def sample(self) -> None:
        """Set the gauges once. Depths stay as they were while the store does not answer."""
        self._instruments.process.sample()
        self._instruments.payment_success_rate.set(self._success_rate.now())
        self._instruments.database_connections.set(self._connections())
        try:
            depths = await self._depths.now()
        except (StoreUnavailable, Overloaded):
            return
        self.depths = depths
        instruments = self._instruments
        instruments.queue_depth.set(depths.jobs.waiting)
        instruments.queue_oldest.set(self._age_s(depths.jobs))
        instruments.outbox_depth.set(depths.outbox.waiting)
        instruments.outbox_oldest.set(self._age_s(depths.outbox))
        instruments.parked_events.set(depths.parked.waiting)
        instruments.unknown_attempts.set(depths.unknown.waiting)
        instruments.unknown_oldest.set(self._age_s(depths.unknown))
        instruments.open_items.set(depths.items.waiting)
        instruments.open_items_oldest.set(self._age_s(depths.items))

    def _age_s(self, depth: Depth) -> float:
        return max(0.0, (self._clock() - depth.oldest_ms) / 1000) if depth.waiting else 0.0

    async def _sample_for_ever(self) -> None:
        while True:
            await self.sample()
            await asyncio.sleep(self._every_s)

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            worst = 0.0
            for _ in range(round(self._every_s / _LAG_TICK_S)):
                expected = loop.time() + _LAG_TICK_S
                await asyncio.sleep(_LAG_TICK_S)
                worst = max(worst, loop.time() - expected)
            self.lag_s = worst
            self._instruments.loop_lag.set(worst)
