"""What is measured by looking: the success rate over five minutes, and the gauges of the queues."""

from __future__ import annotations

import asyncio
import math

import pytest
from prometheus_client import CollectorRegistry

from app.sampling import Sampler, SuccessRate
from engine.errors import Overloaded, StoreUnavailable
from engine.store.depths import Depth, Depths, RedisDepths
from metrics.instruments import Instruments
from tests.engine.making import NOW_MS, FakeClock


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> SuccessRate:
    return SuccessRate(clock)


def test_there_is_no_rate_before_anything_ended(rate: SuccessRate) -> None:
    assert math.isnan(rate.now())


@pytest.mark.parametrize(("completed", "failed", "expected"), [(1, 0, 1.0), (0, 1, 0.0), (3, 1, 0.75), (1, 2, 1 / 3)])
def test_the_rate_is_the_completed_among_the_ended(
    rate: SuccessRate, completed: int, failed: int, expected: float
) -> None:
    for outcome in [True] * completed + [False] * failed:
        rate.count(outcome)
    assert rate.now() == pytest.approx(expected)


def test_what_ended_more_than_five_minutes_ago_no_longer_counts(rate: SuccessRate, clock: Clock) -> None:
    rate.count(False)
    clock.now_s += 200
    rate.count(True)
    assert rate.now() == 0.5
    clock.now_s += 100
    assert rate.now() == 0.5
    clock.now_s += 1
    assert rate.now() == 1.0
    clock.now_s += 200
    assert math.isnan(rate.now())


def test_the_window_slides_second_by_second(rate: SuccessRate, clock: Clock) -> None:
    for second in range(1000):
        rate.count(second % 4 == 0)
        clock.now_s += 1
        rate.now()
    assert rate.now() == pytest.approx(0.25, abs=0.005)
    assert len(rate._seconds) <= 301, "memory is bounded by the window"


def test_many_in_one_second_cost_one_place(rate: SuccessRate) -> None:
    for _ in range(1000):
        rate.count(True)
    assert len(rate._seconds) == 1 and rate.now() == 1.0


class FakeDepths(RedisDepths):
    """Depths as told."""

    def __init__(self, depths: Depths) -> None:
        self.depths = depths
        self.error: Exception | None = None

    async def now(self) -> Depths:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.depths


DEPTHS = Depths(
    jobs=Depth(3, NOW_MS - 1500),
    outbox=Depth(0, 0),
    unknown=Depth(2, NOW_MS + 500),
    items=Depth(1, NOW_MS - 9000),
    parked=Depth(4, 0),
)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), Overloaded("store_waiting")])
async def test_the_gauges_show_the_depths_and_ages_and_stay_while_the_store_is_away(
    rate: SuccessRate, error: Exception
) -> None:
    instruments = Instruments(CollectorRegistry())
    depths = FakeDepths(DEPTHS)
    sampler = Sampler(instruments, depths, rate, lambda: 5, FakeClock())
    rate.count(True)
    await sampler.sample()

    def gauges() -> dict[str, float | None]:
        names = ("job_queue_depth", "job_queue_oldest_seconds", "outbox_depth", "outbox_oldest_seconds",
                 "unknown_attempts", "unknown_attempts_oldest_seconds", "open_items", "open_items_oldest_seconds",
                 "payment_success_rate",
                 "database_connections_active", "parked_events")  # fmt: skip
        return {name: instruments.registry.get_sample_value(name) for name in names}

    shown = gauges()
    assert shown == {
        "job_queue_depth": 3, "job_queue_oldest_seconds": 1.5, "outbox_depth": 0, "outbox_oldest_seconds": 0,
        "unknown_attempts": 2, "unknown_attempts_oldest_seconds": 0, "open_items": 1, "open_items_oldest_seconds": 9,
        "payment_success_rate": 1,
        "database_connections_active": 5,
        "parked_events": 4,
    }  # fmt: skip
    depths.error = error
    rate.count(False)
    await sampler.sample()
    assert gauges() == shown | {"payment_success_rate": 0.5}


async def test_the_sampler_looks_again_and_watches_the_loop(rate: SuccessRate) -> None:
    instruments = Instruments(CollectorRegistry())
    sampler = Sampler(instruments, FakeDepths(DEPTHS), rate, lambda: 5, FakeClock(), every_s=0.1)
    running = asyncio.create_task(sampler.run())
    async with asyncio.timeout(30):
        while not (lag := instruments.registry.get_sample_value("event_loop_lag_seconds")):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() and 0 < lag < 30
