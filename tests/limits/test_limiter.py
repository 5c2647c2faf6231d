"""The limiter may fail; the request that it was asked about may not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from metrics.instruments import Instruments
from resilience.limit_settings import LimitsSettings, Rule
from resilience.limiter import Limiter
from tests.limits.world import Clock

OPEN = Rule("core", 3, 60, "open")
CLOSED = Rule("login", 3, 60, "closed")


class Windows:
    """Counts how often it is asked; answers, breaks, or is silent."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.trouble: Exception | None = None
        self.silent: asyncio.Event | None = None

    async def take(self, key: str, *, requests: int, window_s: int) -> tuple[bool, int, float]:
        self.asked.append(key)
        if self.silent is not None:
            await self.silent.wait()
        if self.trouble is not None:
            raise self.trouble
        return True, 1, 60.0


class Setting:
    """A limiter whose windows and clock a test holds in its hands."""

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self.windows, self.clock = Windows(), Clock(0.0)
        self.instruments = Instruments(CollectorRegistry())
        settings = LimitsSettings(timeout_s=timeout_s, failures_to_rest=3, rest_s=1.0)
        self.limiter = Limiter(self.windows, settings, self.instruments, clock=self.clock)

    def failures(self, policy: str) -> float:
        found = self.instruments.registry.get_sample_value("rate_limiter_failures_total", {"policy": policy})
        return found or 0.0

    async def fail(self, times: int) -> None:
        self.windows.trouble = ConnectionError("gone")
        for _ in range(times):
            assert await self.limiter.take(OPEN, "jo") is None


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_a_rule_and_a_caller_are_counted_together(setting: Setting) -> None:
    standing = await setting.limiter.take(OPEN, "jo")

    assert standing == (True, OPEN, 2, 60.0)
    assert setting.windows.asked == ["core:jo"]
    assert setting.failures("open") == 0


@pytest.mark.parametrize("trouble", [ConnectionError, ValueError, TimeoutError, RuntimeError])
async def test_whatever_breaks_nobody_can_tell_and_it_is_counted_by_policy(
    setting: Setting, trouble: Callable[[str], Exception]
) -> None:
    setting.windows.trouble = trouble("gone")

    assert await setting.limiter.take(OPEN, "jo") is None
    assert await setting.limiter.take(CLOSED, "jo") is None
    assert (setting.failures("open"), setting.failures("closed")) == (1, 1)


async def test_silence_ends_with_the_limiters_own_time() -> None:
    """Without it this test would never end."""
    setting = Setting(timeout_s=0.01)
    setting.windows.silent = asyncio.Event()

    assert await setting.limiter.take(OPEN, "jo") is None


async def test_after_three_failures_nobody_asks_for_a_while(setting: Setting) -> None:
    """Else every request of a whole outage would wait for the time limit."""
    await setting.fail(3)
    setting.windows.trouble = None

    assert [await setting.limiter.take(CLOSED, "jo") for _ in range(5)] == [None] * 5
    assert len(setting.windows.asked) == 3
    assert setting.failures("closed") == 5

    setting.clock.now = 1.0
    assert await setting.limiter.take(CLOSED, "jo") is not None
    assert await setting.limiter.take(CLOSED, "jo") is not None
    assert len(setting.windows.asked) == 5


async def test_after_the_rest_one_request_tries_and_the_others_do_not_wait_for_it(setting: Setting) -> None:
    await setting.fail(3)
    setting.windows.trouble, setting.windows.silent = None, asyncio.Event()
    setting.clock.now = 1.0

    trying = asyncio.create_task(setting.limiter.take(OPEN, "jo"))
    await asyncio.sleep(0)
    others = [await setting.limiter.take(OPEN, "jo") for _ in range(5)]
    setting.windows.silent.set()

    assert others == [None] * 5
    assert await trying is not None
    assert len(setting.windows.asked) == 4
    assert await setting.limiter.take(OPEN, "jo") is not None


async def test_a_try_that_fails_prolongs_the_rest(setting: Setting) -> None:
    await setting.fail(3)
    for second in (1.0, 2.0, 3.0):
        setting.clock.now = second
        await setting.fail(4)

    assert len(setting.windows.asked) == 6


async def test_failures_with_a_success_between_them_are_no_outage(setting: Setting) -> None:
    for _ in range(5):
        await setting.fail(2)
        setting.windows.trouble = None
        assert await setting.limiter.take(OPEN, "jo") is not None


async def test_a_cancelled_request_is_no_failure_of_the_store(setting: Setting) -> None:
    setting.windows.silent = asyncio.Event()
    for _ in range(5):
        asking = asyncio.create_task(setting.limiter.take(OPEN, "jo"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
    setting.windows.silent = None

    assert await setting.limiter.take(OPEN, "jo") is not None
    assert setting.failures("open") == 0
