"""What the services tell: exactly the contract's JSON, at least once, never without the state, never lost."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from engine.events import Answer
from simulators.orders import OrderServiceSim
from simulators.server import serve
from simulators.users import UserServiceSim
from tests.companions.world import NEVER, USER, Broker, metric, records
from tests.faults.world import eventually
from tests.simulators.helpers import a_user, an_order, call
from tests.support import RedisServer

NOW = "2023-01-01T00:00:00.000Z"


def clock() -> datetime:
    """Stands still."""
    return datetime(2023, 1, 1, tzinfo=UTC)


async def test_a_users_events_are_the_contracts(http: aiohttp.ClientSession) -> None:
    broker = Broker()
    async with serve(UserServiceSim(None, clock=clock, publisher=broker)) as base:
        await call(http, "POST", f"{base}/api/users", a_user(id=USER))
        token = (await call(http, "GET", f"{base}/_users/{USER}/verification-token")).body
        await call(http, "POST", f"{base}/api/users/{USER}/verify", token)
        await eventually(lambda: len(broker.told) == 2)
    assert [json.loads(event.value) for event in broker.told] == [
        {
            "event_type": "user_created",
            "user_id": USER,
            "data": {"email": "user@example.com", "username": "username", "created_at": NOW},
        },
        {"event_type": "user_verified", "user_id": USER, "data": {"verified_at": NOW}},
    ]
    assert {(event.topic, event.key) for event in broker.told} == {("user-events", USER)}


async def test_an_orders_events_are_the_contracts_with_exact_amounts(http: aiohttp.ClientSession) -> None:
    broker = Broker()
    async with serve(OrderServiceSim(None, clock=clock, publisher=broker, topic="orders-here")) as base:
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-123"))
        paid = {"status": "confirmed", "paymentId": "pay-456"}
        await call(http, "PUT", f"{base}/api/orders/order-123/status", paid)
        await call(http, "POST", f"{base}/api/orders/order-123/cancel")
        await eventually(lambda: len(broker.told) == 3)
    data = {"total_amount": 75.48, "items": an_order()["items"], "created_at": NOW}
    assert [json.loads(event.value) for event in broker.told] == [
        {"event_type": "order_created", "order_id": "order-123", "user_id": USER, "data": data},
        {
            "event_type": "order_confirmed",
            "order_id": "order-123",
            "data": {"payment_id": "pay-456", "confirmed_at": NOW},
        },
        {"event_type": "order_cancelled", "order_id": "order-123", "user_id": USER, "data": {"cancelled_at": NOW}},
    ]
    assert b'"total_amount":75.48' in broker.told[0].value
    assert {(event.topic, event.key) for event in broker.told} == {("orders-here", "order-123")}


async def test_the_headers_are_cloudevents_in_one_chain(http: aiohttp.ClientSession) -> None:
    broker = Broker()
    async with serve(OrderServiceSim(None, clock=clock, publisher=broker)) as base:
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-123"))
        await call(http, "POST", f"{base}/api/orders/order-123/cancel")
        await eventually(lambda: len(broker.told) == 2)
    first, second = broker.told
    assert dict(first.headers) == {
        "ce_specversion": "1.0", "ce_id": "order-123-1", "ce_type": "order_created", "ce_source": "/orders",
        "ce_time": NOW, "ce_subject": "order-123", "ce_sequence": "1", "ce_prevhash": "",
        "content-type": "application/json",
    }  # fmt: skip
    headers = dict(second.headers)
    assert (headers["ce_id"], headers["ce_sequence"]) == ("order-123-2", "2")
    assert headers["ce_prevhash"] == hashlib.sha256(first.value).hexdigest()


async def test_what_changes_nothing_is_not_told(http: aiohttp.ClientSession) -> None:
    broker = Broker()
    async with serve(OrderServiceSim(None, publisher=broker)) as base:
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
        assert (await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))).status == 409
        assert (await call(http, "POST", f"{base}/api/orders", an_order(items=[]))).status == 422
        for _ in range(3):
            await call(http, "POST", f"{base}/api/orders/order-1/cancel")
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-2"))
        await eventually(lambda: "order-2-1" in {event.event_id for event in broker.told})
    assert [event.event_id for event in broker.told] == ["order-1-1", "order-1-2", "order-2-1"]


async def test_while_the_broker_is_away_events_wait_and_then_come_in_order(http: aiohttp.ClientSession) -> None:
    broker = Broker(answer=False)
    async with serve(OrderServiceSim(None, publisher=broker)) as base:
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
        await eventually(lambda: broker.told)
        await call(http, "POST", f"{base}/api/orders/order-1/cancel")
        assert await metric(http, base, 'events_published_total{event_type="order_created"}') == 0
        broker.told.clear()
        broker.answer = True
        await eventually(lambda: len(broker.told) >= 2)
        assert broker.types[-2:] == ["order_created", "order_cancelled"]
        assert await metric(http, base, 'events_published_total{event_type="order_created"}') == 1


async def test_what_the_broker_will_never_take_holds_up_nothing(http: aiohttp.ClientSession) -> None:
    broker = Broker(answer=NEVER)
    async with serve(OrderServiceSim(None, publisher=broker)) as base:
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
        await eventually(lambda: broker.told)
        broker.answer = True
        await call(http, "POST", f"{base}/api/orders/order-1/cancel")
        await eventually(lambda: "order_cancelled" in broker.types)
        assert broker.types == ["order_created", "order_cancelled"]
        assert await metric(http, base, 'events_refused_total{reason="message_too_large"}') == 1


@pytest.mark.parametrize("store", ["redis", "journal"])
async def test_dead_before_publishing_it_is_told_after_the_restart(
    http: aiohttp.ClientSession, redis_server: RedisServer, tmp_path: Any, store: str
) -> None:
    """The event is in the record; only a broker's word ends its wait."""
    journal = tmp_path / "orders.jsonl" if store == "journal" else None
    before, after = Broker(answer=False), Broker()
    async with records(redis_server) as state:
        kept = None if journal else state
        async with serve(OrderServiceSim(journal, state=kept, publisher=before)) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
            await eventually(lambda: before.told)
        async with serve(OrderServiceSim(journal, state=kept, publisher=after)) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-2"))
            await eventually(lambda: any(event.key == "order-2" for event in after.told))
            await eventually(lambda: len(after.told) == 2)
    assert {event.event_id for event in after.told} == {"order-1-1", "order-2-1"}
    assert before.told[0] in after.told, "the same event, byte for byte"


