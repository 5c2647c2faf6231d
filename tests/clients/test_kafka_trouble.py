"""The Kafka publisher while brokers are away, slow, stubborn, silent or killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from structlog.testing import capture_logs

from clients.kafka import KafkaPublisher, KafkaSettings
from engine.events import Answer, OutgoingEvent, Refused
from tests.kafka_support import (
    INIT_PRODUCER_ID,
    INVALID_PRODUCER_EPOCH,
    INVALID_RECORD,
    MESSAGE_TOO_LARGE,
    NOT_LEADER,
    OUT_OF_ORDER_SEQUENCE,
    PRODUCE,
    TOPIC_AUTHORIZATION_FAILED,
    UNKNOWN_PRODUCER_ID,
    UNKNOWN_TOPIC,
    MockBrokers,
    RealBroker,
    Record,
    make_event,
    new_topic,
    nothing_left_behind,
    read_topic,
)

PATIENT_S = 40.0
TIMEOUT_S = 1.0
# What a slow machine may need, and less than aiokafka takes when it waits for an answer: half of its publisher's limit.
SLACK_S = 15.0
TOO_LARGE = Refused("message_too_large")


@asynccontextmanager
async def publisher_to(bootstrap: str, **settings: Any) -> AsyncIterator[KafkaPublisher]:
    """A publisher that gives a slow machine its time; closing it takes none and leaves nothing behind."""
    settings = {"publish_timeout_s": PATIENT_S, "ready_timeout_s": TIMEOUT_S, **settings}
    async with nothing_left_behind():
        publisher = KafkaPublisher(KafkaSettings(brokers=bootstrap, **settings))
        try:
            yield publisher
        finally:
            async with asyncio.timeout(SLACK_S):
                await publisher.close()


async def in_time(publisher: KafkaPublisher, events: Sequence[OutgoingEvent]) -> list[Answer]:
    """Publishes, and fails when it takes longer than it may."""
    async with asyncio.timeout(publisher._settings.publish_timeout_s + SLACK_S):
        return await publisher.publish(events)


@contextmanager
def little_patience(publisher: KafkaPublisher) -> Iterator[None]:
    """Here nobody answers: what is published meanwhile is given up soon."""
    patient = publisher._settings
    publisher._settings = msgspec.structs.replace(patient, publish_timeout_s=TIMEOUT_S)
    try:
        yield
    finally:
        publisher._settings = patient


async def briefly(publisher: KafkaPublisher, events: Sequence[OutgoingEvent]) -> list[Answer]:
    """The same, with little patience."""
    with little_patience(publisher):
        return await in_time(publisher, events)


def ids_by_key(records: Sequence[Record]) -> dict[str, list[str]]:
    """What a consumer that dedupes by `ce_id` sees of each payment."""
    seen: dict[str, dict[str, None]] = {}
    for record in records:
        seen.setdefault(record.key, {})[record.event_id] = None
    return {key: list(ids) for key, ids in seen.items()}


async def test_with_dead_brokers_all_is_false_in_time_and_true_when_they_come(mock_brokers: MockBrokers) -> None:
    """The engine may start before Kafka does."""
    topic = new_topic()
    events = [make_event(topic, f"pay-{n}", 1) for n in range(5)]
    mock_brokers.down()
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        assert await briefly(publisher, events) == [False] * 5
        assert not await publisher.ready()

        mock_brokers.up()

        assert await in_time(publisher, events) == [True] * 5
        assert publisher.connected


async def test_brokers_that_die_under_an_open_producer_cost_time_but_no_event(mock_brokers: MockBrokers) -> None:
    """Here aiokafka alone would wait for ever."""
    topic = new_topic()
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        assert await in_time(publisher, [make_event(topic, "pay-1", 1)]) == [True]
        mock_brokers.down()
        for _ in range(2):
            assert await briefly(publisher, [make_event(topic, "pay-1", 2)]) == [False]
            assert not publisher.connected
        assert not await publisher.ready()

        mock_brokers.up()

        assert await in_time(publisher, [make_event(topic, "pay-1", 2)]) == [True]
    assert ids_by_key(await read_topic(mock_brokers.bootstrap, topic)) == {"pay-1": ["pay-1-1", "pay-1-2"]}


@pytest.mark.parametrize("error", [OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH, UNKNOWN_PRODUCER_ID])
async def test_a_producer_that_the_broker_disowned_is_replaced(mock_brokers: MockBrokers, error: int) -> None:
    """These do not heal by themselves: the second producer id shows that there is a second producer."""
    topic = new_topic()
    event = make_event(topic, "pay-1", 1)
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        mock_brokers.push_errors(PRODUCE, error)
        assert await in_time(publisher, [event]) == [False]

        mock_brokers.push_errors(INIT_PRODUCER_ID, TOPIC_AUTHORIZATION_FAILED)  # seen only by who asks for an id

        assert await in_time(publisher, [event]) == [False]
        assert await in_time(publisher, [event]) == [True]


async def test_a_passing_error_is_repeated_within_the_publish(mock_brokers: MockBrokers) -> None:
    """A moved leader is nothing that the relay must hear of."""
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        mock_brokers.push_errors(PRODUCE, NOT_LEADER)

        assert await in_time(publisher, [make_event(new_topic(), "pay-1", 1)]) == [True]


async def test_an_answer_that_comes_too_late_is_not_an_acknowledgement(mock_brokers: MockBrokers) -> None:
    """The event is in the topic, but nobody knows: it goes out again under the same id."""
    topic = new_topic()
    event = make_event(topic, "pay-1", 1)
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        assert await in_time(publisher, [make_event(topic, "pay-0", 1)]) == [True]
        mock_brokers.set_round_trip(TIMEOUT_S * 3)
        assert await briefly(publisher, [event]) == [False]
        mock_brokers.set_round_trip(0)

        assert await in_time(publisher, [event]) == [True]
    copies = [each for each in await read_topic(mock_brokers.bootstrap, topic) if each.key == "pay-1"]
    assert len(copies) >= 2
    assert {each.event_id for each in copies} == {"pay-1-1"}


async def test_one_lost_answer_is_asked_for_again_within_the_publish(mock_brokers: MockBrokers) -> None:
    """The request's own limit is half of the publish's, so a repetition still fits."""
    topic = new_topic()
    limit_s = 4.0
    async with publisher_to(mock_brokers.bootstrap, publish_timeout_s=limit_s) as publisher:
        assert await in_time(publisher, [make_event(topic, "pay-1", 1)]) == [True]
        mock_brokers.delay_next(PRODUCE, limit_s * 3)

        assert await in_time(publisher, [make_event(topic, "pay-1", 2)]) == [True]


async def test_after_a_failed_event_the_later_ones_of_its_payment_are_false_too(mock_brokers: MockBrokers) -> None:
    """Else the relay would drop 2 and send 1 again behind it."""
    topic = new_topic()
    mock_brokers.create_topic(topic, 1)
    events = [make_event(topic, key, n) for n in (1, 2, 3) for key in ("pay-a", "pay-b")]
    async with publisher_to(mock_brokers.bootstrap, batch_bytes_max=1) as publisher:  # each event travels alone
        mock_brokers.push_errors(PRODUCE, OUT_OF_ORDER_SEQUENCE)

        told = await in_time(publisher, events)

        assert told == [False, True, False, True, False, True]
        assert await in_time(publisher, [event for event, good in zip(events, told, strict=True) if not good])


async def test_an_event_that_is_too_large_is_refused_and_holds_up_only_its_payment(mock_brokers: MockBrokers) -> None:
    """False alone looks like any other trouble, and is tried again for ever."""
    topic = new_topic()
    large = make_event(topic, "pay-b", 2, value=b'"' + b"x" * 5000 + b'"')
    events = [make_event(topic, "pay-a", 1), make_event(topic, "pay-b", 1), large]
    events += [make_event(topic, "pay-b", 3), make_event(topic, "pay-c", 1)]
    async with publisher_to(mock_brokers.bootstrap, event_bytes_max=2000) as publisher:
        with capture_logs() as logs:
            assert await in_time(publisher, events) == [True, True, TOO_LARGE, False, True]
            assert await in_time(publisher, events[2:]) == [TOO_LARGE, False, True]
            assert await in_time(publisher, events[3:]) == [True, True]
    assert "xxx" not in str(logs)
    assert ids_by_key(await read_topic(mock_brokers.bootstrap, topic))["pay-b"] == ["pay-b-1", "pay-b-3"]


@pytest.mark.parametrize(("error", "reason"), [(INVALID_RECORD, "record_invalid"), (18, "message_too_large")])
async def test_a_record_that_the_broker_calls_invalid_is_found_among_its_neighbours(
    mock_brokers: MockBrokers, error: int, reason: str
) -> None:
    """The broker refuses the whole batch: it is cut smaller and smaller, and nobody else is refused for it."""
    topic = new_topic()
    mock_brokers.create_topic(topic, 1)
    events = [make_event(topic, "pay-1", n) for n in range(1, 4)]
    async with publisher_to(mock_brokers.bootstrap, batch_bytes_max=300) as publisher:
        for _ in range(3):  # 300, 37, 4 bytes: the last holds one record
            mock_brokers.push_errors(PRODUCE, error)
            answers = await in_time(publisher, events)
        assert answers == [Refused(reason), False, False]
        assert await in_time(publisher, events[1:]) == [True, True]


async def test_batches_are_of_full_size_again_once_everything_is_taken(mock_brokers: MockBrokers) -> None:
    """Else one large event would slow down all that follow, for as long as the process lives."""
    topic = new_topic()
    mock_brokers.create_topic(topic, 1)
    events = [make_event(topic, "pay-1", n) for n in range(1, 40)]
    async with publisher_to(mock_brokers.bootstrap, batch_bytes_max=2000) as publisher:
        mock_brokers.push_errors(PRODUCE, MESSAGE_TOO_LARGE)
        assert await in_time(publisher, events) == [False] * len(events)
        assert await in_time(publisher, events) == [True] * len(events)
        assert await in_time(publisher, events[:1]) == [True], "over a new connection"
        mock_brokers.set_round_trip(1.5)
        async with asyncio.timeout(12.0):  # ten records, each alone, take ten round trips: 15 s
            assert await in_time(publisher, events[:10]) == [True] * 10


async def test_a_batch_that_the_broker_calls_too_large_is_sent_in_smaller_ones(mock_brokers: MockBrokers) -> None:
    """Innocent events in the same batch must not be refused for the size of a neighbour."""
    topic = new_topic()
    events = [make_event(topic, "pay-1", n) for n in range(1, 6)]
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        mock_brokers.push_errors(PRODUCE, MESSAGE_TOO_LARGE)
        assert await in_time(publisher, events) == [False] * 5

        assert await in_time(publisher, events) == [True] * 5


@pytest.mark.parametrize("error", [TOPIC_AUTHORIZATION_FAILED, UNKNOWN_TOPIC])
async def test_a_topic_that_is_not_there_does_not_hold_up_the_others(mock_brokers: MockBrokers, error: int) -> None:
    """One wrong name in the configuration must not stop the payments."""
    good, bad = new_topic(), new_topic()
    events = [make_event(bad, "pay-1", 1), make_event(good, "pay-2", 1)]
    mock_brokers.create_topic(bad, 1)
    mock_brokers.refuse_topic(bad, error)
    async with publisher_to(mock_brokers.bootstrap, publish_timeout_s=4.0) as publisher:
        with capture_logs() as logs:
            for _ in range(2):
                assert await in_time(publisher, events) == [False, True]
    told = [line["topic"] for line in logs if line.get("code") == "topic_unavailable"]
    assert told == [bad], "the missing topic was waited for again"


async def test_more_events_than_may_be_in_flight_go_out_in_turns(mock_brokers: MockBrokers) -> None:
    """The bound is on memory, not on what the relay may hand over."""
    topic = new_topic()
    events = [make_event(topic, f"pay-{n % 3}", n) for n in range(100)]
    async with publisher_to(mock_brokers.bootstrap, in_flight_max=7) as publisher:
        told = await asyncio.gather(in_time(publisher, events), in_time(publisher, [make_event(topic, "pay-9", 1)]))
    assert list(told) == [[True] * 100, [True]]
    ids = ids_by_key(await read_topic(mock_brokers.bootstrap, topic))
    assert ids["pay-1"] == [f"pay-1-{n}" for n in range(100) if n % 3 == 1]


async def test_who_finds_no_room_in_flight_gets_false_in_time(mock_brokers: MockBrokers) -> None:
    """A full pipe to a slow broker must not become a queue without end."""
    topic = new_topic()
    async with publisher_to(mock_brokers.bootstrap, in_flight_max=5) as publisher:
        assert await in_time(publisher, [make_event(topic, "pay-0", 1)]) == [True]
        mock_brokers.set_round_trip(TIMEOUT_S * 3)
        batches = [[make_event(topic, f"pay-{b}", n) for n in range(5)] for b in range(4)]

        with little_patience(publisher):
            told = await asyncio.gather(*(in_time(publisher, batch) for batch in batches))

        assert told == [[False] * 5] * 4
    mock_brokers.set_round_trip(0)
    sent = {each.event_id for each in await read_topic(mock_brokers.bootstrap, topic)}
    assert len(sent - {"pay-0-1"}) <= 5, "more was under way than may be"


async def test_a_cancelled_publish_leaves_a_publisher_that_works(mock_brokers: MockBrokers) -> None:
    """A relay may be stopped in the middle of its last pass."""
    topic = new_topic()
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        for delay_s in (0.0, 0.001, 0.01, 0.05):  # while connecting, while looking for the topic, while sending
            publishing = asyncio.create_task(publisher.publish([make_event(topic, "pay-1", 1)]))
            await asyncio.sleep(delay_s)
            publishing.cancel()
            await asyncio.wait([publishing])

        assert await in_time(publisher, [make_event(topic, "pay-1", 1)]) == [True]


async def test_close_ends_a_publish_under_way_to_dead_brokers(mock_brokers: MockBrokers) -> None:
    """The process stops within its budget whatever Kafka does; what is unknown stays in the outbox."""
    topic = new_topic()
    async with publisher_to(mock_brokers.bootstrap) as publisher:
        assert await in_time(publisher, [make_event(topic, "pay-1", 1)]) == [True]
        mock_brokers.down()
        publishing = asyncio.create_task(publisher.publish([make_event(topic, "pay-1", 2)]))
        await asyncio.sleep(0.2)

        async with asyncio.timeout(SLACK_S):
            await publisher.close()
            assert await publishing == [False]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\x00\x00\x10\x00\x00\x00\x00 not an answer",
        b"\x00\x00\x00\x06\x00\x00\x00\x01\x00\x23",
    ],
)
async def test_something_that_is_not_kafka_is_only_trouble(answer: bytes) -> None:
    """A wrong port in the configuration: False in time, never an exception."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    several = ",".join([address] * 6)  # so that the limits of the single requests add up to more than ours
    async with server, publisher_to(several) as publisher:
        for _ in range(2):
            assert await briefly(publisher, [make_event("t", "pay-1", 1)]) == [False]


