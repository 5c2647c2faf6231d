"""A circuit breaker for asyncio: permit, run, replay."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal, TypeVar

import structlog

from resilience.errors import BreakerOpen, CounterpartyError, NoAnswer, Refused
from resilience.machine import MachineState, StateMachine
from resilience.settings import GuardSettings
from resilience.status import BreakerObserver, BreakerState, BreakerStatus, TryOutcome
from resilience.window import SlidingCounts

T = TypeVar("T")

_CALLS, _FAILURES, _SLOW = 0, 1, 2

log = structlog.get_logger(__name__)


class Breaker:
    """Asks pybreaker's state machine before a call and tells it afterwards; nothing is held while the call runs.

    A `CounterpartyError` is a failure. A value that took longer than `slow_call_s` is a failure, but is returned.
    A refusal of our own guards, a cancellation and any other exception say nothing about the counterparty.
    The rates of a sliding window open the circuit too; there errors and slow calls have a rate each.
    An answer that comes after the state has changed is not counted.

    For one event loop; not thread-safe. Its state is not shared between processes, on purpose: the trouble of
    one node is not the trouble of all.
    """

    def __init__(
        self,
        name: str,
        settings: GuardSettings,
        observer: BreakerObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._settings = settings
        self._slow_call_s = settings.slow_call_s
        self._observer = observer
        self._clock, self._wall_clock, self._random = clock, wall_clock, random
        self._machine = StateMachine(
            name, failures_to_open=settings.failures_to_open, trials=settings.trials, moved=self._moved
        )
        self._window = SlidingCounts(settings.window_s, 3, now_s=clock())
        self._forced: Literal["forced_open", "forced_closed"] | None = None
        self._announced: BreakerState = "closed"
        self._trials_out = 0
        self._break_s = 0.0  # The last break, before jitter; 0 once the circuit has closed.
        self._retry_at_s = 0.0
        self._opened_at: datetime | None = None
        self._last_failure: datetime | None = None

    @property
    def state(self) -> BreakerState:
        """The state that decides about the next call."""
        return self._forced or self._machine.state

    async def call(self, try_once: Callable[[], Awaitable[T]], *, limit_s: float, limits_itself: bool = False) -> T:
        """Run one try, or raise `BreakerOpen` without running it.

        A try longer than `limit_s` ends as `NoAnswer`. With `limits_itself` the caller promises that its function
        keeps that limit, which saves a timer; a trial is limited here all the same, so that half-open cannot stick.
        """
        trial = self._admit()
        generation = self._machine.generation
        started_s = self._clock()
        outcome: TryOutcome = "neutral"
        try:
            if limits_itself and not trial:
                value = await try_once()
            else:
                value = await self._limited(try_once, limit_s)
            outcome = "success"
        except Refused:
            raise
        except CounterpartyError:
            outcome = "failure"
            raise
        finally:
            # First, and whatever happened: a permit that is not given back would shut the door for ever.
            if trial:
                self._trials_out -= 1
            self._settle(outcome, generation, started_s)
        return value

    def status(self) -> BreakerStatus:
        """The state and the counts as of now."""
        now_s = self._clock()
        self._window.forget_old(now_s)
        calls, failures, slow = self._window.totals
        return BreakerStatus(
            state=self.state,
            failure_count=self._machine.failure_count,
            last_failure=self._last_failure,
            retry_after_s=max(0.0, self._retry_at_s - now_s) if self.state == "open" else None,
            opened_at=self._opened_at,
            window_calls=calls,
            window_failure_rate=failures / calls if calls else 0.0,
            window_slow_rate=slow / calls if calls else 0.0,
            trials_in_flight=self._trials_out,
            generation=self._machine.generation,
        )

    def force_open(self) -> None:
        """Let nothing through until `reset` or `force_close`. Safe to repeat."""
        self._forced = "forced_open"
        self._machine.only_count(False)
        self._machine.open()
        self._announce()

    def force_close(self) -> None:
        """Let everything through and go on counting, until `reset` or `force_open`. Safe to repeat."""
        self._forced = "forced_closed"
        self._machine.only_count(True)
        if self._machine.state != "closed":
            self._machine.close()
        self._announce()

    def reset(self) -> None:
        """Back to normal: closed, with empty counts; calls under way count for nothing. Safe to repeat."""
        self._forced = None
        self._machine.only_count(False)
        self._machine.close()
        self._window.clear()
        self._announce()

    def _admit(self) -> bool:
        """Whether the call is a trial; raises `BreakerOpen` if it may not run."""
        state = self.state
        if state in ("closed", "forced_closed"):
            return False
        if state == "forced_open":
            raise self._refusal("held open by hand", self._settings.open_s)
        if state == "open":
            left_s = self._retry_at_s - self._clock()
            if left_s > 0:
                raise self._refusal("the circuit is open", left_s)
            self._machine.half_open()
            self._announce()
        if self._trials_out >= self._settings.trials:
            raise self._refusal("every trial is taken", self._settings.timeout_s)
        self._trials_out += 1
        return True

    def _refusal(self, why: str, retry_after_s: float) -> BreakerOpen:
        try:
            self._observer.refused()
        except Exception:
            log.exception("breaker observer failed", counterparty=self.name)
        return BreakerOpen(self.name, why, retry_after_s=retry_after_s)

    async def _limited(self, try_once: Callable[[], Awaitable[T]], limit_s: float) -> T:
        try:
            async with asyncio.timeout(limit_s) as scope:
                return await try_once()
        except TimeoutError as error:
            # Only our own limit is the counterparty's silence; any other TimeoutError belongs to whoever set it.
            if scope.expired():
                raise NoAnswer(self.name, f"no answer within {limit_s:g} s") from error
            raise

    def _settle(self, outcome: TryOutcome, generation: int, started_s: float) -> None:
        """Count the try, then tell the observer."""
        now_s = self._clock()
        elapsed_s = now_s - started_s
        if outcome != "neutral":
            if generation != self._machine.generation:
                # The circuit has moved on: this answer is about a time that is already judged.
                outcome = "late"
            else:
                if outcome == "success" and elapsed_s > self._slow_call_s:
                    outcome = "slow"
                self._replay(outcome, elapsed_s, now_s)
        try:
            self._observer.ended(outcome, elapsed_s)
        except Exception:
            log.exception("breaker observer failed", counterparty=self.name)
        if generation != self._machine.generation:
            self._announce()

    def _replay(self, outcome: TryOutcome, elapsed_s: float, now_s: float) -> None:
        self._window.add(_CALLS, now_s)
        if elapsed_s > self._slow_call_s:
            self._window.add(_SLOW, now_s)
        if outcome == "success":
            self._machine.succeed()
        else:
            if outcome == "failure":
                self._window.add(_FAILURES, now_s)
            self._last_failure = self._wall_clock()
            self._machine.fail()
        if self.state == "closed" and self._rates_are_bad():
            self._machine.open()

    def _rates_are_bad(self) -> bool:
        calls, failures, slow = self._window.totals
        settings = self._settings
        return calls >= settings.window_calls_min and (
            failures / calls >= settings.window_failure_rate or slow / calls >= settings.window_slow_rate
        )

    def _moved(self, state: MachineState) -> None:
        """Keep the times and the window in step. Runs in the middle of pybreaker's move: nothing foreign here."""
        if state == "open":
            self._opened_at = self._wall_clock()
            if self._forced is None:
                self._start_break()
        elif state == "closed":
            self._opened_at = None
            self._break_s = 0.0
            self._window.clear()

    def _start_break(self) -> None:
        settings = self._settings
        longer_s = min(self._break_s * settings.open_growth, settings.open_max_s)
        self._break_s = longer_s or settings.open_s
        self._retry_at_s = self._clock() + self._break_s * (1 - settings.open_jitter * self._random())

    def _announce(self) -> None:
        """Tell the observer about another state, once pybreaker has settled in it.

        pybreaker runs its listeners before it stores the new state, so one that raises there would keep the
        circuit from ever opening, and one that calls back would find it half moved.
        """
        if self.state == self._announced:
            return
        self._announced = self.state
        try:
            self._observer.changed(self._announced)
        except Exception:
            log.exception("breaker observer failed", counterparty=self.name)