async def test_dead_between_publishing_and_marking_it_is_told_again_with_the_same_id(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    """At least once: the broker has it, and we died before we knew."""

    class DiesAfterwards(Broker):
        async def publish(self, events: Any) -> list[Answer]:
            await super().publish(events)
            raise RuntimeError("dead")

    before, after = DiesAfterwards(), Broker()
    async with records(redis_server) as state:
        async with serve(OrderServiceSim(None, state=state, publisher=before)) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
            await eventually(lambda: before.told)
        async with serve(OrderServiceSim(None, state=state, publisher=after)):
            await eventually(lambda: after.told)
    assert after.told == before.told[:1]


async def test_what_was_told_is_not_told_again_after_a_restart(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    before, after = Broker(), Broker()
    async with records(redis_server) as state:
        async with serve(OrderServiceSim(None, state=state, publisher=before)) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
            published = 'events_published_total{event_type="order_created"}'

            async def marked() -> bool:
                [record] = await state.read()
                return bool(json.loads(record).get("published") == 1)

            await eventually(marked)
            assert await metric(http, base, published) == 1
        async with serve(OrderServiceSim(None, state=state, publisher=after)) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-2"))
            await eventually(lambda: after.told)
    assert [event.event_id for event in after.told] == ["order-2-1"]


async def test_while_too_many_events_wait_nothing_new_is_taken(http: aiohttp.ClientSession) -> None:
    """What exists can still be changed: its record waits already."""

    class Small(OrderServiceSim):
        untold_max = 2

    broker = Broker(answer=False)
    async with serve(Small(None, publisher=broker)) as base:
        answers = [(await call(http, "POST", f"{base}/api/orders", an_order(id=f"order-{n}"))) for n in range(3)]
        assert [answer.status for answer in answers] == [201, 201, 503]
        assert answers[2].body["error"]["code"] == "EVENTS_WAITING"
        assert (await call(http, "POST", f"{base}/api/orders/order-0/cancel")).status == 200
        broker.answer = True

        async def taken() -> bool:
            return (await call(http, "POST", f"{base}/api/orders", an_order(id="order-2"))).status == 201

        await eventually(taken)
