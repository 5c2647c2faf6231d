"""The guard as a whole: the order of its protections, its deadline, and what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from metrics.instruments import Instruments
from resilience.errors import BreakerOpen, BulkheadFull, NoAnswer, Unreachable
from resilience.guard import Guard, GuardSettings
from tests.resilience.fakes import Counterparty, FakeClock, FakeSleep, Held, no_answer, unreachable


class Bench:
    """A guard on fake time with its metrics."""

    def __init__(self, **numbers: float) -> None:
        self.registry = CollectorRegistry()
        self.clock = FakeClock()
        self.sleep = FakeSleep(self.clock)
        self.guard = Guard(
            "bank",
            GuardSettings(**numbers),  # type: ignore[arg-type]
            Instruments(self.registry),
            clock=self.clock,
            wall_clock=self.clock.wall,
            sleep=self.sleep,
            random=lambda: 1.0,
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"counterparty": "bank"} | labels)

    def calls(self, outcome: str) -> float | None:
        return self.metric("circuit_breaker_calls_total", outcome=outcome)

    async def fail(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(NoAnswer):
                await self.guard.call(Counterparty(no_answer()))

    async def hold(self) -> Held:
        async def start(try_once: Callable[[], Awaitable[str]]) -> str:
            return await self.guard.call(try_once, limits_itself=True)

        held = Held(start)
        await asyncio.sleep(0)
        return held


@pytest.mark.parametrize("limits_itself", [True, False])
async def test_a_good_call_returns_its_value_and_leaves_nothing_behind(limits_itself: bool) -> None:
    bench = Bench()
    assert await bench.guard.call(Counterparty("ok"), limits_itself=limits_itself) == "ok"
    assert (bench.guard.in_flight, bench.guard.waiting) == (0, 0)


async def test_every_try_is_recorded_by_the_breaker() -> None:
    bench = Bench(tries_max=3)
    with pytest.raises(Unreachable):
        await bench.guard.call(Counterparty(unreachable()))
    assert bench.guard.status().failure_count == 3


async def test_an_open_breaker_is_not_retried_and_makes_no_call() -> None:
    bench = Bench(failures_to_open=5)
    await bench.fail(5)
    bank = Counterparty("ok")
    with pytest.raises(BreakerOpen) as caught:
        await bench.guard.call(bank, idempotent=True)
    assert caught.value.retry_after_s == 10
    assert bank.calls == 0
    assert bench.sleep.pauses_s == []
    assert bench.calls("refused_open") == 1


async def test_retries_stop_as_soon_as_the_breaker_opens() -> None:
    bench = Bench(failures_to_open=2, tries_max=10, retry_budget_min=10)
    bank = Counterparty(unreachable())
    with pytest.raises(BreakerOpen):
        await bench.guard.call(bank)
    assert bank.calls == 2


async def test_a_call_that_may_have_been_sent_never_ends_as_refused_by_the_breaker() -> None:
    """Else a charge that may have happened would be reported as never sent."""
    bench = Bench(failures_to_open=1)
    with pytest.raises(NoAnswer) as caught:
        await bench.guard.call(Counterparty(no_answer()), idempotent=True)
    assert caught.value.sent is True
    assert isinstance(caught.value.__cause__, BreakerOpen)


async def test_a_try_over_the_limit_is_no_answer() -> None:
    bench = Bench(timeout_s=0.01)

    async def hang() -> str:
        await asyncio.sleep(10)
        return "never"

    with pytest.raises(NoAnswer):
        await bench.guard.call(hang)
    assert bench.calls("failure") == 1


async def test_no_retry_begins_that_could_not_last_long_enough_to_tell() -> None:
    """After two slow failures there is less left than a healthy call may take."""
    bench = Bench(timeout_s=2, deadline_s=5, slow_call_s=1.5, tries_max=10, failures_to_open=100)
    bank = Counterparty(no_answer(), clock=bench.clock, takes_s=1.9)
    started_s = bench.clock()
    with pytest.raises(NoAnswer):
        await bench.guard.call(bank, idempotent=True)
    assert bank.calls == 2
    assert bench.clock() - started_s <= 5


async def test_a_retry_is_cut_short_by_the_deadline_even_if_it_limits_itself() -> None:
    bench = Bench(timeout_s=0.05, deadline_s=0.05, slow_call_s=0.01, backoff_base_s=0.02)
    calls = 0

    async def refuse_then_hang() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise unreachable()
        await asyncio.sleep(10)
        return "never"

    with pytest.raises(NoAnswer, match=r"within 0\.03 s"):
        await bench.guard.call(refuse_then_hang, limits_itself=True)


async def test_the_bulkhead_bounds_the_calls_and_refuses_above_its_queue() -> None:
    bench = Bench(concurrency_max=2, waiting_max=1)
    held = [await bench.hold() for _ in range(3)]
    assert [call.reached for call in held] == [True, True, False]
    with pytest.raises(BulkheadFull):
        await bench.guard.call(Counterparty("ok"))
    assert (bench.guard.in_flight, bench.guard.waiting) == (2, 1)
    assert bench.calls("refused_full") == 1
    for call in held:
        await call.succeed()
    assert (bench.guard.in_flight, bench.guard.waiting) == (0, 0)


async def test_waiting_for_a_place_ends_with_the_deadline_as_full() -> None:
    bench = Bench(concurrency_max=1, timeout_s=0.03, slow_call_s=0.01, deadline_s=0.03, waiting_timeout_s=60)
    held = await bench.hold()
    bank = Counterparty("ok")
    async with asyncio.timeout(30):
        with pytest.raises(BulkheadFull):
            await bench.guard.call(bank)
    assert bank.calls == 0
    await held.cancel()
    assert bench.guard.in_flight == 0


async def test_a_place_that_comes_too_late_for_a_try_is_given_on() -> None:
    bench = Bench(concurrency_max=1)
    held, late = await bench.hold(), await bench.hold()
    bench.clock.advance(4)
    await held.succeed()
    assert isinstance(await late.fail(ValueError("not reached")), BulkheadFull)
    assert not late.reached
    assert bench.calls("refused_full") == 1
    assert bench.guard.in_flight == 0


@pytest.mark.parametrize("where", ["waiting", "trying", "pausing"])
async def test_the_callers_time_out_stays_the_callers_wherever_it_strikes(where: str) -> None:
    bench = Bench(concurrency_max=1, timeout_s=30, deadline_s=60, waiting_timeout_s=30)
    guard = bench.guard
    held = await bench.hold() if where == "waiting" else None

    async def sleep_long(_seconds: float) -> None:
        await asyncio.sleep(30)

    if where == "pausing":
        guard = Guard("bank", GuardSettings(deadline_s=60), Instruments(CollectorRegistry()), sleep=sleep_long)

    async def try_once() -> str:
        if where == "pausing":
            raise unreachable()
        await asyncio.sleep(30)
        return "never"

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await guard.call(try_once)
    if held:
        await held.succeed()
    assert (guard.in_flight, guard.waiting) == (0, 0)
    assert guard.status().failure_count == (1 if where == "pausing" else 0)


async def test_the_metrics_show_each_outcome() -> None:
    bench = Bench(failures_to_open=100, slow_call_s=1.5)
    guard, clock = bench.guard, bench.clock
    late = await bench.hold()
    await guard.call(Counterparty("ok", clock=clock, takes_s=0.2))
    await guard.call(Counterparty("ok", clock=clock, takes_s=1.6))
    await guard.call(Counterparty(unreachable(), "ok"))
    with pytest.raises(ValueError, match="bug"):
        await guard.call(Counterparty(ValueError("bug")))
    guard.force_open()
    await late.succeed()
    with pytest.raises(BreakerOpen):
        await guard.call(Counterparty("ok"))
    outcomes = ("success", "slow", "failure", "neutral", "late", "refused_open", "refused_full")
    assert [bench.calls(outcome) for outcome in outcomes] == [2, 1, 1, 1, 1, 1, 0]
    assert bench.metric("counterparty_retries_total") == 1
    # Two successes, a slow one, a failure and a late one; the bug tells nothing about the counterparty's time.
    assert bench.metric("counterparty_call_duration_seconds_count") == 5


async def test_the_metrics_show_each_state() -> None:
    bench = Bench(failures_to_open=3, trials=1)
    seen: list[float | None] = [bench.metric("circuit_breaker_state")]
    await bench.fail(3)
    seen.append(bench.metric("circuit_breaker_state"))
    bench.clock.advance(10)
    trial = await bench.hold()
    seen.append(bench.metric("circuit_breaker_state"))
    await trial.succeed()
    for change in (bench.guard.force_open, bench.guard.force_close, bench.guard.reset):
        change()
        seen.append(bench.metric("circuit_breaker_state"))
    assert seen == [0, 2, 1, 3, 0, 0]
    transitions = [
        bench.metric("circuit_breaker_transitions_total", to=to)
        for to in ("open", "half_open", "closed", "forced_open", "forced_closed")
    ]
    assert transitions == [1, 1, 2, 1, 1]
