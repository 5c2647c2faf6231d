"""Both services over a real Kafka, as `app simulate` composes them."""

from __future__ import annotations

import json

import aiohttp

from app.companions import Footing, order_service, user_service
from clients.kafka import KafkaPublisher
from clients.kafka_settings import KafkaSettings
from engine.events import OutgoingEvent
from engine.store.connect import RedisSettings
from simulators.neighbours import Neighbours
from tests.companions.world import USER, completed, order
from tests.faults.world import eventually
from tests.kafka_support import RealBroker, Record, new_topic, read_topic
from tests.simulators.helpers import a_user, an_order, call
from tests.support import RedisServer


async def told(broker: RealBroker, topic: str, count: int) -> list[Record]:
    """What is in the topic, as soon as there are so many."""
    found: list[Record] = []

    async def enough() -> bool:
        found[:] = await read_topic(broker.bootstrap, topic)
        return len(found) >= count

    await eventually(enough)
    return found


async def test_a_payment_in_the_topic_confirms_the_order_and_the_world_is_told(
    http: aiohttp.ClientSession, kafka_broker: RealBroker, redis_server: RedisServer
) -> None:
    users_topic, orders_topic, payments_topic = new_topic(), new_topic(), new_topic()
    kafka = KafkaSettings(brokers=kafka_broker.bootstrap)
    footing = Footing(redis=RedisSettings(url=redis_server.url), kafka=kafka)
    publisher = KafkaPublisher(kafka)
    async with user_service(footing, "127.0.0.1", 0, topic=users_topic, jwt_secret="") as users:
        neighbours = Neighbours(users_url=users + "/api/users/{id}")
        async with order_service(
            footing, "127.0.0.1", 0, topic=orders_topic, payments_topic=payments_topic, neighbours=neighbours
        ) as base:
            await call(http, "POST", f"{users}/api/users", a_user(id=USER))
            assert (await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))).status == 201
            values = [b"nonsense", completed("order-1").value, completed("order-1").value]
            events = [OutgoingEvent(payments_topic, "pay-456", value, (("ce_id", "1"),)) for value in values]
            assert await publisher.publish(events) == [True] * 3
            await publisher.close()

            async def confirmed() -> bool:
                found = await order(http, base, "order-1")
                return bool(found["status"] == "confirmed" and found["paymentId"] == "pay-456")

            await eventually(confirmed)
            records = await told(kafka_broker, orders_topic, 2)
            [created] = await told(kafka_broker, users_topic, 1)
    assert [json.loads(record.value)["event_type"] for record in records] == ["order_created", "order_confirmed"]
    assert {record.key for record in records} == {"order-1"}
    assert [record.event_id for record in records] == ["order-1-1", "order-1-2"]
    assert (created.key, json.loads(created.value)["data"]["email"]) == (USER, "user@example.com")
