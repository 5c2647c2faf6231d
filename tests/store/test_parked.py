"""Parked events: moved in one step, kept with their reason, put back as they were."""

from __future__ import annotations

import asyncio

import pytest

from engine.relay import OutboxEntry, Parking, Relay
from engine.store.depths import RedisDepths
from engine.store.outbox import RedisOutbox, moving
from engine.store.parked import Parked, RedisParked
from engine.store.step import Refusal
from tests.engine.test_relay import FakeBroker, FakeLeases
from tests.store.datasets import BOTH_PROTOCOLS, Dataset, only
from tests.store.making import NOW, SEALED, accepted, order_in, told

START = "0-0"


@pytest.fixture(params=BOTH_PROTOCOLS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is tested here reads replies of either form."""
    return str(request.param)


async def _waiting(store: Dataset, events: int) -> list[OutboxEntry]:
    """The entries of a payment with so many events, in shard 0."""
    payment = accepted(order_in(0))
    await store.payments().create(payment, SEALED, due_ms=NOW)
    for _ in range(events):
        change = told(payment, traceparent="00-ab-01")
        assert await store.payments().apply(change) is None
        payment = change.payment
    return await store.outbox().read({0: START}, count=100)


async def _parked(store: Dataset) -> list[Parked]:
    return [parked async for parked in RedisParked(store.batcher, store.keys).all()]


async def test_a_parked_event_is_in_one_stream_only_and_says_why(store: Dataset) -> None:
    first, second = await _waiting(store, 2)
    assert await store.outbox().park([Parking(first, "message_too_large")]) == 1
    (parked,) = await _parked(store)
    assert (parked.id, parked.payment, parked.reason) == (first.event.event_id, first.event.key, "message_too_large")
    assert (parked.type, parked.surface, parked.body_bytes) == ("payment_told", "core", len(first.event.value))
    assert await store.outbox().read({0: START}, count=100) == [second]
    assert (await RedisDepths(store.batcher, store.keys).now()).parked.waiting == 1


async def test_what_is_put_back_leaves_again_byte_for_byte(store: Dataset) -> None:
    entries = await _waiting(store, 3)
    await store.outbox().park([Parking(entry, "record_invalid") for entry in entries[:2]])
    for parked in await _parked(store):
        assert await RedisParked(store.batcher, store.keys).put_back(parked)
        assert not await RedisParked(store.batcher, store.keys).put_back(parked), "it is parked no more"
    assert await _parked(store) == []
    again = await store.outbox().read({0: START}, count=100)
    assert [entry.event for entry in again] == [entries[n].event for n in (2, 0, 1)], "at the end, in their order"


async def test_parking_twice_makes_no_copy(store: Dataset) -> None:
    """An answer that was lost, or two relays that overlap."""
    (entry,) = await _waiting(store, 1)
    outbox = store.outbox()
    await asyncio.gather(*(outbox.park([Parking(entry, "message_too_large")]) for _ in range(3)))
    assert len(await _parked(store)) == 1
    step = moving(store.shard.outbox, entry.entry_id, store.shard.parked, {b"p": b"x"})
    assert isinstance(await store.batcher.step(step), Refusal)
    assert len(await _parked(store)) == 1


async def test_what_finds_no_room_stays_in_the_outbox(store: Dataset) -> None:
    entries = await _waiting(store, 3)
    outbox = RedisOutbox(store.batcher, store.keys, topics={}, one_by_one=False, parked_max=32)
    assert await outbox.park([Parking(entry, "no_topic") for entry in entries]) == 2
    assert [parked.id for parked in await _parked(store)] == [entry.event.event_id for entry in entries[:2]]
    assert [entry.entry_id for entry in await store.outbox().read({0: START}, count=9)] == [entries[2].entry_id]


async def test_an_event_without_a_topic_and_one_that_is_none_are_parked_and_stop_nobody(store: Dataset) -> None:
    """A surface that the configuration forgets, and an entry that somebody else has written."""
    await _waiting(store, 1)
    await store.ask("XADD", store.shard.outbox, "*", "p", "pay-1", "s", "many")
    other = accepted(order_in(3))
    await store.payments().create(other, SEALED, due_ms=NOW)
    change = told(other)
    event = change.events[0]
    await store.ask(
        "XADD", store.keys.shards[3].outbox, "*", "p", other.id, "f", "vault", "y", event.type, "s", 1, "t", NOW,
        "h", "", "tp", "", "b", event.body,
    )  # fmt: skip
    broker = FakeBroker()
    relay = Relay(store.outbox(), broker, FakeLeases(0, 3), store.instruments)
    assert await relay.pass_once() == 3
    assert [parked.reason for parked in await _parked(store)] == ["unreadable", "no_topic"]
    unreadable, homeless = await _parked(store)
    assert unreadable.id.startswith("0/") and unreadable.type == "unreadable"
    assert (homeless.id, homeless.surface) == (f"{other.id}-1", "vault")
    assert len(broker.published) == 1
    assert await RedisParked(store.batcher, store.keys).put_back(unreadable), "also what cannot be read goes back"


@only("redis", why="pages are the same everywhere, and one server is fast")
async def test_more_than_a_page_is_listed_whole(store: Dataset) -> None:
    for number in range(250):
        await store.ask("XADD", store.shard.parked, f"{NOW}-{number + 1}", "p", "pay", "why", "no_topic")
    assert len({parked.id for parked in await _parked(store)}) == 250
