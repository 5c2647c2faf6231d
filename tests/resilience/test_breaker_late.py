"""Answers that come after the circuit has moved on, observers that misbehave, and crowds."""

from __future__ import annotations

import asyncio
import random

from resilience.breaker import Breaker
from resilience.errors import BreakerOpen, NoAnswer
from resilience.settings import GuardSettings
from resilience.status import BreakerState, TryOutcome
from tests.resilience.fakes import (
    Counterparty,
    FakeClock,
    Watcher,
    attempt,
    breaker_of,
    hold,
    no_answer,
    trip,
)


async def test_a_late_success_of_a_trial_does_not_close_what_another_trial_has_opened() -> None:
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher, trials=2)
    await trip(breaker)
    clock.advance(10)
    first, second = await hold(breaker), await hold(breaker)
    await first.fail(no_answer())
    assert breaker.state == "open"
    assert await second.succeed("late") == "late"
    assert breaker.state == "open"
    assert watcher.outcomes[-1] == "late"


async def test_a_success_from_before_the_opening_is_no_trial() -> None:
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher, trials=1)
    old = await hold(breaker)
    await trip(breaker)
    clock.advance(10)
    trial = await hold(breaker)
    await old.succeed()
    assert watcher.outcomes[-1] == "late"
    assert watcher.states == ["open", "half_open"]
    await trial.succeed()
    assert watcher.states == ["open", "half_open", "closed"]


async def test_late_failures_do_not_push_the_opening_time() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, open_s=10)
    old = [await hold(breaker) for _ in range(3)]
    await trip(breaker)
    clock.advance(6)
    before = breaker.status()
    for call in old:
        assert isinstance(await call.fail(no_answer()), NoAnswer)
    assert breaker.status() == before
    assert before.retry_after_s == 4


async def test_a_late_failure_does_not_open_a_circuit_that_has_recovered() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, failures_to_open=1, trials=1)
    old = await hold(breaker)
    await trip(breaker, failures=1)
    clock.advance(10)
    await attempt(breaker, Counterparty("ok"))
    assert breaker.state == "closed"
    await old.fail(no_answer())
    assert breaker.state == "closed"
    assert breaker.status().failure_count == 0


class Troublemaker:
    """An observer that raises whatever it is told."""

    def ended(self, outcome: TryOutcome, elapsed_s: float) -> None:
        raise RuntimeError(f"{outcome} after {elapsed_s}")

    def refused(self) -> None:
        raise RuntimeError("refused")

    def changed(self, state: BreakerState) -> None:
        raise RuntimeError(state)


async def test_an_observer_that_raises_cannot_keep_it_closed() -> None:
    clock = FakeClock()
    breaker = Breaker("bank", GuardSettings(trials=1), Troublemaker(), clock=clock)
    await trip(breaker)
    assert isinstance(await attempt(breaker, Counterparty("ok")), BreakerOpen)
    clock.advance(10)
    assert await attempt(breaker, Counterparty("ok")) == "ok"
    assert breaker.state == "closed"


class Meddler(Watcher):
    """An observer that calls back: it resets the breaker whenever that opens."""

    breaker: Breaker

    def changed(self, state: BreakerState) -> None:
        super().changed(state)
        if state == "open":
            self.breaker.reset()


async def test_an_observer_may_call_back_in_the_middle_of_a_change() -> None:
    meddler = Meddler()
    meddler.breaker = breaker = breaker_of(FakeClock(), meddler, failures_to_open=2)
    for _ in range(5):
        await attempt(breaker, Counterparty(no_answer()))
    assert meddler.states == ["open", "closed", "open", "closed"]
    assert breaker.status().failure_count == 1


async def test_a_crowd_with_cancellations_never_gets_more_than_the_permits() -> None:
    """6,000 calls, a tenth of them cancelled anywhere: never over N trials at once, none out at rest."""
    chance = random.Random(20260301)
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher, trials=2, failures_to_open=3, open_s=1.0)
    trials_now = trials_most = trials_seen = cancelled = 0

    async def try_once() -> str:
        nonlocal trials_now, trials_most, trials_seen
        trial = breaker.state == "half_open"
        trials_now += trial
        trials_seen += trial
        trials_most = max(trials_most, trials_now)
        try:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            if chance.random() < 0.4:
                raise no_answer()
            return "ok"
        finally:
            trials_now -= trial

    async def caller(calls: int) -> None:
        nonlocal cancelled
        for _ in range(calls):
            clock.advance(0.01)
            call = asyncio.ensure_future(attempt(breaker, try_once))
            if chance.random() < 0.1:
                for _ in range(chance.randrange(5)):
                    await asyncio.sleep(0)
                call.cancel()
            await asyncio.wait([call])
            cancelled += call.cancelled()
            assert breaker.status().trials_in_flight <= 2

    async with asyncio.TaskGroup() as crowd:
        for _ in range(60):
            crowd.create_task(caller(100))

    assert trials_most == 2
    assert trials_seen > 50
    assert cancelled > 100
    assert watcher.outcomes.count("late") > 10
    assert breaker.status().trials_in_flight == trials_now == 0
    assert {"open", "half_open", "closed"} <= set(watcher.states)
