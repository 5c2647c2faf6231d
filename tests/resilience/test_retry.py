"""Retries: what may be repeated, how often, how long, and which error is told in the end."""

from __future__ import annotations

import asyncio

import pytest

from resilience.errors import BadAnswer, BreakerOpen, BulkheadFull, CounterpartyError, NoAnswer
from resilience.retry import Retry, RetryBudget
from resilience.settings import GuardSettings
from tests.resilience.fakes import Counterparty, FakeClock, FakeSleep, no_answer, unreachable


class Desk:
    """A retry on fake time, with a count of what it did."""

    def __init__(self, *, chance: float = 0.5, **numbers: float) -> None:
        self.clock = FakeClock()
        self.sleep = FakeSleep(self.clock)
        self.retries = 0
        settings = GuardSettings(**({"retry_budget_min": 1000} | numbers))  # type: ignore[arg-type]
        self.retry = Retry(settings, self._count, clock=self.clock, sleep=self.sleep, random=lambda: chance)

    def _count(self) -> None:
        self.retries += 1

    async def call(self, bank: Counterparty, *, idempotent: bool = False, deadline_s: float = 60.0) -> str:
        return await self.retry.call(bank, idempotent=idempotent, stop_at_s=self.clock() + deadline_s)


def bad_answer() -> BadAnswer:
    return BadAnswer("bank", "broken", status=500)


def breaker_open() -> BreakerOpen:
    return BreakerOpen("bank", "the circuit is open", retry_after_s=1)


async def test_what_was_not_sent_is_tried_again() -> None:
    desk, bank = Desk(), Counterparty(unreachable(), unreachable(), "ok")
    assert await desk.call(bank) == "ok"
    assert (bank.calls, desk.retries) == (3, 2)


@pytest.mark.parametrize("error", [no_answer(), bad_answer()])
async def test_what_may_have_been_sent_is_not_repeated_unless_that_is_harmless(error: CounterpartyError) -> None:
    desk, bank = Desk(), Counterparty(error, "ok")
    with pytest.raises(type(error)):
        await desk.call(bank)
    assert (bank.calls, desk.retries) == (1, 0)
    assert await Desk().call(Counterparty(error, "ok"), idempotent=True) == "ok"


@pytest.mark.parametrize(
    "error", [breaker_open(), BulkheadFull("bank", "full", retry_after_s=1), ValueError("bug"), TimeoutError()]
)
async def test_refusals_and_bugs_are_never_repeated(error: Exception) -> None:
    desk = Desk()
    for bank in (Counterparty(error, "ok"), Counterparty(unreachable(), error, "ok")):
        with pytest.raises(type(error)):
            await desk.call(bank, idempotent=True)
        assert bank.answers == ["ok"]
        assert bank.calls == (1 if desk.retries == 0 else 2)


async def test_a_cancellation_between_the_tries_ends_the_call() -> None:
    desk = Desk()
    bank = Counterparty(unreachable())

    async def sleep_long(seconds: float) -> None:
        await asyncio.sleep(60 + seconds)

    retry = Retry(GuardSettings(), lambda: None, clock=desk.clock, sleep=sleep_long)
    call = asyncio.ensure_future(retry.call(bank, idempotent=True, stop_at_s=desk.clock() + 60))
    for _ in range(5):
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert bank.calls == 1


async def test_a_cancellation_in_a_repeated_try_ends_the_call() -> None:
    desk = Desk()
    calls = 0
    second = asyncio.Event()

    async def try_once() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise unreachable()
        second.set()
        await asyncio.sleep(60)
        return "never"

    call = asyncio.ensure_future(desk.retry.call(try_once, idempotent=True, stop_at_s=desk.clock() + 60))
    await second.wait()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert calls == 2


async def test_the_last_error_is_raised_when_the_tries_are_used_up() -> None:
    last = bad_answer()
    desk, bank = Desk(tries_max=3), Counterparty(no_answer(), no_answer(), last)
    with pytest.raises(BadAnswer) as caught:
        await desk.call(bank, idempotent=True)
    assert caught.value is last
    assert bank.calls == 3


async def test_one_try_at_most_means_no_retry() -> None:
    desk, bank = Desk(tries_max=1), Counterparty(unreachable())
    with pytest.raises(CounterpartyError):
        await desk.call(bank)
    assert bank.calls == 1


@pytest.mark.parametrize("last", [unreachable(), breaker_open()])
async def test_not_sent_never_hides_that_an_earlier_try_may_have_been_sent(last: CounterpartyError) -> None:
    """The caller reads `sent` to decide whether money may have moved, and the whole call must answer that."""
    desk, bank = Desk(), Counterparty(no_answer(), last)
    with pytest.raises(NoAnswer) as caught:
        await desk.call(bank, idempotent=True)
    assert caught.value.sent is True
    assert caught.value.__cause__ is last


async def test_the_pauses_have_full_jitter_under_a_doubling_ceiling() -> None:
    desk = Desk(chance=1.0, tries_max=6, backoff_base_s=0.1, backoff_max_s=0.5)
    with pytest.raises(CounterpartyError):
        await desk.call(Counterparty(unreachable()))
    assert desk.sleep.pauses_s == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    nothing = Desk(chance=0.0)
    with pytest.raises(CounterpartyError):
        await nothing.call(Counterparty(unreachable()))
    assert nothing.sleep.pauses_s == [0.0, 0.0]


async def test_no_pause_begins_that_would_end_after_the_deadline() -> None:
    desk = Desk(chance=1.0, tries_max=10, backoff_base_s=1.0, backoff_max_s=8.0)
    bank = Counterparty(unreachable())
    with pytest.raises(CounterpartyError):
        await desk.call(bank, deadline_s=6.9)
    assert desk.sleep.pauses_s == [1.0, 2.0]
    assert bank.calls == 3


async def test_no_try_begins_after_a_pause_that_took_too_long() -> None:
    desk = Desk(chance=1.0, backoff_base_s=1.0)
    bank = Counterparty(unreachable())

    async def oversleep(seconds: float) -> None:
        desk.clock.advance(seconds + 10)

    retry = Retry(GuardSettings(), lambda: None, clock=desk.clock, sleep=oversleep)
    with pytest.raises(CounterpartyError):
        await retry.call(bank, idempotent=False, stop_at_s=desk.clock() + 5)
    assert bank.calls == 1


async def test_an_exhausted_budget_stops_the_retries_of_every_call() -> None:
    desk = Desk(tries_max=3, retry_budget_min=3, retry_budget_ratio=0.2)
    bank = Counterparty(unreachable())
    for _ in range(10):
        with pytest.raises(CounterpartyError):
            await desk.call(bank)
    assert desk.retries == 3
    assert bank.calls == 13


async def test_the_budget_is_a_fifth_of_the_calls_and_never_less_than_its_minimum() -> None:
    clock = FakeClock()
    budget = RetryBudget(ratio=0.2, retries_min=3, window_s=30, clock=clock)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    for _ in range(50):
        budget.count_call()
    assert sum(budget.take() for _ in range(50)) == 7
    clock.advance(30)
    assert sum(budget.take() for _ in range(50)) == 3


async def test_calls_that_retry_at_the_same_time_do_not_disturb_each_other() -> None:
    desk = Desk(tries_max=4)
    banks = [Counterparty(*[unreachable()] * (number % 4), f"ok {number}") for number in range(40)]
    assert await asyncio.gather(*(desk.call(bank) for bank in banks)) == [f"ok {number}" for number in range(40)]
    assert [bank.calls for bank in banks] == [number % 4 + 1 for number in range(40)]