async def test_close_while_a_broker_keeps_the_first_answer_to_itself(mock_brokers: MockBrokers) -> None:
    """Cancelled at that moment, aiokafka forgets its bootstrap connection: it must be closed nevertheless."""
    for delay_s in (0.05, 0.25, 0.35, 0.45, 0.65):  # one round trip takes 0.2 s, so this is at each step of the start
        async with publisher_to(mock_brokers.bootstrap) as publisher:
            mock_brokers.set_round_trip(0.2)
            assert publisher.connected is False
            publishing = asyncio.create_task(publisher.publish([make_event("t", "pay-1", 1)]))
            await asyncio.sleep(delay_s)
            await publisher.close()
            assert await publishing == [False]


async def test_a_start_that_takes_too_long_is_given_up_at_whatever_step_it_is(mock_brokers: MockBrokers) -> None:
    """The same as above, by the time limit of the start."""
    mock_brokers.set_round_trip(0.2)
    for limit_s in (0.05, 0.25, 0.35, 0.45, 0.65):
        async with publisher_to(mock_brokers.bootstrap, start_timeout_s=limit_s) as publisher:
            assert await in_time(publisher, [make_event("t", "pay-1", 1)]) == [False]


async def test_a_trouble_that_lasts_is_logged_once(mock_brokers: MockBrokers) -> None:
    """An outage of an hour is not ten thousand lines."""
    mock_brokers.down()
    with capture_logs() as logs:
        async with publisher_to(mock_brokers.bootstrap) as publisher:
            for _ in range(4):
                assert await briefly(publisher, [make_event("t", "pay-1", 1)]) == [False]
    assert [line["code"] for line in logs] == ["kafka_trouble"]


