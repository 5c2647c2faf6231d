"""The relay: at least once, in order per payment, and nothing is forgotten that the broker does not have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest

from engine.errors import StoreUnavailable
from engine.events import OutgoingEvent
from engine.ids import PaymentId
from engine.payment import Payment
from engine.relay import NotAcknowledged, OutboxEntry, Parking, Relay
from engine.store.leases import ShardLeases
from engine.store.outbox import RedisOutbox
from tests.store.datasets import Dataset, Places, eventually
from tests.store.making import NOW, SEALED, accepted, order_in, told

Takes = Callable[[OutgoingEvent], bool]


class FakeBroker:
    """Remembers what it was given; acknowledges what `takes` says, and of one key nothing behind a refusal."""

    def __init__(self, takes: Takes = lambda _event: True) -> None:
        self.takes = takes
        self.given: list[str] = []
        self.taken: list[str] = []

    async def publish(self, events: Sequence[OutgoingEvent]) -> list[bool]:
        await asyncio.sleep(0)
        refused: set[str] = set()
        answers = []
        for event in events:
            self.given.append(event.event_id)
            good = event.key not in refused and self.takes(event)
            answers.append(good)
            if good:
                self.taken.append(event.event_id)
            else:
                refused.add(event.key)
        return answers

    def sequences(self, payment_id: PaymentId) -> list[int]:
        """What was taken of one payment, in order."""
        return [int(event_id.rpartition("-")[2]) for event_id in self.taken if event_id.startswith(payment_id)]


class DyingOutbox:
    """The process ends after the broker's acknowledgement and before the deletion."""

    def __init__(self, outbox: RedisOutbox) -> None:
        self._outbox = outbox

    async def read(self, after: Mapping[int, str], *, count: int) -> list[OutboxEntry]:
        return await self._outbox.read(after, count=count)

    async def park(self, parking: Sequence[Parking]) -> int:
        raise AssertionError(f"{len(parking)} events were refused by nobody")

    async def delete(self, entries: Sequence[OutboxEntry]) -> None:
        raise StoreUnavailable(f"died before {len(entries)} were deleted")


@pytest.fixture
async def two(places: Places) -> AsyncIterator[tuple[Dataset, Dataset]]:
    """Two processes on one dataset."""
    async with places.running() as one, places.running() as other:
        yield one, other


async def _payments(store: Dataset, count: int, events: int) -> list[Payment]:
    """Payments in all shards with so many events each, written in turns."""
    payments = [accepted(order_in(number % 16)) for number in range(count)]
    await asyncio.gather(*(store.payments().create(payment, SEALED, due_ms=NOW) for payment in payments))
    for _ in range(events):
        payments = [await _tell(store, payment) for payment in payments]
    return payments


async def _tell(store: Dataset, payment: Payment) -> Payment:
    change = told(payment)
    assert await store.payments().apply(change) is None
    return change.payment


async def _holding(store: Dataset, owner: str = "a") -> ShardLeases:
    leases = store.leases(owner)
    await leases.renew()
    return leases


def _relay(store: Dataset, broker: FakeBroker, leases: ShardLeases, *, batch_max: int = 64) -> Relay:
    return Relay(
        store.outbox(), broker, leases, store.instruments,
        batch_max=batch_max, idle_s=0.002, failure_pause_s=0.01, renew_every_s=0.02,
    )  # fmt: skip


async def _waiting(store: Dataset) -> int:
    """Events in the outbox, over all shards."""
    return sum([await store.ask("XLEN", shard.outbox) for shard in store.keys.shards])


async def _emptied(store: Dataset) -> None:
    async def is_empty() -> bool:
        return not await _waiting(store)

    await eventually(is_empty)


@contextlib.asynccontextmanager
async def _running(*relays: Relay) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_events_of_a_payment_leave_in_the_order_of_their_sequence(store: Dataset) -> None:
    payments = await _payments(store, 8, 7)
    broker = FakeBroker()
    relay = _relay(store, broker, await _holding(store), batch_max=48)
    while await relay.pass_once():
        pass
    assert len(broker.taken) == 8 * 7
    for payment in payments:
        assert broker.sequences(payment.id) == [1, 2, 3, 4, 5, 6, 7]
    assert await _waiting(store) == 0


async def test_nothing_is_deleted_that_the_broker_has_not_acknowledged(store: Dataset) -> None:
    await _payments(store, 4, 2)
    relay = _relay(store, FakeBroker(lambda _event: False), await _holding(store))
    for _ in range(3):
        with pytest.raises(NotAcknowledged):
            await relay.pass_once()
        assert await _waiting(store) == 8


