"""Open items: opened once, closed once, together with the change that they belong to, or not at all."""

from __future__ import annotations

import asyncio

import pytest

from engine.changes import Change, Conflict
from engine.facts import AttemptState
from engine.items import Item, is_item_id, item_id
from engine.payment import Payment
from engine.store.depths import Depth, RedisDepths
from engine.store.items import RedisItems
from tests.store.datasets import Dataset
from tests.store.making import NOW, SEALED, accepted, failed, left_open, order_in, sending


@pytest.fixture
def items(store: Dataset) -> RedisItems:
    return RedisItems(store.client, store.batcher, store.keys)


def an_item(attempt: str = "pay-1-a1", *, shard: int = 3, at_ms: int = NOW) -> Item:
    """Something that only the acquirer knows."""
    stated = "charge 7548 USD"
    identity = item_id("card", attempt, stated, shard=shard)
    return Item(identity, "card", attempt, "pay-1", stated, "", "txn-1", "statement", at_ms)


async def a_failed_payment(store: Dataset) -> Payment:
    """As the store has it."""
    payments = store.payments()
    payment = accepted(order_in(3))
    await payments.create(payment, SEALED, due_ms=NOW)
    intent = sending(payment)
    await payments.begin(intent, due_ms=NOW)
    change = failed(intent)
    assert await payments.apply(change) is None
    return change.payment


def asking_again(payment: Payment, item: Item) -> Change:
    """What a statement makes of a payment that had given up."""
    return Change(payment.look_again(NOW), NOW, items=(item,))


def test_the_same_effect_has_the_same_id_and_another_one_has_another() -> None:
    assert an_item().id == an_item(at_ms=NOW + 1).id and is_item_id(an_item().id)
    others = [an_item("pay-1-a2"), an_item(shard=4)]
    assert len({an_item().id, *(other.id for other in others), item_id("bank", "pay-1-a1", "", shard=3)}) == 4
    assert not any(map(is_item_id, ("", "item-", an_item().id + "0", an_item().id.upper(), f"{an_item().id}\n")))


async def test_an_item_is_opened_once_and_closed_once(store: Dataset, items: RedisItems) -> None:
    """What comes second changes nothing: not the time, not who closed it; closed, it is not opened again."""
    item = an_item()
    assert [await items.put(item), await items.put(an_item(at_ms=NOW + 5))] == [True, False]
    assert await items.opened() == [item]
    closed = item.closed("ann: done", now_ms=NOW + 9)
    assert [await items.put(closed), await items.put(item.closed("bob: too", now_ms=NOW + 10))] == [True, False]
    assert await items.put(item) is False
    assert await items.get(item.id) == closed
    assert await items.opened() == [] and [each async for each in items.closed()] == [closed]


async def test_open_items_are_listed_over_all_shards_oldest_first_and_counted(
    store: Dataset, items: RedisItems
) -> None:
    listed = [an_item(f"pay-{shard}-a1", shard=shard, at_ms=NOW + 100 - shard) for shard in (1, 7, 15)]
    for item in listed:
        await items.put(item)
    assert await items.opened() == listed[::-1]
    assert (await RedisDepths(store.batcher, store.keys).now()).items == Depth(3, NOW + 85)


async def test_of_many_that_close_one_item_at_once_one_does(items: RedisItems) -> None:
    await items.put(an_item())
    done = await asyncio.gather(*(items.put(an_item().closed(f"{who}: x", now_ms=NOW)) for who in range(4)))
    assert sorted(done) == [False, False, False, True]


@pytest.mark.parametrize("name", ["", "item-1", "item-" + "0" * 20 + "ff", "item-" + "0" * 20 + "00", "../etc"])
async def test_what_is_no_item_of_ours_is_not_found(items: RedisItems, name: str) -> None:
    assert await items.get(name) is None


async def test_a_change_and_its_item_are_written_together_or_not_at_all(store: Dataset, items: RedisItems) -> None:
    payment = await a_failed_payment(store)
    stale = asking_again(accepted(), an_item())._replace(payment=accepted().look_again(NOW))
    assert isinstance(await store.payments().apply(stale), Conflict)
    assert await items.opened() == []
    assert await store.payments().apply(asking_again(payment, an_item())) is None
    assert await items.opened() == [an_item()]
    assert await store.ask("ZSCORE", store.keys.of(payment.id).due, payment.id) == NOW


async def test_a_change_that_is_written_twice_opens_its_item_once(store: Dataset, items: RedisItems) -> None:
    """Its first answer was lost, and somebody has closed the item since."""
    payment = await a_failed_payment(store)
    change = asking_again(payment, an_item())
    assert await store.payments().apply(change) is None
    closed = an_item().closed("ann: done", now_ms=NOW + 1)
    await items.put(closed)
    assert await store.payments().apply(change) is None
    assert await items.get(closed.id) == closed


async def test_a_change_goes_through_though_its_item_is_there_or_closed(store: Dataset, items: RedisItems) -> None:
    """An operator who is quicker must not keep the engine from reversing."""
    payment = await a_failed_payment(store)
    closed = an_item().closed("ann: done", now_ms=NOW + 1)
    await items.put(closed)
    assert await store.payments().apply(asking_again(payment, an_item())) is None
    assert await items.get(closed.id) == closed and await items.opened() == []


async def test_an_item_that_is_written_between_the_look_and_the_step_does_not_stop_the_change(
    store: Dataset, items: RedisItems
) -> None:
    payment = await a_failed_payment(store)
    done = await asyncio.gather(store.payments().apply(asking_again(payment, an_item())), items.put(an_item()))
    assert done[0] is None
    assert await items.opened() == [an_item()]
    assert await store.payments().get(payment.id) == payment.look_again(NOW)


async def test_looking_again_keeps_an_unknown_attempt_listed(store: Dataset) -> None:
    payments = store.payments()
    payment = accepted(order_in(3))
    await payments.create(payment, SEALED, due_ms=NOW)
    intent = sending(payment)
    await payments.begin(intent, due_ms=NOW)
    unknown = left_open(intent, AttemptState.UNKNOWN)
    await payments.apply(unknown)
    await payments.apply(asking_again(unknown.payment, an_item())._replace(unknown=True))
    assert await store.ask("ZSCORE", store.keys.of(payment.id).unknown, payment.id) == NOW
