"""The use case over a real Redis, cut off at every step: a request with a key is healed by its repetition."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.accepting import Accepted, Caller
from engine.context import RequestContext
from engine.errors import AlreadyProcessed
from engine.idempotency import Fingerprints
from engine.ids import PaymentIds, now_ms
from engine.money import Money
from engine.payment import Payment
from engine.recorded import Recorded
from engine.recording import RecordedPayments, RecordPayment
from engine.store.audit import Audit
from engine.store.keys import NUMBERS
from engine.store.numbers import RedisNumbers
from tests.store.datasets import Dataset, connected, running
from tests.support import RedisServer

CALLER = Caller("1", privileged=False)
WANTED = RecordPayment(1, 1, Money(9999, "USD"), RequestContext("req-1", ""))


class Crash(Exception):
    """The process is gone."""


class Mortal:
    """Hands every call on, and dies before or after one of them, counted from 1."""

    def __init__(self, inner: Any, deaths: Deaths) -> None:
        self._inner, self._deaths = inner, deaths

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name == "shard_of":
            return method

        async def call(*arguments: Any, **more: Any) -> Any:
            self._deaths.before()
            answer = await method(*arguments, **more)
            self._deaths.after()
            return answer

        return call


class Deaths:
    """When to die: at the `at`-th call, before it or after it."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._at, self._after, self._calls = at, after, 0

    def before(self) -> None:
        self._calls += 1
        if self._calls == self._at and not self._after:
            raise Crash

    def after(self) -> None:
        if self._calls == self._at and self._after:
            raise Crash


class Silent:
    """Is told, and says nothing."""

    def recorded(self, payment: Payment) -> None:
        """Nothing."""


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """An empty dataset of sixteen shards."""
    async with running(connected(redis_server.url)) as dataset:
        yield dataset


def process(store: Dataset, deaths: Deaths | None = None) -> RecordedPayments:
    """One process on the dataset."""
    deaths = deaths or Deaths(0, after=False)

    async def everything_exists(_: RecordPayment) -> None:
        return None

    numbers = RedisNumbers(store.batcher, store.keys, surface="orders", cache_max=10)
    return RecordedPayments(
        everything_exists, Mortal(store.payments(), deaths), Mortal(numbers, deaths), Fingerprints(b"k" * 32),
        PaymentIds(), Silent(), now_ms, lambda: None, begins=Recorded.SUCCESS,
    )  # fmt: skip


async def findings(store: Dataset) -> list[Any]:
    """What the audit says."""
    return [finding async for finding in Audit(store.client, store.batcher, store.keys).findings()]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 8))
async def test_a_crash_at_any_step_is_healed_by_the_same_request_with_its_key(
    store: Dataset, at: int, after: bool
) -> None:
    first: Accepted | None = None
    with contextlib.suppress(Crash):
        first = await process(store, Deaths(at, after=after)).record(WANTED, CALLER, "key")
    healed = await process(store).record(WANTED, CALLER, "key")
    again = await process(store).record(WANTED, CALLER, "key")
    assert again == Accepted(healed.payment, replayed=True)
    assert first is None or first.payment == healed.payment
    assert await process(store).find(healed.payment.public_number, CALLER) == healed.payment
    assert await process(store).of_user(1, CALLER) == [healed.payment]
    assert await findings(store) == []


async def test_the_steps_that_are_cut_off_are_all_that_there_are(store: Dataset) -> None:
    """Key, holder, number, its claim, the key's claim, the payment: six, and the seventh never comes."""
    await process(store, Deaths(7, after=False)).record(WANTED, CALLER, "key")
    with pytest.raises(Crash):
        await process(store, Deaths(6, after=False)).record(WANTED._replace(order_id=2), CALLER, "another")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 5))
async def test_without_a_key_a_crash_leaves_a_payment_or_nothing(store: Dataset, at: int, after: bool) -> None:
    with pytest.raises(Crash):
        await process(store, Deaths(at, after=after)).record(WANTED, CALLER, None)
    made = await process(store).of_user(1, CALLER)
    if made:
        with pytest.raises(AlreadyProcessed):
            await process(store).record(WANTED, CALLER, None)
    else:
        await process(store).record(WANTED, CALLER, None)
    assert len(await process(store).of_user(1, CALLER)) == 1
    assert await findings(store) == []


async def test_the_audit_finds_a_number_that_leads_elsewhere_and_a_history_that_says_otherwise(store: Dataset) -> None:
    payment = (await process(store).record(WANTED, CALLER, None)).payment
    shard = store.keys.of(payment.id)
    number = store.keys.number("orders", payment.public_number)
    await store.ask("DEL", number)
    assert [finding.problem for finding in await findings(store)] == ["its number 1 leads to nothing"]
    await store.ask("SET", number, payment.id)
    body = await store.ask("LINDEX", shard.events(payment.id), 0)
    for spoilt in (body.replace(b"created", b"status.updated"), body.replace(b'"paymentId":1', b'"paymentId":2'),
                   body.replace(b'"success"', b'"failed"')):  # fmt: skip
        await store.ask("LSET", shard.events(payment.id), 0, spoilt)
        assert [finding.invariant for finding in await findings(store)] != []
    await store.ask("LSET", shard.events(payment.id), 0, body)
    await store.ask("DEL", shard.ledger(payment.id))
    assert {finding.invariant for finding in await findings(store)} == {3}


async def test_the_thousand_newest_payments_of_a_user_are_listed(store: Dataset) -> None:
    engine = process(store)
    for order_id in range(1, 1011):
        await engine.record(WANTED._replace(order_id=order_id), CALLER, None)
    listed = await engine.of_user(1, CALLER)
    assert [payment.public_number for payment in listed] == list(range(1010, 10, -1))
    assert int(await store.ask("GET", NUMBERS + "orders")) == 1010