async def test_after_a_partial_acknowledgement_only_the_rest_is_sent_again_and_in_order(store: Dataset) -> None:
    payments = await _payments(store, 4, 5)
    unlucky = payments[1]
    broker = FakeBroker(lambda event: event.event_id != f"{unlucky.id}-3")
    relay = _relay(store, broker, await _holding(store), batch_max=1600)
    with pytest.raises(NotAcknowledged):
        await relay.pass_once()
    assert await _waiting(store) == 3, "the third of one payment, and what is behind it"
    broker.takes = lambda _event: True
    assert await relay.pass_once() == 3
    assert await relay.pass_once() == 0
    assert sorted(set(broker.taken)) == sorted(broker.taken), "what was acknowledged is not sent again"
    for payment in payments:
        assert broker.sequences(payment.id) == [1, 2, 3, 4, 5]


async def test_a_refused_event_does_not_hold_up_other_shards(store: Dataset) -> None:
    payments = await _payments(store, 4, 3)
    broker = FakeBroker(lambda event: event.key != payments[0].id)
    relay = _relay(store, broker, await _holding(store), batch_max=16)
    for _ in range(4):
        with contextlib.suppress(NotAcknowledged):
            await relay.pass_once()
    for payment in payments[1:]:
        assert broker.sequences(payment.id) == [1, 2, 3]
    assert await _waiting(store) == 3


async def test_a_crash_after_the_acknowledgement_sends_the_events_again_with_the_same_ids(
    two: tuple[Dataset, Dataset],
) -> None:
    one, other = two
    await _payments(one, 4, 2)
    broker = FakeBroker()
    leases = await _holding(one)
    dying = Relay(DyingOutbox(one.outbox()), broker, leases, one.instruments)
    with pytest.raises(StoreUnavailable):
        await dying.pass_once()
    before = list(broker.taken)
    assert len(before) == 8
    await leases.release()
    assert await _relay(other, broker, await _holding(other, "b")).pass_once() == 8
    assert broker.taken[8:] == before, "the same ids, for consumers to dedupe by"
    assert await _waiting(one) == 0


async def test_a_relay_publishes_only_the_shards_that_it_holds(two: tuple[Dataset, Dataset]) -> None:
    one, other = two
    payments = await _payments(one, 16, 1)
    first, second = one.leases("a"), other.leases("b")
    for leases in (first, second, first, second):
        await leases.renew()
    broker = FakeBroker()
    assert await _relay(one, broker, first).pass_once() == 8
    assert {int(payment.id[-2:], 16) for payment in payments if broker.sequences(payment.id)} == set(first.held())


async def test_a_relay_without_leases_publishes_nothing(store: Dataset) -> None:
    await _payments(store, 4, 1)
    broker = FakeBroker()
    assert await _relay(store, broker, store.leases("a")).pass_once() == 0
    assert broker.given == []


async def test_two_relays_publish_everything_in_order_while_one_of_them_leaves(two: tuple[Dataset, Dataset]) -> None:
    one, other = two
    payments = await _payments(one, 16, 2)
    # Both write into one broker, so that events passing each other would be seen.
    broker = FakeBroker()
    relays = [_relay(one, broker, one.leases("a")), _relay(other, broker, other.leases("b"))]
    async with _running(*relays) as tasks:
        for turn in range(6):
            payments = [await _tell(one, payment) for payment in payments]
            if turn == 3:
                tasks[0].cancel()
        await _emptied(other)
    for payment in payments:
        taken = broker.sequences(payment.id)
        firsts = list(dict.fromkeys(taken))
        assert firsts == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_relay_that_ends_gives_its_shards_back(two: tuple[Dataset, Dataset]) -> None:
    one, other = two
    leases = one.leases("a")

    async def has_all() -> bool:
        return len(leases.held()) == 16

    async with _running(_relay(one, FakeBroker(), leases)):
        await eventually(has_all)
        await asyncio.sleep(0.05)
    assert leases.held() == []
    assert len((await _holding(other, "b")).held()) == 16


async def test_a_relay_goes_on_after_trouble_with_the_broker(store: Dataset) -> None:
    await _payments(store, 4, 3)
    answers = iter([False] * 5)
    broker = FakeBroker(lambda _event: next(answers, True))
    async with _running(_relay(store, broker, store.leases("a"))):
        await _emptied(store)
    assert len(set(broker.taken)) == 12
    assert store.metric("event_publish_failures_total") >= 1


async def test_a_relay_goes_on_after_trouble_with_the_store(store: Dataset) -> None:
    """Here the streams are of a wrong type for a while, as an error that Redis answers with."""
    broker = FakeBroker()
    await store.ask("SET", store.shard.outbox, "not a stream")
    async with _running(_relay(store, broker, store.leases("a"))):
        await asyncio.sleep(0.05)
        await store.ask("DEL", store.shard.outbox)
        await _payments(store, 4, 1)
        await _emptied(store)
    assert len(broker.taken) == 4


async def test_waiting_tells_whether_anything_of_our_shards_is_left(store: Dataset) -> None:
    relay = _relay(store, FakeBroker(), await _holding(store))
    assert not await relay.waiting()
    await _payments(store, 1, 1)
    assert await relay.waiting()
    await relay.pass_once()
    assert not await relay.waiting()
