"""The scan: every payment of the dataset is seen, wherever it lies."""

from __future__ import annotations

import asyncio

from engine.facts import AttemptState
from engine.store.scan import RedisScan
from tests.store.datasets import Dataset
from tests.store.making import NOW, SEALED, accepted, completed, left_open, order_in, sending


def _scan(store: Dataset) -> RedisScan:
    return RedisScan(store.client, store.batcher, store.keys)


async def test_an_empty_dataset_has_no_payments(store: Dataset) -> None:
    assert [payment async for payment in _scan(store).payments()] == []
    assert await _scan(store).unknown() == []


async def test_every_payment_of_every_shard_is_seen_beyond_one_page(store: Dataset) -> None:
    made = [accepted(f"ord-{number}", user_id=f"user-{number % 9}") for number in range(300)]
    await asyncio.gather(*(store.payments().create(payment, SEALED, due_ms=NOW) for payment in made))
    seen = {payment.id: payment async for payment in _scan(store).payments()}
    assert seen == {payment.id: payment for payment in made}


async def test_unknown_outcomes_are_listed_oldest_first_with_their_time(store: Dataset) -> None:
    payments = store.payments()
    opened = []
    for shard, at_ms in ((1, NOW + 30), (2, NOW + 10), (1, NOW + 20)):
        payment = accepted(order_in(shard))
        await payments.create(payment, SEALED, due_ms=NOW)
        intent = sending(payment, at_ms=at_ms)
        await payments.begin(intent, due_ms=NOW)
        change = left_open(intent, AttemptState.UNKNOWN)
        await payments.apply(change)
        opened.append((change.payment, at_ms))
    assert await _scan(store).unknown() == sorted(opened, key=lambda pair: pair[1])


async def test_the_events_of_a_payment_are_its_history(store: Dataset) -> None:
    payment = accepted(order_in(5))
    await store.payments().create(payment, SEALED, due_ms=NOW)
    intent = sending(payment)
    await store.payments().begin(intent, due_ms=NOW)
    change = completed(intent)
    await store.payments().apply(change)
    assert await _scan(store).events_of(payment.id) == [change.events[0].body]
