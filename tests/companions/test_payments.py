"""What the order service hears of payments, and what it asks the engine for when an order is cancelled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from engine.messages import Message
from simulators.neighbours import Neighbours
from simulators.orders import OrderServiceSim
from simulators.server import serve
from tests.companions.world import (
    USER,
    Broker,
    PretendEngine,
    completed,
    failed,
    message,
    metric,
    order,
    records,
)
from tests.faults.world import eventually
from tests.simulators.helpers import an_order, call
from tests.support import RedisServer

PAID = {"status": "confirmed", "paymentId": "pay-456"}


async def test_a_completed_payment_confirms_its_order_once(http: aiohttp.ClientSession) -> None:
    broker = Broker()
    sim = OrderServiceSim(None, publisher=broker)
    async with serve(sim) as base:
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
        await sim.handle([completed("order-1"), completed("order-1")])
        confirmed = await order(http, base, "order-1")
        assert (confirmed["status"], confirmed["paymentId"]) == ("confirmed", "pay-456")
        await sim.handle([completed("order-1")])
        assert await order(http, base, "order-1") == confirmed
        await eventually(lambda: len(broker.told) >= 2)
        assert await metric(http, base, 'payment_events_total{outcome="repeated"}') == 2
    assert broker.types == ["order_created", "order_confirmed"]


async def test_a_failed_payment_leaves_its_order_payable_and_one_that_comes_late_changes_nothing(
    http: aiohttp.ClientSession,
) -> None:
    sim = OrderServiceSim(None)
    async with serve(sim) as base:
        pending = (await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))).body
        await sim.handle([failed("order-1")])
        assert await order(http, base, "order-1") == pending
        await sim.handle([completed("order-1"), failed("order-1")])
        assert (await order(http, base, "order-1"))["status"] == "confirmed"


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        (completed("order-1", data={"amount": 75.49}), "mismatch"),
        (completed("order-1", data={"amount": 0}), "mismatch"),
        (completed("order-1", data={"currency": "KES"}), "mismatch"),
        (completed("order-1", user_id="somebody-else"), "mismatch"),
        (completed("order-2"), "unknown_order"),
        (completed(""), "unknown_order"),
        (completed(None), "unknown_order"),
        (completed("order-1", event_type="payment_refunded"), "ignored"),
        (completed("order-1", payment_id="../pay"), "malformed"),
        (completed("order-1", data={"amount": "much"}), "malformed"),
        (completed("order-1", data={"amount": None}), "malformed"),
        (completed("order-1", data={"amount": "NaN"}), "malformed"),
        (completed("order-1", data={"amount": "sNaN"}), "malformed"),
        (completed(["order-1"]), "malformed"),
        (message(b"\xff"), "malformed"),
        (message(b""), "malformed"),
        (message([]), "malformed"),
        (message({"event_type": "payment_completed"}), "malformed"),
        (message(b"[" * 100_000), "malformed"),
    ],
)
async def test_what_does_not_fit_is_counted_and_changes_nothing_and_holds_up_nobody(
    http: aiohttp.ClientSession, told: Message, outcome: str
) -> None:
    sim = OrderServiceSim(None)
    async with serve(sim) as base:
        pending = (await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))).body
        await sim.handle([told])
        assert await order(http, base, "order-1") == pending
        assert await metric(http, base, f'payment_events_total{{outcome="{outcome}"}}') == 1
        await sim.handle([told, completed("order-1")])
        assert (await order(http, base, "order-1"))["status"] == "confirmed"


async def test_a_second_payment_of_a_paid_order_changes_nothing_and_is_seen(http: aiohttp.ClientSession) -> None:
    sim = OrderServiceSim(None)
    async with serve(sim) as base:
        await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
        await sim.handle([completed("order-1"), completed("order-1", "pay-457")])
        assert (await order(http, base, "order-1"))["paymentId"] == "pay-456"
        assert await metric(http, base, 'payment_events_total{outcome="paid_twice"}') == 1


class Shop:
    """An order service with an engine, and one order."""

    def __init__(self, http: aiohttp.ClientSession, base: str, sim: OrderServiceSim, engine: PretendEngine) -> None:
        self._http, self._base = http, base
        self.sim, self.engine = sim, engine

    async def cancel(self) -> Any:
        """Cancel the order."""
        return await call(self._http, "POST", f"{self._base}/api/orders/order-1/cancel")

    async def put(self, body: Any) -> Any:
        """Move the order."""
        return await call(self._http, "PUT", f"{self._base}/api/orders/order-1/status", body)

    async def refunds(self) -> list[Any]:
        """What became of its refunds."""
        found: list[Any] = (await order(self._http, self._base, "order-1")).get("refunds", [])
        return found

    async def has_refunds(self, *statuses: str) -> bool:
        """Whether they stand like this."""
        return [refund["status"] for refund in await self.refunds()] == list(statuses)


@asynccontextmanager
async def shop(
    http: aiohttp.ClientSession, engine: PretendEngine, *, url: str = "", **more: Any
) -> AsyncIterator[Shop]:
    """Serve both; the engine is elsewhere when a URL is given."""
    async with serve(engine) as engine_url:
        neighbours = Neighbours(engine_url=url or engine_url, token=lambda: "a-token", timeout_s=5)
        sim = OrderServiceSim(None, neighbours=neighbours, **more)
        async with serve(sim) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
            yield Shop(http, base, sim, engine)


def an_engine(**more: Any) -> PretendEngine:
    """It has the payment of the contract."""
    return PretendEngine({"pay-456": "order-1", "pay-of-another": "order-2"}, **more)


async def test_a_cancelled_order_that_was_paid_is_refunded_even_if_the_answers_are_lost(
    http: aiohttp.ClientSession,
) -> None:
    """Every try has the same key, so it is one refund."""
    async with shop(http, an_engine(lose=2)) as it:
        await it.sim.handle([completed("order-1")])
        first = await it.cancel()
        assert first.body["status"] == "cancelled"
        await eventually(lambda: it.has_refunds("asked"))
        assert await it.refunds() == [{"paymentId": "pay-456", "status": "asked", "refundId": "ref-pay-456"}]
        assert await it.cancel() == first
        assert it.engine.asked == ["cancel-order-1-pay-456"] * 3
        assert len(it.engine.refunds) == 1
        assert it.engine.bearers == {"Bearer a-token"}


async def test_a_pending_order_is_cancelled_without_asking_for_money(http: aiohttp.ClientSession) -> None:
    async with shop(http, an_engine()) as it:
        await it.cancel()
        assert await it.refunds() == []
        await it.sim.handle([failed("order-1")])
        assert await it.refunds() == []
    assert it.engine.asked == []


async def test_a_payment_that_completes_after_the_cancellation_is_refunded_once(http: aiohttp.ClientSession) -> None:
    """The race of cancelling and paying has no loser."""
    async with shop(http, an_engine()) as it:
        await it.cancel()
        await it.sim.handle([completed("order-1"), completed("order-1")])
        await eventually(lambda: it.has_refunds("asked"))
        await it.sim.handle([completed("order-1")])
        assert await it.has_refunds("asked")
        assert len(it.engine.asked) == 1
        assert (await it.cancel()).body["status"] == "cancelled"


async def test_putting_the_status_to_cancelled_refunds_as_well(http: aiohttp.ClientSession) -> None:
    async with shop(http, an_engine()) as it:
        await it.put(PAID)
        assert (await it.put({"status": "cancelled"})).status == 200
        await eventually(lambda: it.has_refunds("asked"))


@pytest.mark.parametrize(
    ("payment_id", "code"), [("pay-of-another", "NOT_OF_THIS_ORDER"), ("pay-unknown", "PAYMENT_NOT_FOUND")]
)
async def test_nobody_refunds_another_orders_payment_by_naming_it(
    http: aiohttp.ClientSession, payment_id: str, code: str
) -> None:
    """The service's token opens every payment, and anybody may write to the topic."""
    async with shop(http, an_engine()) as it:
        await it.cancel()
        await it.sim.handle([completed("order-1", payment_id)])
        await eventually(lambda: it.has_refunds("refused"))
        assert (await it.refunds())[0]["code"] == code
    assert it.engine.asked == []


