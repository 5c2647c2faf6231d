"""How many requests are taken in a time. The limiter may fail; the request that it was asked about may not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import structlog

from metrics.instruments import Instruments
from resilience.limit_settings import LimitsSettings, Rule

log = structlog.get_logger(__name__)


class Windows(Protocol):
    """Counts requests in moving windows, for all processes together."""

    async def take(self, key: str, *, requests: int, window_s: int) -> tuple[bool, int, float]:
        """Count one more if there is room. Whether there was, how many are in the window, and when the oldest leaves.

        A request that is refused does not count. The last number is in seconds from now.
        """
        ...


class Standing(NamedTuple):
    """Where a caller stands after a request."""

    accepted: bool
    rule: Rule
    remaining: int
    reset_s: float
    """Seconds until the oldest request leaves the window, and its place comes free."""


class Limiter:
    """Asks the windows, for `timeout_s` at most; after some failures in a row it does not ask for a while.

    For one event loop. Then one request tries again; the others do not wait for it.
    """

    def __init__(
        self,
        windows: Windows,
        settings: LimitsSettings,
        instruments: Instruments,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._windows = windows
        self._timeout_s = settings.timeout_s
        self._failures_to_rest = settings.failures_to_rest
        self._rest_s = settings.rest_s
        self._failed = {policy: instruments.limiter_failures.labels(policy) for policy in ("open", "closed")}
        self._clock = clock
        self._failures = 0
        self._rests_until = 0.0

    async def take(self, rule: Rule, key: str) -> Standing | None:
        """Count a request of `key` under the rule. None: nobody can tell, and `rule.on_failure` says what to do."""
        if self._failures >= self._failures_to_rest:
            now = self._clock()
            if now < self._rests_until:
                self._failed[rule.on_failure].inc()
                return None
            # Whoever comes while this one tries goes on as if nobody did.
            self._rests_until = now + self._rest_s
        try:
            async with asyncio.timeout(self._timeout_s):
                accepted, count, reset_s = await self._windows.take(
                    f"{rule.name}:{key}", requests=rule.requests, window_s=rule.window_s
                )
        except Exception as error:
            # Whatever it is: a payment is worth more than a count.
            self._note_failure(rule, error)
            return None
        if self._failures:
            self._note_success()
        return Standing(accepted, rule, max(0, rule.requests - count), reset_s)

    def _note_failure(self, rule: Rule, error: Exception) -> None:
        self._failed[rule.on_failure].inc()
        self._failures += 1
        if self._failures == self._failures_to_rest:
            self._rests_until = self._clock() + self._rest_s
            log.warning("rate limits cannot be counted", error=type(error).__name__)

    def _note_success(self) -> None:
        if self._failures >= self._failures_to_rest:
            log.info("rate limits are counted again")
        self._failures = 0