async def test_a_real_broker_that_refuses_one_size_gets_all_the_others(kafka_broker: RealBroker) -> None:
    """The refused batch leaves a gap in the sequence numbers, so only a new producer can go on."""
    topic = await limited_topic(kafka_broker, max_bytes=2000)
    large = make_event(topic, "pay-3", 1, value=b'"' + b"x" * 5000 + b'"')
    waiting = [make_event(topic, f"pay-{n}", m) for m in range(3) for n in range(10) if (n, m) != (3, 1)]
    waiting.insert(15, large)
    async with publisher_to(kafka_broker.bootstrap) as publisher:
        for _ in range(20):
            told = await in_time(publisher, waiting)
            refused = [event for event, answer in zip(waiting, told, strict=True) if isinstance(answer, Refused)]
            waiting = [event for event, good in zip(waiting, told, strict=True) if not good]
            if refused:
                break
        assert (refused, told.count(TOO_LARGE)) == ([large], 1)
        waiting.remove(large)
        while waiting:
            told = await in_time(publisher, waiting)
            assert TOO_LARGE not in told
            waiting = [event for event, good in zip(waiting, told, strict=True) if not good]
    ids = ids_by_key(await read_topic(kafka_broker.bootstrap, topic))
    assert all(ids[f"pay-{n}"] == [f"pay-{n}-{m}" for m in range(3)] for n in range(10) if n != 3)
    assert ids["pay-3"] == ["pay-3-0", "pay-3-2"]


