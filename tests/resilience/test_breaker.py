"""The breaker: what counts, what opens it, and who gets through."""

from __future__ import annotations

import asyncio
import time

import pytest

from resilience.errors import BadAnswer, BreakerOpen, BulkheadFull, NoAnswer
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
    unreachable,
)


@pytest.mark.parametrize("error", [no_answer(), unreachable(), BadAnswer("bank", "broken", status=503)])
async def test_failures_in_a_row_open_it_and_then_no_call_is_made(error: Exception) -> None:
    breaker = breaker_of(FakeClock(), failures_to_open=3)
    bank = Counterparty(error)
    errors = [await attempt(breaker, bank) for _ in range(4)]
    assert errors[:3] == [error] * 3
    assert isinstance(errors[3], BreakerOpen)
    assert errors[3].sent is False
    assert bank.calls == 3


async def test_a_success_starts_the_count_again() -> None:
    breaker = breaker_of(FakeClock(), failures_to_open=2)
    bank = Counterparty(no_answer(), "ok", no_answer(), "ok")
    for _ in range(4):
        await attempt(breaker, bank)
    assert breaker.state == "closed"
    assert breaker.status().failure_count == 0


async def test_an_open_circuit_says_how_long_until_the_next_trial() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, open_s=10)
    await trip(breaker)
    clock.advance(7.5)
    refusal = await attempt(breaker, Counterparty("ok"))
    assert isinstance(refusal, BreakerOpen)
    assert refusal.retry_after_s == 2.5
    assert breaker.status().retry_after_s == 2.5


async def test_the_status_tells_when_it_failed_and_when_it_opened() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock)
    await trip(breaker)
    clock.advance(3)
    status = breaker.status()
    assert (status.state, status.failure_count) == ("open", 5)
    assert status.last_failure == status.opened_at == START
    assert (status.window_calls, status.window_failure_rate) == (5, 1.0)


async def test_exactly_two_of_fifty_concurrent_calls_are_trials() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, trials=2)
    await trip(breaker)
    clock.advance(10)
    calls = [await hold(breaker) for _ in range(50)]
    refusals = [call.task.exception() for call in calls if not call.reached]
    assert sum(call.reached for call in calls) == 2
    assert len(refusals) == 48
    assert all(isinstance(error, BreakerOpen) for error in refusals)
    for call in calls[:2]:
        await call.succeed()
    assert breaker.state == "closed"
    assert breaker.status().trials_in_flight == 0


async def test_it_closes_only_after_as_many_good_trials_as_set() -> None:
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher, trials=3)
    await trip(breaker)
    clock.advance(10)
    states = []
    for _ in range(3):
        await attempt(breaker, Counterparty("ok"))
        states.append(breaker.state)
    assert states == ["half_open", "half_open", "closed"]
    assert watcher.states == ["open", "half_open", "closed"]
    assert breaker.status().opened_at is None


async def test_one_failed_trial_opens_it_again() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, open_s=10)
    await trip(breaker)
    clock.advance(12)
    await attempt(breaker, Counterparty(unreachable()))
    assert breaker.state == "open"
    assert breaker.status().retry_after_s == 10


@pytest.mark.parametrize("error", [ValueError("bug"), BulkheadFull("other", "full", retry_after_s=1), TimeoutError()])
async def test_what_says_nothing_about_the_counterparty_moves_no_counter(error: Exception) -> None:
    """A local bug, a refusal of our own, somebody else's time-out: neither a failure nor a success."""
    watcher = Watcher()
    breaker = breaker_of(FakeClock(), watcher)
    for _ in range(4):
        await attempt(breaker, Counterparty(no_answer()))
    before = breaker.status()
    assert await attempt(breaker, Counterparty(error)) is error
    assert breaker.status() == before
    assert watcher.outcomes[-1] == "neutral"


async def test_a_cancelled_call_moves_no_counter() -> None:
    watcher = Watcher()
    breaker = breaker_of(FakeClock(), watcher)
    for _ in range(4):
        await attempt(breaker, Counterparty(no_answer()))
    before = breaker.status()
    for _ in range(10):
        call = await hold(breaker)
        await call.cancel()
        assert call.task.cancelled()
    assert breaker.status() == before
    assert watcher.outcomes[-10:] == ["neutral"] * 10


@pytest.mark.parametrize("error", [ValueError("bug"), BulkheadFull("other", "full", retry_after_s=1), None])
async def test_a_neutral_trial_gives_its_permit_back(error: Exception | None) -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, trials=1)
    await trip(breaker)
    clock.advance(10)
    for _ in range(5):
        trial = await hold(breaker)
        assert trial.reached
        await (trial.fail(error) if error else trial.cancel())
        assert breaker.state == "half_open"
        assert breaker.status().trials_in_flight == 0
    assert await attempt(breaker, Counterparty("ok")) == "ok"
    assert breaker.state == "closed"


