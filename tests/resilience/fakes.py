"""Stand-ins for time, the observer and a counterparty."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from resilience.breaker import Breaker
from resilience.errors import NoAnswer, Unreachable
from resilience.settings import GuardSettings
from resilience.status import BreakerState, TryOutcome

START = datetime(2026, 3, 1, tzinfo=UTC)


class FakeClock:
    """Monotonic seconds and UTC wall time that move only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now_s - 1000.0)


class FakeSleep:
    """Sleeps by moving the clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.pauses_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses_s.append(float(seconds))
        self.clock.advance(seconds)
        await asyncio.sleep(0)


class Watcher:
    """Remembers what a breaker told it."""

    def __init__(self) -> None:
        self.outcomes: list[TryOutcome] = []
        self.states: list[BreakerState] = []
        self.refusals = 0

    def ended(self, outcome: TryOutcome, elapsed_s: float) -> None:
        assert elapsed_s >= 0
        self.outcomes.append(outcome)

    def refused(self) -> None:
        self.refusals += 1

    def changed(self, state: BreakerState) -> None:
        self.states.append(state)


class Counterparty:
    """Gives the scripted answers in turn, `repeat` times, then the last one for ever; each takes `takes_s`."""

    def __init__(
        self, *answers: str | Exception, repeat: int = 1, clock: FakeClock | None = None, takes_s: float = 0.0
    ) -> None:
        self.answers = list(answers) * repeat
        self.calls = 0
        self.takes_s = takes_s
        self._clock = clock

    async def __call__(self) -> str:
        self.calls += 1
        if self._clock is not None:
            self._clock.advance(self.takes_s)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Held:
    """One call that stays under way until it is told how to end."""

    def __init__(self, start: Callable[[Callable[[], Awaitable[str]]], Awaitable[str]]) -> None:
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reached = False
        self.task = asyncio.ensure_future(start(self._try_once))

    async def _try_once(self) -> str:
        self.reached = True
        return await self._end

    async def succeed(self, value: str = "late") -> str:
        self._end.set_result(value)
        return await self.task

    async def fail(self, error: Exception) -> BaseException | None:
        self._end.set_exception(error)
        await asyncio.wait([self.task])
        self._end.exception()  # seen, even if the call never got as far as this answer
        return self.task.exception()

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self._end.cancel()


def unreachable() -> Unreachable:
    return Unreachable("bank", "connection refused")


def no_answer() -> NoAnswer:
    return NoAnswer("bank", "cut off")


def breaker_of(clock: FakeClock, watcher: Watcher | None = None, /, **numbers: float) -> Breaker:
    """A breaker on fake time; the window is out of the way unless asked for."""
    settings = GuardSettings(**({"window_calls_min": 1_000_000} | numbers))  # type: ignore[arg-type]
    return Breaker("bank", settings, watcher or Watcher(), clock=clock, wall_clock=clock.wall, random=lambda: 0.5)


async def attempt(breaker: Breaker, try_once: Callable[[], Awaitable[str]]) -> str | BaseException:
    """The value or the error of one call."""
    try:
        return await breaker.call(try_once, limit_s=5.0, limits_itself=True)
    except Exception as error:
        return error


async def trip(breaker: Breaker, failures: int = 5) -> None:
    for _ in range(failures):
        await attempt(breaker, Counterparty(no_answer()))
    assert breaker.state == "open"


async def hold(breaker: Breaker) -> Held:
    """A call that is under way."""
    held = Held(lambda try_once: breaker.call(try_once, limit_s=5.0, limits_itself=True))
    await asyncio.sleep(0)
    return held
