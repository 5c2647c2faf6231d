"""The rates that open the circuit, the time it stays open, and the modes set by hand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker import Breaker
from resilience.errors import BreakerOpen
from resilience.settings import GuardSettings
from resilience.window import SlidingCounts
from tests.resilience.fakes import (
    START,
    Counterparty,
    FakeClock,
    Watcher,
    attempt,
    breaker_of,
    hold,
    no_answer,
    trip,
)


async def test_every_second_call_failing_trips_the_window() -> None:
    """Failures never come in a row here, so only the rate can see them."""
    breaker = breaker_of(FakeClock(), window_calls_min=20, window_failure_rate=0.5)
    bank = Counterparty(no_answer(), "ok", repeat=20)
    states = []
    for _ in range(20):
        await attempt(breaker, bank)
        states.append(breaker.state)
    assert states == ["closed"] * 19 + ["open"]
    assert breaker.status().window_failure_rate == 0.5


async def test_fewer_failures_than_the_rate_leave_it_closed() -> None:
    breaker = breaker_of(FakeClock(), window_calls_min=20, window_failure_rate=0.5)
    bank = Counterparty(no_answer(), "ok", "ok", repeat=40)
    for _ in range(120):
        await attempt(breaker, bank)
    assert breaker.state == "closed"
    assert breaker.status().window_failure_rate == pytest.approx(1 / 3)


async def test_failures_older_than_the_window_are_forgotten() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, window_calls_min=20, window_failure_rate=0.5, window_s=30)
    bank = Counterparty(no_answer(), "ok", repeat=9)
    for _ in range(18):
        await attempt(breaker, bank)
    clock.advance(30)
    assert breaker.status().window_calls == 0
    for _ in range(20):
        await attempt(breaker, bank)
    assert breaker.state == "closed"


async def test_slow_calls_have_a_rate_of_their_own() -> None:
    """Four of five slow, never five in a row: the failure rate does not see them, the slow-call rate does."""
    clock = FakeClock()
    breaker = breaker_of(clock, window_calls_min=20, window_failure_rate=0.1, window_slow_rate=0.8, slow_call_s=1.5)
    fast, slow = Counterparty("ok"), Counterparty("ok", clock=clock, takes_s=1.6)
    for call in range(20):
        assert breaker.state == "closed"
        await attempt(breaker, fast if call % 5 == 0 else slow)
    status = breaker.status()
    assert status.state == "open"
    # The window of 30 s has forgotten some of them by now.
    assert status.window_failure_rate == 0
    assert status.window_slow_rate >= 0.8


async def test_a_recovered_circuit_starts_with_an_empty_window() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, window_calls_min=5, trials=1, open_s=1)
    await trip(breaker)
    clock.advance(1)
    await attempt(breaker, Counterparty("ok"))
    await attempt(breaker, Counterparty(no_answer()))
    assert breaker.state == "closed"
    assert breaker.status().window_calls == 1


async def open_times(breaker: Breaker, clock: FakeClock, openings: int) -> list[float]:
    """How long each of the openings lasts, every trial failing."""
    times = []
    for _ in range(openings):
        while breaker.state != "open":
            await attempt(breaker, Counterparty(no_answer()))
        left_s = breaker.status().retry_after_s
        assert left_s is not None
        times.append(left_s)
        clock.advance(left_s)
        await attempt(breaker, Counterparty(no_answer()))
    return times


async def test_the_open_time_is_constant_by_default() -> None:
    clock = FakeClock()
    assert await open_times(breaker_of(clock), clock, 3) == [10, 10, 10]


async def test_the_open_time_grows_with_each_opening_up_to_its_maximum() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, open_s=10, open_growth=3, open_max_s=50)
    assert await open_times(breaker, clock, 4) == [10, 30, 50, 50]


async def test_the_open_time_starts_again_after_a_recovery() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, open_s=10, open_growth=3, trials=1)
    await open_times(breaker, clock, 2)
    clock.advance(100)
    await attempt(breaker, Counterparty("ok"))
    assert await open_times(breaker, clock, 1) == [10]


async def test_jitter_takes_off_up_to_its_share() -> None:
    clock = FakeClock()
    settings = GuardSettings(open_s=10, open_jitter=0.2)
    breaker = Breaker("bank", settings, Watcher(), clock=clock, random=random.Random(7).random)
    times = await open_times(breaker, clock, 50)
    assert 8 < min(times) < 8.5
    assert 9.5 < max(times) <= 10


async def test_forced_open_lets_nothing_through_however_long_it_lasts() -> None:
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher)
    bank = Counterparty("ok")
    breaker.force_open()
    clock.advance(1000)
    breaker.force_open()
    assert isinstance(await attempt(breaker, bank), BreakerOpen)
    assert bank.calls == 0
    status = breaker.status()
    assert (status.state, status.retry_after_s, status.opened_at) == ("forced_open", None, START)
    breaker.reset()
    assert await attempt(breaker, bank) == "ok"
    assert watcher.states == ["forced_open", "closed"]


@pytest.mark.parametrize("tripped", [False, True])
async def test_forced_closed_lets_everything_through_and_still_counts(tripped: bool) -> None:
    breaker = breaker_of(FakeClock(), window_calls_min=20)
    if tripped:
        await trip(breaker)
    breaker.force_close()
    bank = Counterparty(no_answer())
    for _ in range(30):
        await attempt(breaker, bank)
    assert bank.calls == 30
    status = breaker.status()
    assert (status.state, status.failure_count, status.window_calls) == ("forced_closed", 30, 30)


async def test_after_a_reset_it_opens_by_itself_again() -> None:
    breaker = breaker_of(FakeClock(), failures_to_open=3)
    breaker.force_close()
    for _ in range(5):
        await attempt(breaker, Counterparty(no_answer()))
    breaker.reset()
    status = breaker.status()
    assert (status.state, status.failure_count, status.window_calls) == ("closed", 0, 0)
    await trip(breaker, failures=3)


async def test_from_forced_closed_to_forced_open_and_back_to_normal() -> None:
    watcher = Watcher()
    breaker = breaker_of(FakeClock(), watcher, failures_to_open=1)
    breaker.force_close()
    breaker.force_open()
    assert isinstance(await attempt(breaker, Counterparty("ok")), BreakerOpen)
    breaker.force_close()
    assert await attempt(breaker, Counterparty("ok")) == "ok"
    breaker.reset()
    assert watcher.states == ["forced_closed", "forced_open", "forced_closed", "closed"]


async def test_a_call_from_before_a_reset_counts_for_nothing() -> None:
    watcher = Watcher()
    breaker = breaker_of(FakeClock(), watcher, failures_to_open=1)
    call = await hold(breaker)
    breaker.reset()
    await call.fail(no_answer())
    assert breaker.state == "closed"
    assert watcher.outcomes == ["late"]


async def test_a_call_from_before_forced_open_does_not_disturb_it() -> None:
    breaker = breaker_of(FakeClock())
    calls = [await hold(breaker), await hold(breaker)]
    breaker.force_open()
    await calls[0].succeed()
    await calls[1].fail(no_answer())
    assert breaker.state == "forced_open"


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 4, allow_nan=False)), max_size=80))
def test_the_window_counts_what_happened_in_it(steps: list[tuple[int, float]]) -> None:
    """Everything in the last nine tenths is counted, nothing from before the window is."""
    now_s = 50.0
    counts = SlidingCounts(10.0, 2, now_s=now_s)
    seen: list[tuple[int, float]] = []
    for kind, pause_s in steps:
        now_s += pause_s
        counts.add(kind, now_s)
        seen.append((kind, now_s))
        for which in (0, 1):
            surely = sum(k == which and now_s - at_s < 9.0 - 1e-6 for k, at_s in seen)
            at_most = sum(k == which and now_s - at_s <= 10.0 + 1e-6 for k, at_s in seen)
            assert surely <= counts.totals[which] <= at_most
