"""Further tries after a failure, where another try can do no harm."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from resilience.errors import BadAnswer, CounterpartyError, NoAnswer, Unreachable
from resilience.settings import GuardSettings
from resilience.window import SlidingCounts

T = TypeVar("T")

_CALLS, _RETRIES = 0, 1


class RetryBudget:
    """Bounds the retries of all calls to one counterparty, so that they cannot multiply an outage.

    Over `window_s`, retries stay below `ratio` of the calls; `retries_min` are always allowed.
    """

    def __init__(self, *, ratio: float, retries_min: int, window_s: float, clock: Callable[[], float]) -> None:
        self._ratio, self._retries_min, self._clock = ratio, retries_min, clock
        self._window = SlidingCounts(window_s, 2, now_s=clock())

    def count_call(self) -> None:
        """Count a call, which earns its share of a retry."""
        self._window.add(_CALLS, self._clock())

    def take(self) -> bool:
        """Spend one retry, if there is one left."""
        now_s = self._clock()
        self._window.forget_old(now_s)
        calls, retries = self._window.totals
        if retries + 1 > max(self._retries_min, calls * self._ratio):
            return False
        self._window.add(_RETRIES, now_s)
        return True


class Retry:
    """Tries again what was not sent, or what may be repeated, with full jitter between the tries.

    The first try runs outside tenacity, which costs more than the rest of the guard together.
    `on_retry` is called before each further try.
    """

    def __init__(
        self,
        settings: GuardSettings,
        on_retry: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._tries_max = settings.tries_max
        self._on_retry = on_retry
        self._clock, self._sleep = clock, sleep
        self._wait = _FullJitter(settings.backoff_base_s, settings.backoff_max_s, random)
        self._budget = RetryBudget(
            ratio=settings.retry_budget_ratio,
            retries_min=settings.retry_budget_min,
            window_s=settings.window_s,
            clock=clock,
        )

    async def call(self, try_once: Callable[[], Awaitable[T]], *, idempotent: bool, stop_at_s: float) -> T:
        """The value of the first try that brings one. No further try starts after `stop_at_s` on the clock.

        Raises the last error. But once a try may have reached the counterparty, a later "nothing was sent" is
        no longer true of the call: then the error that was sent is raised, caused by the last one.
        """
        self._budget.count_call()
        try:
            return await try_once()
        except (Unreachable, NoAnswer, BadAnswer) as error:
            if self._tries_max == 1 or not _may_repeat(error, idempotent):
                raise
            failed = error
        return await self._try_again(try_once, failed, idempotent, stop_at_s)

    async def _try_again(
        self, try_once: Callable[[], Awaitable[T]], failed: CounterpartyError, idempotent: bool, stop_at_s: float
    ) -> T:
        sent = failed if failed.sent else None
        first = True

        async def attempt() -> T:
            nonlocal failed, first, sent
            # tenacity's first attempt is the try that has failed already, and a pause may end too late for another.
            if first or self._clock() > stop_at_s:
                first = False
                raise failed
            self._on_retry()
            try:
                return await try_once()
            except CounterpartyError as error:
                failed = error
                sent = error if error.sent else sent
                raise

        # One for each call: its iteration state is per thread, so two tasks cannot share it.
        retrying = tenacity.AsyncRetrying(
            sleep=self._sleep,
            wait=self._wait,
            retry=tenacity.retry_if_exception(lambda error: _may_repeat(error, idempotent)),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._tries_max),
                _StopBefore(stop_at_s, self._clock),
                _StopWithoutBudget(self._budget),
            ),
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except CounterpartyError as last:
            if sent is None or last.sent:
                raise
            raise sent from last


def _may_repeat(error: BaseException, idempotent: bool) -> bool:
    # Named one by one: "everything but" would one day repeat a cancellation, a refusal or a bug.
    if isinstance(error, Unreachable) and not error.sent:
        return True
    return idempotent and isinstance(error, (Unreachable, NoAnswer, BadAnswer))


class _FullJitter(tenacity.wait_exponential):
    """tenacity's `wait_random_exponential` with chance from outside."""

    def __init__(self, base_s: float, max_s: float, random: Callable[[], float]) -> None:
        super().__init__(multiplier=base_s, max=max_s)
        self._random = random

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        return self._random() * super().__call__(retry_state)


class _StopBefore(tenacity.stop.stop_base):
    """tenacity's `stop_before_delay` on the clock from outside: stops when the pause would end too late."""

    def __init__(self, stop_at_s: float, clock: Callable[[], float]) -> None:
        self._stop_at_s, self._clock = stop_at_s, clock

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return self._clock() + retry_state.upcoming_sleep > self._stop_at_s


class _StopWithoutBudget(tenacity.stop.stop_base):
    """Stops when the budget is spent. Asked last, because asking spends."""

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return not self._budget.take()
