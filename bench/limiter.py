"""What a rate limit costs a request: counted in a real Redis, alone and with 32 others at the same time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final, NamedTuple

import uvloop
from prometheus_client import CollectorRegistry

from bench import processes
from engine.store.batch import Batcher
from engine.store.connect import RedisSettings, connect
from engine.store.windows import RedisWindows
from metrics.instruments import Instruments
from resilience.limit_settings import LimitsSettings, Rule
from resilience.limiter import Limiter

_REQUESTS: Final = 10_000
_CALLERS: Final = 500
_RULE: Final = Rule("gateway", 100, 900, "open")


class LimiterCost(NamedTuple):
    """Microseconds of this process's CPU a request."""

    alone_us: float
    together_us: float


def limiter_cost(folder: Path) -> LimiterCost:
    """Measure. Raises `AssertionError` when requests were not counted."""
    with processes.redis_server(folder) as store, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(processes.redis_url(store)))


async def _measure(url: str) -> LimiterCost:
    client = connect(RedisSettings(url=url, connections_max=2))
    instruments = Instruments(CollectorRegistry())
    batcher = Batcher(client, instruments, pipelines_max=1)
    sending = asyncio.create_task(batcher.run())
    # A machine that stands still for a moment is not to be measured as a failure.
    limiter = Limiter(RedisWindows(batcher), LimitsSettings(timeout_s=10), instruments)
    try:
        await _cost_us(limiter, 1, "warm")
        return LimiterCost(await _cost_us(limiter, 1, "alone"), await _cost_us(limiter, 32, "together"))
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        await client.aclose()


async def _cost_us(limiter: Limiter, at_once: int, name: str) -> float:
    async def work(first: int) -> None:
        for number in range(first, _REQUESTS, at_once):
            assert await limiter.take(_RULE, f"address:{name}-{number % _CALLERS}") is not None

    before_s = time.process_time()
    await asyncio.gather(*(work(first) for first in range(at_once)))
    return (time.process_time() - before_s) * 1e6 / _REQUESTS