async def limited_topic(broker: RealBroker, *, max_bytes: int) -> str:
    """A topic of one partition that takes no larger batches than this."""
    topic = new_topic()
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        limits = {"max.message.bytes": str(max_bytes)}
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1, topic_configs=limits)])
    finally:
        await admin.close()
    return topic


async def test_a_real_broker_that_stands_still_costs_time_and_neither_sockets_nor_order(
    kafka_broker: RealBroker,
) -> None:
    """It does not even read, so the sockets are full: a close that waits until they are empty would hang."""
    topic, fillers = new_topic(), [new_topic() for _ in range(15)]
    keys = [f"pay-{n}" for n in range(20)]
    waiting = [make_event(topic, key, m) for m in range(1, 6) for key in keys]
    large = b'"' + b"x" * 900_000 + b'"'
    filling = [make_event(each, "fill", 1, value=large) for each in fillers]
    try:
        async with publisher_to(kafka_broker.bootstrap) as publisher:
            first = [make_event(topic, key, 0) for key in keys] + [make_event(each, "fill", 0) for each in fillers]
            assert all(await in_time(publisher, first))
            kafka_broker.pause()
            assert not any(await briefly(publisher, filling + waiting))
    finally:
        kafka_broker.resume()
    async with publisher_to(kafka_broker.bootstrap) as publisher:
        assert all(await in_time(publisher, waiting))
    ids = ids_by_key(await read_topic(kafka_broker.bootstrap, topic))
    assert ids == {key: [f"{key}-{m}" for m in range(6)] for key in keys}