async def test_a_trial_that_is_thrown_away_gives_its_permit_back() -> None:
    """A coroutine that is closed half way (a loop that stops) must not keep its place either."""
    clock = FakeClock()
    breaker = breaker_of(clock, trials=1)
    await trip(breaker)
    clock.advance(10)
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def hang() -> str:
        return await never

    call = breaker.call(hang, limit_s=5.0)
    call.send(None)
    assert breaker.status().trials_in_flight == 1
    with pytest.raises(asyncio.CancelledError):
        call.throw(asyncio.CancelledError())
    assert breaker.status().trials_in_flight == 0


async def test_a_refused_trial_costs_nothing() -> None:
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher, trials=1, timeout_s=2)
    await trip(breaker)
    clock.advance(10)
    trial = await hold(breaker)
    before = breaker.status()
    refusal = await attempt(breaker, Counterparty("ok"))
    assert isinstance(refusal, BreakerOpen)
    assert refusal.retry_after_s == 2
    assert breaker.status() == before
    assert watcher.refusals == 1
    await trial.succeed()


async def test_an_answer_that_says_no_is_a_healthy_answer() -> None:
    """A 404 is a value for us: the counterparty works."""
    breaker = breaker_of(FakeClock(), failures_to_open=2)
    bank = Counterparty(no_answer(), "404 not found")
    for _ in range(10):
        await attempt(breaker, bank)
    assert breaker.state == "closed"
    assert breaker.status().failure_count == 0


async def test_slow_answers_are_returned_and_trip_it() -> None:
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher, failures_to_open=3, slow_call_s=1.5)
    bank = Counterparty("ok", clock=clock, takes_s=1.6)
    assert [await attempt(breaker, bank) for _ in range(3)] == ["ok"] * 3
    assert breaker.state == "open"
    assert watcher.outcomes == ["slow"] * 3


async def test_an_answer_that_takes_just_the_allowed_time_is_not_slow() -> None:
    clock = FakeClock()
    watcher = Watcher()
    breaker = breaker_of(clock, watcher, failures_to_open=1, slow_call_s=1.5)
    await attempt(breaker, Counterparty("ok", clock=clock, takes_s=1.5))
    assert watcher.outcomes == ["success"]


async def test_a_slow_trial_opens_it_again() -> None:
    clock = FakeClock()
    breaker = breaker_of(clock, slow_call_s=1.5)
    await trip(breaker)
    clock.advance(10)
    assert await attempt(breaker, Counterparty("ok", clock=clock, takes_s=1.6)) == "ok"
    assert breaker.state == "open"


async def test_its_own_limit_ends_as_no_answer_and_counts() -> None:
    breaker = breaker_of(FakeClock(), failures_to_open=1)

    async def hang() -> str:
        await asyncio.sleep(10)
        return "never"

    with pytest.raises(NoAnswer, match=r"bank: no answer within 0\.01 s") as caught:
        await breaker.call(hang, limit_s=0.01)
    assert caught.value.sent is True
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert breaker.state == "open"


@pytest.mark.parametrize("limits_itself", [True, False])
async def test_the_callers_own_time_out_stays_the_callers(limits_itself: bool) -> None:
    watcher = Watcher()
    breaker = breaker_of(FakeClock(), watcher, failures_to_open=1)

    async def hang() -> str:
        await asyncio.sleep(10)
        return "never"

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01) as scope:
            await breaker.call(hang, limit_s=5.0, limits_itself=limits_itself)
    assert scope.expired()
    assert breaker.state == "closed"
    assert watcher.outcomes == ["neutral"]


async def test_a_time_out_from_inside_the_function_is_not_our_limit() -> None:
    watcher = Watcher()
    breaker = breaker_of(FakeClock(), watcher, failures_to_open=1)
    theirs = TimeoutError("a lock, perhaps")
    with pytest.raises(TimeoutError) as caught:
        await breaker.call(Counterparty(theirs), limit_s=5.0)
    assert caught.value is theirs
    assert watcher.outcomes == ["neutral"]


async def test_a_cancellation_that_meets_the_limit_stays_a_cancellation() -> None:
    """Both fire in one loop pass: the caller's wish wins, or its scope would wait for ever."""
    breaker = breaker_of(FakeClock(), failures_to_open=1)

    async def hang() -> str:
        await asyncio.sleep(10)
        return "never"

    task = asyncio.ensure_future(breaker.call(hang, limit_s=0.02))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.03, task.cancel)
    time.sleep(0.05)  # a loop that is held up finds both timers due, the limit first
    await asyncio.wait([task])
    assert task.cancelled()
    assert breaker.state == "closed"


async def test_a_function_that_limits_itself_gets_no_limit_from_here() -> None:
    breaker = breaker_of(FakeClock())

    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "ok"

    assert await breaker.call(slow, limit_s=0.001, limits_itself=True) == "ok"


async def test_a_trial_is_limited_even_if_it_promised_to_limit_itself() -> None:
    """Else a function that breaks its promise would hold a permit for ever, and half-open would stick."""
    clock = FakeClock()
    breaker = breaker_of(clock, trials=1)
    await trip(breaker)
    clock.advance(10)

    async def hang() -> str:
        await asyncio.sleep(10)
        return "never"

    with pytest.raises(NoAnswer):
        await breaker.call(hang, limit_s=0.01, limits_itself=True)
    assert breaker.status().trials_in_flight == 0
    assert breaker.state == "open"
