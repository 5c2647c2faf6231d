"""What every publisher promises, held over the event file, the mock brokers and a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from clients.event_file import EventFile
from clients.kafka import KafkaPublisher, KafkaSettings
from tests.kafka_support import Record, make_event, new_topic, nothing_left_behind, read_topic


class Place(NamedTuple):
    """A publisher and the way to read back what it published."""

    publisher: KafkaPublisher | EventFile
    read: Callable[[str], Awaitable[list[Record]]]


class Line(msgspec.Struct, forbid_unknown_fields=True):
    topic: str
    key: str
    headers: dict[str, str]
    value: msgspec.Raw


async def read_file(path: Path, topic: str) -> list[Record]:
    lines = [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]
    return [Record(line.key, bytes(line.value), tuple(line.headers.items())) for line in lines if line.topic == topic]


@pytest.fixture(params=["file", "mock", "real"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """One of the three; it must be closable without leaving anything behind."""
    if request.param == "file":
        path = tmp_path / "made" / "events.jsonl"
        publisher: KafkaPublisher | EventFile = EventFile(path)
        read = partial(read_file, path)
    else:
        brokers = request.getfixturevalue({"mock": "mock_brokers", "real": "kafka_broker"}[request.param]).bootstrap
        publisher = KafkaPublisher(KafkaSettings(brokers=brokers))
        read = partial(read_topic, brokers)
    async with nothing_left_behind():
        yield Place(publisher, read)
        await publisher.close()


async def test_what_was_acknowledged_is_read_byte_for_byte_with_its_headers(place: Place) -> None:
    """The body is a contract, so not even a blank in it may change."""
    topic = new_topic()
    body = '{ "amount": 75.480, "note": "überwiesen – 送金 \\n" ,"nested":{"a":[1,2.50]}}'.encode()
    event = make_event(topic, "pay-1", 1, value=body)
    event = event._replace(headers=(*event.headers, ("traceparent", "00-abc-01"), ("ce_subject", "Zoë")))

    assert await place.publisher.publish([event]) == [True]

    assert await place.read(topic) == [Record("pay-1", body, event.headers)]


async def test_events_of_one_payment_are_read_in_the_order_of_publishing(place: Place) -> None:
    """Several batches, many payments mixed, and every payment's events in one row."""
    topic = new_topic()
    keys = [f"pay-{number}" for number in range(40)]
    batches = [[make_event(topic, key, n) for n in (first, first + 1) for key in keys] for first in (1, 3, 5)]

    for batch in batches:
        assert await place.publisher.publish(batch) == [True] * 80

    records = await place.read(topic)
    assert len(records) == 240
    for key in keys:
        assert [each.event_id for each in records if each.key == key] == [f"{key}-{n}" for n in range(1, 7)]


async def test_several_publishes_at_once_are_all_acknowledged_and_each_keeps_its_order(place: Place) -> None:
    """The relay of each shard publishes on its own."""
    topic = new_topic()
    shards = [[make_event(topic, f"pay-{shard}", n) for n in range(1, 51)] for shard in range(8)]

    told = await asyncio.gather(*(place.publisher.publish(shard) for shard in shards))

    assert told == [[True] * 50] * 8
    records = await place.read(topic)
    for shard in shards:
        assert [each.event_id for each in records if each.key == shard[0].key] == [each.event_id for each in shard]


async def test_one_batch_may_go_to_several_topics(place: Place) -> None:
    """Payments, refunds and the rest leave in one pass."""
    topics = [new_topic() for _ in range(5)]

    assert all(await place.publisher.publish([make_event(topic, "pay-1", 1) for topic in topics]))

    assert [len(await place.read(topic)) for topic in topics] == [1] * 5


async def test_an_empty_batch_is_answered_with_nothing(place: Place) -> None:
    """The relay need not look before it publishes."""
    assert await place.publisher.publish([]) == []


async def test_it_is_ready_and_connected_while_it_works_and_not_after_close(place: Place) -> None:
    """The readiness page shows what the last contact said."""
    before = place.publisher.connected
    ready = await place.publisher.ready()
    assert (before, ready, place.publisher.connected) == (False, True, True)

    await place.publisher.close()

    assert (await place.publisher.ready(), place.publisher.connected) == (False, False)


async def test_after_close_nothing_is_acknowledged_and_closing_again_is_harmless(place: Place) -> None:
    """A late relay pass must not open a second producer that nobody closes."""
    topic = new_topic()
    assert await place.publisher.publish([make_event(topic, "pay-1", 1)]) == [True]
    await place.publisher.close()
    await place.publisher.close()

    assert await place.publisher.publish([make_event(topic, "pay-1", 2)]) == [False]

    assert len(await place.read(topic)) == 1