async def test_a_refusal_for_good_is_kept_and_not_asked_again(http: aiohttp.ClientSession) -> None:
    async with shop(http, an_engine(status=409)) as it:
        await it.put(PAID)
        await it.cancel()
        await eventually(lambda: it.has_refunds("refused"))
        assert (await it.refunds())[0]["code"] == "PAY_004"
    assert len(it.engine.asked) == 1


@pytest.mark.parametrize("stands", ["pending", "processing", "authorized"])
async def test_a_payment_that_may_still_complete_is_refunded_when_it_has(
    http: aiohttp.ClientSession, stands: str
) -> None:
    """The engine refuses to refund it until then, and that is not its last word."""
    engine = an_engine()
    engine.stands = stands
    async with shop(http, engine) as it:
        await it.put(PAID)
        await it.cancel()
        await eventually(lambda: engine.looked)
        await it.sim.handle([completed("order-1")])
        engine.stands = "completed"
        await eventually(lambda: it.has_refunds("asked"))
    assert len(engine.refunds) == 1


@pytest.mark.parametrize(
    ("status", "retry"), [(401, "never"), (403, "never"), (429, "never"), (503, "after"), (409, "same_key"), (404, "")]
)
async def test_what_may_pass_is_asked_again_until_it_has(http: aiohttp.ClientSession, status: int, retry: str) -> None:
    async with shop(http, an_engine(status=status, retry=retry)) as it:
        await it.put(PAID)
        await it.cancel()
        await eventually(lambda: it.engine.asked)
        assert await it.has_refunds("pending")
        it.engine.status = 201
        await eventually(lambda: it.has_refunds("asked"))
    assert set(it.engine.asked) == {"cancel-order-1-pay-456"}


async def test_a_refund_that_waits_survives_a_restart(http: aiohttp.ClientSession, redis_server: RedisServer) -> None:
    engine = an_engine()
    async with records(redis_server) as state:
        async with shop(http, engine, url="http://127.0.0.1:1", state=state) as it:
            await it.put(PAID)
            await it.cancel()
            assert await it.has_refunds("pending")
        async with serve(engine) as engine_url:
            again = OrderServiceSim(None, state=state, neighbours=Neighbours(engine_url=engine_url))
            async with serve(again):
                await eventually(lambda: engine.refunds)
    assert engine.asked == ["cancel-order-1-pay-456"]


async def test_the_message_comes_again_while_the_store_is_away(
    http: aiohttp.ClientSession, redis_server: RedisServer
) -> None:
    """`handle` raises, so nothing is committed, and what was in doubt is read anew."""
    async with records(redis_server) as state, records(redis_server) as other:
        sim = OrderServiceSim(None, state=state)
        async with serve(sim) as base:
            await call(http, "POST", f"{base}/api/orders", an_order(id="order-1"))
            await other.open()
            with pytest.raises(Exception, match="store"):
                await sim.handle([completed("order-1")])
        async with serve(sim) as base:
            assert (await order(http, base, "order-1"))["status"] == "pending"
            await sim.handle([completed("order-1")])
            assert (await order(http, base, "order-1"))["status"] == "confirmed"
        [kept] = await state.read()
        assert json.loads(kept)["userId"] == USER
