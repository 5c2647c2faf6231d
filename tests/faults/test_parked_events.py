"""Events that the broker will never take: put aside with an alarm, in nobody's way, and back when that has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from clients.kafka import KafkaPublisher, KafkaSettings
from engine.changes import Change
from engine.errors import StoreUnavailable
from engine.events import PaymentEvent, event_hash
from engine.relay import NotAcknowledged, OutboxEntry, Parking, Relay
from engine.store.outbox import RedisOutbox
from engine.store.parked import RedisParked
from tests.api.world import eventually
from tests.changes.shop import Shop, running_shop
from tests.engine.test_relay import FakeLeases
from tests.kafka_support import RealBroker, new_topic, read_topic
from tests.store.datasets import Dataset, connected, running
from tests.store.making import NOW, SEALED, accepted, order_in, told
from tests.support import RedisServer

LIMIT = 1400
LONG = "€" * 255


async def limited_topic(broker: RealBroker, max_bytes: int = LIMIT) -> str:
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


async def raise_limit(broker: RealBroker, topic: str) -> None:
    """What an operator does before putting parked events back."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        limits = {"max.message.bytes": "100000"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, limits)])
    finally:
        await admin.close()


async def ids_in(broker: RealBroker, topic: str) -> dict[str, list[int]]:
    """The sequence numbers of each payment in the topic, first copies only."""
    seen: dict[str, dict[int, None]] = {}
    for record in await read_topic(broker.bootstrap, topic):
        seen.setdefault(record.key, {})[int(record.event_id.rpartition("-")[2])] = None
    return {key: list(numbers) for key, numbers in seen.items()}


async def test_an_event_that_kafka_will_not_take_is_parked_and_leaves_when_it_may(kafka_broker: RealBroker) -> None:
    """From HTTP to the topic and back: what is shown, what is refused, what `--yes` does, and that nothing is lost."""
    topic = await limited_topic(kafka_broker)
    settings = {
        "PAYMENTS__KAFKA__BROKERS": kafka_broker.bootstrap,
        "PAYMENTS__KAFKA__PUBLISH_TIMEOUT_S": "2",
        "PAYMENTS__EVENTS__TOPIC": topic,
    }
    async with running_shop(settings) as shop:
        large = await shop.authorized()
        await shop.ask("cancel", large["id"], {"reason": LONG}, Prefer="wait=20")
        paid = [(await shop.paid())["id"] for _ in range(5)]
        await shop.world.at_rest()
        ids = await ids_in(kafka_broker, topic)
        assert ids == {large["id"]: [1], **{payment: [1] for payment in paid}}, "it holds up nobody"

        parked_id = f"{large['id']}-2"
        (line,) = (await shop.run("events", "parked", "list")).lines
        assert (line["id"], line["payment"], line["type"]) == (parked_id, large["id"], "payment_cancelled")
        assert (line["surface"], line["reason"]) == ("core", "message_too_large")
        assert line["body_bytes"] > 765
        await _gauge(shop, 1.0)
        assert await shop.world.metric("events_parked_total", reason="message_too_large") == 1
        assert (await shop.run("audit")).code == 0, "it is counted, and breaks no rule"

        written = shop.world.written()
        asked, wrong = await asyncio.gather(
            shop.run("events", "parked", "retry"),
            shop.run("events", "parked", "retry", "--id", f"{large['id']}-1", "--yes"),
        )
        assert (asked.code, asked.lines[-1]["put_back"]) == (1, 0)
        assert (wrong.code, wrong.out) == (2, "") and "not parked" in wrong.err
        assert shop.world.written() == written, "nothing changes without --yes"

        too_early = await shop.run("events", "parked", "retry", "--id", parked_id, "--yes")
        assert (too_early.code, too_early.lines[-1]) == (0, {"put_back": 1})
        await _parked_again(shop, 2)

        await raise_limit(kafka_broker, topic)
        assert (await shop.run("events", "parked", "retry", "--yes")).code == 0
        await shop.world.at_rest()
        assert await ids_in(kafka_broker, topic) == {**ids, large["id"]: [1, 2]}
        assert (await shop.run("events", "parked", "list")).out == ""
        await _gauge(shop, 0.0)


async def _gauge(shop: Shop, value: float) -> None:
    async def shown() -> bool:
        return await shop.world.metric("parked_events") == value

    await eventually(shown, within_s=10)


async def _parked_again(shop: Shop, times: int) -> None:
    async def parked() -> bool:
        return await shop.world.metric("events_parked_total", reason="message_too_large") == times

    await eventually(parked, within_s=20)


class Dying(RedisOutbox):
    """The process ends right before or right after one of the relay's writes."""

    dies: str = ""

    async def delete(self, entries: Sequence[OutboxEntry]) -> None:
        self._die("before delete")
        await super().delete(entries)
        self._die("after delete")

    async def park(self, parking: Sequence[Parking]) -> int:
        self._die("before park")
        parked = await super().park(parking)
        self._die("after park")
        return parked

    def _die(self, where: str) -> None:
        if where == self.dies:
            raise StoreUnavailable(f"died {where}")


@pytest.mark.parametrize("where", ["before delete", "after delete", "before park", "after park"])
async def test_dying_at_any_line_loses_nothing_and_later_events_of_the_payment_go_on(
    kafka_broker: RealBroker, redis_server: RedisServer, where: str
) -> None:
    """The second of four events is too large. Whatever is left behind, the next relay finishes."""
    topic = await limited_topic(kafka_broker, max_bytes=1000)
    async with running(connected(redis_server.url)) as store:
        large = await _four_events(store, lambda number: LONG if number == 2 else "")
        small = await _four_events(store, lambda _number: "")
        publisher = KafkaPublisher(KafkaSettings(brokers=kafka_broker.bootstrap, publish_timeout_s=5.0))
        dying = _outbox(store, Dying, topic)
        dying.dies = where
        try:
            with pytest.raises(StoreUnavailable, match=where):
                await _until_empty(Relay(dying, publisher, FakeLeases(0), store.instruments), dying)
            await _until_empty(
                Relay(_outbox(store, RedisOutbox, topic), publisher, FakeLeases(0), store.instruments), dying
            )
        finally:
            await publisher.close()
        parked = [each.id async for each in RedisParked(store.batcher, store.keys).all()]
    assert parked == [f"{large}-2"]
    assert await ids_in(kafka_broker, topic) == {large: [1, 3, 4], small: [1, 2, 3, 4]}


def _outbox(store: Dataset, kind: type[Any], topic: str) -> Any:
    return kind(store.batcher, store.keys, topics={"core": topic}, one_by_one=False)


async def _until_empty(relay: Relay, outbox: RedisOutbox) -> None:
    async with asyncio.timeout(30):
        while await outbox.read({0: "0-0"}, count=1):
            try:
                await relay.pass_once()
            except NotAcknowledged:
                await asyncio.sleep(0.05)


async def _four_events(store: Dataset, note: Callable[[int], str]) -> str:
    payment = accepted(order_in(0))
    await store.payments().create(payment, SEALED, due_ms=NOW)
    for number in range(1, 5):
        change = told(payment)
        body = msgspec.json.encode({"payment_id": payment.id, "note": note(number)})
        event: PaymentEvent = change.events[0]._replace(body=body)
        newer = msgspec.structs.replace(change.payment, last_event_hash=event_hash(body))
        change = Change(newer, NOW, events=(event,))
        assert await store.payments().apply(change) is None
        payment = newer
    return payment.id
