"""The events as a consumer of a real Kafka reads them."""

from __future__ import annotations

from tests.kafka_support import RealBroker, Record, new_topic, read_topic
from tests.orders.world import OrdersWorld, eventually, orders_world


async def told(broker: RealBroker, topic: str, count: int) -> list[Record]:
    """What is in the topic, as soon as there are so many."""

    async def read() -> list[Record] | None:
        records = await read_topic(broker.bootstrap, topic)
        return records if len(records) >= count else None

    return await eventually(read, within_s=60)


async def a_story(world: OrdersWorld) -> tuple[bytes, bytes]:
    """The bodies that a payment which is made and cancelled calls for."""
    made = await world.created(user_id=1, order_id=1)
    gone = (await world.put_status(made["paymentId"], "cancelled")).json["payment"]
    return (
        b'{"eventType":"payment.created","timestamp":"%b","data":{"paymentId":1,"userId":1,"orderId":1,'
        b'"amount":99.99,"status":"success"}}' % made["createdAt"].encode(),
        b'{"eventType":"payment.status.updated","timestamp":"%b","data":{"paymentId":1,"userId":1,"orderId":1,'
        b'"status":"cancelled"}}' % gone["updatedAt"].encode(),
    )


async def test_the_topic_holds_the_contracts_json_byte_for_byte_and_in_order(kafka_broker: RealBroker) -> None:
    topic = new_topic()
    async with orders_world(KAFKA_BROKER=kafka_broker.bootstrap, PAYMENTS__ORDERS_API__TOPIC=topic) as world:
        bodies = await a_story(world)
        records = await told(kafka_broker, topic, 2)
    assert tuple(record.value for record in records) == bodies
    assert len({record.key for record in records}) == 1
    headers = [dict(record.headers) for record in records]
    assert [header["ce_type"] for header in headers] == ["payment.created", "payment.status.updated"]
    assert [header["ce_sequence"] for header in headers] == ["1", "2"]