async def test_a_real_broker_killed_while_publishing_has_every_event_that_was_acknowledged(
    kafka_broker: RealBroker,
) -> None:
    """kill -9 and restart under a small relay: nothing lost, and each payment in order."""
    topic = new_topic()
    keys = [f"pay-{n}" for n in range(50)]
    number, refused = 0, 0
    waiting: list[OutgoingEvent] = []
    acknowledged: set[str] = set()

    async def kill_and_restart() -> None:
        await asyncio.to_thread(kafka_broker.kill)
        await asyncio.to_thread(kafka_broker.restart)

    # So little patience that the kill is felt.
    hasty = publisher_to(kafka_broker.bootstrap, publish_timeout_s=TIMEOUT_S)
    async with hasty as publisher, asyncio.TaskGroup() as group, asyncio.timeout(180):
        while waiting or not refused:
            if not refused:  # more and more work, until the kill is felt
                waiting += [make_event(topic, key, number) for key in keys]
                number += 1
                if number == 20:
                    group.create_task(kill_and_restart())
            batch, rest = waiting[:100], waiting[100:]
            told = await in_time(publisher, batch)
            acknowledged |= {event.event_id for event, good in zip(batch, told, strict=True) if good}
            refused += told.count(False)
            waiting = [event for event, good in zip(batch, told, strict=True) if not good] + rest
    ids = ids_by_key(await read_topic(kafka_broker.bootstrap, topic))
    assert acknowledged == {event_id for seen in ids.values() for event_id in seen}
    assert ids == {key: [f"{key}-{m}" for m in range(number)] for key in keys}
