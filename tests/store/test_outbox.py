"""The outbox: what was committed waits there, in order, until it is deleted entry by entry."""

from __future__ import annotations

import pytest

from engine.ids import PaymentId, rfc3339
from engine.payment import Payment
from tests.store.datasets import BOTH_PROTOCOLS, TOPIC, Dataset
from tests.store.making import NOW, SEALED, accepted, completed, order_in, sending, told

START = "0-0"


@pytest.fixture(params=BOTH_PROTOCOLS)
def kind(request: pytest.FixtureRequest) -> str:
    """What is tested here reads replies of either form."""
    return str(request.param)


async def _told(store: Dataset, order_id: str, times: int) -> Payment:
    """A payment with so many events."""
    payment = accepted(order_id)
    await store.payments().create(payment, SEALED, due_ms=NOW)
    for _ in range(times):
        change = told(payment)
        assert await store.payments().apply(change) is None
        payment = change.payment
    return payment


def _ids(payment_id: PaymentId, *sequences: int) -> list[str]:
    return [f"{payment_id}-{sequence}" for sequence in sequences]


async def test_an_event_leaves_with_the_contract_s_body_and_the_extras_as_headers(store: Dataset) -> None:
    payment = accepted(order_in(3))
    await store.payments().create(payment, SEALED, due_ms=NOW)
    intent = sending(payment)
    await store.payments().begin(intent, due_ms=NOW)
    change = completed(intent)
    await store.payments().apply(change)
    (entry,) = await store.outbox().read({3: START}, count=10)
    assert entry.shard == 3
    assert entry.event.topic == TOPIC
    assert entry.event.key == payment.id
    assert entry.event.value == change.events[0].body
    assert entry.event.headers == (
        ("ce_specversion", "1.0"),
        ("ce_id", f"{payment.id}-1"),
        ("ce_type", "payment_completed"),
        ("ce_source", "/payments/core"),
        ("ce_time", rfc3339(NOW)),
        ("ce_subject", payment.id),
        ("ce_sequence", "1"),
        ("ce_prevhash", ""),
        ("content-type", "application/json"),
        ("traceparent", payment.traceparent),
    )


async def test_each_event_names_the_hash_of_the_one_before(store: Dataset) -> None:
    await _told(store, order_in(0), 3)
    events = [entry.event for entry in await store.outbox().read({0: START}, count=10)]
    hashes = [dict(event.headers)["ce_prevhash"] for event in events]
    assert hashes[0] == ""
    assert len(set(hashes)) == 3
    assert not any("traceparent" in dict(event.headers) for event in events), "there was none"


async def test_events_of_a_shard_come_oldest_first_and_go_on_behind_a_given_one(store: Dataset) -> None:
    payment = await _told(store, order_in(0), 7)
    outbox = store.outbox()
    first = await outbox.read({0: START}, count=3)
    assert [entry.event.event_id for entry in first] == _ids(payment.id, 1, 2, 3)
    rest = await outbox.read({0: first[-1].entry_id}, count=100)
    assert [entry.event.event_id for entry in rest] == _ids(payment.id, 4, 5, 6, 7)
    assert await outbox.read({0: rest[-1].entry_id}, count=100) == []


async def test_only_the_shards_asked_for_are_read_and_each_up_to_the_count(store: Dataset) -> None:
    payments = {shard: await _told(store, order_in(shard), 3) for shard in (1, 5, 9)}
    entries = await store.outbox().read({9: START, 1: START, 2: START}, count=2)
    by_shard = {shard: [entry.event.event_id for entry in entries if entry.shard == shard] for shard in range(16)}
    assert {shard: ids for shard, ids in by_shard.items() if ids} == {
        1: _ids(payments[1].id, 1, 2),
        9: _ids(payments[9].id, 1, 2),
    }


async def test_nothing_is_read_for_no_shard(store: Dataset) -> None:
    await _told(store, order_in(0), 1)
    assert await store.outbox().read({}, count=10) == []


async def test_reading_deletes_nothing_and_deleting_deletes_what_is_named(store: Dataset) -> None:
    payments = {shard: await _told(store, order_in(shard), 3) for shard in (4, 8)}
    outbox, everything = store.outbox(), {4: START, 8: START}
    entries = await outbox.read(everything, count=10)
    assert await outbox.read(everything, count=10) == entries
    await outbox.delete([entry for entry in entries if entry.event.event_id.endswith("-2")])
    left = [entry.event.event_id for entry in await outbox.read(everything, count=10)]
    assert sorted(left) == sorted(_ids(payments[4].id, 1, 3) + _ids(payments[8].id, 1, 3))
    await outbox.delete([])
    await outbox.delete(entries)
    assert await outbox.read(everything, count=10) == []
    assert await store.ask("XLEN", store.keys.shards[4].outbox) == 0
