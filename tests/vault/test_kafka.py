"""The listeners on a real Kafka: two members, killed between effect and commit, and the topics of the events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from clients.kafka import KafkaPublisher, KafkaSettings
from clients.kafka_consumer import KafkaListener
from engine.ids import now_ms
from engine.messages import Message
from engine.purchase import Line
from engine.turns import Turns
from engine.vault_refunds import VaultRefunds
from handlers.vault_listeners import VaultListeners
from tests.kafka_support import RealBroker, nothing_left_behind, read_topic
from tests.store.datasets import Dataset, connected, running
from tests.support import RedisServer
from tests.vault.making import CALLER, Silent, a_card, cards_of, findings, payments_of, vault_of, wanted
from tests.vault.world import VaultWorld, eventually, vault_engine, vault_world

PARTITIONS = 6


class Topics:
    """Two topics and a group that no other test uses."""

    def __init__(self, broker: RealBroker) -> None:
        mark = uuid.uuid4().hex[:8]
        self.bootstrap = broker.bootstrap
        self.order, self.product, self.group = f"order-{mark}", f"product-{mark}", f"group-{mark}"

    @property
    def environment(self) -> dict[str, str]:
        """How an engine is told of them."""
        return {
            "KAFKA_URI": self.bootstrap,
            "PAYMENTS__VAULT__ORDER_REFUNDED_TOPIC": self.order,
            "PAYMENTS__VAULT__PRODUCT_REFUNDED_TOPIC": self.product,
            "PAYMENTS__VAULT__GROUP": self.group,
            "PAYMENTS__VAULT__BATCH_MAX": "20",
        }

    async def make(self) -> Topics:
        """With several partitions, so that two members have something to divide."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            names = [self.order, self.product, f"{self.order}.dead", f"{self.product}.dead"]
            await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
        finally:
            await admin.close()
        return self

    async def send(self, topic: str, bodies: Sequence[Any]) -> None:
        """Messages spread over the partitions."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            for number, body in enumerate(bodies):
                value = body if isinstance(body, bytes) else json.dumps(body).encode()
                await producer.send(topic, value, partition=number % PARTITIONS)
            await producer.flush()
        finally:
            await producer.stop()

    def listener(self, handle: Any) -> KafkaListener:
        """One member."""
        settings = KafkaSettings(brokers=self.bootstrap)
        return KafkaListener(settings, (self.order, self.product), handle, group=self.group, batch_max=20)


@pytest.fixture
async def topics(kafka_broker: RealBroker) -> Topics:
    """New topics."""
    return await Topics(kafka_broker).make()


@pytest.fixture
async def dataset(redis_server: RedisServer) -> AsyncIterator[Dataset]:
    """An empty dataset of sixteen shards."""
    async with running(connected(redis_server.url)) as store:
        yield store


@contextlib.asynccontextmanager
async def listening(listener: KafkaListener) -> AsyncIterator[None]:
    """A member that leaves in order."""
    task = asyncio.create_task(listener.run())
    try:
        yield
    finally:
        listener.stop()
        await asyncio.wait_for(task, 30)


def listeners(dataset: Dataset, topics: Topics, dead: Any) -> VaultListeners:
    """The real ones, of one process."""
    refunds = VaultRefunds(vault_of(dataset), Turns(), Silent(), now_ms)
    return VaultListeners(
        refunds, dead, dataset.instruments, order_topic=topics.order, product_topic=topics.product, pause_s=0.01
    )


async def refundable(dataset: Dataset, quantity: int) -> tuple[str, list[dict[str, Any]]]:
    """A card that has paid so many of a product at 1.00, and a message for each."""
    card = await a_card(dataset, minor=quantity * 100)
    payment = (await payments_of(dataset).pay(wanted(card, lines=(Line("p", quantity, 100),)), CALLER)).payment
    return card.id, [{"productId": "p", "price": 1, "paymentId": payment.id}] * quantity


async def test_a_member_that_dies_between_effect_and_commit_does_no_harm(
    redis_server: RedisServer, topics: Topics
) -> None:
    """And a member leaves nothing open, whether it leaves in order or is cut off."""
    async with nothing_left_behind(), running(connected(redis_server.url)) as dataset:
        await die_and_come_back(dataset, topics)
        assert await findings(dataset) == []


async def die_and_come_back(dataset: Dataset, topics: Topics) -> None:
    """The first member is gone after the effect; the second one does everything once more, to no effect."""
    card_id, messages = await refundable(dataset, 30)
    handled: list[Message] = []
    done = asyncio.Event()
    publisher = KafkaPublisher(KafkaSettings(brokers=topics.bootstrap))
    real = listeners(dataset, topics, publisher)

    async def handle_and_hang(batch: Sequence[Message]) -> None:
        await real.handle(batch)
        handled.extend(batch)
        done.set()
        await asyncio.get_running_loop().create_future()

    async def all_back() -> bool:
        return (await cards_of(dataset).find(card_id, CALLER)).balance_minor == 30_00

    async def seen() -> bool:
        counts = [
            dataset.metric("listener_messages_total", listener="product_refunded", outcome=each)
            for each in ("refunded", "repeated")
        ]
        return counts == [30, len(handled)]

    await topics.send(topics.product, messages)
    dying = asyncio.create_task(topics.listener(handle_and_hang).run())
    await asyncio.wait_for(done.wait(), 60)
    dying.cancel()
    await asyncio.wait([dying])
    assert handled
    async with listening(topics.listener(real.handle)):
        await eventually(all_back, within_s=60)
        await eventually(seen, within_s=60)
    await publisher.close()


async def test_what_was_committed_does_not_come_again(dataset: Dataset, topics: Topics) -> None:
    got: list[Message] = []

    async def keep(batch: Sequence[Message]) -> None:
        got.extend(batch)

    async def seen() -> bool:
        return len(got) >= 12

    await topics.send(topics.order, [b"%d" % number for number in range(12)])
    async with listening(topics.listener(keep)):
        await eventually(seen, within_s=60)
    await topics.send(topics.order, [b"last"])
    async with listening(topics.listener(keep)):

        async def last() -> bool:
            return bool(got[-1].value == b"last")

        await eventually(last, within_s=60)
    assert sorted(message.value for message in got) == sorted([*(b"%d" % number for number in range(12)), b"last"])


async def test_members_that_come_and_go_refund_everything_once(dataset: Dataset, topics: Topics) -> None:
    card_id, messages = await refundable(dataset, 100)
    publisher = KafkaPublisher(KafkaSettings(brokers=topics.bootstrap))
    first, second = (listeners(dataset, topics, publisher) for _ in range(2))
    async with listening(topics.listener(first.handle)):
        await topics.send(topics.product, messages[:40])
        async with listening(topics.listener(second.handle)):
            await topics.send(topics.product, messages[40:80])
        await topics.send(topics.product, [*messages[80:], b"poison"])

        async def all_back() -> bool:
            return (await cards_of(dataset).find(card_id, CALLER)).balance_minor == 100_00

        await eventually(all_back, within_s=90)

        async def aside() -> Any:
            return await read_topic(topics.bootstrap, f"{topics.product}.dead")

        [letter] = await eventually(aside, within_s=60)
    await publisher.close()
    headers = dict(letter.headers)
    assert letter.value == b"poison"
    assert headers["reason"].startswith("not a message of this topic")
    assert headers["source"].startswith(topics.product)
    assert await findings(dataset) == []


async def test_engines_killed_with_9_refund_everything_once(topics: Topics) -> None:
    async with vault_world(**topics.environment) as world:
        other, _ = vault_engine(world.redis.url, world.sims, world.redis.folder, **topics.environment)
        other.log = other.log.with_name("other.log")
        await other.start()
        try:
            await refund_while_killing(world, other, topics)
        finally:
            await other.close()


async def refund_while_killing(world: VaultWorld, other: Any, topics: Topics) -> None:
    """One of two engines dies again and again while refunds arrive."""
    cards = [await world.added(money=100) for _ in range(4)]
    lines = [{"productId": "p", "price": 1, "quantity": 100}]
    payments = [await world.bought(card["id"], products=lines, totalPrice=100) for card in cards]
    bodies = [{"productId": "p", "price": 1, "paymentId": each["id"]} for each in payments for _ in range(75)]
    refunded = 0
    for at in range(0, 300, 100):
        await topics.send(topics.product, bodies[at : at + 100])
        floor = refunded

        async def some() -> bool:
            return bool(sum([await world.money(card["id"]) for card in cards]) > floor)  # noqa: B023

        await eventually(some, within_s=90)
        other.kill()
        await other.start()
        refunded = at + 60

    async def all_back() -> bool:
        return [await world.money(card["id"]) for card in cards] == [75] * 4

    await eventually(all_back, within_s=120)
    await topics.send(
        topics.order, [{"refunded": True, "totalPrice": 100, "paymentId": each["id"]} for each in payments]
    )

    async def full() -> bool:
        return [await world.money(card["id"]) for card in cards] == [100] * 4

    await eventually(full, within_s=120)
    payment = await world.payment(payments[0]["id"])
    assert (payment["status"], payment["refunded"]) == ("Refunded", True)
    assert payment["products"][0]["refundedQuantity"] == 100
    await world.sound()


async def test_the_events_go_to_the_topics_that_their_types_name(topics: Topics) -> None:
    async with vault_world(**topics.environment) as world:
        card = await world.added(money=100)
        payment = await world.bought(card["id"])
        world.refused(await world.pays(card["id"]), 402)
        await topics.send(topics.order, [{"refunded": True, "totalPrice": 75.48, "paymentId": payment["id"]}])
        for name in ("paymentCompleted", "paymentFailed", "cardRefunded"):
            topic = f"paymentService-{name}"

            async def told(topic: str = topic) -> Any:
                records = await read_topic(topics.bootstrap, topic)
                return [each for each in records if json.loads(each.value)["creditCardId"] == card["id"]]

            [record] = await eventually(told, within_s=90)
            assert dict(record.headers)["ce_type"] == topic
            assert json.loads(record.value)["eventType"] == topic
            assert json.loads(record.value)["cardNumber"] == card["cardNumber"]
